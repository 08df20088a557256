//! Recovers a crash image with the production core and holds it against the oracle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sealdisk::disk::{Access, Disk, PageState};
use sealdisk::io::sim::{Dice, Fault, Faults, RawFile, SimDisk, Tear, direct};
use sealdisk::{ErrorKind, PAGE};

use crate::cells::{CELL, parse, shows_plaintext};
use crate::oracle::{BASE, ENCRYPTED, Kinds, Oracle, PLAIN, ZERO};
use crate::rig::Rig;

/// Crash images recovered by all threads.
pub(crate) static IMAGES: AtomicU64 = AtomicU64::new(0);

/// What a disk holds: values by cell (`None`: noise), and by page how it is stored, in which layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) values: Vec<Option<u64>>,
    pub(crate) kinds: Vec<Kinds>,
    pub(crate) layers: Vec<Option<u32>>,
}

impl Content {
    pub(crate) fn settled(&self, encryption: bool) -> Oracle {
        let values: Vec<u64> = self.values.iter().map(|value| value.expect("checked before")).collect();
        Oracle::new(&values, &self.kinds, encryption)
    }
}

fn failed(what: &str) -> impl Fn(sealdisk::Error) -> String {
    move |error| format!("{what}: {error:?}")
}

/// Reads the whole disk and where its pages lie, and holds the two against the stored bytes.
pub(crate) fn content(rig: &Rig, world: &SimDisk, disk: &Disk) -> Result<Content, String> {
    if disk.size() != rig.bytes() {
        return Err(format!("the disk has {} bytes instead of {}", disk.size(), rig.bytes()));
    }
    let mut bytes = vec![0; rig.pages * PAGE];
    disk.read(0, &mut bytes).map_err(failed("reading the whole disk"))?;
    let values: Vec<_> = bytes.chunks_exact(CELL).map(parse).collect();
    let (mut kinds, mut layers) = (Vec::new(), Vec::new());
    for run in disk.runs(0, rig.bytes(), usize::MAX).map_err(failed("listing runs"))? {
        if run.start != kinds.len() as u64 || run.pages == 0 {
            return Err(format!("runs have a gap at page {}", kinds.len()));
        }
        let kind = match run.state {
            PageState::Base { .. } => BASE,
            PageState::Plain => PLAIN,
            PageState::Encrypted => ENCRYPTED,
            PageState::Zero => ZERO,
        };
        kinds.resize(kinds.len() + run.pages as usize, kind);
        layers.resize(kinds.len(), run.layer);
    }
    if kinds.len() != rig.pages {
        return Err(format!("runs cover {} pages of {}", kinds.len(), rig.pages));
    }
    let content = Content { values, kinds, layers };
    check_stored(world, &content, &bytes)?;
    Ok(content)
}

/// Layers as they are stored: number, whether encrypted, and the file.
fn stored_layers(world: &SimDisk) -> Vec<(u32, bool, RawFile)> {
    let layer = |file: RawFile| {
        let name = file.path.strip_prefix("disk/layers/")?;
        let (number, kind) = name.split_once('.')?;
        Some((number.parse().ok()?, kind == "xts", file))
    };
    world.raw_files().into_iter().filter_map(layer).collect()
}

/// An encrypted layer never shows plaintext, a plain one never anything else, and a page that is said to be plain or
/// encrypted lies in the layer that is said to hold it.
fn check_stored(world: &SimDisk, content: &Content, bytes: &[u8]) -> Result<(), String> {
    for (number, encrypted, file) in stored_layers(world) {
        for (page, stored) in file.sectors {
            if encrypted && (shows_plaintext(&stored[..]) || stored.starts_with(b"conectix")) {
                return Err(format!("plaintext at page {page} of encrypted layer {number}"));
            }
            if !encrypted && page < content.kinds.len() && stored.chunks_exact(CELL).any(|cell| parse(cell).is_none()) {
                return Err(format!(
                    "noise at page {page} of plain layer {number}: {:x?}",
                    stored.chunks(16).map(|b| b[..9].to_vec()).collect::<Vec<_>>()
                ));
            }
            if page >= content.kinds.len() || content.layers[page] != Some(number) {
                continue;
            }
            let expected = if encrypted { ENCRYPTED } else { PLAIN };
            if content.kinds[page] & (expected | ZERO) == 0 {
                return Err(format!("page {page} is not stored as layer {number} is"));
            }
            let plain = &bytes[page * PAGE..(page + 1) * PAGE];
            if content.kinds[page] == ENCRYPTED && stored[..] == *plain {
                return Err(format!("page {page} lies in layer {number} as it reads"));
            }
        }
    }
    Ok(())
}

/// Nothing lies in a layer but what the live view reads there: neither in the cache nor on the device.
pub(crate) fn check_nothing_dead(world: &SimDisk, content: &Content) -> Result<(), String> {
    for (number, _, file) in stored_layers(world) {
        for (page, _) in file.sectors {
            let holds = |page: usize| content.layers[page] == Some(number) && content.kinds[page] != ZERO;
            if page < content.kinds.len() && !holds(page) {
                return Err(format!("dead bytes of page {page} are left in layer {number} after a scrub"));
            }
        }
    }
    Ok(())
}

