//! The mark of a failed sync: from then on every change and every flush fails, until the disk is opened again.
//!
//! Invariant 8: nothing is retried, because after a failed fsync the kernel may call lost pages clean, and a second
//! fsync that succeeds would say nothing about them.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::disk::volatile::journal;
use crate::io::{File, mutant};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, Default)]
pub(crate) struct Poison {
    /// What failed first.
    cause: OnceLock<String>,
    /// The files of recent changes: what they say of is maybe lost once the mark is set.
    recent: Mutex<Vec<Arc<dyn File>>>,
}

impl Poison {
    pub(crate) fn check(&self) -> Result<()> {
        match self.cause.get() {
            None => Ok(()),
            Some(cause) => Err(Error::new(
                ErrorKind::Poisoned,
                format!("the disk takes no changes since storing failed ({cause})"),
            )
            .hint("find out why the storage failed, then restart the server")),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cause.get().is_some()
    }

    /// Takes the file that is worthless once the mark is set.
    pub(crate) fn guard(&self, recent: Arc<dyn File>) {
        self.recent.lock().push(recent);
    }

    /// Sets the mark and gives the error back.
    pub(crate) fn set(&self, error: Error) -> Error {
        if !mutant!(FailureForgotten) && self.cause.set(error.to_string()).is_ok() {
            for noted in &*self.recent.lock() {
                if let Err(error) = journal::void(&**noted) {
                    tracing::error!(%error, "the notes of recent changes cannot be made worthless");
                }
            }
            tracing::error!(%error, "storing failed: the disk takes no more changes");
        }
        error
    }
}
