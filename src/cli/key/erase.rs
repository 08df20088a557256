//! `key erase`: keys destroyed, and with them what they encrypt.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use crate::account::key_request::KeyRequest;
use crate::account::name::BlobName;
use crate::account::settings::Settings;
use crate::cli::context::{Context, Outcome};
use crate::crypto::kek::KekOptions;
use crate::io::real::RealDir;
use crate::{Error, ErrorKind, Result};

/// Destroy keys, so that what they encrypt cannot be read again, by anybody, with whatever key
///
/// The wrapped keys are overwritten where they lie, synced, and read back. What is stored in plaintext, and the base
/// image, are not touched: `sealdisk delete` removes a disk. Nothing reaches copies: for old backups of the account,
/// snapshots of the file system below it and worn cells of an SSD, destroy the key-encryption key as well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key erase disk1
  sealdisk key erase disk1 --yes-erase disk1
  sealdisk key erase --whole-account")]
pub(in crate::cli) struct Erase {
    /// The disk whose data keys are destroyed
    #[arg(required_unless_present = "whole_account")]
    name: Option<BlobName>,
    /// Every key of the account
    #[arg(long, conflicts_with = "name")]
    whole_account: bool,
    /// Do not ask; NAME is the disk's, or the account's id, once more
    #[arg(long, value_name = "NAME")]
    yes_erase: Option<String>,
}

impl Erase {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let path = &context.account;
        let dir = RealDir::open(path).map_err(|error| Error::io("cannot open the account", error).at_path(path))?;
        let target = match &self.name {
            Some(name) => name.to_string(),
            None => Settings::load(&dir)?.account().to_string(),
        };
        confirm(&target, self.yes_erase.as_deref())?;
        // Erasing needs no key: an account whose key is lost can be erased too.
        let () = context.ask(&KekOptions::default(), KeyRequest::Erase { name: self.name }.into(), &[])?;
        context.show(&serde_json::json!({ "erased": target }), format_args!("the keys of {target} are destroyed"))
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
        let question = question.replace("{}", target);
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
