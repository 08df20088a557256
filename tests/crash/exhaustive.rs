//! Every short sequence of steps on two pages, crashed at every call of its last step. (Earlier calls are those of the
//! sequences it begins with.)

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sealdisk::io::sim::{Dice, direct};

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
    let mut dice = Dice::new(!number);
    for _ in 0..IMAGES_A_CALL {
        let image = check::any_end(&solo.world, &mut dice);
        check::recover(rig, &image, &solo.oracle, &mut dice).map_err(|error| format!("after {last:?}: {error}"))?;
    }
    solo.verify().map(drop)
}

/// Tries all sequences of `len` steps.
pub(crate) fn all(len: u32) {
    let rig = Rig::sized(1, 2, Some(1));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let count = STEPS.len().pow(len);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        let worker = || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                let steps = sequence(number, len as usize);
                if let Err(what) = direct(|| try_sequence(&rig, &steps, number as u64)) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(format!("{steps:?}: {what}"));
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().expect("no worker panics").unwrap_or_else(|what: String| panic!("{what}"));
        }
    });
}
