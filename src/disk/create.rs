//! Making a disk.
//!
//! Nothing reads the directory before the caller publishes it, so every file is written once, whole and synced, and
//! the names are made durable together: a new disk looks like one that was closed cleanly after its first write, that
//! of its footer page. Over a base of any size this is a handful of syncs.

use std::sync::Arc;

use super::checkpoint::{self, Checkpoint, Presence};
use super::key_slots::{KeySlots, SlotKey};
use super::layer::Layer;
use super::open::{LAYERS, SIZE_LIMIT};
use super::page_set::PageSet;
use super::poison::Poison;
use super::settings::{DiskSettings, Kind, LayerRecord, StoreError};
use super::transfer::write_new;
use super::{Options, Spec};
use crate::crypto::keyring::DiskKeys;
use crate::io::{Dir, Open};
use crate::vhd::Footer;
use crate::{Error, ErrorKind, PAGE, Result};

/// The layer that a disk begins with.
const FIRST: u32 = 1;

/// Makes a disk in the empty directory `dir`: durable and closed when this returns.
pub(crate) fn create(dir: &dyn Dir, spec: &Spec, keys: &DiskKeys, encryption: bool, options: &Options) -> Result<()> {
    let at = |error| Error::io("a disk cannot be made here", error).at_path(dir.path());
    let invalid = |what: String| Err(Error::new(ErrorKind::InvalidInput, what));
    if spec.size == 0 || !spec.size.is_multiple_of(PAGE as u64) || spec.size > SIZE_LIMIT {
        return invalid(format!("{} bytes is no size of a disk: it must be a multiple of 512, above 0", spec.size));
    }
    let parent_size = spec.parent.as_ref().map_or(0, |parent| parent.size);
    let base_size = spec.base.as_ref().map_or(parent_size, |base| base.size);
    if base_size > spec.size {
        return invalid(format!("a disk of {} bytes is smaller than its base of {base_size} bytes", spec.size));
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
        next_line: 1,
        generation: 0,
        chain: Default::default(),
        lines: Vec::new(),
        layers: vec![Presence { layer: FIRST, held, zero: PageSet::new(), dead: PageSet::new() }],
    };
    let (content, _) = state.encode(1, spec.uuid, keys);
    write_new(dir, &checkpoint::file_name(1), &content).map_err(at)?;

    let mut settings = DiskSettings::new(spec, created);
    settings.next_layer = FIRST + 1;
    settings.layers.push(LayerRecord { id: FIRST, kind, created, sealed_pages: 0 });
    settings.store(dir, keys).map_err(StoreError::into_error)
}
