//! Every planted fault is found. A suite that finds nothing in a right core and nothing in a wrong one proves nothing.
//!
//! Most are found by the storm within a few hundred seeds. For those that chance seldom meets there is a search of
//! their own, by what leads to them, so that none depends on seeds that a change of the core would move.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use sealdisk::disk::{Access, Disk, Durability, PageState, Run};
use sealdisk::io::sim::{Call, Fault, Faults, Mutant, SimRng, direct, plant};
use sealdisk::{ErrorKind, PAGE};

use crate::campaign::{Execution, Until, one, search};
use crate::cells::CELLS_A_PAGE;
use crate::check;
use crate::oracle::Change;
use crate::rig::Rig;
use crate::solo::{Solo, Step};
use crate::storm::{self, Mood};
use crate::{damage, exhaustive, full, openings};

/// Seeds for one mutant, many times what any of them has taken. Not a time, which a busy machine would use up.
const TIMEOUT: u64 = 30_000;

/// Looks for one mutant and says what has shown it.
fn hunt(mutant: Mutant) -> Option<String> {
    let crowded = |mood: Mood| among_clients(mutant, "crowded ", move |seed| storm::run_crowded(seed, mood));
    match mutant {
        Mutant::DamageIsTheEnd => damage::search(Some(mutant)).err(),
        Mutant::FailedWriteLeavesClean => shown_by(mutant, after_a_failed_write),
        // A snapshot, a smaller disk and a rollback in a row.
        Mutant::LineWithoutItsLimit => exhaustive::repeat(&[Step::Snapshot, Step::Shrink, Step::RollBack], mutant),
        Mutant::ShrinkKeepsBase => exhaustive::repeat(&[Step::Shrink, Step::Grow, Step::Flush], mutant),
        // A clean close with something dead, and what is dead written again.
        Mutant::DeadThoughWrittenAgain => {
            let steps = [Step::Write(0), Step::Flush, Step::Zero(0), Step::Reopen, Step::WriteFua(0)];
            exhaustive::repeat(&steps, mutant)
        }
        // The newest layer goes, and the next one comes while the log still tells of it.
        Mutant::LayerIdUsedAgain => {
            let steps = [Step::Snapshot, Step::Write(0), Step::RollBack, Step::Scrub, Step::WriteFua(0)];
            exhaustive::repeat(&steps, mutant)
        }
        // A layer with nothing but a zero mark, left by a write that is not durable. (The first one has the footer.)
        Mutant::LayerRemovedEarly => {
            let steps = [Step::Toggle, Step::ZeroFua(0), Step::Toggle, Step::Write(0), Step::Maintain];
            exhaustive::repeat(&steps, mutant)
        }
        Mutant::LateNotesNotAwaited => among_clients(mutant, "late ", a_note_that_comes_late),
        Mutant::DirectoryNotGuarded => among_clients(mutant, "directory ", a_directory_that_is_not_synced),
        Mutant::SameSizeNotFlushed => among_clients(mutant, "resize ", two_resizes_to_one_size),
        Mutant::SyncsNotSerialised => crowded(Mood::Syncs),
        Mutant::SweptAfterSwitch => among_clients(mutant, "switch ", a_sweep_and_the_switch),
        Mutant::SweptWithoutLock => crowded(Mood::Switches),
        Mutant::ChecksMadeAnew | Mutant::NotesUnchecked => {
            shown_by(mutant, |seed| openings::kill_openings(seed).map(drop))
        }
        Mutant::DeadNotKept | Mutant::UnaccountedPunched => {
            shown_by(mutant, openings::only_what_a_record_tells_of_is_scrubbed)
        }
        Mutant::LogNotKept | Mutant::OverwritesFirst | Mutant::ReserveNotMade | Mutant::SpareNotKept => {
            shown_by(mutant, full::from_some_calls_on)
        }
        Mutant::NotesOfAnotherMount => shown_by_any(mutant, 0..400, openings::reset_under_a_kernel),
        Mutant::ErasedLineForgotten => shown_by(mutant, the_switch_while_a_snapshot_is_deleted),
        Mutant::ReadWithoutLock => shown_by(mutant, in_the_middle_of_a_read),
        Mutant::PendingLineNotLookedAt => crowded(Mood::Snapshots),
        _ => among_clients(mutant, "", storm::run),
    }
}