/// Recovers `image` and checks it. Returns the recovered content.
pub(crate) fn recover(rig: &Rig, image: &SimDisk, oracle: &Oracle, dice: &mut Dice) -> Result<Content, String> {
    direct(|| recover_nested(rig, image, oracle, dice, 2))
}

/// Opens a disk after a crash. While the kernel has a failed write-back to tell of, opening refuses, once for each file.
pub(crate) fn open(rig: &Rig, image: &SimDisk, encryption: bool) -> Result<Disk, String> {
    loop {
        let untold = image.has_untold_errors();
        match rig.open(image, encryption, Access::ReadWrite) {
            Ok(disk) => return Ok(disk),
            Err(error) if untold && error.kind() == ErrorKind::Io => {}
            Err(error) => return Err(format!("recovering: {error:?}")),
        }
    }
}

fn recover_nested(rig: &Rig, image: &SimDisk, oracle: &Oracle, dice: &mut Dice, depth: u32) -> Result<Content, String> {
    IMAGES.fetch_add(1, Ordering::Relaxed);
    let encryption = oracle.encryption();
    let inside = if depth > 0 && dice.one_in(6) { Some(crash_inside(image, dice)) } else { None };
    if depth > 0 && dice.one_in(24) {
        fail_inside(rig, image, encryption, dice)?;
    }
    let disk = open(rig, image, encryption)?;
    image.set_observer(None);
    let found = content(rig, image, &disk)?;
    oracle.check_recovered(&found.values, &found.kinds)?;
    if let Some(inside) = inside.and_then(|inside| inside.lock().expect("one thread").take()) {
        recover_nested(rig, &inside, oracle, dice, depth - 1)
            .map_err(|error| format!("{error} (crashed in recovery)"))?;
    }
    if dice.one_in(16) {
        let again = power_cut(image, dice);
        let disk = rig.open(&again, encryption, Access::ReadWrite).map_err(failed("recovering again"))?;
        let after = content(rig, &again, &disk)?;
        if (&after.values, &after.kinds) != (&found.values, &found.kinds) {
            return Err(format!("what was recovered and read was not durable: {found:?} became {after:?}"));
        }
    }
    if dice.one_in(24) {
        scrubbed(rig, image, &disk, &found, dice)?;
    }
    Ok(found)
}

/// A power cut, torn at either unit.
pub(crate) fn power_cut(world: &SimDisk, dice: &mut Dice) -> SimDisk {
    let tear = if dice.coin() { Tear::Sector } else { Tear::Block };
    world.power_cut(dice, tear)
}

/// Any end of the process: power lost, mostly, or killed.
pub(crate) fn any_end(world: &SimDisk, dice: &mut Dice) -> SimDisk {
    if dice.one_in(6) { world.kill(dice) } else { power_cut(world, dice) }
}

/// An image will be taken at some call of the recovery of `image`, and be found in the returned place.
fn crash_inside(image: &SimDisk, dice: &mut Dice) -> Arc<Mutex<Option<SimDisk>>> {
    let taken = Arc::new(Mutex::new(None));
    let (slot, left, own) = (Arc::clone(&taken), AtomicU64::new(1 + dice.below(40)), Mutex::new(dice.fork()));
    image.set_observer(Some(Arc::new(move |world| {
        if left.load(Ordering::Relaxed) > 0 && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let mut dice = own.lock().expect("one thread");
            *slot.lock().expect("one thread") = Some(any_end(world, &mut dice));
        }
    })));
    taken
}

/// An error at some call of a recovery: it may refuse, and must succeed when it is tried again.
fn fail_inside(rig: &Rig, image: &SimDisk, encryption: bool, dice: &mut Dice) -> Result<(), String> {
    let fault = if dice.coin() { Fault::Eio } else { Fault::Enospc };
    image.set_faults(Faults { once: Some((image.calls() + 1 + dice.below(40), fault)), ..Faults::default() });
    let tried = rig.open(image, encryption, Access::ReadWrite);
    image.set_faults(Faults::default());
    match tried {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Poisoned) => Ok(()),
        Err(error) => Err(format!("recovering with {fault:?} at one call: {error:?}")),
    }
}

/// Scrubs a disk that nobody uses: all is as it was, and nothing dead is left, also after a power cut.
pub(crate) fn scrubbed(
    rig: &Rig,
    world: &SimDisk,
    disk: &Disk,
    before: &Content,
    dice: &mut Dice,
) -> Result<(), String> {
    disk.scrub().map_err(failed("scrubbing"))?;
    let usage = disk.usage().map_err(failed("usage"))?;
    if usage.pending_scrub != Some(0) {
        return Err(format!("{:?} bytes are pending after a scrub", usage.pending_scrub));
    }
    let after = content(rig, world, disk)?;
    if (&after.values, &after.kinds) != (&before.values, &before.kinds) {
        return Err(format!("a scrub changed {before:?} into {after:?}"));
    }
    check_nothing_dead(world, &after)?;
    check_nothing_dead(&power_cut(world, dice), &after)
}
