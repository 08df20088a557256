//! `delete`: a disk, for good.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::audit;
use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use crate::account::disk_ref::DiskRef;
use crate::account::name::BlobName;
use crate::account::request::{Deleted, Request};
use crate::{Error, ErrorKind, Result, text};

/// Delete a disk and all that was written to it; its base image stays
///
/// Refused while a client or a copy has the disk, or a snapshot of it; the error names it. What clones read from it is
/// kept, hidden, until the last of them is deleted or detached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk delete disk1 --yes")]
pub(super) struct Delete {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Delete {
    pub(super) fn run(self, context: &Context) -> Outcome {
        if !self.yes {
            confirm(&format!("delete {} and all that was written to it?", self.name))?;
        }
        let done: Deleted = context.ask(&self.key, Request::Delete { name: self.name }, &[])?;
        let mut text = format!("deleted {}", done.deleted);
        if let Some(uuid) = done.hidden {
            let (disk, clones) = (DiskRef::Uuid(uuid), audit::names(&done.clones));
            let _ = write!(
                text,
                "\nWhat clones read of it is kept, hidden, until the last of them is gone: {clones}\n\
                 `sealdisk list --hidden` shows it; its name is now {disk}"
            );
        }
        context.show(&done, text)
    }
}

/// Asks on the terminal. Without one, or with any answer but "yes", the verb ends.
pub(super) fn confirm(question: &str) -> Result<()> {
    let no = |kind, what: &str| Err(Error::new(kind, what).hint("--yes does it without asking"));
    if !io::stdin().is_terminal() {
        let what = format!("{question} This cannot be undone, and there is no terminal to ask on");
        return no(ErrorKind::InvalidInput, &what);
    }
    let failed = |error| Error::io("cannot ask on the terminal", error);
    let mut terminal = io::stderr().lock();
    write!(terminal, "{} [yes/no] ", text::line(question)).and_then(|()| terminal.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    if answer.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    no(ErrorKind::Cancelled, "nothing was done")
}
