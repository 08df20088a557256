//! What an opening tells, and what it leaves to be told to whoever changes the disk next.

use std::sync::{Arc, Mutex};

use sealdisk::ErrorKind;
use sealdisk::disk::Access;
use sealdisk::io::sim::{Call, Fault, Faults, SimDisk, SimRng, Tear, direct};

use crate::rig::Rig;
use crate::solo::{Solo, Step};
use crate::{check, full};

fn do_all(solo: &mut Solo, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        solo.step(*step)?.map_err(|error| format!("{step:?}: {error:?}"))?;
    }
    Ok(())
}

/// Every call of opening a closed disk fails once. With the file system full then, what the disk holds is overwritten,
/// and a new page is refused for want of space and for nothing else, and stored once there is some: also where the disk
/// was taken for one that nobody closed, so that an old log was looked for in vain.
pub(crate) fn every_call_fails_before_a_full_file_system() -> u64 {
    let rig = Rig::sized(5, 2 * full::BLOCK, Some(2));
    let mut at = 1;
    while direct(|| open_and_fill(&rig, at)).unwrap_or_else(|what| panic!("with call {at} of opening failed: {what}")) {
        at += 1;
    }
    at - 1
}

/// Whether there was a call `at`.
fn open_and_fill(rig: &Rig, at: u64) -> Result<bool, String> {
    let mut solo = Solo::new(rig, at, true);
    do_all(&mut solo, &[Step::Write(0), Step::Flush])?;
    let closed = solo.disk.take().expect("it is open").close();
    closed.map_err(|error| format!("closing: {error:?}"))?;

    solo.world.set_faults(Faults { once: Some((solo.world.calls() + at, Fault::Eio)), ..Faults::default() });
    let opened = solo.open()?;
    solo.world.set_faults(Faults::default());
    let fired = !solo.world.fired().is_empty();
    if let Err(error) = opened {
        if !fired {
            return Err(format!("opening: {error:?}"));
        }
        solo.open()?.map_err(|error| format!("opening again: {error:?}"))?;
    }
    solo.world.set_capacity(Some(0));
    do_all(&mut solo, &[Step::Write(0), Step::Flush])?;
    match solo.step(Step::Write(full::BLOCK))? {
        Err(error) if error.kind() == ErrorKind::NoSpace => {}
        other => return Err(format!("a new page on a full file system: {other:?}")),
    }
    solo.world.set_capacity(None);
    do_all(&mut solo, &[Step::Write(full::BLOCK), Step::Flush, Step::Reopen])?;
    Ok(fired)
}

/// A layer whose write-back failed, and a process that was killed before it could hear of that: the next opening
/// refuses where the kernel still tells it, the one after that succeeds, and what was flushed is there.
pub(crate) fn told_once() {
    let refused = (0..16).filter(|seed| direct(|| kill_untold(*seed)).unwrap_or_else(|what| panic!("{seed}: {what}")));
    let refused = refused.count();
    assert!((1..16).contains(&refused), "the kernel told it {refused} times of 16");
}

/// Whether opening refused.
fn kill_untold(seed: u64) -> Result<bool, String> {
    let rig = Rig::sized(6, 4, Some(2));
    let mut solo = Solo::new(&rig, seed, false);
    do_all(&mut solo, &[Step::Write(0), Step::Flush])?;
    solo.world.set_faults(Faults { random: vec![(Call::Write, Fault::WriteBack, 100_000)], ..Faults::default() });
    do_all(&mut solo, &[Step::Write(0)])?;
    let left = solo.world.kill(&mut SimRng::new(seed));
    let untold = left.untold_errors();

    let first = rig.open(&left, false, Access::ReadWrite);
    match (&first, untold) {
        (Ok(_), 0) => {}
        (Err(error), 1) if error.kind() == ErrorKind::Io => {}
        (other, untold) => return Err(format!("with {untold} errors untold: {:?}", other.as_ref().err())),
    }
    let refused = first.is_err();
    let disk = first.or_else(|_| rig.open(&left, false, Access::ReadWrite));
    let disk = disk.map_err(|error| format!("opening after it was told: {error:?}"))?;
    solo.oracle.check_ended(&check::content(&left, &disk)?, false)?;
    Ok(refused)
}

/// A disk that lost its power, maybe with pages that no record names, and was closed since; then it is opened and
/// killed at every call of a scrub: the scrub of the next opening makes durable what the dead one punched.
pub(crate) fn a_scrub_ends_what_a_killed_one_began() -> usize {
    (0..8).map(|seed| direct(|| scrub_and_kill(seed)).unwrap_or_else(|what| panic!("{seed}: {what}"))).sum()
}

