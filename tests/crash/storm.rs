//! Random clients on one disk, random faults, a look at possible crashes at every call, and a crash at any of them,
//! again and again: each generation goes on from what was recovered. One seed fixes all of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sealdisk::disk::{Disk, Durability};
use sealdisk::io::sim::{Call, Fault, Faults, SimDisk, SimRng, direct};
use sealdisk::io::sync::RwLock;
use sealdisk::{Error, ErrorKind};

use crate::cells::{CELL, CELLS_A_PAGE, fill, parse};
use crate::check;
use crate::oracle::{Change, Oracle, value_of};
use crate::rig::Rig;

mod on_snapshots;

/// What the clients are at: some races need more of the same than chance gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    All,
    /// Durable overwrites and flushes, with syncs that fail.
    Syncs,
    /// Writes while the setting changes and old pages are re-encrypted.
    Switches,
    /// Reads while the setting changes and what was covered is punched.
    Punches,
    /// Snapshots come and go while what they let go of is punched.
    Snapshots,
}

const MOODS: [Mood; 8] =
    [Mood::All, Mood::All, Mood::All, Mood::All, Mood::Syncs, Mood::Switches, Mood::Punches, Mood::Snapshots];

/// How a seed is run.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// `None`: one by chance in each generation.
    mood: Option<Mood>,
    /// Crash images are looked at on the way.
    images: bool,
    /// One client and no upkeep beside it, so that no wait and no lock decides what comes next.
    one_task: bool,
}

const STORM: Plan = Plan { mood: None, images: true, one_task: false };

/// What the clients, the observer and the referee of one generation share.
pub(super) struct Ring {
    rig: Rig,
    world: SimDisk,
    oracle: Arc<Oracle>,
    mood: Mood,
    /// Whether requests may fail.
    faulty: bool,
    /// Chance in 1,000 of an image at a call.
    rate: u32,
    /// The call at which it crashes.
    crash_at: u64,
    calls: AtomicU64,
    rng: Mutex<SimRng>,
    /// What the crash has left.
    left: Mutex<Option<SimDisk>>,
    failure: Mutex<Option<String>>,
    over: AtomicBool,
    poisoned: AtomicBool,
    toggling: AtomicBool,
    /// A snapshot, rollback or resize is under way.
    lining: AtomicBool,
    /// Held shared by every request, and exclusively by who changes the size.
    sized: RwLock<()>,
    one_task: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Ring {
    fn oracle(&self) -> Arc<Oracle> {
        Arc::clone(&self.oracle)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the generation: the clients notice with their next call.
    fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.oracle().freeze();
        self.world.switch_off();
    }

    fn fail(&self, what: String) {
        if !self.is_over() {
            *lock(&self.failure) = Some(what);
            self.stop();
        }
    }

    fn note(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.fail(what);
        }
    }

    /// At every call of the seam.
    fn look(&self, world: &SimDisk) {
        if self.is_over() {
            return;
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.note_harm();
        let mut rng = lock(&self.rng).fork();
        if call == self.crash_at {
            *lock(&self.left) = Some(check::any_end(world, &mut rng));
            self.stop();
        } else if rng.chance(self.rate) {
            let image = check::any_end(world, &mut rng);
            if let Err(what) = check::recover(&self.rig, &image, &self.oracle(), &mut rng) {
                self.fail(format!("an image at call {call}: {what}"));
            }
        }
    }

    /// What a failed call was about may be lost, and the notes of it with it.
    fn note_harm(&self) {
        if self.faulty && self.world.was_harmed() {
            self.oracle.note_in(None);
        }
    }

    /// An answer with an error: only where something was made to fail.
    fn refused(&self, what: &str, error: &Error) {
        if error.kind() == ErrorKind::Poisoned {
            self.poisoned.store(true, Ordering::Relaxed);
        }
        let in_doubt = error.kind() == ErrorKind::OutOfRange && self.oracle().size_is_in_doubt();
        let expected = in_doubt || matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Poisoned);
        if !(self.is_over() || self.faulty && expected) {
            self.fail(format!("{what} failed where nothing should: {error:?}"));
        }
    }
}

/// Runs one seed. The error says what went wrong.
pub(crate) fn run(seed: u64) -> Result<(), String> {
    let mut rng = SimRng::new(seed);
    let rig = Rig::random(&mut rng);
    run_on(&rig, STORM, rng)
}

/// Runs one seed for the digest of its calls; no crash image is looked at on the way.
pub(crate) fn run_for_digest(seed: u64, one_task: bool) -> Result<(), String> {
    let mut rng = SimRng::new(seed);
    let rig = Rig::random(&mut rng);
    run_on(&rig, Plan { images: false, one_task, ..STORM }, rng)
}

