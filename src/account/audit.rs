//! What the layers of a disk really store, in pieces, for `audit`.

use serde::{Deserialize, Serialize};

use super::attachment::Use;
use super::disk_ref::DiskRef;
use super::registry::Registry;
use crate::{PAGE, Result};

/// What a part of a layer stores, in bytes. Several parts add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPiece {
    /// The page to go on with; `None`: that was all.
    pub next: Option<u64>,
    pub held_bytes: u64,
    /// Said to be held, and not there.
    pub missing_bytes: u64,
    /// Held as encrypted, and nothing like ciphertext.
    pub clear_bytes: u64,
    /// Stored, and held no more: waiting to be scrubbed.
    pub left_bytes: u64,
    /// Stored, and in no record of the disk.
    #[serde(default)]
    pub unaccounted_bytes: u64,
}

impl AuditPiece {
    /// This and the piece after it.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            next: other.next,
            held_bytes: self.held_bytes + other.held_bytes,
            missing_bytes: self.missing_bytes + other.missing_bytes,
            clear_bytes: self.clear_bytes + other.clear_bytes,
            left_bytes: self.left_bytes + other.left_bytes,
            unaccounted_bytes: self.unaccounted_bytes + other.unaccounted_bytes,
        }
    }
}

/// A piece of a layer, from page `page` on.
pub(super) fn piece(registry: &Registry, name: &DiskRef, layer: u32, page: u64) -> Result<AuditPiece> {
    let found = registry.attach_ref(name, Use::Verb("audit"))?.admin().audit(layer, page)?;
    let bytes = |pages: u64| pages * PAGE as u64;
    Ok(AuditPiece {
        next: found.next,
        held_bytes: bytes(found.held),
        missing_bytes: bytes(found.missing),
        clear_bytes: bytes(found.clear),
        left_bytes: bytes(found.left),
        unaccounted_bytes: bytes(found.unaccounted),
    })
}
