//! How much was encrypted under each data key.
//!
//! IEEE 1619-2018 allows 2^44 blocks of 16 bytes (256 TiB) in a key's scope. Counting every write, also those over the same
//! page, is stricter than that. At half of it the owner is told to take a new key.
//!
//! Counted in memory with every write and noted in disk.toml every 8 GiB, by upkeep, and when the disk is closed. A crash
//! forgets what was not noted: a count of years does not depend on it, and steady-state writes cost no sync for it.

use super::core::Core;
use super::settings::Kind;
use super::state::State;
use crate::{PAGE, Result};

/// Pages after which the count is noted: 8 GiB.
pub(crate) const NOTE_PAGES: u64 = 1 << 24;
/// Blocks under one key that are not to be passed.
const LIMIT: u64 = 1 << 44;

/// AES blocks in so many pages.
pub(crate) fn blocks(pages: u64) -> u64 {
    pages.saturating_mul(PAGE as u64 / 16)
}

impl Core {
    /// Whether `pages` were encrypted since it was last noted that it should be.
    pub(crate) fn wear_due(&self, state: &State, pages: u64) -> bool {
        state.entries.iter().any(|entry| entry.layer.wear_unnoted() >= pages)
    }

    /// Notes the count of every layer where `pages` are not noted yet, and warns.
    pub(crate) fn note_wear(&self, pages: u64) -> Result<()> {
        let state = self.state.read();
        if !self.wear_due(&state, pages) {
            return Ok(());
        }
        let layers: Vec<_> = state.entries.iter().map(|entry| entry.layer.clone()).collect();
        drop(state);
        let mut growth = self.growth.lock();
        let mut noted = Vec::new();
        for record in growth.settings.layers.iter_mut().filter(|record| record.kind == Kind::Xts) {
            let Some(layer) = layers.iter().find(|layer| layer.id == record.id) else { continue };
            record.sealed_pages = layer.sealed();
            noted.push((layer, record.sealed_pages));
        }
        self.store_settings(&mut growth)?;
        for (layer, pages) in noted {
            layer.wear_noted(pages);
            if blocks(pages) >= LIMIT / 2 {
                tracing::warn!(
                    path = %self.dir.path().display(), layer = layer.id, blocks = blocks(pages),
                    "a data key nears 2^44 blocks: `sealdisk key rotate-data` takes a new one"
                );
            }
        }
        Ok(())
    }
}
