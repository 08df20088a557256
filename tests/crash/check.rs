//! Recovers a crash image with the production core and holds it against the oracle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use sealdisk::disk::{Access, Disk, PageState};
use sealdisk::io::sim::{Call, Fault, Faults, SimDisk, SimRng, Tear, direct};
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
    pub(crate) lines: Vec<SnapshotContent>,
}

/// What a snapshot holds, and the layers that its pages are stored in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotContent {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<u64>>,
    pub(crate) layers: Vec<Option<u32>>,
}

impl Content {
    pub(crate) fn pages(&self) -> usize {
        self.kinds.len()
    }

    /// The same content stored in the same ways, in whatever layers.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let lines = |content: &Self| -> Vec<_> {
            content.lines.iter().map(|line| (line.name.clone(), line.values.clone())).collect()
        };
        (&self.values, &self.kinds) == (&other.values, &other.kinds) && lines(self) == lines(other)
    }
}

fn failed(what: &str) -> impl Fn(sealdisk::Error) -> String {
    move |error| format!("{what}: {error:?}")
}

/// Reads the whole disk with its snapshots, and where its pages lie, and holds that against the stored bytes.
pub(crate) fn content(world: &SimDisk, disk: &Disk) -> Result<Content, String> {
    let (bytes, values) = read_whole(disk)?;
    let (kinds, layers) = list_runs(disk)?;
    let lines = disk.snapshots().into_iter().map(|line| snapshot_content(disk, line.name)).collect::<Result<_, _>>()?;
    let content = Content { values, kinds, layers, lines };
    check_stored(world, &content, &bytes)?;
    Ok(content)
}

pub(crate) fn snapshot_content(disk: &Disk, name: String) -> Result<SnapshotContent, String> {
    let seen = disk.at_snapshot(&name).map_err(failed("looking through a snapshot"))?;
    let (_, values) = read_whole(&seen)?;
    let (_, layers) = list_runs(&seen)?;
    Ok(SnapshotContent { name, values, layers })
}

fn read_whole(disk: &Disk) -> Result<(Vec<u8>, Vec<Option<u64>>), String> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read(0, &mut bytes).map_err(failed("reading the whole disk"))?;
    let values = bytes.chunks_exact(CELL).map(parse).collect();
    Ok((bytes, values))
}

/// Kinds without the footer page, layers with it.
fn list_runs(disk: &Disk) -> Result<(Vec<Kinds>, Vec<Option<u32>>), String> {
    let (mut kinds, mut layers) = (Vec::new(), Vec::new());
    for run in disk.runs(0, disk.blob_size(), usize::MAX).map_err(failed("listing runs"))? {
        if run.start != kinds.len() as u64 || run.pages == 0 {
            return Err(format!("runs have a gap at page {}", kinds.len()));
        }
        let kind = match run.state {
            PageState::Base { .. } => BASE,
            PageState::Plain => PLAIN,
            PageState::Encrypted => ENCRYPTED,
            PageState::Zero => ZERO,
            PageState::Inherited { .. } => return Err("a page of another disk".into()),
        };
        kinds.resize(kinds.len() + run.pages as usize, kind);
        // A page that a layer holds as zero is not stored there.
        layers.resize(kinds.len(), run.layer.filter(|_| kind != ZERO));
    }
    if kinds.len() * PAGE != disk.blob_size() as usize {
        return Err(format!("runs cover {} pages of {} bytes", kinds.len(), disk.blob_size()));
    }
    kinds.truncate(disk.size() as usize / PAGE);
    Ok((kinds, layers))
}

/// Visits what is stored in layers: number, whether encrypted, page and bytes, in the cache or on the device.
fn visit_layers(world: &SimDisk, mut visit: impl FnMut(u32, bool, usize, &[u8; PAGE])) {
    world.visit_stored("disk/layers", &mut |name, page, stored| {
        if let Some((number, kind)) = name.split_once('.')
            && let Ok(number) = number.parse()
        {
            visit(number, kind == "xts", page, stored);
        }
    });
}

/// An encrypted layer never shows plaintext, a plain one never anything else, and a page that is said to be plain or
/// encrypted lies in the layer that is said to hold it.
fn check_stored(world: &SimDisk, content: &Content, bytes: &[u8]) -> Result<(), String> {
    let mut found = Ok(());
    visit_layers(world, |number, encrypted, page, stored| {
        if found.is_ok() {
            found = check_page(content, bytes, number, encrypted, page, stored);
        }
    });
    found
}