fn scrub_and_kill(seed: u64) -> Result<usize, String> {
    let rig = Rig::sized(7, 4, None);
    let mut solo = Solo::new(&rig, seed, false);
    do_all(&mut solo, &[Step::Write(0), Step::Flush, Step::Write(1), Step::Write(2)])?;
    solo.world = solo.world.power_cut(&mut SimRng::new(seed), Tear::Sector);
    solo.disk = None;
    solo.open()?.map_err(|error| format!("opening: {error:?}"))?;
    do_all(&mut solo, &[Step::Reopen])?;

    let killed = Arc::new(Mutex::new(Vec::new()));
    let (at_each, rng) = (Arc::clone(&killed), Mutex::new(SimRng::new(2)));
    solo.world.set_observer(Some(Arc::new(move |world| {
        let left = world.kill(&mut rng.lock().expect("one thread"));
        at_each.lock().expect("one thread").push(left);
    })));
    do_all(&mut solo, &[Step::Scrub])?;
    solo.world.set_observer(None);
    let killed = std::mem::take(&mut *killed.lock().expect("one thread"));
    for (at, world) in killed.iter().enumerate() {
        let failed = |what: String| format!("killed at call {at} of a scrub: {what}");
        let disk = rig.open(world, false, Access::ReadWrite).map_err(|error| failed(format!("{error:?}")))?;
        let content = check::content(world, &disk).map_err(failed)?;
        disk.admin().scrub_unaccounted().map_err(|error| failed(format!("{error:?}")))?;
        check::check_nothing_dead(world, &content).map_err(failed)?;
    }
    Ok(killed.len())
}

/// What a scrub may punch after an unclean end: pages that a record tells of, wherever the end was; and no others,
/// unless it is asked to.
pub(crate) fn only_what_a_record_tells_of_is_scrubbed(seed: u64) -> Result<(), String> {
    let rig = Rig::sized(8, 4, None);
    died_before_the_border(&rig, seed)?;
    log_that_lost_its_end(&rig, seed)
}

/// Pages die in plaintext, and are punched while a checkpoint takes the place of the log that tells of them. Nothing
/// was written and not flushed: so after an end at any call all that is stored is accounted for.
fn died_before_the_border(rig: &Rig, seed: u64) -> Result<(), String> {
    let mut solo = Solo::new(rig, seed, false);
    do_all(&mut solo, &[Step::Write(0), Step::Write(1), Step::Flush, Step::Toggle])?;
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (at_each, rng) = (Arc::clone(&ends), Mutex::new(SimRng::new(seed)));
    for round in 0..12 {
        do_all(&mut solo, &[if round % 2 == 0 { Step::WriteFua(0) } else { Step::ZeroFua(1) }, Step::WriteFua(2)])?;
        do_all(&mut solo, &[Step::ZeroFua(2)])?;
    }
    solo.world.set_observer(Some(Arc::new(move |world| {
        let left = check::any_end(world, &mut rng.lock().expect("one thread"));
        at_each.lock().expect("one thread").push(left);
    })));
    do_all(&mut solo, &[Step::Maintain])?;
    solo.world.set_observer(None);
    let ends = std::mem::take(&mut *ends.lock().expect("one thread"));
    for (at, world) in ends.iter().enumerate() {
        let failed = |error| format!("after an end at call {at}: {error:?}");
        let disk = rig.open(world, true, Access::ReadWrite).map_err(failed)?;
        disk.admin().scrub().map_err(failed)?;
        let usage = disk.admin().usage().map_err(failed)?;
        if (usage.pending_scrub, usage.unaccounted) != (Some(0), 0) {
            return Err(format!("after an end at call {at}, with all flushed: {usage:?}"));
        }
    }
    Ok(())
}

/// The last batch is cut off the log of a killed process, as far as this can be told from one that was never whole. The
/// page that it named is no longer read; its bytes stay until they are given up.
fn log_that_lost_its_end(rig: &Rig, seed: u64) -> Result<(), String> {
    const BLOCK_SECTORS: usize = 4096 / 512;
    let failed = |error| format!("with a log that lost its end: {error:?}");
    let mut solo = Solo::new(rig, seed, seed.is_multiple_of(2));
    do_all(&mut solo, &[Step::Write(0), Step::Flush, Step::Write(1), Step::Flush])?;
    let world = solo.world.kill(&mut SimRng::new(seed));
    let is_log = |path: &str| path.strip_prefix("disk/log.").is_some_and(|number| number.parse::<u64>().is_ok());
    let log = world.raw_files().into_iter().filter(|file| is_log(&file.path)).max_by_key(|file| file.path.clone());
    let log = log.ok_or("there is no log")?;
    let begins = |(sector, bytes): &&(usize, [u8; 512])| sector % BLOCK_SECTORS == 0 && bytes.starts_with(b"SBAT");
    let last = log.sectors.iter().filter(begins).map(|(sector, _)| *sector).max().ok_or("the log has no batch")?;
    world.damage(&log.path, last);

    let disk = rig.open(&world, seed.is_multiple_of(2), Access::ReadWrite).map_err(failed)?;
    disk.admin().scrub().map_err(failed)?;
    let (usage, content) = (disk.admin().usage().map_err(failed)?, check::content(&world, &disk)?);
    let left = check::dead_pages(&world, &content);
    if usage.unaccounted == 0 || !left.iter().any(|(_, page)| *page == 1) {
        return Err(format!("a scrub has punched what a log that lost its end had named: {usage:?}, left is {left:?}"));
    }
    // It is known to the next opening too.
    disk.close().map_err(failed)?;
    let disk = rig.open(&world, seed.is_multiple_of(2), Access::ReadWrite).map_err(failed)?;
    disk.admin().scrub().map_err(failed)?;
    if disk.admin().usage().map_err(failed)?.unaccounted != usage.unaccounted {
        return Err(format!("{} bytes were in no record, and after an orderly end another number", usage.unaccounted));
    }
    disk.admin().scrub_unaccounted().map_err(failed)?;
    check::check_nothing_dead(&world, &content)
}

