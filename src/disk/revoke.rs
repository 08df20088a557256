//! Taking the keys of an open disk back, and giving them again.

use super::core::Core;
use super::key_slots::KeySlots;
use super::open::unwrap_key;
use super::settings::Kind;
use crate::Result;
use crate::crypto::keyring::DiskKeys;
use crate::io::Open;
use crate::io::sync::atomic::Ordering;

impl Core {
    pub(crate) fn bar(&self) {
        self.revoked.store(true, Ordering::SeqCst);
        // Whoever passed the check before holds one of these: wait for all of them.
        drop(self.ranges.exclusive(0..u64::MAX));
        drop(self.gate.write());
    }

    pub(crate) fn drop_keys(&self) {
        let state = self.state.read();
        for entry in &state.entries {
            entry.layer.set_key(None);
        }
        *self.keys.write() = None;
    }

    pub(crate) fn readmit(&self, keys: DiskKeys) -> Result<()> {
        let growth = self.growth.lock();
        let (_, slot_keys) = KeySlots::open(&*self.dir, growth.settings.uuid, Open::Read)?;
        let state = self.state.read();
        let layers: Vec<_> = state.entries.iter().map(|entry| entry.layer.clone()).collect();
        drop(state);
        for layer in layers.iter().filter(|layer| layer.kind == Kind::Xts) {
            layer.set_key(Some(unwrap_key(&slot_keys, &keys, layer.id)?));
        }
        *self.keys.write() = Some(keys);
        self.revoked.store(false, Ordering::SeqCst);
        Ok(())
    }
}
