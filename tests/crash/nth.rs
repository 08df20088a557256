//! Every call of a whole life of a disk fails once, with `EIO` and with `ENOSPC`: no panic, no false success, and what
//! was answered is kept.

use sealdisk::io::sim::{Call, Fault, Faults, Fired, SimRng, direct};

use crate::check;
use crate::oracle::Oracle;
use crate::rig::Rig;
use crate::solo::{Solo, Step};

/// Goes through all that does input or output: layers of both kinds, overwrites, a full log, a checkpoint, scrubs.
const LIFE: [Step; 46] = [
    Step::Write(0),
    Step::Flush,
    Step::Write(0),
    Step::Patch(3),
    Step::Flush,
    Step::WriteFua(0),
    Step::WriteFua(1),
    Step::Toggle,
    Step::Write(1),
    Step::Write(2),
    Step::Flush,
    Step::Maintain,
    Step::Zero(2),
    Step::ZeroFua(0),
    Step::Toggle,
    Step::Patch(1),
    Step::Flush,
    Step::Maintain,
    Step::Scrub,
    Step::WriteFua(2),
    Step::WriteFua(3),
    Step::ZeroFua(2),
    Step::WriteFua(2),
    Step::ZeroFua(3),
    Step::Maintain,
    Step::Write(3),
    Step::Flush,
    Step::Reopen,
    Step::Write(0),
    Step::WriteFua(3),
    Step::Toggle,
    Step::Write(3),
    Step::Scrub,
    Step::Snapshot,
    Step::Write(1),
    Step::Toggle,
    Step::Grow,
    Step::Snapshot,
    Step::Shrink,
    Step::Sweep,
    Step::RollBack,
    Step::Rotate,
    Step::WriteFua(0),
    Step::Delete,
    Step::Scrub,
    Step::Reopen,
];

/// Whether this failure, in a flush, leaves doubt about what was stored: that of a file that is part of the disk.
fn poisons(fired: &Fired) -> bool {
    fired.call == Call::SyncData
        && (fired.on.contains("/layers/") || fired.on.contains("/log."))
        && !fired.on.contains(".next")
}

/// One life with a fault at call `at`; whether there was such a call.
fn live(rig: &Rig, at: u64, fault: Fault, seed: u64) -> Result<bool, String> {
    let mut solo = Solo::new(rig, seed, true);
    let (mut sync_failed, mut left) = (false, at);
    for (number, step) in LIFE.iter().enumerate() {
        let told = |what: String| format!("step {number}, {step:?}: {what}");
        let (fired_before, before) = (solo.world.fired().len(), solo.verify_quietly());
        // Only the calls of the steps are counted, not those of looking.
        let calls = solo.world.calls();
        if solo.world.fired().is_empty() {
            solo.world.set_faults(Faults { once: Some((calls + left, fault)), ..Faults::default() });
        }
        let answer = solo.step(*step).map_err(told)?;
        solo.world.set_faults(Faults::default());
        left = left.saturating_sub(solo.world.calls() - calls).max(1);
        let fired = solo.world.fired();
        if solo.world.was_harmed() {
            // What was noted may be lost with it.
            solo.oracle.note_in(None);
        }
        if let Err(error) = &answer
            && fired.is_empty()
        {
            return Err(told(format!("failed where nothing should: {error:?}")));
        }
        if sync_failed && answer.is_ok() && !matches!(step, Step::Toggle | Step::Maintain | Step::Reopen) {
            return Err(told(format!("succeeded after a failed sync ({fired:?})")));
        }
        sync_failed = (sync_failed
            || (answer.is_err() && *step == Step::Flush && fired[fired_before..].iter().any(poisons)))
            && *step != Step::Reopen;
        if solo.disk.is_none() {
            // It refused to open again; the disk is as after a kill.
            let opened = solo.open().map_err(told)?;
            opened.map_err(|error| told(format!("does not open after {fired:?}: {error:?}")))?;
        }
        let after = solo.verify_quietly();
        if after.is_some() || !solo.poisoned {
            solo.verify().map_err(told)?;
        }
        if let (Err(_), Some(before), Some(after)) = (&answer, before, after)
            && matches!(step, Step::Write(_) | Step::WriteFua(_) | Step::Patch(_))
            && fired.last().is_some_and(|fired| fired.call == Call::Write && fired.on.contains("/layers/"))
            && before.layers != after.layers
        {
            return Err(told(format!("a failed write changed presence: {:?} -> {:?}", before.layers, after.layers)));
        }
        let mut rng = SimRng::new(seed ^ at ^ number as u64);
        let image = check::any_end(&solo.world, &mut rng);
        check::recover(rig, &image, &solo.oracle, &mut rng).map_err(|what| told(format!("{what} after {fired:?}")))?;
    }
    Ok(!solo.world.fired().is_empty())
}

/// Every call of [`LIFE`] fails once, of a disk that notes what it answers or does not.
pub(crate) fn every_call_of_a_life(fault: Fault, notes: bool) -> u64 {
    let rig = Rig::sized(3, 4, Some(2)).with_boots(notes);
    let mut at = 1;
    while direct(|| live(&rig, at, fault, at)).unwrap_or_else(|what| panic!("{fault:?} at call {at}: {what}")) {
        at += 1;
    }
    at - 1
}

/// Every call of making and of opening a disk fails once.
pub(crate) fn every_call_of_making_one(fault: Fault) -> u64 {
    let rig = Rig::sized(4, 4, Some(2));
    let mut at = 1;
    while direct(|| make(&rig, at, fault)).unwrap_or_else(|what| panic!("{fault:?} at call {at}: {what}")) {
        at += 1;
    }
    at - 1
}

fn make(rig: &Rig, at: u64, fault: Fault) -> Result<bool, String> {
    let world = sealdisk::io::sim::SimDisk::new(at);
    world.set_faults(Faults { once: Some((at, fault)), ..Faults::default() });
    let made = rig.create(&world, true);
    let fired = !world.fired().is_empty();
    let mut rng = SimRng::new(at);
    let (values, kinds) = rig.initial();
    let oracle = Oracle::new(&values, &kinds, rig.most_pages, true);
    match made {
        Err(_) if fired => {}
        Err(error) => return Err(format!("failed where nothing should: {error:?}")),
        Ok(()) => {
            for _ in 0..8 {
                check::recover(rig, &check::any_end(&world, &mut rng), &oracle, &mut rng)?;
            }
        }
    }
    Ok(fired)
}
