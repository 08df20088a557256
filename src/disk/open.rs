//! Opening a disk, and what recovery must do first.
//!
//! Invariant 9: opening after anything but a clean close first syncs every layer, log, checkpoint, `keys` and disk.toml
//! and the directories, because a killed server leaves dirty pages that look saved; then drops the page cache of layers
//! and logs, because pages lost to a failed write-back look saved too; and only then reads. A sync error here refuses
//! the open. Nothing is cleaned up or appended before that.

use std::sync::Arc;

use super::commit::Commit;
use super::commit::checkpoint::{self, Checkpoint};
use super::commit::guarded_dir::GuardedDir;
use super::commit::log::{self, Chain, Op};
use super::commit::log_replay::{self, LogReplay};
use super::commit::pending::Pending;
use super::commit::poison::Poison;
use super::core::Core;
use super::numbered::numbers;
use super::stack::Stack;
use super::stack::layer::Layer;
use super::stack::state::{Entry, State, Stray};
use super::stack::view_cache::ViewCache;
use super::table::Table;
use super::table::held_keys::HeldKeys;
use super::table::key_slots::{self, KeySlots, SlotKey};
use super::table::reserve;
use super::table::settings::{self, DiskSettings, Kind, LayerRecord};
use super::transfer::read_file;
use super::upkeep::Upkeep;
use super::volatile::{self, Replay, VolatileJournal};
use super::{Access, Options};
use crate::base::BaseImage;
use crate::crypto::keyring::DiskKeys;
use crate::crypto::xts::XtsKey;
use crate::io::mutant;
use crate::io::sync::RwLock;
use crate::io::{Dir, Open};
use crate::{Error, ErrorKind, PAGE, Result};

/// Bytes of the largest disk: 1 PiB.
pub(crate) const SIZE_LIMIT: u64 = 1 << 50;
pub(crate) const LAYERS: &str = "layers";
/// Far above any log that was ever configured.
const LOG_LIMIT: u64 = 1 << 30;

pub(crate) fn open(
    dir: Arc<dyn Dir>,
    keys: Option<DiskKeys>,
    base: Option<Arc<dyn BaseImage>>,
    access: Access,
    encryption: bool,
    options: Options,
) -> Result<Core> {
    if keys.is_none() && access == Access::ReadWrite {
        return Err(Error::new(ErrorKind::WrongKey, "a disk opens for writing only with its keys").at_path(dir.path()));
    }
    let poison = Arc::new(Poison::default());
    let dir: Arc<dyn Dir> = Arc::new(GuardedDir::new(dir, &poison));
    let at = |error| Error::io("the disk cannot be opened", error).at_path(dir.path());
    options.check()?;
    let layers_dir = dir.subdir(LAYERS).map_err(at)?;
    let names = Names::of(dir.list().map_err(at)?);
    let clean = names.is_clean(&*dir);
    let noted = if clean {
        Vec::new()
    } else {
        sync_after_crash(&*dir, &*layers_dir, &names, options.boot.as_ref(), keys.as_ref(), access)?
    };
    let settings = DiskSettings::load(&*dir, keys.as_ref())?;
    let how = if access == Access::ReadWrite { Open::ReadWrite } else { Open::Read };
    let (mut slots, slot_keys) = KeySlots::open(&*dir, settings.uuid, how)?;
    let layers = open_layers(&*layers_dir, &settings, &slot_keys, keys.as_ref(), how)?;
    let Recovered { mut state, chain, next_epoch, replayed } =
        recover(&*dir, &names, &settings, layers, keys.as_ref(), &noted)?;
    if let Some(base) = &base
        && base.size() / (PAGE as u64) < state.base_limit
    {
        let what = format!("the base image has {} bytes, the disk reads more of it", base.size());
        return Err(Error::new(ErrorKind::BaseChanged, what).at_path(dir.path()));
    }
    let top = if access == Access::ReadWrite {
        state.strays = strays(&*layers_dir, &settings)?;
        // Keys of layers that an earlier end left without an entry in the table.
        let stored = |layer| state.strays.iter().any(|stray| stray.layer == layer);
        slots.erase_unless(|layer| stored(layer) || settings.layers.iter().any(|known| known.id == layer))?;
        // A clean mark that is seen may be not durable yet, and then what it makes superfluous must stay.
        layers_dir.sync().and_then(|()| dir.sync()).map_err(at)?;
        clean_up(&*dir, &*layers_dir, &names, &settings, &state.strays).map_err(at)?;
        Core::usable_top(&state, settings.frozen_below, encryption)
    } else {
        None
    };
    state.dead_known &= clean;
    if state.dead_known {
        state.dead_found();
    }
    let noted = !state.pending.is_empty();
    let recovered = (!clean).then(|| replayed + state.pending.pages());
    let (size, poisoned_by, newest) = (state.size, Arc::clone(&poison), top.clone());
    let core = Core {
        uuid: settings.uuid,
        footer: settings.footer,
        access,
        recovered,
        keys: HeldKeys::new(keys),
        base: RwLock::new(base),
        upkeep: Upkeep::default(),
        table: Table::new(settings, slots),
        commit: Commit::new(poison, chain, next_epoch, options.pending_extents, clean),
        stack: Stack::new(state, top, encryption, &options),
        dir,
        layers_dir,
        options,
    };
    if access == Access::ReadWrite {
        if noted {
            core.begin_session()?;
            core.flush()?;
        }
        // What they noted is in the log now, or was never to be believed.
        for &epoch in &names.recent {
            VolatileJournal::remove(&*core.dir, epoch)
                .map_err(|e| Error::io("the disk cannot be opened", e).at_path(core.dir.path()))?;
        }
        // Not before: what is noted is believed by what lies in the layers, and this opening may be killed.
        if let Some(newest) = newest
            && newest.pages()? != size
            && core.is_accounted_beyond(&newest, size)?
        {
            newest.resize(size, &poisoned_by)?;
        }
        core.warn_if_rotation_due();
    }
    Ok(core)
}

