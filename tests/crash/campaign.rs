//! Runs seeds until something fails or there are no more, on every core.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealdisk::io::sim::{Mutant, plant};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::check::IMAGES;
use crate::scheduler::{self, Seeded};

/// A seed, and what it has shown.
pub(crate) type Finding = (u64, String);

/// What runs a seed. The error says what went wrong.
pub(crate) trait Execution: Fn(u64) -> Result<(), String> + Copy + Send + Sync + 'static {}

impl<E: Fn(u64) -> Result<(), String> + Copy + Send + Sync + 'static> Execution for E {}

/// When a campaign ends without a finding.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Seeds(u64),
    Elapsed(Duration),
    Images(u64),
}

/// Runs `execution` for seeds from `first` on, with `mutant` planted, until one fails.
pub(crate) fn search(
    first: u64,
    until: Until,
    mutant: Option<Mutant>,
    execution: impl Execution,
) -> (Option<Finding>, u64) {
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let (start, images) = (Instant::now(), IMAGES.load(Ordering::Relaxed));
    let finding: Mutex<Option<Finding>> = Mutex::new(None);
    let draw = || {
        let over = match until {
            Until::Seeds(seeds) => next.load(Ordering::Relaxed) - first >= seeds,
            Until::Elapsed(time) => start.elapsed() >= time,
            Until::Images(count) => IMAGES.load(Ordering::Relaxed) - images >= count,
        };
        (!over && !stop.load(Ordering::Relaxed)).then(|| next.fetch_add(1, Ordering::Relaxed))
    };
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                plant(mutant);
                while let Some(seed) = draw() {
                    if let Err(what) = one(seed, execution) {
                        stop.store(true, Ordering::Relaxed);
                        let mut finding = finding.lock().expect("no panic while it is held");
                        // The smallest, so that the same seed is named whatever the threads do.
                        if finding.as_ref().is_none_or(|(known, _)| seed < *known) {
                            *finding = Some((seed, what));
                        }
                    }
                }
            });
        }
    });
    let tried = next.load(Ordering::Relaxed) - first;
    (finding.into_inner().expect("no panic while it was held"), tried)
}

/// One seed under the scheduler. Panics of the core, deadlocks and endless loops are findings, too.
pub(crate) fn one(seed: u64, execution: impl Execution) -> Result<(), String> {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(4_000_000);
    config.silence_warnings = true;
    let result = Arc::new(Mutex::new(Ok(())));
    let slot = Arc::clone(&result);
    let runner = Runner::new(Seeded::new(std::iter::once(seed)), config);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runner.run(move || *slot.lock().expect("no panic while it is held") = execution(scheduler::seed()))
    }));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        return Err(format!("panic: {}", text.unwrap_or_default()));
    }
    result.lock().expect("no panic while it was held").clone()
}
