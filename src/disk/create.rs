//! Making a disk.
//!
//! Nothing reads the directory before the caller publishes it, so every file is written once, whole and synced, and
//! the names are made durable together: a new disk looks like one that was closed cleanly after its first write, that
//! of its footer page. Over a base of any size this is a handful of syncs.

use std::sync::Arc;

use super::commit::checkpoint::{self, Checkpoint, Presence};
use super::commit::poison::Poison;
use super::open::{LAYERS, SIZE_LIMIT};
use super::stack::layer::Layer;
use super::stack::page_set::PageSet;
use super::table::key_slots::{KeySlots, SlotKey};
use super::table::reserve;
use super::table::settings::{DiskSettings, Kind, LayerRecord, StoreError};
use super::transfer::write_new;
use super::{Options, Spec};
use crate::crypto::keyring::DiskKeys;
use crate::io::{Dir, Open};
use crate::vhd::Footer;
use crate::{Error, ErrorKind, PAGE, Result};

/// The layer that a disk begins with.
const FIRST: u32 = 1;

/// Refuses what is no size of a disk, in bytes: [`ErrorKind::InvalidInput`].
pub(crate) fn check_size(size: u64) -> Result<()> {
    let page = PAGE as u64;
    let (what, hint) = if size == 0 {
        ("a disk of 0 bytes would hold nothing".to_owned(), "the least is 512".to_owned())
    } else if size > SIZE_LIMIT {
        let most = format!("the most is {SIZE_LIMIT}, which is {}T", SIZE_LIMIT >> 40);
        (format!("{size} bytes are too many for a disk"), most)
    } else if !size.is_multiple_of(page) {
        let below = size / page * page;
        let near = if below == 0 { page.to_string() } else { format!("{below} or {}", below + page) };
        (format!("{size} bytes are no size for a disk: not a multiple of 512"), format!("{near} would do"))
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidInput, what).hint(hint))
}

/// Makes a disk in the empty directory `dir`: durable and closed when this returns.
pub(crate) fn create(dir: &dyn Dir, spec: &Spec, keys: &DiskKeys, encryption: bool, options: &Options) -> Result<()> {
    let at = |error| Error::io("a disk cannot be made here", error).at_path(dir.path());
    check_size(spec.size)?;
    let parent_size = spec.parent.as_ref().map_or(0, |parent| parent.size);
    let base_size = spec.base.as_ref().map_or(parent_size, |base| base.size);
    if base_size > spec.size {
        let what = format!("a disk of {} bytes is smaller than its base of {base_size} bytes", spec.size);
        return Err(Error::new(ErrorKind::InvalidInput, what));
    }
    let created = (options.clock)();
    let pages = spec.size / PAGE as u64 + 1;
    let footer = Footer::fixed(spec.size, spec.uuid, created).to_bytes();
    let kind = if encryption { Kind::Xts } else { Kind::Plain };

    dir.create_dir(LAYERS).map_err(at)?;
    let (cipher, slot) = match kind {
        Kind::Plain => (None, None),
        Kind::Xts => {
            let (cipher, wrapped) = keys.generate(FIRST)?;
            (Some(cipher), Some(SlotKey { layer: FIRST, account_key: keys.account_key_id(), wrapped }))
        }
    };
    KeySlots::create(dir, spec.uuid, slot.as_ref())?;

    let layers_dir = dir.subdir(LAYERS).map_err(at)?;
    let name = DiskSettings::layer_file(FIRST, kind);
    let file = layers_dir.open(&name, Open::New).map_err(at)?;
    file.set_size(pages * PAGE as u64).map_err(at)?;
    let layer = Layer::new(FIRST, kind, created, Arc::clone(&file), name, cipher);
    layer.write(pages - 1, &footer, true)?;
    layer.sync(&Poison::default())?;
    layers_dir.sync().map_err(at)?;

    let mut held = PageSet::new();
    held.insert(pages - 1..pages);
    let state = Checkpoint {
        clean: true,
        dead_known: true,
        size: pages,
        base_limit: base_size / PAGE as u64,
        next_snapshot: 1,
        generation: 0,
        chain: Default::default(),
        snapshots: Vec::new(),
        layers: vec![Presence { layer: FIRST, held, zero: PageSet::new(), dead: PageSet::new() }],
    };
    let (content, _) = state.encode(1, spec.uuid, keys);
    write_new(dir, &checkpoint::file_name(1), &content).map_err(at)?;
    reserve::provide(dir, options.least_log()).map_err(at)?;

    let mut settings = DiskSettings::new(spec, created);
    settings.next_layer = FIRST + 1;
    settings.layers.push(LayerRecord { id: FIRST, kind, created, encrypted_pages: 0 });
    settings.store(dir, keys).map_err(StoreError::into_error)?;
    reserve::ensure_settings_spare(dir).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_size_is_told_with_what_would_be() {
        for size in [512, 1024, SIZE_LIMIT] {
            check_size(size).expect("a size");
        }
        let hint = |size| check_size(size).expect_err("no size").hint_text().map(str::to_owned).unwrap_or_default();
        assert_eq!(hint(0), "the least is 512");
        assert_eq!(hint(1), "512 would do");
        assert_eq!(hint(1025), "1024 or 1536 would do");
        for size in [SIZE_LIMIT + 1, SIZE_LIMIT + 512, 1 << 62, u64::MAX] {
            assert_eq!(hint(size), "the most is 1125899906842624, which is 1024T");
        }
    }
}
