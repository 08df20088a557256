//! The command line, one file a verb.
//!
//! A verb is a `clap` argument struct with `run(self, &Context) -> Outcome`. To add one: a file, a variant of [`Verb`],
//! a line in [`Verb::run`]. Verbs print through [`Context`] only, so that `--json` holds for all of them.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::error::ContextKind;
use clap::{Parser, Subcommand};

use crate::Error;
use crate::account::failure::Failure;
use crate::crypto::{memlock, xts};
use crate::text;

mod activation;
mod address;
mod audit;
mod audit_log;
mod clone;
mod confine;
pub mod context;
mod copying;
mod create;
mod delete;
mod diff;
mod encryption;
mod export;
mod fit;
mod generate;
#[cfg(test)]
mod hints;
mod import;
mod init;
pub mod kek_options;
mod key;
mod key_place;
mod limits;
mod list;
mod listeners;
mod log;
mod map;
mod map_svg;
mod new_key;
mod notes;
mod notify;
mod progress;
mod prompt;
mod quickstart;
mod reading;
mod rebase;
mod reencrypt;
mod reload;
mod rename;
mod resize;
mod scrub;
mod serve;
mod service;
mod show;
mod signals;
pub mod size;
mod snapshot;
mod socket;
mod status;
mod stop;
mod table;
mod terminal;
mod time;
mod unlock;
mod uri;
mod values;
mod verify;
mod vhd;

pub use context::{Context, Outcome};

/// The heading of the options that every verb has, apart from its own.
const EVERYWHERE: &str = "Options of every verb";

/// The account directory, where neither option nor variable names another.
const DEFAULT_ACCOUNT: &str = "./sealdisk-account";
const ACCOUNT_VARIABLE: &str = "SEALDISK_ACCOUNT";

/// Encrypted page-blob disks over NBD.
///
/// An account is a directory with an encryption setting, wrapped keys and disks. `sealdisk quickstart` shows it at
/// work.
#[derive(Debug, Parser)]
#[command(name = "sealdisk", version = version(), max_term_width = 100, propagate_version = true, after_help = "\
Examples:
  sealdisk quickstart
  sealdisk init
  sealdisk create disk1 --size 10G
  sealdisk serve

Exit status: 0 done, 1 failed, 2 called wrongly.")]
pub struct Cli {
    /// The account directory
    #[arg(
        long,
        global = true,
        env = ACCOUNT_VARIABLE,
        default_value = DEFAULT_ACCOUNT,
        value_name = "DIR",
        overrides_with = "account",
        help_heading = EVERYWHERE
    )]
    account: PathBuf,
    /// Print one JSON document, also on failure
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// Append a line for each act on the account to this file, chained under the account's key; a server's own
    /// `--audit-log` counts while the account is served. `sealdisk audit --log FILE` checks it
    #[arg(
        long,
        global = true,
        env = "SEALDISK_AUDIT_LOG",
        value_name = "FILE",
        overrides_with = "audit_log",
        help_heading = EVERYWHERE
    )]
    audit_log: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

/// The version, and the backend that encrypts on this machine.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| format!("{} (AES-256-XTS: {})", env!("CARGO_PKG_VERSION"), xts::backend_name()))
}

#[derive(Debug, Subcommand)]
enum Verb {
    Quickstart(quickstart::Quickstart),
    Init(init::Init),
    Create(create::Create),
    List(list::List),
    Show(show::Show),
    Status(status::Status),
    Map(map::Map),
    // Boxed: it carries every limit of the server.
    Serve(Box<serve::Serve>),
    Encryption(encryption::Encryption),
    Scrub(scrub::Scrub),
    Delete(delete::Delete),
    Rename(rename::Rename),
    Resize(resize::Resize),
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotVerb),
    Rebase(rebase::Rebase),
    Verify(verify::Verify),
    Import(Box<import::Import>),
    Export(export::Export),
    Clone(Box<clone::Clone>),
    Diff(diff::Diff),
    Reencrypt(reencrypt::Reencrypt),
    Audit(audit::Audit),
    Generate(generate::Generate),
    #[command(subcommand)]
    Key(key::KeyVerb),
    #[command(subcommand)]
    Vhd(vhd::VhdCommand),
}