fn check_page(
    content: &Content,
    bytes: &[u8],
    number: u32,
    encrypted: bool,
    page: usize,
    stored: &[u8; PAGE],
) -> Result<(), String> {
    let footer = stored.starts_with(b"conectix");
    if encrypted && (footer || shows_plaintext(stored)) {
        return Err(format!("plaintext at page {page} of encrypted layer {number}"));
    }
    // A resize that did not happen leaves a footer where it was to be.
    let expected = footer || stored.chunks_exact(CELL).all(|cell| parse(cell).is_some());
    if !encrypted && page < content.kinds.len() && !expected {
        let blocks: Vec<_> = stored.chunks(16).map(|block| &block[..9]).collect();
        return Err(format!("noise at page {page} of plain layer {number}: {blocks:x?}"));
    }
    if page >= content.pages() || content.layers[page] != Some(number) {
        return Ok(());
    }
    let expected = if encrypted { ENCRYPTED } else { PLAIN };
    if content.kinds[page] != expected {
        return Err(format!("page {page} is not stored as layer {number} is"));
    }
    let plain = &bytes[page * PAGE..(page + 1) * PAGE];
    if content.kinds[page] == ENCRYPTED && stored[..] == *plain {
        return Err(format!("page {page} lies in layer {number} as it reads"));
    }
    Ok(())
}

/// Sectors that lie in a layer though neither the disk nor a snapshot reads them there, in the cache or on the device.
pub(crate) fn dead_pages(world: &SimDisk, content: &Content) -> Vec<(u32, usize)> {
    let mut dead = Vec::new();
    visit_layers(world, |number, _, page, _| {
        let reads = |layers: &[Option<u32>]| layers.get(page).copied().flatten() == Some(number);
        let is_read = reads(&content.layers) || content.lines.iter().any(|line| reads(&line.layers));
        if !is_read && !dead.contains(&(number, page)) {
            dead.push((number, page));
        }
    });
    dead
}

pub(crate) fn check_nothing_dead(world: &SimDisk, content: &Content) -> Result<(), String> {
    match dead_pages(world, content).first() {
        Some((layer, page)) => {
            Err(format!("dead bytes of page {page} are left in layer {layer} after a scrub of {content:?}"))
        }
        None => Ok(()),
    }
}

/// Nothing dead but what the disk says is to be scrubbed yet, or is in no record.
pub(crate) fn check_pending(world: &SimDisk, disk: &Disk, content: &Content) -> Result<(), String> {
    let usage = disk.admin().usage().map_err(failed("usage"))?;
    let dead = dead_pages(world, content);
    match usage.pending_scrub {
        Some(pending) if ((dead.len() * PAGE) as u64) > pending + usage.unaccounted => Err(format!(
            "{pending} bytes are said to be pending and {} to be in no record, and these pages are dead, by layer: {dead:?}",
            usage.unaccounted
        )),
        _ => Ok(()),
    }
}

/// Recovers `image` and checks it. Returns the recovered content.
pub(crate) fn recover(rig: &Rig, image: &SimDisk, oracle: &Oracle, rng: &mut SimRng) -> Result<Content, String> {
    direct(|| recover_nested(rig, image, oracle, rng, 2, true))
}

/// Whether failures are to be told with the calls that led to them.
pub(crate) fn is_traced() -> bool {
    static TRACED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("SEALDISK_CRASH_TRACE").is_some());
    *TRACED
}

/// Opens a disk, again where the kernel had a failed write-back to tell of and has told it: once for each file.
pub(crate) fn open_when_told(rig: &Rig, world: &SimDisk, encryption: bool) -> sealdisk::Result<Disk> {
    loop {
        let untold = world.untold_errors();
        match rig.open(world, encryption, Access::ReadWrite) {
            Err(error) if error.kind() == ErrorKind::Io && world.untold_errors() < untold => {}
            other => return other,
        }
    }
}

/// Opens a disk after a crash.
pub(crate) fn open(rig: &Rig, image: &SimDisk, encryption: bool) -> Result<Disk, String> {
    if is_traced() {
        image.start_trace();
    }
    // Taking over what a killed process had answered needs a log, and on a full file system the one that is there,
    // which needs the reserve.
    let is_reserved =
        |image: &SimDisk| image.raw_files().iter().any(|file| file.path == "disk/reserve" && file.size > 0);
    let stinted = rig.boots && image.capacity().is_some() && (!is_reserved(image) || image.is_overfull());
    loop {
        match open_when_told(rig, image, encryption) {
            Ok(disk) => return Ok(disk),
            Err(error) if stinted && error.kind() == ErrorKind::NoSpace => image.set_capacity(None),
            Err(error) => return Err(format!("recovering: {error:?}\n{}", image.trace())),
        }
    }
}

