//! Random numbers and the time of a simulated run, in place of those of the system (see
//! [`system`](crate::io::system)): fixed by a seed, so that the run makes the same keys, ids and calls again.
//!
//! They belong to the thread. All tasks of an execution of `shuttle` run on the thread that it runs on, in an order
//! that the seed fixes, and so draw the same numbers again; the crate starts no thread of its own under the simulator.
//! A thread that nobody seeded begins with seed 0.

use std::cell::Cell;

use super::rng::SimRng;

thread_local! {
    static SOURCE: Cell<SimRng> = Cell::new(SimRng::new(0));
}

/// Seconds since the epoch, of the one moment at which all simulated runs happen.
const NOW: u64 = 1_700_000_000;

/// Runs `work` with random numbers fixed by `seed`; afterwards those of this thread go on where they were.
pub fn seeded<R>(seed: u64, work: impl FnOnce() -> R) -> R {
    struct Restore(SimRng);
    impl Drop for Restore {
        fn drop(&mut self) {
            SOURCE.set(self.0);
        }
    }
    // Apart from the rng that the tests make of the same seed.
    let _restore = Restore(SOURCE.replace(SimRng::new(SimRng::new(seed).roll())));
    work()
}

pub(in crate::io) fn fill(bytes: &mut [u8]) {
    let mut rng = SOURCE.get();
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&rng.roll().to_le_bytes()[..part.len()]);
    }
    SOURCE.set(rng);
}

/// Seconds since the epoch, always the same.
#[must_use]
pub fn seconds() -> u64 {
    NOW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> [u8; 20] {
        let mut bytes = [0; 20];
        fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_seed_fixes_what_is_drawn_and_leaves_the_rest() {
        let run = || (drawn(), drawn());
        assert_eq!(seeded(1, run), seeded(1, run));
        assert_ne!(seeded(1, drawn), seeded(2, drawn));
        assert_ne!(seeded(1, run).0, seeded(1, run).1);
        let inside = seeded(1, || (drawn(), seeded(2, drawn), drawn()));
        assert_eq!((inside.0, inside.2), seeded(1, run));
    }
}
