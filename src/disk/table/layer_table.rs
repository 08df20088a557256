//! Everything that changes how new writes are stored: beginning to write at all, a new layer on top, the switch.
//!
//! Invariant 7: a layer is created, sized and synced, its directory synced and its wrapped key durable, before any
//! record names it; and failing to make an encrypted layer never falls back to a plain one. Layer ids are never used
//! again: `next_layer` is durable before a file is made with O_EXCL.

use std::sync::Arc;

use super::key_slots::SlotKey;
use super::reserve::{RESERVED, ensure_settings_spare};
use super::settings::{DiskSettings, Kind, LayerRecord, StoreError};
use super::{LayerTable, TableGuard};
use crate::crypto::keyring::DiskKeys;
use crate::disk::Options;
use crate::disk::core::Core;
use crate::disk::stack::layer::Layer;
use crate::disk::stack::state::{Entry, State};
use crate::disk::volatile::VolatileJournal;
use crate::io::{Dir, Open};
use crate::io::{mutant, unless_mutant};
use crate::{Error, ErrorKind, PAGE, Result};

/// See [`Core::check_room`]; `dir` is the folder of a disk, or lies on its file system.
pub fn check_room(dir: &dyn Dir, options: &Options) -> Result<()> {
    let low_water = 4 * options.log_bytes;
    let failed = |error| Error::io("the free space cannot be asked for", error).at_path(dir.path());
    let free = dir.free_bytes().map_err(failed)?;
    if free < low_water {
        let what = format!("the file system has {free} bytes left, {low_water} are kept for what gives space back");
        return Err(Error::new(ErrorKind::NoSpace, what).at_path(dir.path()));
    }
    Ok(())
}

impl Core {
    /// Replaces disk.toml. Not knowing whether the new one will be there after a crash poisons the disk.
    pub(crate) fn store_settings(&self, table: &mut LayerTable) -> Result<()> {
        // Where the exchange before is not durable, the spare may be what a power cut brings back.
        self.commit.poison().check()?;
        let keys = self.keys()?;
        let first_try = table.settings.store(&*self.dir, &keys);
        let stored = match first_try {
            Err(StoreError::Unchanged(error)) if error.kind() == ErrorKind::NoSpace => {
                self.release_reserve();
                let stored = table.settings.store(&*self.dir, &keys);
                let _ = self.ensure_reserve(RESERVED);
                stored
            }
            other => other,
        };
        stored.map_err(|error| match error {
            StoreError::Unchanged(error) => error,
            StoreError::Unknown(error) => self.commit.poison().set(error),
        })
    }

    /// Gives this opening its own log, durably, before its first change: the clean mark is gone from here on, and a
    /// torn end of an earlier log is never written to.
    pub(crate) fn begin_session(&self) -> Result<()> {
        let mut table = self.table.lock();
        if self.stack.gate().has_log() {
            return Ok(());
        }
        let keys = self.keys()?;
        let checkpoint = self.commit.lock_checkpoint();
        // Closing holds that lock from its last flush on: so the clean mark is not there yet, or nothing is begun any
        // more.
        self.stack.gate().check_open()?;
        let log = self.begin_session_log(&table, &checkpoint, &keys)?;
        table.settings.epoch = log.epoch();
        self.store_settings(&mut table)?;
        if self.stack.state().recent.is_none() {
            self.begin_recent(&table, log.epoch(), &keys);
        }
        log.take_into_use();
        self.stack.gate_exclusive(&table).set_has_log(true);
        if let Err(error) = self.ensure_reserve(RESERVED).and_then(|()| ensure_settings_spare(&*self.dir)) {
            tracing::warn!(path = %self.dir.path().display(), %error, "no space to reserve for a full file system");
        }
        Ok(())
    }