fn among_clients(mutant: Mutant, of: &str, execution: impl Execution) -> Option<String> {
    let (seed, what) = search(0, Until::Seeds(TIMEOUT), Some(mutant), execution).0?;
    if let Err(what) = one(seed, execution) {
        panic!("{of}seed {seed} fails without a mutant: {what}");
    }
    Some(format!("{of}seed {seed}: {what}"))
}

/// Seeds of `attempt` with the mutant planted; without it none fails.
fn shown_by(mutant: Mutant, attempt: fn(u64) -> Result<(), String>) -> Option<String> {
    shown_by_any(mutant, 0..40, attempt)
}

fn shown_by_any(mutant: Mutant, seeds: Range<u64>, attempt: fn(u64) -> Result<(), String>) -> Option<String> {
    let tried = |mutant| {
        plant(mutant);
        let attempted = |seed| direct(|| attempt(seed)).err().map(|what| format!("seed {seed}: {what}"));
        let found = seeds.clone().find_map(attempted);
        plant(None);
        found
    };
    if let Some(what) = tried(None) {
        panic!("fails without a mutant: {what}");
    }
    tried(Some(mutant))
}

fn prepare(solo: &mut Solo, steps: &[Step]) -> Result<(), String> {
    steps.iter().try_for_each(|step| solo.step(*step)?.map_err(|error| format!("{step:?}: {error:?}")))
}

/// A write over a durable page fails half-way; what is read then and flushed must stay.
fn after_a_failed_write(seed: u64) -> Result<(), String> {
    let rig = Rig::sized(1, 2, None);
    let mut solo = Solo::new(&rig, seed, true);
    prepare(&mut solo, &[Step::Write(0), Step::Flush])?;
    let once = Some((solo.world.calls() + 1, Fault::Eio));
    solo.world.set_faults(Faults { once, ..Faults::default() });
    if solo.step(Step::Write(0))?.is_ok() {
        return Err("a write that was made to fail succeeded".into());
    }
    solo.world.set_faults(Faults::default());
    let found = solo.verify()?;
    prepare(&mut solo, &[Step::Flush])?;
    solo.oracle.accept(&found);
    let mut rng = SimRng::new(seed);
    (0..8).try_for_each(|_| {
        let image = check::power_cut(&solo.world, &mut rng);
        check::recover(&rig, &image, &solo.oracle, &mut rng).map(drop)
    })
}

/// Encryption is turned off and a page written while another is being re-encrypted: that page stays in plaintext.
fn a_sweep_and_the_switch(seed: u64) -> Result<(), String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error:?}");
    let rig = Rig::sized(seed, 2, None);
    let disk = direct(|| {
        let mut solo = Solo::new(&rig, seed, false);
        prepare(&mut solo, &[Step::Write(0), Step::Flush, Step::Toggle, Step::Write(1), Step::Flush])?;
        Ok::<_, String>(Arc::new(solo.disk.take().expect("it is open")))
    })?;
    let sweeping = Arc::clone(&disk);
    let sweeper = shuttle::thread::spawn(move || sweeping.admin().sweep(0, true));
    disk.admin().set_encryption(false);
    disk.write(0, &[7; PAGE], Durability::Volatile).map_err(failed("writing"))?;
    match sweeper.join().expect("a panic ends the execution") {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::InUse => {}
        Err(error) => return Err(format!("sweeping: {error:?}")),
    }
    match disk.runs(0, PAGE as u64, 1).map_err(failed("listing runs"))?[..] {
        [Run { state: PageState::Plain, .. }] => Ok(()),
        ref other => Err(format!("written in plaintext, stored as {other:?}")),
    }
}

