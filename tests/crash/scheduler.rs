//! Which virtual client runs next: fixed by the seed of the execution.

use std::cell::Cell;

use sealdisk::io::sim::SimRng;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Seed of the execution under way on this thread.
pub(crate) fn seed() -> u64 {
    SEED.get()
}

/// Runs one execution for each seed.
#[derive(Debug)]
pub(crate) struct Seeded<I> {
    seeds: I,
    rng: SimRng,
    /// Chance in 1,000 that the running task goes on where others could.
    stay: u32,
}

impl<I> Seeded<I> {
    pub(crate) fn new(seeds: I) -> Self {
        Self { seeds, rng: SimRng::new(0), stay: 0 }
    }
}

impl<I: Iterator<Item = u64>> Scheduler for Seeded<I> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let seed = self.seeds.next()?;
        SEED.set(seed);
        self.rng = SimRng::new(!seed);
        self.stay = [0, 300, 700, 950, 990][self.rng.index(5)];
        Some(Schedule::new(seed))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, _is_yielding: bool) -> Option<TaskId> {
        let goes_on = current.filter(|current| runnable.iter().any(|task| task.id() == *current));
        if let Some(current) = goes_on
            && self.rng.chance(self.stay)
        {
            return Some(current);
        }
        Some(runnable[self.rng.index(runnable.len())].id())
    }

    fn next_u64(&mut self) -> u64 {
        self.rng.roll()
    }
}
