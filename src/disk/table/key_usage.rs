//! How much was encrypted under each data key.
//!
//! IEEE 1619-2018 allows 2^44 blocks of 16 bytes (256 TiB) in a key's scope. Counting every write, also those over the
//! same page, is stricter than that. At half of it the owner is told to take a new key: in the log, when the disk is
//! opened and whenever more is noted; in reports; by a metric. A key that was rotated away encrypts no more, and needs
//! no telling.
//!
//! Counted in memory with every write and noted in disk.toml every 8 GiB, by upkeep, and when the disk is closed. A
//! crash forgets what was not noted: a count of years does not depend on it, and steady-state writes cost no sync for
//! it.

use super::settings::Kind;
use crate::disk::Options;
use crate::disk::core::Core;
use crate::disk::stack::layer::Layer;
use crate::disk::stack::state::State;
use crate::{PAGE, Result};

/// Pages after which the count is noted, at the most: 8 GiB.
const NOTE_PAGES: u64 = 1 << 24;
/// Blocks under one key that are not to be passed.
pub(crate) const LIMIT: u64 = 1 << 44;

impl Options {
    /// Pages after which the count is noted: often enough for the warning to come in time.
    pub(crate) fn note_pages(&self) -> u64 {
        NOTE_PAGES.min(self.key_blocks / blocks(16)).max(1)
    }
}

/// AES blocks in so many pages.
pub(crate) fn blocks(pages: u64) -> u64 {
    pages.saturating_mul(PAGE as u64 / 16)
}

impl Core {
    /// Whether it is time for a new key instead of that of `layer`, unless it was rotated away.
    pub(crate) fn rotation_due(&self, layer: &Layer) -> bool {
        layer.kind == Kind::Xts && blocks(layer.encrypted_pages()) >= self.options.key_blocks / 2
    }

    /// Says so of the layer that takes new writes.
    pub(crate) fn warn_if_rotation_due(&self) {
        let gate = self.stack.gate();
        if let Some(top) = gate.top().filter(|top| self.rotation_due(top)) {
            self.warn_rotation_due(top);
        }
    }

    fn warn_rotation_due(&self, layer: &Layer) {
        tracing::warn!(
            path = %self.dir.path().display(), layer = layer.id, blocks = blocks(layer.encrypted_pages()),
            limit = self.options.key_blocks,
            "much was encrypted under one data key: `sealdisk key rotate-data` takes a new one"
        );
    }

    /// Whether `pages` were encrypted since it was last noted that it should be.
    pub(crate) fn wear_due(&self, state: &State, pages: u64) -> bool {
        state.entries.iter().any(|entry| entry.layer.wear_unnoted() >= pages)
    }

    /// Notes the count of every layer where `pages` are not noted yet, and warns.
    pub(crate) fn note_wear(&self, pages: u64) -> Result<()> {
        let state = self.stack.state();
        if !self.wear_due(&state, pages) {
            return Ok(());
        }
        let layers: Vec<_> = state.entries.iter().map(|entry| entry.layer.clone()).collect();
        drop(state);
        let mut table = self.table.lock();
        let mut noted = Vec::new();
        for record in table.settings.layers.iter_mut().filter(|record| record.kind == Kind::Xts) {
            let Some(layer) = layers.iter().find(|layer| layer.id == record.id) else { continue };
            if layer.wear_unnoted() > 0 {
                record.encrypted_pages = layer.encrypted_pages();
                noted.push((layer, record.encrypted_pages));
            }
        }
        self.store_settings(&mut table)?;
        for (layer, pages) in noted {
            layer.wear_noted(pages);
            if layer.id >= table.settings.frozen_below && self.rotation_due(layer) {
                self.warn_rotation_due(layer);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::subscriber::with_default;

    use super::*;
    use crate::disk::tests::TestDisk;
    use crate::disk::{Access, Disk, Durability};

    /// What the log says, in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// Does `work` and gives the warnings that it led to.
        fn of(work: impl FnOnce()) -> String {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::WARN)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .finish();
            with_default(subscriber, work);
            let text = log.0.lock().clone();
            String::from_utf8(text).unwrap()
        }
    }

    #[test]
    fn the_limit_is_that_of_the_standard() {
        let options = Options::default();
        assert_eq!((options.key_blocks, options.note_pages()), (1 << 44, 1 << 24));
        assert_eq!(blocks(1 << 24), 1 << 29);
    }

    /// The key may encrypt 128 pages: noted every 8, warned of from 64 on, and no more once there is a new one.
    #[test]
    fn a_key_that_encrypted_much_is_warned_of_until_it_is_replaced() {
        let place = TestDisk::new(1 << 20, 0, true);
        let open = || {
            let options = Options { key_blocks: blocks(128), ..Options::default() };
            Disk::open(place.dir(), Some(place.keys.clone()), None, Access::ReadWrite, true, options).unwrap()
        };
        let disk = open();
        let write = |disk: &Disk, pages: usize| {
            disk.write(0, &vec![7; pages * PAGE], Durability::Fua).unwrap();
            while disk.admin().maintain().unwrap() {}
        };
        assert_eq!(Log::of(|| write(&disk, 7)), "");
        assert_eq!(disk.admin().settings().layers[0].encrypted_pages, 0, "not worth a sync yet");
        // Over the same pages again and again: that counts too.
        assert_eq!(Log::of(|| (0..5).for_each(|_| write(&disk, 8))), "");
        assert!(disk.admin().settings().layers[0].encrypted_pages > 0);
        let log = Log::of(|| write(&disk, 20));
        assert!(log.contains("key rotate-data") && log.contains("layer=1"), "{log}");
        disk.close().unwrap();

        // A restart does not forget it, and says so at once.
        let log = Log::of(|| open().close().unwrap());
        assert!(log.contains("key rotate-data") && log.contains("layer=1"), "{log}");
        let disk = open();
        let log = Log::of(|| write(&disk, 8));
        assert!(log.contains("key rotate-data"), "{log}");
        assert!(disk.admin().usage_and_keys().unwrap().1[0].rotation_due && disk.admin().layers()[0].rotation_due);
        disk.admin().rotate_key().unwrap();
        assert!(disk.admin().layers().iter().all(|layer| !layer.rotation_due), "it encrypts no more");
        assert_eq!(Log::of(|| write(&disk, 32)), "");
        let log = Log::of(|| (0..2).for_each(|_| write(&disk, 32)));
        assert!(log.contains("layer=2") && !log.contains("layer=1"), "{log}");
    }
}
