//! `generate`: shell completions and man pages, for `dist/install`. Hidden: users have no need of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::context::{Context, Outcome};
use crate::Error;

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
        context.show(&serde_json::json!({ "folder": self.folder }), format_args!("wrote {}", self.folder.display()))
    }
}

fn write_all(command: impl Fn() -> Command, folder: &Path) -> io::Result<()> {
    let (completions, man) = (folder.join("completions"), folder.join("man"));
    fs::create_dir_all(&completions)?;
    fs::create_dir_all(&man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command(), "sealdisk", &completions)?;
    }
    clap_mangen::generate_to(command().disable_help_subcommand(true), &man)
}
