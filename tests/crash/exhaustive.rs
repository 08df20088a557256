//! Every short sequence of steps on two pages, crashed at every call of its last step. (Earlier calls are those of the
//! sequences it begins with.)

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sealdisk::io::sim::{Mutant, SimRng, direct, plant};

use crate::check;
use crate::rig::Rig;
use crate::solo::{Solo, Step};

const STEPS: [Step; 16] = [
    Step::Write(0),
    Step::Write(1),
    Step::WriteFua(0),
    Step::Patch(1),
    Step::Zero(0),
    Step::ZeroFua(1),
    Step::Toggle,
    Step::Flush,
    Step::Scrub,
    Step::Reopen,
    Step::Snapshot,
    Step::Delete,
    Step::RollBack,
    Step::Shrink,
    Step::Grow,
    Step::Sweep,
];

/// Images at each call.
const IMAGES_A_CALL: usize = 3;

/// Sequence `number` of all those of `len` steps.
fn sequence(mut number: usize, len: usize) -> Vec<Step> {
    (0..len).map(|_| (STEPS[number % STEPS.len()], number /= STEPS.len()).0).collect()
}

fn try_sequence(rig: &Rig, steps: &[Step], number: u64) -> Result<(), String> {
    // Every other sequence, whatever it begins with.
    let rig = &rig.with_boots(SimRng::new(number).coin());
    let mut solo = Solo::new(rig, number, number.is_multiple_of(2));
    let (last, before) = steps.split_last().expect("no sequence is empty");
    for step in before {
        solo.step(*step)?.map_err(|error| format!("{step:?}: {error:?}"))?;
    }
    let failure = solo.watch(IMAGES_A_CALL, number);
    solo.step(*last)?.map_err(|error| format!("{last:?}: {error:?}"))?;
    solo.world.set_observer(None);
    if let Some(what) = failure.lock().expect("one thread").take() {
        return Err(what);
    }
    let mut rng = SimRng::new(!number);
    for _ in 0..IMAGES_A_CALL {
        let image = check::any_end(&solo.world, &mut rng);
        check::recover(rig, &image, &solo.oracle, &mut rng).map_err(|error| format!("after {last:?}: {error}"))?;
    }
    solo.verify().map(drop)
}

/// Tries one sequence with `mutant` planted, with other images each time; how it fails, if it does.
pub(crate) fn repeat(steps: &[Step], mutant: Mutant) -> Option<String> {
    let rig = Rig::sized(1, 2, Some(2));
    plant(Some(mutant));
    let found = (0..200).find_map(|seed| {
        let tried = catch_unwind(AssertUnwindSafe(|| direct(|| try_sequence(&rig, steps, seed))));
        tried.unwrap_or_else(|_| Err("a panic".into())).err().map(|what| format!("{steps:?}: {what}"))
    });
    plant(None);
    found
}

/// Tries all sequences of `len` steps; the first that fails, and how.
pub(crate) fn search(len: u32) -> Option<String> {
    let rig = Rig::sized(1, 2, Some(2));
    let (next, found) = (AtomicUsize::new(0), Mutex::new(None));
    let count = STEPS.len().pow(len);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let steps = sequence(number, len as usize);
            let tried = catch_unwind(AssertUnwindSafe(|| direct(|| try_sequence(&rig, &steps, number as u64))));
            if let Err(what) = tried.unwrap_or_else(|_| Err("a panic".into())) {
                // No more are drawn.
                next.store(count, Ordering::Relaxed);
                found.lock().expect("no panic while it is held").get_or_insert(format!("{steps:?}: {what}"));
            }
        }
    };
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    found.into_inner().expect("no panic while it was held")
}
