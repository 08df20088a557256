//! A file system that is full at every call: no block is free, and whoever else writes takes each that comes free.
//! Whenever it comes to that, the disk opens, serves reads, takes overwrites, trims and flushes, deletes snapshots,
//! scrubs and closes, as often as is asked for; and what is refused for want of space has changed nothing.

use sealdisk::io::sim::{SimRng, direct};
use sealdisk::{Error, ErrorKind, Result};

use crate::check;
use crate::rig::Rig;
use crate::solo::{Solo, Step};

/// Pages in a block of the file system.
pub(crate) const BLOCK: usize = 8;

/// With pages of the first block held, and none of the last.
const BEFORE: [Step; 14] = [
    Step::Write(0),
    Step::Write(BLOCK - 1),
    Step::Flush,
    Step::Zero(1),
    Step::Reopen,
    Step::Write(1),
    Step::Snapshot,
    Step::Write(0),
    Step::Write(BLOCK - 1),
    Step::Write(BLOCK),
    Step::Flush,
    Step::Scrub,
    Step::Reopen,
    Step::Write(0),
];

/// What needs no space.
const FREE: [Step; 12] = [
    Step::Write(0),
    Step::WriteFua(BLOCK - 1),
    Step::Patch(0),
    Step::Zero(2),
    Step::ZeroFua(3),
    Step::Zero(BLOCK),
    Step::Flush,
    Step::Maintain,
    Step::Scrub,
    Step::Reopen,
    Step::Delete,
    Step::Flush,
];

/// What does, or may.
const NEW: [Step; 5] = [
    Step::Write(2 * BLOCK),
    // The first page of these is held.
    Step::WriteTwo(BLOCK - 1),
    Step::WriteTwo(2 * BLOCK - 1),
    Step::Snapshot,
    Step::Grow,
];

/// How a life ends on a full file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    InOrder,
    Kill,
    PowerCut,
}

fn is_full(answer: &Result<()>) -> bool {
    answer.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::NoSpace)
}

/// A step of [`NEW`]: done, or refused with everything as it was.
fn may_be_refused(solo: &mut Solo, step: Step) -> std::result::Result<(), String> {
    let before = solo.verify()?;
    let answer = solo.step(step)?;
    match &answer {
        Ok(()) => return Ok(()),
        Err(_) if is_full(&answer) => {}
        Err(error) => return Err(format!("{step:?}: {error:?}")),
    }
    if !solo.verify()?.is_same(&before) {
        return Err(format!("{step:?} was refused for want of space, and has changed something"));
    }
    Ok(())
}

/// Whether the layer that takes new writes holds the page.
fn is_held(solo: &Solo, page: usize) -> std::result::Result<bool, String> {
    let content = solo.verify()?;
    let disk = solo.disk.as_ref().expect("it is open");
    let newest = disk.admin().layers().last().map(|layer| layer.id);
    let is_seen = disk.snapshots().iter().any(|line| Some(line.sees) >= newest);
    Ok(newest.is_some() && content.layers[page] == newest && !is_seen)
}

fn go_on(solo: &mut Solo, steps: usize, rng: &mut SimRng) -> std::result::Result<(), String> {
    for _ in 0..steps {
        let step = if rng.one_in(5) { NEW[rng.index(NEW.len())] } else { FREE[rng.index(FREE.len())] };
        let needs_space = match step {
            Step::Write(page) | Step::WriteFua(page) | Step::Patch(page) => !is_held(solo, page)?,
            _ => NEW.contains(&step),
        };
        if needs_space {
            may_be_refused(solo, step)?;
        } else {
            solo.step(step)?.map_err(|error| format!("{step:?} on a full file system: {error:?}"))?;
        }
    }
    solo.verify().map(drop)
}

/// The disk that is left is opened where nothing is free either.
fn end(solo: &mut Solo, how: End, rng: &mut SimRng) -> std::result::Result<(), String> {
    if how == End::InOrder {
        return solo.step(Step::Reopen)?.map_err(|error| format!("a restart in order: {error:?}"));
    }
    // Notes of changes that are not flushed take space.
    solo.oracle.note_in(None);
    let left = if how == End::Kill { solo.world.kill(rng) } else { check::power_cut(&solo.world, rng) };
    (solo.disk, solo.world) = (None, left);
    solo.open()?.map_err(|error| format!("opening after a {how:?}: {error:?}"))
}

/// The file system is full from call `at` of a life on. Whether there was such a call.
fn live(at: u64, seed: u64) -> std::result::Result<bool, String> {
    let mut rng = SimRng::new(seed ^ at << 20);
    let rig = Rig::sized(seed, 3 * BLOCK, None).with_small_log(rng.coin()).with_boots(rng.coin());
    let mut solo = Solo::new(&rig, at, true);
    let filled = solo.full_at(at);
    for step in BEFORE {
        let answer = solo.step(step)?;
        if filled() && (answer.is_ok() || is_full(&answer)) {
            break;
        }
        answer.map_err(|error| format!("{step:?}: {error:?}"))?;
    }
    let was_reached = filled();
    solo.world.set_observer(None);
    if solo.disk.is_none() {
        solo.open()?.map_err(|error| format!("opening where it was full at a call of a restart: {error:?}"))?;
    }
    solo.world.set_capacity(Some(0));
    for _ in 0..3 {
        go_on(&mut solo, 12, &mut rng)?;
        let how = [End::InOrder, End::InOrder, End::Kill, End::PowerCut][rng.index(4)];
        end(&mut solo, how, &mut rng)?;
    }
    go_on(&mut solo, 6, &mut rng)?;
    solo.world.set_capacity(None);
    let all = [Step::Write(2 * BLOCK), Step::Flush, Step::Scrub, Step::Reopen];
    for step in all {
        solo.step(step)?.map_err(|error| format!("{step:?} once there is space again: {error:?}"))?;
    }
    solo.verify().map(|_| was_reached)
}

/// From every call of a life on the file system is full. Answers how many calls these were.
pub(crate) fn from_every_call_on(seed: u64) -> std::result::Result<u64, String> {
    for at in 1.. {
        if !direct(|| live(at, seed)).map_err(|what| format!("full from call {at} on: {what}"))? {
            return Ok(at - 1);
        }
    }
    unreachable!("a life has an end")
}

/// The same from a few calls on.
pub(crate) fn from_some_calls_on(seed: u64) -> std::result::Result<(), String> {
    (1..400).step_by(40).try_for_each(|at| live(at + seed, seed).map(drop))
}