/// Runs one seed with several clients in one mood on a disk of few pages: for races that chance seldom meets elsewhere.
pub(crate) fn run_crowded(seed: u64, mood: Mood) -> Result<(), String> {
    let mut rng = SimRng::new(seed);
    let rig = Rig::small(&mut rng);
    run_on(&rig, Plan { mood: Some(mood), ..STORM }, rng)
}

fn run_on(rig: &Rig, plan: Plan, mut rng: SimRng) -> Result<(), String> {
    let (mut world, oracle) = rig.fresh(rng.roll(), rng.coin());
    let mut oracle = Arc::new(oracle);
    for generation in 0..1 + rng.index(3) {
        let told = |what| format!("generation {generation}: {what}");
        (world, oracle) = one_generation(rig, world, oracle, plan, &mut rng).map_err(told)?;
    }
    check::recover(rig, &world, &oracle, &mut rng).map(drop)
}

/// Opens the disk, lets the clients at it, and returns what an end has left, with an oracle that knows what it may be.
fn one_generation(
    rig: &Rig,
    world: SimDisk,
    oracle: Arc<Oracle>,
    plan: Plan,
    rng: &mut SimRng,
) -> Result<(SimDisk, Arc<Oracle>), String> {
    let crowded = plan.mood.is_some();
    let mood = plan.mood.unwrap_or_else(|| MOODS[rng.index(MOODS.len())]);
    let faulty = mood == Mood::Syncs || (!crowded && rng.one_in(3));
    if faulty {
        world.set_capacity(rng.one_in(4).then(|| 40 + rng.below(30)));
        world.set_faults(if mood == Mood::Syncs { failing_syncs() } else { random_faults(rng) });
    } else {
        world.set_faults(Faults { nuisance: [0, 20][rng.index(2)], ..Faults::default() });
    }
    let ring = Arc::new(Ring {
        rig: rig.clone(),
        world: world.clone(),
        oracle,
        mood,
        faulty,
        rate: [100, 500, 1000][rng.index(3)] * u32::from(plan.images),
        crash_at: rng.below(600),
        calls: AtomicU64::new(0),
        rng: Mutex::new(rng.fork()),
        left: Mutex::new(None),
        failure: Mutex::new(None),
        over: AtomicBool::new(false),
        poisoned: AtomicBool::new(false),
        toggling: AtomicBool::new(false),
        lining: AtomicBool::new(false),
        sized: RwLock::new(()),
        one_task: plan.one_task,
    });
    if check::is_traced() {
        world.start_trace();
    }
    let eye = Arc::downgrade(&ring);
    world.set_observer(Some(Arc::new(move |world| {
        if let Some(ring) = eye.upgrade() {
            ring.look(world);
        }
    })));
    let kept = ring.oracle.is_kept_by(world.boot());
    match check::open_when_told(rig, &world, ring.oracle().encryption()) {
        Ok(disk) if !ring.is_over() => storm(&ring, disk, rng, kept),
        Ok(_) => {}
        Err(error) => ring.refused("opening", &error),
    }
    world.set_observer(None);
    ring.note_harm();
    if let Some(what) = lock(&ring.failure).take() {
        return Err(format!("{what}\nTHE RUN\n{}", world.trace()));
    }
    let left = lock(&ring.left).take();
    let left = left.unwrap_or_else(|| check::any_end(&world, rng));
    left.set_capacity(None);
    Ok((left, ring.oracle()))
}

fn failing_syncs() -> Faults {
    Faults { random: vec![(Call::SyncData, Fault::Eio, 6000)], ..Faults::default() }
}

fn random_faults(rng: &mut SimRng) -> Faults {
    let each = [
        (Call::SyncData, Fault::Eio, 3000),
        (Call::SyncData, Fault::Enospc, 500),
        (Call::Write, Fault::WriteBack, 2000),
        (Call::Write, Fault::Eio, 2000),
        (Call::Write, Fault::Enospc, 2000),
        (Call::Read, Fault::Eio, 500),
        (Call::Punch, Fault::Eio, 5000),
        (Call::Create, Fault::Enospc, 5000),
        (Call::Allocate, Fault::Enospc, 5000),
        (Call::Rename, Fault::Eio, 3000),
        (Call::Remove, Fault::Eio, 3000),
        (Call::SyncDir, Fault::Eio, 3000),
        (Call::SetSize, Fault::Enospc, 5000),
    ];
    let share = 1 + rng.below(4);
    let random = each.into_iter().filter(|_| rng.one_in(share)).collect();
    Faults { nuisance: [0, 20][rng.index(2)], random, ..Faults::default() }
}