/// The numbered files of a disk's directory.
pub(crate) struct Names {
    all: Vec<String>,
    /// Ascending.
    logs: Vec<u64>,
    checkpoints: Vec<u64>,
    recent: Vec<u64>,
}

impl Names {
    pub(crate) fn of(all: Vec<String>) -> Self {
        let (logs, checkpoints, recent) = (numbers(&all, "log."), numbers(&all, "checkpoint."), volatile::epochs(&all));
        Self { logs, checkpoints, recent, all }
    }

    /// The epochs of openings that noted changes.
    pub(crate) fn recent(&self) -> &[u64] {
        &self.recent
    }

    /// Whether the disk was closed and nothing was changed since.
    fn is_clean(&self, dir: &dyn Dir) -> bool {
        let Some(&newest) = self.checkpoints.last() else { return false };
        self.logs.last().is_none_or(|&log| log < newest)
            && read_file(dir, &checkpoint::file_name(newest), checkpoint::SIZE_LIMIT)
                .is_ok_and(|content| Checkpoint::looks_clean(&content))
    }
}

/// See invariant 9. Gives what was noted, looked at before anything else.
fn sync_after_crash(
    dir: &dyn Dir,
    layers_dir: &dyn Dir,
    names: &Names,
    boot: Option<&[u8; 16]>,
    keys: Option<&DiskKeys>,
    access: Access,
) -> Result<Vec<Replay>> {
    // What a sync of the layers tells, and what the page cache still shows of them, is left to an opening that can look
    // at what was noted, and keep what it saw.
    let (noted, layers_too) = match (keys, boot) {
        (None, _) => (Vec::new(), names.recent.is_empty()),
        (Some(keys), Some(boot)) => {
            volatile::replay(dir, layers_dir, &names.recent, boot, keys, access == Access::ReadOnly)?
        }
        (Some(_), None) => {
            // An opening that knows the boot could not tell what this one has made of the page cache.
            VolatileJournal::void(dir, &names.recent).map_err(|error| {
                Error::io("the notes of recent changes cannot be made worthless", error).at_path(dir.path())
            })?;
            (Vec::new(), true)
        }
    };
    if mutant!(OpenedUnsynced) {
        return Ok(noted);
    }
    sync_all(dir, layers_dir, names, layers_too).map_err(|error| {
        Error::io("what was written before cannot be made durable, so the disk is not opened", error)
            .at_path(dir.path())
            .hint("look after the device; what is durable is read when the disk is opened again")
    })?;
    Ok(noted)
}

/// Makes everything durable that is there, and drops it from the page cache; the layers where that is wanted.
fn sync_all(dir: &dyn Dir, layers_dir: &dyn Dir, names: &Names, layers_too: bool) -> std::io::Result<()> {
    let mut cached = Vec::new();
    if layers_too {
        for name in layers_dir.list()? {
            cached.push(layers_dir.open(&name, Open::Read)?);
        }
    }
    for &epoch in &names.logs {
        cached.push(dir.open(&log::file_name(epoch), Open::Read)?);
    }
    for &epoch in &names.checkpoints {
        cached.push(dir.open(&checkpoint::file_name(epoch), Open::Read)?);
    }
    for name in [key_slots::FILE, settings::FILE] {
        match dir.open(name, Open::Read) {
            // Said better when it is read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            file => cached.push(file?),
        }
    }
    for file in &cached {
        file.sync_data()?;
    }
    layers_dir.sync()?;
    dir.sync()?;
    if mutant!(CacheNotDropped) {
        return Ok(());
    }
    cached.iter().try_for_each(|file| file.drop_cache())
}

