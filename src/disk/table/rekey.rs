//! Going over to another account key, while clients write: wrapped data keys and every MAC are made anew, in any order
//! and after any crash, because until the old key is dropped both are known (see `crypto/keyring.rs`). Every layer is
//! frozen: whoever unwrapped its data key with the old account key reads nothing of what is written from then on.
//!
//! 1. this opening gets a log of its own, so that there is one to leave;
//! 2. with nothing that makes layers going on: every data key is wrapped anew in its slot, the new keys are put in
//!    force, and disk.toml is replaced under them, with every layer frozen; from there on a write makes a new layer;
//! 3. a round goes over to the next log, and the checkpoint at that border replaces every older log and checkpoint.
//!
//! Once that is done nothing on disk needs the old key.

use super::LayerTable;
use super::key_slots::{KeySlots, SlotKey};
use super::settings::{Kind, LayerRecord};
use crate::crypto::keyring::DiskKeys;
use crate::crypto::secret::SecretBytes;
use crate::disk::core::Core;
use crate::disk::open::find_slot;
use crate::io::{Open, unless_mutant};
use crate::{Error, ErrorKind, Result};

impl Core {
    /// `keys` make everything new, and read what is there. Done durably when this returns; after an error or a crash it
    /// is to be called again, and the disk opens with `keys` all the while.
    pub(crate) fn rekey(&self, keys: DiskKeys) -> Result<()> {
        self.check_writable()?;
        self.begin_session()?;
        {
            let mut table = self.table.lock();
            self.rewrap(&mut table, &keys)?;
            self.keys.replace(keys)?;
            unless_mutant!(RekeyKeepsTop => table.freeze_layers());
            self.store_settings(&mut table)?;
            unless_mutant!(RekeyKeepsTop => self.stack.gate_exclusive(&table).set_top(None));
            // What was noted under the old key until now is durable with the next round.
            self.begin_recent(&table, self.commit.next_epoch(), &self.keys()?);
        }
        // A round under way still uses the old keys; this one begins after it.
        self.go_over_to_next_log()?;
        self.write_checkpoint(&self.upkeep.lock())?;
        self.keys.drop_retiring()
    }

    /// The data key of a layer, for an auditor.
    pub(crate) fn reveal_key(&self, layer: u32) -> Result<SecretBytes> {
        self.check_admitted()?;
        let keys = self.keys()?;
        let is_known = |known: &LayerRecord| known.id == layer && known.kind == Kind::Xts;
        if !self.table.lock().settings().layers.iter().any(is_known) {
            let what = format!("the disk has no encrypted layer {layer}");
            return Err(Error::new(ErrorKind::NotFound, what).hint("`sealdisk show` lists the layers"));
        }
        let (_, slot_keys) = KeySlots::open(&*self.dir, self.uuid, Open::Read)?;
        keys.reveal(layer, &find_slot(&slot_keys, &keys, layer)?.wrapped)
    }

    fn rewrap(&self, table: &mut LayerTable, keys: &DiskKeys) -> Result<()> {
        let (_, slot_keys) = KeySlots::open(&*self.dir, self.uuid, Open::Read)?;
        let account_key = keys.account_key_id();
        let layers: Vec<u32> =
            table.settings.layers.iter().filter(|layer| layer.kind == Kind::Xts).map(|layer| layer.id).collect();
        for layer in layers {
            let slot = find_slot(&slot_keys, keys, layer)?;
            let wrapped = keys.rewrap(layer, &slot.wrapped).map_err(|error| error.at_path(self.dir.path()))?;
            table.slots.put(&SlotKey { layer, account_key, wrapped })?;
        }
        Ok(())
    }
}