/// Two ask for the same size at once: for each that is answered, a power cut leaves that size.
fn two_resizes_to_one_size(seed: u64) -> Result<(), String> {
    const PAGES: usize = 4;
    let rig = Rig::sized(seed, 2, None);
    let (disk, world) = direct(|| {
        let solo = Solo::new(&rig, seed, true);
        (Arc::new(solo.disk.expect("it is open")), solo.world)
    });
    let resized = move |disk: &Disk, mut rng: SimRng| {
        disk.admin().resize((PAGES * PAGE) as u64).map_err(|error| format!("a resize: {error:?}"))?;
        direct(|| {
            let image = check::power_cut(&world, &mut rng);
            let found = check::open(&rig, &image, true)?.size();
            let kept = found == (PAGES * PAGE) as u64;
            if kept { Ok(()) } else { Err(format!("a resize to {PAGES} pages was answered, and left {found} bytes")) }
        })
    };
    let mut rng = SimRng::new(seed);
    let (other, resize, fork) = (Arc::clone(&disk), resized.clone(), rng.fork());
    let second = shuttle::thread::spawn(move || resize(&other, fork));
    let first = resized(&disk, rng);
    second.join().expect("a panic ends the execution").and(first)
}

/// The note of a write is still to be written while two rounds go by, and others then are noted in the same region:
/// what was answered of those outlives the process, too.
fn a_note_that_comes_late(seed: u64) -> Result<(), String> {
    let rig = Rig::sized(seed, 8, None).with_boots(true);
    let (disk, world) = direct(|| {
        let mut solo = Solo::new(&rig, seed, true);
        prepare(&mut solo, &[Step::Write(4), Step::Flush])?;
        Ok::<_, String>((Arc::new(solo.disk.take().expect("it is open")), solo.world))
    })?;
    let write = |disk: &Disk, page: usize| {
        let written = disk.write((page * PAGE) as u64, &[page as u8 + 1; PAGE], Durability::Volatile);
        written.map_err(|error| format!("writing page {page}: {error:?}"))
    };
    let flush = || disk.flush().map_err(|error| format!("flushing: {error:?}"));
    let slow = Arc::clone(&disk);
    let slowly = shuttle::thread::spawn(move || write(&slow, 0));
    // None of these pages has a lock in common with page 0.
    write(&disk, 2)?;
    flush()?;
    write(&disk, 3)?;
    flush()?;
    write(&disk, 6)?;
    write(&disk, 7)?;
    slowly.join().expect("a panic ends the execution")?;
    direct(|| {
        let left = world.kill(&mut SimRng::new(seed));
        let disk = check::open(&rig, &left, true)?;
        [0, 2, 3, 6, 7].into_iter().try_for_each(|page: usize| {
            let mut found = [0; PAGE];
            disk.read((page * PAGE) as u64, &mut found).map_err(|error| format!("reading: {error:?}"))?;
            let kept = found == [page as u8 + 1; PAGE];
            if kept { Ok(()) } else { Err(format!("a kill lost the write of page {page}, which was answered")) }
        })
    })
}

/// A new layer is named while upkeep makes the next log in the same directory, whose sync fails, once: a write into
/// that layer that was answered as durable is there after a power cut.
fn a_directory_that_is_not_synced(seed: u64) -> Result<(), String> {
    let rig = Rig::sized(seed, 2, None);
    let (disk, world) = direct(|| {
        let mut solo = Solo::new(&rig, seed, false);
        prepare(&mut solo, &[Step::Write(0), Step::Flush, Step::Write(1), Step::Flush, Step::Toggle])?;
        Ok::<_, String>((Arc::new(solo.disk.take().expect("it is open")), solo.world))
    })?;
    let mut rng = SimRng::new(seed);
    world.set_faults(Faults { random: vec![(Call::SyncDir, Fault::Eio, 30_000)], ..Faults::default() });
    let maintained = Arc::clone(&disk);
    let upkeep = shuttle::thread::spawn(move || maintained.admin().maintain().map(drop));
    let answer = disk.write(0, &[7; PAGE], Durability::Fua);
    // Its errors are its own.
    let _ = upkeep.join().expect("a panic ends the execution");
    world.set_faults(Faults::default());
    if answer.is_err() {
        return Ok(());
    }
    direct(|| {
        (0..8).try_for_each(|_| {
            let image = check::power_cut(&world, &mut rng);
            let mut page = [0; PAGE];
            let failed = |error| format!("recovering: {error:?}");
            let disk = rig.open(&image, true, Access::ReadWrite).map_err(failed)?;
            disk.read(0, &mut page).map_err(failed)?;
            if page == [7; PAGE] { Ok(()) } else { Err("a durable write is not there".to_owned()) }
        })
    })
}

