//! What changes with the set of layers: disk.toml, the data keys, and the space that is held ready for them.

pub(crate) mod key_slots;
pub(crate) mod key_usage;
pub(crate) mod layer_table;
pub(crate) mod rekey;
pub(crate) mod removal;
pub(crate) mod reserve;
pub(crate) mod revoke;
pub(crate) mod settings;
pub(crate) mod verbs;
