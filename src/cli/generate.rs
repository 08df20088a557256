//! `generate`: shell completions and man pages, for `dist/install`. Hidden: users have no need of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::Cli;
use super::context::{Context, Outcome};
use crate::{Error, text};

/// Write the shell completions and man pages into a folder
#[derive(Debug, Args)]
#[command(hide = true)]
pub(super) struct Generate {
    /// Gets `completions/` and `man/`
    folder: PathBuf,
}

impl Generate {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let command = || Cli::command().version(env!("CARGO_PKG_VERSION"));
        write_all(command, &self.folder)
            .map_err(|e| Error::io("cannot write completions and man pages", e).at_path(&self.folder))?;
        context.show(&serde_json::json!({ "folder": self.folder }), format_args!("wrote {}", text::path(&self.folder)))
    }
}

fn write_all(command: impl Fn() -> Command, folder: &Path) -> io::Result<()> {
    let (completions, man) = (folder.join("completions"), folder.join("man"));
    fs::create_dir_all(&completions)?;
    fs::create_dir_all(&man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command(), "sealdisk", &completions)?;
    }
    let mut command = command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &man)
}

/// A page for `command` and one for each verb below it, as `man` knows them: with the examples under their own heading.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_pages(verb, folder)?;
    }
    let man = Man::new(command.clone()).source(concat!("sealdisk ", env!("CARGO_PKG_VERSION")));
    let mut page = fs::File::create(folder.join(man.get_filename()))?;
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    man.render_options_section(&mut page)?;
    let top = command.get_name() == "sealdisk";
    tail(command, top).to_writer(&mut page)
}

/// What `clap` has no section for.
fn tail(command: &Command, top: bool) -> Roff {
    let mut roff = Roff::new();
    if let Some(help) = command.get_after_help() {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in help.to_string().lines().filter_map(|line| line.strip_prefix("  ")) {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (status, what) in [("0", "Done."), ("1", "Failed; standard error says why."), ("2", "Called wrongly.")] {
        roff.control("TP", []).text([bold(status)]).text([roman(what)]);
    }
    if top {
        roff.control("SH", ["ENVIRONMENT"]).control("TP", []).text([bold("SEALDISK_ACCOUNT")]);
        roff.text([roman("The account directory, where --account names none.")]);
        roff.control("SH", ["FILES"]).control("TP", []).text([bold("~/.config/sealdisk/ID.key")]);
        roff.text([roman("The key-encryption key that `sealdisk init` makes unless told where the key is.")]);
    } else {
        roff.control("SH", ["SEE ALSO"]).text([bold("sealdisk"), roman("(1)")]);
    }
    roff
}