/// The setting changes and a page of a snapshot is written while the snapshot is being deleted: after a power cut it is
/// there as it was, or gone.
fn the_switch_while_a_snapshot_is_deleted(seed: u64) -> Result<(), String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error:?}");
    let rig = Rig::sized(seed, 2, None);
    let mut solo = Solo::new(&rig, seed, true);
    prepare(&mut solo, &[Step::Write(0), Step::Snapshot])?;
    let (disk, oracle) = (Arc::new(solo.disk.take().expect("it is open")), Arc::clone(&solo.oracle));
    let name = oracle.snapshots().remove(0);
    let (other, in_it) = (Arc::clone(&disk), AtomicBool::new(false));
    let cut = Arc::new(Mutex::new(Ok(())));
    let (slot, asked) = (Arc::clone(&cut), Arc::clone(&oracle));
    solo.world.set_observer(Some(Arc::new(move |world| {
        if in_it.swap(true, Ordering::Relaxed) {
            return;
        }
        other.admin().set_encryption(true);
        let request = asked.begin(0..CELLS_A_PAGE, Change::WriteZeros);
        let answer = other.write(0, &[0; PAGE], Durability::Volatile);
        asked.end(request, 0..CELLS_A_PAGE, answer.is_ok(), false);
        let mut rng = SimRng::new(seed);
        *slot.lock().expect("one thread") = (0..8).try_for_each(|_| {
            let image = check::power_cut(world, &mut rng);
            check::recover(&rig, &image, &asked, &mut rng).map(drop)
        });
    })));
    oracle.erase(&name);
    disk.admin().delete_snapshot(&name).map_err(failed("deleting a snapshot"))?;
    solo.world.set_observer(None);
    cut.lock().expect("one thread").clone()
}

/// Between finding out where pages lie and reading them there, somebody else writes them elsewhere, and they are
/// punched.
fn in_the_middle_of_a_read(seed: u64) -> Result<(), String> {
    const BLOCK: usize = 4096;
    let failed = |what: &'static str| move |error| format!("{what}: {error:?}");
    let rig = Rig::sized(seed, 2 * BLOCK / PAGE, None);
    let mut solo = Solo::new(&rig, seed, true);
    let disk = Arc::new(solo.disk.take().expect("it is open"));
    disk.write(0, &[1; BLOCK], Durability::Fua).map_err(failed("writing"))?;
    disk.admin().set_encryption(false);
    disk.write(BLOCK as u64, &[2; BLOCK], Durability::Fua).map_err(failed("a new layer"))?;
    let (other, in_it) = (Arc::clone(&disk), AtomicBool::new(false));
    solo.world.set_observer(Some(Arc::new(move |_| {
        // Where it would wait it leaves the other alone.
        if !in_it.swap(true, Ordering::Relaxed) && other.try_write(0, &[3; BLOCK]).is_ok_and(|done| done) {
            other.flush().expect("a flush");
            while other.admin().maintain().expect("punching") {}
        }
    })));
    let mut read = vec![0; BLOCK];
    disk.read(0, &mut read).map_err(failed("reading"))?;
    solo.world.set_observer(None);
    let whole = [1, 3].iter().any(|value| read.iter().all(|byte| byte == value));
    if whole { Ok(()) } else { Err(format!("a read returned {:x?}", &read[..16])) }
}

/// Looks for all of them and says how each was found.
pub(crate) fn hunt_all() {
    let only = std::env::var("SEALDISK_CRASH_MUTANTS").ok();
    let wanted = |mutant: &&Mutant| only.as_ref().is_none_or(|only| only.contains(&format!("{mutant:?}")));
    let mut alive = Vec::new();
    for mutant in Mutant::CORE.iter().filter(wanted) {
        let start = Instant::now();
        let found = hunt(*mutant);
        let seconds = start.elapsed().as_secs_f64();
        match found {
            Some(how) => {
                let how: String = how.lines().next().unwrap_or_default().chars().take(120).collect();
                eprintln!("{mutant:?} ({seconds:.1} s): {how}");
            }
            None => {
                eprintln!("{mutant:?} ({seconds:.1} s): not found");
                alive.push(mutant);
            }
        }
    }
    assert!(alive.is_empty(), "not found: {alive:?}");
}