impl Verb {
    fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Quickstart(verb) => verb.run(context),
            Self::Init(verb) => verb.run(context),
            Self::Create(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Show(verb) => verb.run(context),
            Self::Status(verb) => verb.run(context),
            Self::Map(verb) => verb.run(context),
            Self::Serve(verb) => verb.run(context),
            Self::Encryption(verb) => verb.run(context),
            Self::Scrub(verb) => verb.run(context),
            Self::Delete(verb) => verb.run(context),
            Self::Rename(verb) => verb.run(context),
            Self::Resize(verb) => verb.run(context),
            Self::Snapshot(verb) => verb.run(context),
            Self::Rebase(verb) => verb.run(context),
            Self::Verify(verb) => verb.run(context),
            Self::Import(verb) => verb.run(context),
            Self::Export(verb) => verb.run(context),
            Self::Clone(verb) => verb.run(context),
            Self::Diff(verb) => verb.run(context),
            Self::Reencrypt(verb) => verb.run(context),
            Self::Audit(verb) => verb.run(context),
            Self::Generate(verb) => verb.run(context),
            Self::Key(verb) => verb.run(context),
            Self::Vhd(verb) => verb.run(context),
        }
    }
}

/// Runs the command line `args`, the program's name first. Exit codes: 0 done, 1 failed, 2 used wrongly.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return misused(&harmless(error, &args), args.iter().any(|arg| arg == "--json")),
    };
    let context = Context { account: cli.account, json: cli.json, audit_log: cli.audit_log };
    memlock::tell_by(tell_unlocked);
    let done = cli.verb.run(&context);
    if let Err(failure) = &done {
        context.fail(failure);
    }
    log::finish();
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In the log of a process that keeps one, else on standard error.
fn tell_unlocked(line: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{line}");
    } else {
        Context { account: PathBuf::new(), json: false, audit_log: None }.note(format_args!("warning: {line}"));
    }
}

/// The error about a command line, as it is about one whose words are harmless on a terminal.
fn harmless(error: clap::Error, args: &[OsString]) -> clap::Error {
    let safe: Vec<String> = args.iter().map(|arg| text::line(&arg.to_string_lossy()).into_owned()).collect();
    let same = args.iter().zip(&safe).all(|(arg, safe)| arg.to_str() == Some(safe));
    if same { error } else { Cli::try_parse_from(safe).err().unwrap_or(error) }
}

/// `--help` and `--version` come this way too.
fn misused(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        };
    }
    let context = Context { account: PathBuf::new(), json, audit_log: None };
    // A value of ours that did not parse says itself what is wrong; `clap` knows the rest better.
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>()) {
        Some(value) => {
            let mut failure = Failure::from(value);
            let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
            if let Some(option) = argument.split(' ').next().filter(|option| option.starts_with('-')) {
                failure.message = format!("{option}: {}", failure.message);
            }
            context.fail(&failure);
        }
        None => {
            let text = error.to_string();
            let _ = error.print();
            let first = text.lines().next().unwrap_or_default();
            let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            let usage = Failure { kind: "Usage".to_owned(), message, ..Failure::default() };
            context.document_failure(&usage);
        }
    }
    log::finish();
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example_and_says_what_each_argument_is() {
        fn check(command: &clap::Command) {
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                let example = help.contains("sealdisk ") || verb.has_subcommands();
                assert!(example, "{} --help shows no example", verb.get_name());
                for argument in verb.get_arguments() {
                    assert!(argument.get_help().is_some(), "{} --help: what is {argument}?", verb.get_name());
                }
                check(verb);
            }
        }
        check(&Cli::command());
    }
}