/// A process is killed with changes that it answered and nobody flushed; the opening after it at each of its calls in
/// turn; and the one after that at any. Nothing that was answered is lost, unless the kernel has lost some of it
/// before.
pub(crate) fn killed_while_opening() -> u64 {
    let calls = (0..12).map(|seed| direct(|| kill_openings(seed)).unwrap_or_else(|what| panic!("{seed}: {what}")));
    calls.sum()
}

/// Images looked at. Odd seeds: a write-back failed, which every other kernel tells nobody of.
pub(crate) fn kill_openings(seed: u64) -> Result<u64, String> {
    let lossy = seed % 2 == 1;
    let rig = Rig::sized(7, 6, Some(2)).with_boots(true);
    let mut solo = Solo::new(&rig, seed, seed & 2 == 0);
    // What is lost of page 0 uncovers what lay there before it was zeroed.
    do_all(&mut solo, &[Step::Write(0), Step::Flush, Step::Zero(0), Step::Flush, Step::Write(0)])?;
    let once = lossy.then(|| (solo.world.calls() + 1, Fault::WriteBack));
    solo.world.set_faults(Faults { once, ..Faults::default() });
    do_all(&mut solo, &[Step::Write(1)])?;
    solo.world.set_faults(Faults::default());
    do_all(&mut solo, &[Step::Toggle, Step::Write(2), Step::Write(3), Step::Zero(3), Step::Zero(4), Step::Patch(4)])?;

    let mut rng = SimRng::new(seed);
    let (encryption, left) = (solo.oracle.encryption(), solo.world.kill(&mut rng));
    let open = |world: &SimDisk| {
        let disk = check::open_when_told(&rig, world, encryption);
        disk.map_err(|error| format!("opening after a kill: {error:?}"))
    };
    let killed_at = |world: &SimDisk, at: u64, rng: &mut SimRng| {
        let image = check::end_at(world, at, rng, SimDisk::kill);
        open(world)?;
        world.set_observer(None);
        Ok::<_, String>(image.lock().expect("one thread").take())
    };
    let mut images = 0;
    while let Some(second) = killed_at(&left.kill(&mut rng), images + 1, &mut rng)? {
        let at = 1 + rng.below(images + 1);
        let third = killed_at(&second.kill(&mut rng), at, &mut rng)?;
        for world in std::iter::once(second).chain(third) {
            let found = check::content(&world, &open(&world)?)?;
            let at = |what| format!("killed in call {} of the opening: {what}", images + 1);
            solo.oracle.check_ended(&found, !lossy).map_err(at)?;
        }
        images += 1;
    }
    Ok(images)
}

/// The device is reset under a kernel that lives on, and mounted again: same boot, same files. What was flushed is
/// there, and nothing is believed of notes whose pages may be lost.
pub(crate) fn reset_under_a_kernel(seed: u64) -> Result<(), String> {
    direct(|| {
        let mut rng = SimRng::new(seed);
        let rig = Rig::sized(seed, 6, Some(2)).with_boots(true);
        let mut solo = Solo::new(&rig, seed, false);
        do_all(&mut solo, &[Step::Write(0), Step::Write(1), Step::Flush, Step::Toggle, Step::Write(2), Step::Flush])?;
        do_all(&mut solo, &[Step::Toggle])?;
        // In a new plain layer, with nothing of it flushed.
        let unflushed = [Step::Write(0), Step::Write(2), Step::Patch(4), Step::Zero(1), Step::Write(3)];
        do_all(&mut solo, &unflushed[..1 + rng.index(unflushed.len())])?;
        let left = solo.world.reset(&mut rng, Tear::Sector);
        let disk = rig.open(&left, false, Access::ReadWrite).map_err(|error| format!("opening: {error:?}"))?;
        solo.oracle.check_ended(&check::content(&left, &disk)?, false)
    })
}