/// The layers of the table, in order, holding nothing yet.
fn open_layers(
    layers_dir: &dyn Dir,
    settings: &DiskSettings,
    slot_keys: &[SlotKey],
    keys: Option<&DiskKeys>,
    how: Open,
) -> Result<Vec<Entry>> {
    let open_one = |&LayerRecord { id, kind, created, encrypted_pages }: &LayerRecord| {
        let name = DiskSettings::layer_file(id, kind);
        let path = layers_dir.path().join(&name);
        let file = layers_dir.open(&name, how).map_err(|error| {
            let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::Corrupt } else { ErrorKind::Io };
            Error::new(kind, format!("cannot open a layer: {error}")).at_path(&path)
        })?;
        let cipher = match (kind, keys) {
            (Kind::Plain, _) | (_, None) => None,
            (Kind::Xts, Some(keys)) => Some(unwrap_key(slot_keys, keys, id).map_err(|error| error.at_path(&path))?),
        };
        let layer = Layer::new(id, kind, created, file, path.display().to_string(), cipher);
        layer.count_encrypted(encrypted_pages);
        layer.wear_noted(encrypted_pages);
        Ok(Entry::new(Arc::new(layer)))
    };
    settings.layers.iter().map(open_one).collect()
}

/// The data key of a layer out of the disk's slots.
pub(crate) fn unwrap_key(slot_keys: &[SlotKey], keys: &DiskKeys, layer: u32) -> Result<XtsKey> {
    keys.unwrap(layer, &find_slot(slot_keys, keys, layer)?.wrapped)
}

/// The slot of a layer, wrapped under one of the account keys at hand.
pub(crate) fn find_slot<'a>(slot_keys: &'a [SlotKey], keys: &DiskKeys, layer: u32) -> Result<&'a SlotKey> {
    let own = |slot: &&SlotKey| slot.layer == layer && keys.knows(slot.account_key);
    slot_keys
        .iter()
        .find(own)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "no wrapped key for this layer in the disk's keys"))
}

pub(crate) struct Recovered {
    pub(crate) state: State,
    /// What the next log must chain to.
    chain: Chain,
    next_epoch: u64,
    /// Pages that the batches of the logs name.
    replayed: u64,
}

/// The newest checkpoint and the chain of logs from it on.
pub(crate) fn recover(
    dir: &dyn Dir,
    names: &Names,
    settings: &DiskSettings,
    entries: Vec<Entry>,
    keys: Option<&DiskKeys>,
    noted: &[Replay],
) -> Result<Recovered> {
    let corrupt = |name: &str, what: &str| Error::new(ErrorKind::Corrupt, what).at_path(dir.path().join(name));
    let load = |name: &str, limit| {
        read_file(dir, name, limit).map_err(|error| Error::io("cannot be read", error).at_path(dir.path().join(name)))
    };
    let newest =
        *names.checkpoints.last().ok_or_else(|| corrupt(&checkpoint::file_name(1), "no checkpoint is there"))?;
    let name = checkpoint::file_name(newest);
    let content = load(&name, checkpoint::SIZE_LIMIT)?;
    let (start, mut chain) = Checkpoint::decode(&content, newest, settings.uuid, keys, &dir.path().join(&name))?;

    // Which logs must be there: the one begun last as far as the settings know, the one a checkpoint in the middle of
    // things begins, and any that a closing batch names.
    let mut needed: Vec<u64> = Vec::new();
    needed.extend((settings.epoch >= newest).then_some(settings.epoch));
    needed.extend((!start.clean).then_some(newest));

    let mut state = State {
        size: start.size,
        base_limit: start.base_limit,
        entries,
        strays: Vec::new(),
        snapshots: start.snapshots,
        next_snapshot: start.next_snapshot,
        pending: Pending::default(),
        in_flight: None,
        recent: None,
        generation: start.generation,
        taken: 1,
        durable: 1,
        dead_known: start.dead_known,
        views: ViewCache::default(),
    };
    for presence in start.layers {
        // A layer that is not in the table any more was empty when it was removed.
        if let Some(entry) = state.entry_mut(presence.layer) {
            entry.load(presence);
        }
    }
    let mut found: u64 = 0;
    for &epoch in names.logs.iter().filter(|&&epoch| epoch >= newest) {
        let name = log::file_name(epoch);
        let path = dir.path().join(&name);
        let replayed = log_replay::replay(&load(&name, LOG_LIMIT)?, epoch, settings.uuid, keys, &path)?;
        // A log without batches holds nothing, and what comes after it follows its predecessor.
        let LogReplay::Begun { follows, batches, chain: end } = replayed else { continue };
        if batches.is_empty() {
            continue;
        }
        if follows != chain {
            return Err(corrupt(&name, "log does not follow what is before it"));
        }
        chain = end;
        for batch in &batches {
            state.generation = state.generation.max(batch.generation);
            found += batch.extents.iter().map(|extent| extent.pages.end - extent.pages.start).sum::<u64>();
            state.apply(batch).map_err(|what| corrupt(&name, what))?;
            needed.extend(batch.ops.iter().filter_map(|op| match op {
                Op::NextLog { epoch } => Some(*epoch),
                _ => None,
            }));
        }
    }
    if let Some(missing) = needed.iter().find(|&epoch| !names.logs.contains(epoch)) {
        return Err(corrupt(&log::file_name(*missing), "a log is missing"));
    }
    let durable = state.generation;
    for noted in noted.iter().filter(|_| !mutant!(NotesForgotten)) {
        noted.take(dir, &mut state, settings.uuid, durable)?;
    }
    state.recompute_dead();
    // All of it is durable, or pending.
    state.entries.iter_mut().for_each(|entry| entry.left_after = 0);
    for entry in &state.entries {
        let pages = entry.layer.pages()?;
        if entry.held().intersects(pages..u64::MAX) {
            let name = DiskSettings::layer_file(entry.layer.id, entry.layer.kind);
            return Err(corrupt(&format!("{LAYERS}/{name}"), "the layer is shorter than what it holds"));
        }
    }
    let taken = names.logs.iter().chain(&names.recent).max();
    let next_epoch = taken.map_or(0, |&number| number + 1).max(newest);
    Ok(Recovered { state, chain, next_epoch, replayed: found })
}

