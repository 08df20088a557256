//! `key erase`: keys destroyed, and with them what they encrypt.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

use crate::account::disk_ref::DiskRef;
use crate::account::failure::Failure;
use crate::account::key_life::KeysErased;
use crate::account::key_request::KeyRequest;
use crate::account::session::{self, Session};
use crate::account::settings;
use crate::cli::context::{Context, Outcome};
use crate::cli::kek_options::KekOptions;
use crate::cli::size;
use crate::{Error, ErrorKind, Result, text};

/// Destroy keys, so that what they encrypt cannot be read again, by anybody, with whatever key
///
/// The wrapped keys are overwritten where they lie, synced, and read back. What is stored in plaintext, and the base
/// image, are not touched: `sealdisk delete` removes a disk. Neither is what a clone reads from another disk, which
/// that one's keys decrypt: the answer says what can still be read, and where. Nothing reaches copies: for old backups
/// of the account, snapshots of the file system below it and worn cells of an SSD, destroy the key-encryption key as
/// well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key erase disk1
  sealdisk key erase disk1 --yes-erase disk1
  sealdisk key erase @9d2c0f5e-1c1e-4c5c-9d5e-1a2b3c4d5e6f
  sealdisk key erase --account
  sealdisk --account /srv/disks key erase --account --yes-erase 9d2c0f5e-...")]
pub(in crate::cli) struct Erase {
    /// The disk whose data keys are destroyed; @UUID also names a deleted disk that clones read from
    #[arg(required_unless_present = "all")]
    name: Option<DiskRef>,
    /// Every key of the account; with a value, the account directory as everywhere
    ///
    /// An account whose account.toml is damaged can be erased too: all of that file goes then, and the directory is the
    /// name to confirm.
    #[arg(id = "all", long = "account", value_name = "DIR")]
    account: Option<Option<PathBuf>>,
    /// Do not ask; NAME is the disk's, or the account's id, once more
    #[arg(long, value_name = "NAME")]
    yes_erase: Option<String>,
    /// Stands for the option of all verbs, which would clash with the one above.
    #[arg(id = "account", long = "account-directory", hide = true)]
    _elsewhere: Option<PathBuf>,
}

impl Erase {
    pub(in crate::cli) fn run(mut self, context: &Context) -> Outcome {
        let mut context = context.clone();
        let all = matches!(self.account, Some(None));
        if let Some(Some(dir)) = self.account.take() {
            context.account = dir;
        }
        match (self.name, all) {
            (Some(name), false) => {
                let target = name.to_string();
                confirm(&target, self.yes_erase.as_deref())?;
                // No key is needed: what is encrypted under a key that is lost can be erased too.
                let request = KeyRequest::Erase { name: Some(name) };
                let erased: KeysErased = context.ask(&KekOptions::default(), request.into(), &[])?;
                context.show(&erased, Text(&erased))
            }
            (None, true) => {
                let target = account_name(&context)?;
                confirm(&target, self.yes_erase.as_deref())?;
                let session = Session::open_to_erase(&context.account)?.logged(context.audit_log.as_deref())?;
                let erased: Result<(), Failure> = session.call(KeyRequest::Erase { name: None }.into(), &[]);
                let closed = session.close();
                erased?;
                closed?;
                done(&context, &target)
            }
            (name, _) => {
                let what =
                    if name.is_some() { "both a disk and --account" } else { "neither a disk nor --account alone" };
                Err(Error::new(ErrorKind::InvalidInput, format!("{what}: which keys are to be destroyed?"))
                    .hint("`key erase NAME` those of a disk, `key erase --account` every one of the account")
                    .into())
            }
        }
    }
}

/// What happened, and what it did not reach.
struct Text<'a>(&'a KeysErased);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(KeysErased { erased, plain_bytes, base, inherited }) = self;
        write!(f, "the keys of {erased} are destroyed")?;
        if *plain_bytes != Some(0) || base.is_some() || !inherited.is_empty() {
            write!(f, "\nstill readable:")?;
        }
        match plain_bytes {
            Some(0) => {}
            Some(bytes) => write!(f, "\n  {} in plaintext in {erased}", size::human(*bytes))?,
            None => write!(f, "\n  what {erased} stores in plaintext: it could not be opened to look")?,
        }
        if let Some(base) = base {
            write!(f, "\n  the base image {}", base.display())?;
        }
        for from in inherited {
            let disk = if from.hidden { DiskRef::Uuid(from.uuid).to_string() } else { from.name.clone() };
            let deleted = if from.hidden { format!(" (deleted, was {})", from.name) } else { String::new() };
            match (from.encrypted_bytes, from.plain_bytes) {
                (Some(encrypted), Some(plain)) => write!(
                    f,
                    "\n  what it read of {disk}{deleted}:\n    {} under the keys of that disk, {} in plaintext",
                    size::human(encrypted),
                    size::human(plain)
                )?,
                _ => write!(f, "\n  what it read of {disk}{deleted}")?,
            }
        }
        if let Some(from) = inherited.first() {
            let disk = if from.hidden { DiskRef::Uuid(from.uuid).to_string() } else { from.name.clone() };
            write!(f, "\n`sealdisk key erase {disk}` destroys those keys")?;
        }
        Ok(())
    }
}

fn done(context: &Context, target: &str) -> Outcome {
    context.show(&serde_json::json!({ "erased": target }), format_args!("the keys of {target} are destroyed"))
}

/// What has to be typed to destroy all keys: the account's id; where that cannot be read, its directory.
fn account_name(context: &Context) -> Result<String> {
    let path = &context.account;
    match session::settings(path) {
        Ok((settings, _)) => Ok(settings.account().to_string()),
        Err(error) if settings::is_damage(&error) => {
            let full = path
                .canonicalize()
                .map_err(|error| Error::io("cannot open the account", error).at_path(path))?
                .display()
                .to_string();
            context.note(format_args!("WARNING: {error}"));
            context.note(
                "WARNING: so nothing says which account this is. Every key below this directory will be destroyed, and \
                 account.toml with all that is in it: it cannot be repaired any more.",
            );
            Ok(full)
        }
        Err(error) => Err(error),
    }
}

/// Has the name of what is destroyed typed twice, or given as an option.
fn confirm(target: &str, given: Option<&str>) -> Result<()> {
    let hint = format!("--yes-erase {target} does it without asking");
    let refuse = |kind, what: &str| Err(Error::new(kind, what).hint(hint.clone()));
    if let Some(given) = given {
        if given == target {
            return Ok(());
        }
        return refuse(
            ErrorKind::InvalidInput,
            &format!("--yes-erase names {given:?}, the keys are those of {target}"),
        );
    }
    if !io::stdin().is_terminal() {
        return refuse(ErrorKind::InvalidInput, "this cannot be undone, and there is no terminal to ask on");
    }
    for question in
        ["the keys of {} will be destroyed, and what they encrypt with them. Its name", "Once more, its name"]
    {
        let mut terminal = io::stderr().lock();
        let question = question.replace("{}", &text::line(target));
        let mut answer = String::new();
        write!(terminal, "{question}: ")
            .and_then(|()| terminal.flush())
            .and_then(|()| io::stdin().lock().read_line(&mut answer))
            .map_err(|error| Error::io("cannot ask on the terminal", error))?;
        if answer.trim() != target {
            return refuse(ErrorKind::Cancelled, "nothing was done");
        }
    }
    Ok(())
}
