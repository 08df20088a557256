//! The mark of a failed sync: from then on every change and every flush fails, until the disk is opened again.
//!
//! Invariant 8: nothing is retried, because after a failed fsync the kernel may call lost pages clean, and a second
//! fsync that succeeds would say nothing about them.

use std::fmt;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::io::mutant;
use crate::{Error, ErrorKind, Result};

#[derive(Default)]
pub(crate) struct Poison {
    /// What failed first.
    cause: OnceLock<String>,
    /// What must be done once the mark is set.
    callbacks: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl fmt::Debug for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Poison").field(&self.cause.get()).finish()
    }
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

    /// Calls `callback` where the mark is set from now on: once, on the thread that sets it, before that is answered.
    /// It must not take a lock of the disk.
    pub(crate) fn call_back(&self, callback: impl Fn() + Send + Sync + 'static) {
        self.callbacks.lock().push(Box::new(callback));
    }

    /// Sets the mark and gives the error back.
    pub(crate) fn set(&self, error: Error) -> Error {
        if !mutant!(FailureForgotten) && self.cause.set(error.to_string()).is_ok() {
            self.callbacks.lock().iter().for_each(|callback| callback());
            tracing::error!(%error, "storing failed: the disk takes no more changes");
        }
        error
    }
}
