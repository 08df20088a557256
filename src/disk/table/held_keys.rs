//! The keys of an open disk, and whether the owner took them back.

use crate::crypto::keyring::DiskKeys;
use crate::io::sync::RwLock;
use crate::io::sync::atomic::{AtomicBool, Ordering};
use crate::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(crate) struct HeldKeys {
    keys: RwLock<Option<DiskKeys>>,
    /// Nothing is served, plain layers and base neither.
    revoked: AtomicBool,
}

impl HeldKeys {
    pub(crate) fn new(keys: Option<DiskKeys>) -> Self {
        Self { keys: RwLock::new(keys), revoked: AtomicBool::new(false) }
    }

    pub(crate) fn get(&self) -> Option<DiskKeys> {
        self.keys.read().clone()
    }

    pub(crate) fn are_here(&self) -> bool {
        self.keys.read().is_some()
    }

    /// The same, but `None` where it would wait.
    pub(crate) fn try_are_here(&self) -> Option<bool> {
        self.keys.try_read().map(|keys| keys.is_some())
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    /// Whether anything may be served at all.
    pub(crate) fn check_admitted(&self) -> Result<()> {
        if self.is_revoked() { Err(Self::revoked()) } else { Ok(()) }
    }

    fn revoked() -> Error {
        Error::new(ErrorKind::Revoked, "the keys of this disk are revoked")
    }

    /// Nothing is served from here on.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }

    pub(super) fn forget(&self) {
        *self.keys.write() = None;
    }

    /// Takes `keys`, and serves.
    pub(super) fn restore(&self, keys: DiskKeys) {
        *self.keys.write() = Some(keys);
        self.revoked.store(false, Ordering::SeqCst);
    }

    /// Puts `keys` in the place of those in force. [`ErrorKind::Revoked`]: there are none.
    pub(super) fn replace(&self, keys: DiskKeys) -> Result<()> {
        let mut in_force = self.keys.write();
        *in_force.as_mut().ok_or_else(Self::revoked)? = keys;
        Ok(())
    }

    /// Lets go of the account key that is retiring.
    pub(super) fn drop_retiring(&self) -> Result<()> {
        if let Some(keys) = &mut *self.keys.write() {
            *keys = keys.without_retiring()?;
        }
        Ok(())
    }
}
