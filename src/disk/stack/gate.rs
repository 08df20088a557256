//! Where writes go, and how that changes.
//!
//! Invariant 2: every change holds this shared from reading the top until its presence is updated; putting a layer on
//! top holds it exclusively, so it waits for the changes in flight, and does O(1) work inside.

use std::sync::Arc;

use super::layer::Layer;
use crate::io::sync::{RwLockReadGuard, RwLockWriteGuard};
use crate::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(crate) struct Gate {
    /// `None`: the next change makes a layer first.
    top: Option<Arc<Layer>>,
    encryption: bool,
    /// Whether this opening has its own log, and so the clean mark is durably cleared.
    has_log: bool,
    closed: bool,
}

/// Nothing changes where writes go.
pub(crate) type GateShared<'a> = RwLockReadGuard<'a, Gate>;
/// No change is under way.
pub(crate) type GateExclusive<'a> = RwLockWriteGuard<'a, Gate>;

impl Gate {
    pub(super) fn new(top: Option<Arc<Layer>>, encryption: bool) -> Self {
        Self { top, encryption, has_log: false, closed: false }
    }

    /// The layer that takes writes. `None`: the next change makes one first.
    pub(crate) fn top(&self) -> Option<&Arc<Layer>> {
        self.top.as_ref()
    }

    /// Whether new writes are stored under a data key.
    pub(crate) fn encryption(&self) -> bool {
        self.encryption
    }

    /// Whether this opening has its own log, and so the clean mark is durably cleared.
    pub(crate) fn has_log(&self) -> bool {
        self.has_log
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed {
            return Err(Error::new(ErrorKind::Shutdown, "the disk is closed"));
        }
        Ok(())
    }

    pub(crate) fn set_top(&mut self, top: Option<Arc<Layer>>) {
        self.top = top;
    }

    pub(crate) fn set_encryption(&mut self, on: bool) {
        self.encryption = on;
    }

    pub(crate) fn set_has_log(&mut self, has_log: bool) {
        self.has_log = has_log;
    }

    /// No change is taken from here on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}