/// `noting`: no error can have lost what was answered.
fn recover_nested(
    rig: &Rig,
    image: &SimDisk,
    oracle: &Oracle,
    rng: &mut SimRng,
    depth: u32,
    mut noting: bool,
) -> Result<Content, String> {
    IMAGES.fetch_add(1, Ordering::Relaxed);
    let encryption = oracle.encryption();
    let inside = (depth > 0 && rng.one_in(6)).then(|| {
        let at = 1 + rng.below(40);
        end_at(image, at, rng, any_end)
    });
    if depth > 0 && rng.one_in(24) {
        noting &= !fail_inside(rig, image, encryption, rng)?;
    }
    let kept = noting && oracle.is_kept_by(image.boot());
    let disk = open(rig, image, encryption)?;
    image.set_observer(None);
    // Opening must not need space; what comes may.
    image.set_capacity(None);
    let found = content(image, &disk)?;
    oracle.check_ended(&found, kept)?;
    check_pending(image, &disk, &found)?;
    if let Some(inside) = inside.and_then(|inside| inside.lock().expect("one thread").take()) {
        recover_nested(rig, &inside, oracle, rng, depth - 1, noting)
            .map_err(|error| format!("{error} (crashed in recovery)"))?;
    }
    if rng.one_in(16) {
        let again = power_cut(image, rng);
        let disk = rig.open(&again, encryption, Access::ReadWrite).map_err(failed("recovering again"))?;
        let after = content(&again, &disk)?;
        if !after.is_same(&found) {
            return Err(format!("what was recovered and read was not durable: {found:?} became {after:?}"));
        }
    }
    if rng.one_in(24) {
        scrubbed(image, &disk, &found, rng)?;
    }
    Ok(found)
}

/// A power cut, torn at either unit.
pub(crate) fn power_cut(world: &SimDisk, rng: &mut SimRng) -> SimDisk {
    let tear = if rng.coin() { Tear::Sector } else { Tear::Block };
    world.power_cut(rng, tear)
}

/// Any end of the process: power lost, mostly, or killed.
pub(crate) fn any_end(world: &SimDisk, rng: &mut SimRng) -> SimDisk {
    if rng.one_in(6) { world.kill(rng) } else { power_cut(world, rng) }
}

/// What `end` leaves of `image` at its call `at`, counted from 1 on, will be found in the returned place.
pub(crate) fn end_at(
    image: &SimDisk,
    at: u64,
    rng: &mut SimRng,
    end: impl Fn(&SimDisk, &mut SimRng) -> SimDisk + Send + Sync + 'static,
) -> Arc<Mutex<Option<SimDisk>>> {
    let taken = Arc::new(Mutex::new(None));
    let (slot, left, own) = (Arc::clone(&taken), AtomicU64::new(at), Mutex::new(rng.fork()));
    image.set_observer(Some(Arc::new(move |world| {
        if left.load(Ordering::Relaxed) > 0 && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let mut rng = own.lock().expect("one thread");
            *slot.lock().expect("one thread") = Some(end(world, &mut rng));
        }
    })));
    taken
}

/// An error at some call of a recovery: it may refuse, and must succeed when it is tried again. Whether that may have
/// lost content.
fn fail_inside(rig: &Rig, image: &SimDisk, encryption: bool, rng: &mut SimRng) -> Result<bool, String> {
    let fault = if rng.coin() { Fault::Eio } else { Fault::Enospc };
    image.set_faults(Faults { once: Some((image.calls() + 1 + rng.below(40), fault)), ..Faults::default() });
    let tried = rig.open(image, encryption, Access::ReadWrite);
    image.set_faults(Faults::default());
    let lost = image.fired().iter().any(|fired| fired.call == Call::SyncData);
    match tried {
        Ok(_) => Ok(lost),
        Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Poisoned) => Ok(lost),
        Err(error) => Err(format!("recovering with {fault:?} at one call: {error:?}")),
    }
}

/// Scrubs a disk that nobody uses: all is as it was, and nothing dead is left but what no record names; once that is
/// given up too, nothing at all, also after a power cut.
pub(crate) fn scrubbed(world: &SimDisk, disk: &Disk, before: &Content, rng: &mut SimRng) -> Result<(), String> {
    disk.admin().scrub().map_err(failed("scrubbing"))?;
    let usage = disk.admin().usage().map_err(failed("usage"))?;
    if usage.pending_scrub != Some(0) {
        return Err(format!("{:?} bytes are pending after a scrub", usage.pending_scrub));
    }
    check_pending(world, disk, before)?;
    disk.admin().scrub_unaccounted().map_err(failed("scrubbing what no record names"))?;
    let usage = disk.admin().usage().map_err(failed("usage"))?;
    if (usage.pending_scrub, usage.unaccounted) != (Some(0), 0) {
        return Err(format!("{usage:?} after a scrub of everything"));
    }
    let after = content(world, disk)?;
    if !after.is_same(before) {
        return Err(format!("a scrub changed {before:?} into {after:?}"));
    }
    check_nothing_dead(world, &after)?;
    check_nothing_dead(&power_cut(world, rng), &after)
}