    /// [`Core::begin_session`], and the lock without which no log is given up for another one.
    pub(crate) fn arm_and_hold(&self) -> Result<TableGuard<'_>> {
        loop {
            self.begin_session()?;
            let table = self.table.lock();
            if self.stack.gate().has_log() {
                return Ok(table);
            }
        }
    }

    /// Begins noting changes for the case that the process dies, as many as there is space for. Where that cannot be,
    /// only what is flushed outlives it.
    pub(crate) fn begin_recent(&self, _table: &TableGuard<'_>, epoch: u64, keys: &DiskKeys) {
        let Some(boot) = &self.options.boot else { return };
        let wanted = || {
            let wanted = self.options.recent_bytes;
            VolatileJournal::bytes(wanted, self.fair_share(wanted))
        };
        match VolatileJournal::begin(&*self.dir, wanted, self.uuid, boot, epoch, keys, self.commit.poison()) {
            Ok(recent) => self.stack.state_mut().recent = Some(recent),
            Err(error) => {
                tracing::warn!(path = %self.dir.path().display(), %error, "a killed server would lose unflushed writes");
            }
        }
    }

    /// Refuses what will want a new layer while the file system is nearly full, so that what is left serves the logs,
    /// and trim, which gives space back, works to the end.
    pub(crate) fn check_room(&self) -> Result<()> {
        check_room(&*self.dir, &self.options)
    }

    /// Puts a new layer on top, of the kind that the setting asks for. Does nothing if there is a top by now.
    pub(crate) fn make_layer(&self) -> Result<()> {
        let mut table = self.table.lock();
        let kind = {
            let gate = self.stack.gate();
            if gate.top().is_some() {
                return Ok(());
            }
            if gate.encryption() { Kind::Xts } else { Kind::Plain }
        };
        let pages = self.stack.state().size;
        let made = self.create_layer(&mut table, kind, pages);
        let (kind, made) = if mutant!(PlainWhereEncryptedFails) && made.is_err() {
            (Kind::Plain, self.create_layer(&mut table, Kind::Plain, pages))
        } else {
            (kind, made)
        };
        let layer = Arc::new(made?);
        let mut gate = self.stack.gate_exclusive(&table);
        let mut state = self.stack.state_mut();
        if self.keys.is_revoked() {
            // Perhaps all the others have been taken already.
            layer.set_key(None);
        }
        state.entries.push(Entry::new(Arc::clone(&layer)));
        drop(state);
        // The setting may have changed meanwhile: then this layer stays empty, and upkeep takes it away.
        if gate.encryption() == (kind == Kind::Xts) || mutant!(PlainWhereEncryptedFails) {
            gate.set_top(Some(layer));
        }
        Ok(())
    }

    fn create_layer(&self, table: &mut LayerTable, kind: Kind, pages: u64) -> Result<Layer> {
        table.settings.check_layers(self.dir.path())?;
        let id = match table.settings.layers.last() {
            Some(last) if mutant!(LayerIdUsedAgain) => last.id + 1,
            _ => table.settings.next_layer,
        };
        let created = (self.options.clock)();
        table.settings.next_layer = id
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "no layer id is left").at_path(self.dir.path()))?;
        self.store_settings(table)?;

        let file_name = DiskSettings::layer_file(id, kind);
        let made = self.fill_layer(table, id, kind, &file_name, pages, created).and_then(|layer| {
            table.settings.layers.push(LayerRecord { id, kind, created, encrypted_pages: 0 });
            self.store_settings(table).inspect_err(|_| {
                table.settings.layers.pop();
            })?;
            Ok(layer)
        });
        if made.is_err() && !self.commit.poison().is_set() {
            // Nothing names it; what cannot be removed now is removed when the disk is opened next.
            let _ = table.slots.erase(id);
            let _ = self.layers_dir.remove(&file_name);
        }
        made
    }

    fn fill_layer(
        &self,
        table: &mut LayerTable,
        id: u32,
        kind: Kind,
        file_name: &str,
        pages: u64,
        created: u64,
    ) -> Result<Layer> {
        let path = self.layers_dir.path().join(file_name);
        let failed = |error| Error::io("cannot make a layer", error).at_path(&path);
        let file = self.layers_dir.open(file_name, Open::New).map_err(failed)?;
        file.set_size(pages * PAGE as u64).and_then(|()| file.sync_data()).map_err(failed)?;
        unless_mutant!(LayerNameNotSynced => self.layers_dir.sync().map_err(failed)?);
        let cipher = match kind {
            Kind::Plain => None,
            Kind::Xts => {
                let keys = self.keys()?;
                let (cipher, wrapped) = keys.generate(id)?;
                table.slots.put(&SlotKey { layer: id, account_key: keys.account_key_id(), wrapped })?;
                Some(cipher)
            }
        };
        Ok(Layer::new(id, kind, created, file, path.display().to_string(), cipher))
    }

    /// The layer that takes writes under this setting, if the newest one may: it must lie above every snapshot, have a
    /// key that was not rotated away, and be of the right kind. A snapshot that is being erased is one until that is
    /// durable: it comes back where it fails, and would see what was overwritten in place.
    pub(crate) fn usable_top(state: &State, frozen_below: u32, encryption: bool) -> Option<Arc<Layer>> {
        let newest = &state.entries.last()?.layer;
        let fits =
            newest.id > state.highest_seen() && newest.id >= frozen_below && (newest.kind == Kind::Xts) == encryption;
        let is_durable = state.ops_durable() || mutant!(ErasedLineForgotten);
        (fits && is_durable).then(|| Arc::clone(newest))
    }

    /// How new writes are stored from now on. Waits for the changes in flight; makes no layer.
    pub(crate) fn set_encryption(&self, on: bool) {
        let table = self.table.lock();
        let mut gate = self.stack.gate_exclusive(&table);
        gate.set_encryption(on);
        gate.set_top(Self::usable_top(&self.stack.state(), table.settings().frozen_below, on));
    }
}
