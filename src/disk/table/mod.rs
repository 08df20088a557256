//! What changes with the set of layers: disk.toml, the data keys, and the space that is held ready for them.

pub(crate) mod held_keys;
pub(crate) mod key_slots;
pub(crate) mod key_usage;
pub(crate) mod layer_table;
mod rekey;
mod removal;
pub(crate) mod reserve;
mod revoke;
pub(crate) mod settings;
mod verbs;

use std::ops::{Deref, DerefMut};

use self::key_slots::KeySlots;
use self::settings::DiskSettings;
use crate::io::sync::{Mutex, MutexGuard};

/// disk.toml and the wrapped data keys, as they are stored.
#[derive(Debug)]
pub(crate) struct LayerTable {
    settings: DiskSettings,
    slots: KeySlots,
}

/// Holding its lock excludes making a layer, a snapshot, a resize and a rollback from one another: what changes where
/// writes go needs the guard.
#[derive(Debug)]
pub(crate) struct Table(Mutex<LayerTable>);

/// See [`Table`].
#[derive(Debug)]
pub(crate) struct TableGuard<'a>(MutexGuard<'a, LayerTable>);

impl Table {
    pub(crate) fn new(settings: DiskSettings, slots: KeySlots) -> Self {
        Self(Mutex::new(LayerTable { settings, slots }))
    }

    pub(crate) fn lock(&self) -> TableGuard<'_> {
        TableGuard(self.0.lock())
    }
}

impl Deref for TableGuard<'_> {
    type Target = LayerTable;

    fn deref(&self) -> &LayerTable {
        &self.0
    }
}

impl DerefMut for TableGuard<'_> {
    fn deref_mut(&mut self) -> &mut LayerTable {
        &mut self.0
    }
}

impl LayerTable {
    pub(crate) fn settings(&self) -> &DiskSettings {
        &self.settings
    }

    /// No layer that there is takes writes again. Not stored yet. `false`: so it was.
    pub(crate) fn freeze_layers(&mut self) -> bool {
        let before = std::mem::replace(&mut self.settings.frozen_below, self.settings.next_layer);
        before < self.settings.next_layer
    }
}
