//! An open disk, and the order of its locks.
//!
//! Four owners keep what changes to themselves and hand out guards. Outermost first: the step of upkeep, the table, the
//! writer of a checkpoint, the committer's turn, the pages, the gate, what the holder of the turn works on, presence. A
//! function that takes one of these locks while an outer one must be held asks for the guard of that. Nobody waits for
//! a round, a checkpoint or log space while holding pages or the gate, and nothing is written or MACed under the lock
//! of presence.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::commit::Commit;
use super::stack::Stack;
use super::table::Table;
use super::table::held_keys::HeldKeys;
use super::upkeep::Upkeep;
use super::{Access, Options};
use crate::base::BaseImage;
use crate::crypto::keyring::DiskKeys;
use crate::io::Dir;
use crate::io::sync::RwLock;
use crate::{Error, ErrorKind, PAGE, Result};

/// An open disk: what never changes of it, its keys and its base, and the four owners of the rest.
pub(crate) struct Core {
    pub(super) dir: Arc<dyn Dir>,
    pub(super) layers_dir: Arc<dyn Dir>,
    pub(super) uuid: Uuid,
    pub(super) footer: bool,
    pub(super) access: Access,
    pub(super) options: Options,
    /// After an unclean end: pages that were found in logs and notes.
    pub(super) recovered: Option<u64>,
    pub(super) keys: HeldKeys,
    /// `None`: there is none, it is not open, or the disk was detached from it.
    pub(super) base: RwLock<Option<Arc<dyn BaseImage>>>,
    pub(super) upkeep: Upkeep,
    pub(super) table: Table,
    pub(super) commit: Commit,
    pub(super) stack: Stack,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({}, {:?})", self.uuid, self.access)
    }
}

impl Core {
    /// Bytes of the disk, without the footer page.
    pub(crate) fn size(&self) -> u64 {
        (self.stack.pages() - u64::from(self.footer)) * PAGE as u64
    }

    pub(crate) fn keys(&self) -> Result<DiskKeys> {
        self.keys.get().ok_or_else(|| self.keyless())
    }

    pub(crate) fn keyless(&self) -> Error {
        Error::new(ErrorKind::Revoked, "the keys of this disk are not here").at_path(self.dir.path())
    }

    /// Whether anything may be served at all.
    pub(crate) fn check_admitted(&self) -> Result<()> {
        self.keys.check_admitted()
    }

    /// Whether changes may go on at all.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_admitted()?;
        if self.access == Access::ReadOnly {
            return Err(Error::new(ErrorKind::ReadOnly, "the disk is open read-only"));
        }
        self.commit.poison().check()
    }

    /// Whole pages that cover the bytes.
    pub(crate) fn pages_of(offset: u64, len: u64) -> Range<u64> {
        offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64)
    }
}