/// The life of an open disk: recovered content taken over, clients, and an end in good order if no crash came before.
fn storm(ring: &Arc<Ring>, disk: Disk, rng: &mut SimRng, kept: bool) {
    let faults = ring.world.fired();
    let found = match direct(|| check::content(&ring.world, &disk)) {
        Ok(found) => found,
        // The referee's own reads may be hit by a fault as well.
        Err(_) if ring.is_over() || ring.world.fired().len() > faults.len() => return,
        Err(what) => return ring.fail(what),
    };
    if ring.is_over() {
        return;
    }
    let oracle = ring.oracle();
    if let Err(what) = oracle.check_ended(&found, kept && !ring.world.was_harmed()) {
        return ring.fail(what);
    }
    oracle.accept(&found);
    // Without space no notes can be kept.
    let noting = ring.rig.boots && ring.world.capacity().is_none() && !ring.world.was_harmed();
    oracle.note_in(noting.then(|| ring.world.boot()));
    let disk = Arc::new(disk);
    let clients = 1 + if ring.one_task { 0 } else { rng.index(4) };
    let clients = (0..clients).map(|_| {
        let (ring, disk, mut rng) = (Arc::clone(ring), Arc::clone(&disk), rng.fork());
        let requests = 2 + rng.below(14);
        shuttle::thread::spawn(move || {
            for _ in 0..requests {
                if ring.is_over() {
                    break;
                }
                request(&ring, &disk, &mut rng);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().expect("a client's panic ends the execution");
    }
    if !ring.is_over() {
        at_rest(ring, &disk, rng);
    }
}

/// Nobody uses the disk: it holds what was answered, a scrub leaves nothing dead, closing keeps all.
fn at_rest(ring: &Arc<Ring>, disk: &Arc<Disk>, rng: &mut SimRng) {
    let oracle = ring.oracle();
    ring.world.set_faults(Faults::default());
    ring.world.set_capacity(None);
    let begin = oracle.begin_read();
    let found = match direct(|| check::content(&ring.world, disk)) {
        Ok(found) => found,
        Err(what) => return ring.fail(what),
    };
    ring.note(oracle.check_read(begin, 0, &found.values));
    // Nothing is under way: it is what was answered, stored as was answered.
    ring.note(oracle.check_ended(&found, true));
    ring.note(direct(|| check::check_pending(&ring.world, disk, &found)));
    let poisoned = ring.poisoned.load(Ordering::Relaxed);
    // Nobody else is there: what is read and then flushed stays, that of failed writes, too.
    let begin = oracle.begin_flush();
    match disk.flush() {
        _ if ring.is_over() => return,
        Ok(()) if poisoned => return ring.fail("a flush of a poisoned disk succeeded".into()),
        Ok(()) => {
            oracle.flushed(begin);
            oracle.accept(&found);
        }
        Err(error) => ring.refused("a flush at rest", &error),
    }
    if rng.coin() && !ring.faulty {
        ring.note(direct(|| check::scrubbed(&ring.world, disk, &found, rng)));
    }
    if rng.coin() && !ring.is_over() {
        close(ring, disk, poisoned);
    }
}

/// Closes while upkeep may be under way, as it is in a server.
fn close(ring: &Arc<Ring>, disk: &Arc<Disk>, poisoned: bool) {
    let upkeep = {
        let (ring, disk) = (Arc::clone(ring), Arc::clone(disk));
        shuttle::thread::spawn(move || {
            for _ in 0..if ring.one_task { 0 } else { 4 } {
                if let Err(error) = disk.admin().maintain() {
                    ring.refused("upkeep while closing", &error);
                }
            }
        })
    };
    let (oracle, begin) = (ring.oracle(), ring.oracle().begin_flush());
    match disk.close() {
        _ if ring.is_over() => {}
        Ok(()) if poisoned => ring.fail("closing a poisoned disk succeeded".into()),
        Ok(()) => oracle.flushed(begin),
        Err(error) => ring.refused("closing", &error),
    }
    upkeep.join().expect("a panic ends the execution");
}

/// One request, checked against the oracle.
fn request(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    if ring.rig.woken.swap(false, Ordering::Relaxed) && rng.coin() {
        return maintain(ring, disk);
    }
    let what = match ring.mood {
        Mood::All => rng.below(100),
        Mood::Syncs => [0, 0, 60, 60, 48][rng.index(5)],
        Mood::Switches => [0, 0, 77, 77, 99, 99, 60][rng.index(7)],
        Mood::Punches => [0, 0, 48, 48, 48, 77, 60, 83, 89][rng.index(9)],
        Mood::Snapshots => [0, 0, 99, 99, 60, 83, 83, 89][rng.index(8)],
    };
    if what >= 92 {
        return on_snapshots::request(ring, disk, rng);
    }
    let _size_stays = ring.sized.read();
    match what {
        0..32 => change(ring, disk, rng, Change::Data),
        32..44 => change(ring, disk, rng, Change::Zero),
        44..48 => change(ring, disk, rng, Change::WriteZeros),
        48..60 => read(ring, disk, rng),
        60..77 => flush(ring, disk),
        77..83 => toggle(ring, disk, rng),
        83..89 => maintain(ring, disk),
        _ => {
            if let Err(error) = disk.admin().scrub() {
                ring.refused("a scrub", &error);
            }
        }
    }
}

/// Whole pages mostly, sometimes half ones.
fn any_range(ring: &Ring, rng: &mut SimRng) -> std::ops::Range<usize> {
    let cells = ring.oracle().pages() * CELLS_A_PAGE;
    // Whole blocks are what `try_write` takes.
    let unit = [1, 2, 2, 2, 2, 2, 2, 16][rng.index(8)];
    let start = rng.index(cells) / unit * unit;
    let most = [1, 2, 6][rng.index(3)];
    let len = (1 + rng.index(most)) * unit;
    start..(start + len).min(cells)
}

fn change(ring: &Ring, disk: &Disk, rng: &mut SimRng, change: Change) {
    let cells = any_range(ring, rng);
    let (offset, len) = ((cells.start * CELL) as u64, cells.len() * CELL);
    let fua = rng.one_in(if ring.mood == Mood::Syncs { 1 } else { 4 });
    let durability = if fua { Durability::Fua } else { Durability::Volatile };
    let (oracle, poisoned) = (ring.oracle(), ring.poisoned.load(Ordering::Relaxed));
    let request = oracle.begin(cells.clone(), change);
    let mut data = vec![0; len];
    for (cell, bytes) in cells.clone().zip(data.chunks_exact_mut(CELL)) {
        fill(bytes, if change == Change::Data { value_of(request, cell) } else { 0 });
    }
    let answer = match change {
        Change::Zero => disk.zero(offset, len as u64, durability),
        Change::WriteZeros => disk.write_zeros(offset, len as u64, durability),
        Change::Data if !fua && rng.one_in(4) => match disk.try_write(offset, &data) {
            Ok(false) => return oracle.cancel(request, cells),
            other => other.map(drop),
        },
        Change::Data => disk.write(offset, &data, durability),
    };
    if ring.is_over() {
        return;
    }
    oracle.end(request, cells, answer.is_ok(), fua);
    match answer {
        Ok(()) if poisoned => ring.fail("a poisoned disk took a change".into()),
        Ok(()) => {}
        Err(error) => ring.refused("a change", &error),
    }
}

fn read(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    let cells = any_range(ring, rng);
    let mut data = vec![0xee; cells.len() * CELL];
    let offset = (cells.start * CELL) as u64;
    let oracle = ring.oracle();
    let begin = oracle.begin_read();
    let answer =
        if rng.one_in(3) { disk.try_read(offset, &mut data) } else { disk.read(offset, &mut data).map(|()| true) };
    match answer {
        _ if ring.is_over() => {}
        Ok(true) => {
            let values: Vec<_> = data.chunks_exact(CELL).map(parse).collect();
            ring.note(oracle.check_read(begin, cells.start, &values));
        }
        Ok(false) => oracle.forget_read(begin),
        Err(error) => {
            oracle.forget_read(begin);
            ring.refused("a read", &error);
        }
    }
}

fn flush(ring: &Ring, disk: &Disk) {
    let (oracle, poisoned) = (ring.oracle(), ring.poisoned.load(Ordering::Relaxed));
    let begin = oracle.begin_flush();
    match disk.flush() {
        _ if ring.is_over() => {}
        Ok(()) if poisoned => ring.fail("a flush of a poisoned disk succeeded".into()),
        Ok(()) => oracle.flushed(begin),
        Err(error) => ring.refused("a flush", &error),
    }
}

/// As the account does: one at a time, the setting stored before the disk learns of it.
fn toggle(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    if ring.toggling.swap(true, Ordering::Relaxed) {
        return;
    }
    let (oracle, on) = (ring.oracle(), rng.coin());
    oracle.toggle(on);
    disk.admin().set_encryption(on);
    oracle.toggled();
    ring.toggling.store(false, Ordering::Relaxed);
}

fn maintain(ring: &Ring, disk: &Disk) {
    for _ in 0..100 {
        match disk.admin().maintain() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return ring.refused("maintenance", &error),
        }
        if ring.is_over() {
            return;
        }
    }
    ring.fail("maintenance finds no end".into());
}