/// The files beside the layers of the table in which something is stored. An end of a process or of the power leaves
/// none: a layer is empty before the table names it, and when it no longer does.
fn strays(layers_dir: &dyn Dir, settings: &DiskSettings) -> Result<Vec<Stray>> {
    let mut found = Vec::new();
    for name in unnamed(layers_dir, settings).map_err(|e| Error::io("the layers cannot be listed", e))? {
        let Some(layer) = name.split('.').next().and_then(|id| id.parse().ok()) else { continue };
        let path = layers_dir.path().join(&name);
        let failed = |error| Error::io("a file that no record names cannot be looked at", error).at_path(&path);
        let file = layers_dir.open(&name, Open::Read).map_err(failed)?;
        let shown = path.display().to_string();
        let pages = Layer::new(layer, Kind::Plain, 0, file, shown, None).stored_from(0, &mut |_| true)?;
        if pages > 0 {
            tracing::warn!(path = %path.display(), pages, "a file of a layer is left alone that no record names");
            found.push(Stray { name, layer, pages });
        }
    }
    Ok(found)
}

/// The names of the files that are no layers of the table.
fn unnamed(layers_dir: &dyn Dir, settings: &DiskSettings) -> std::io::Result<Vec<String>> {
    let known: Vec<String> =
        settings.layers.iter().map(|layer| DiskSettings::layer_file(layer.id, layer.kind)).collect();
    Ok(layers_dir.list()?.into_iter().filter(|name| !known.contains(name)).collect())
}

/// Removes what earlier ends left behind. Nothing names it, and nothing lies in it. One old checkpoint is the next
/// reserve where there is none.
fn clean_up(
    dir: &dyn Dir,
    layers_dir: &dyn Dir,
    names: &Names,
    settings: &DiskSettings,
    strays: &[Stray],
) -> std::io::Result<()> {
    let mut removed = false;
    for name in unnamed(layers_dir, settings)?.iter().filter(|name| strays.iter().all(|stray| stray.name != **name)) {
        layers_dir.remove(name)?;
        removed = true;
    }
    // What lay there counts as gone from now on.
    if removed {
        layers_dir.sync()?;
    }
    let newest = names.checkpoints.last().copied().unwrap_or(0);
    let old = |epoch: &&u64| **epoch < newest;
    let logs = names.logs.iter().filter(old).map(|&epoch| log::file_name(epoch));
    let mut checkpoints: Vec<_> = names.checkpoints.iter().filter(old).map(|&e| checkpoint::file_name(e)).collect();
    if !names.all.iter().any(|name| name == reserve::RESERVE)
        && let Some(spare) = checkpoints.pop()
    {
        dir.rename(&spare, reserve::RESERVE)?;
    }
    // Earlier versions left it.
    let temporary = [checkpoint::TEMPORARY.to_owned()].into_iter().filter(|name| names.all.contains(name));
    logs.chain(checkpoints).chain(temporary).try_for_each(|name| dir.remove(&name))
}
