//! Runs seeds until enough have failed or there are no more, on every core.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealdisk::io::sim::{Mutant, plant, seeded};
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

/// How a campaign went on: seeds, crash images, time, and every seed that failed, in order.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seeds: u64,
    images: u64,
    elapsed: Duration,
    pub(crate) findings: Vec<Finding>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, bad) = (self.elapsed.as_secs_f64(), self.findings.len());
        let rate = self.images as f64 / seconds;
        write!(
            f,
            "{} seeds, {} crash images in {seconds:.1} s: {rate:.0} a second; {bad} bad",
            self.seeds, self.images
        )?;
        if bad > 0 {
            write!(f, ": {:?}", self.findings.iter().map(|(seed, _)| seed).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Looks for the first seed from `first` on that fails, with `mutant` planted.
pub(crate) fn search(
    first: u64,
    until: Until,
    mutant: Option<Mutant>,
    execution: impl Execution,
) -> (Option<Finding>, u64) {
    let mut outcome = run(first, until, mutant, 1, execution);
    // The smallest, so that the same seed is named whatever the threads do.
    (if outcome.findings.is_empty() { None } else { Some(outcome.findings.remove(0)) }, outcome.seeds)
}

/// Runs `execution` for seeds from `first` on, with `mutant` planted, until `enough` have failed. Says once a minute
/// how far it has come.
pub(crate) fn run(
    first: u64,
    until: Until,
    mutant: Option<Mutant>,
    enough: usize,
    execution: impl Execution,
) -> Outcome {
    const MINUTE: Duration = Duration::from_secs(60);
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let (start, images) = (Instant::now(), IMAGES.load(Ordering::Relaxed));
    let findings: Mutex<Vec<Finding>> = Mutex::default();
    let draw = || {
        let over = match until {
            Until::Seeds(seeds) => next.load(Ordering::Relaxed) - first >= seeds,
            Until::Elapsed(time) => start.elapsed() >= time,
            Until::Images(count) => IMAGES.load(Ordering::Relaxed) - images >= count,
        };
        (!over && !stop.load(Ordering::Relaxed)).then(|| next.fetch_add(1, Ordering::Relaxed))
    };
    let outcome = || {
        let mut findings = findings.lock().expect("no panic while it is held").clone();
        findings.sort_unstable();
        let (seeds, images) = (next.load(Ordering::Relaxed) - first, IMAGES.load(Ordering::Relaxed) - images);
        Outcome { seeds, images, elapsed: start.elapsed(), findings }
    };
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let (working, ended) = channel::<()>();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (working, draw, stop, findings) = (working.clone(), &draw, &stop, &findings);
            scope.spawn(move || {
                plant(mutant);
                while let Some(seed) = draw() {
                    if let Err(what) = one(seed, execution) {
                        let mut findings = findings.lock().expect("no panic while it is held");
                        findings.push((seed, what));
                        stop.fetch_or(findings.len() >= enough, Ordering::Relaxed);
                    }
                }
                drop(working);
            });
        }
        drop(working);
        while ended.recv_timeout(MINUTE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{}", outcome());
        }
    });
    outcome()
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
    let run = move || *slot.lock().expect("no panic while it is held") = execution(scheduler::seed());
    let ran = catch_unwind(AssertUnwindSafe(|| seeded(seed, || runner.run(run))));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        return Err(format!("panic: {}", text.unwrap_or_default()));
    }
    result.lock().expect("no panic while it was held").clone()
}
