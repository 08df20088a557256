//! Whether to look out for the next request for a moment before sleeping.
//!
//! A client that waits for each answer before it asks again leaves its connection idle for some microseconds every
//! time. To sleep and be woken takes longer than that, tens of microseconds where an idle processor is a virtual one,
//! and costs the client the waking besides. So a connection whose requests come one by one, and soon, looks at its
//! socket again and again for at most [`WATCH`] before it sleeps.
//!
//! What bounds the waste: no more than half of the processors do so at once, and none where there is but one. A
//! connection that has slept for long, whose client sends several requests at once, or that has looked out in vain,
//! sleeps at once; the last after twice as many short sleeps as the time before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest time of looking out.
pub(crate) const WATCH: Duration = Duration::from_micros(50);
/// A sleep not longer than this, waking up included, could have been spared.
const SHORT: Duration = Duration::from_micros(100);
/// Short sleeps before a further attempt, at the most.
const MOST_NEEDED: u32 = 1 << 10;

/// How many connections of a server may look out at once.
#[derive(Debug)]
pub(crate) struct PollSlots {
    free: AtomicUsize,
}

impl PollSlots {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { free: AtomicUsize::new(processors / 2) }
    }

    /// A place, until it is dropped; `None`: all are taken.
    pub(crate) fn take(&self) -> Option<Lookout<'_>> {
        let one_less = |free: usize| free.checked_sub(1);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
        Some(Lookout(&self.free))
    }
}

#[derive(Debug)]
pub(crate) struct Lookout<'a>(&'a AtomicUsize);

impl Drop for Lookout<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one connection has learnt of its client.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    /// Short sleeps in a row.
    short: u32,
    /// So many of them make it worth looking out.
    needed: u32,
}

impl BusyPoll {
    pub(crate) fn new() -> Self {
        Self { short: 0, needed: 1 }
    }

    pub(crate) fn worth_watching(&self) -> bool {
        self.short >= self.needed
    }

    /// Looked out, and something came or not.
    pub(crate) fn watched(&mut self, came: bool) {
        if came {
            self.needed = (self.needed / 2).max(1);
        } else {
            self.short = 0;
            self.needed = (self.needed * 2).min(MOST_NEEDED);
        }
    }

    /// Slept for so long, after one request was answered.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.short = if time <= SHORT { self.short.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn it_looks_out_for_quick_clients_only() {
        let mut busy_poll = BusyPoll::new();
        assert!(!busy_poll.worth_watching(), "nothing is known yet");
        busy_poll.slept(LONG);
        assert!(!busy_poll.worth_watching());
        busy_poll.slept(SHORT);
        assert!(busy_poll.worth_watching());
        busy_poll.watched(true);
        assert!(busy_poll.worth_watching());
        busy_poll.slept(LONG);
        assert!(!busy_poll.worth_watching());
    }

    #[test]
    fn what_was_in_vain_is_tried_less_and_less_often() {
        let mut busy_poll = BusyPoll::new();
        let mut needed = 0;
        for _ in 0..20 {
            let mut slept = 0;
            while !busy_poll.worth_watching() {
                busy_poll.slept(SHORT);
                slept += 1;
            }
            assert!(slept >= (needed * 2).min(MOST_NEEDED), "{slept} after {needed}");
            needed = slept;
            busy_poll.watched(false);
        }
        assert_eq!(needed, MOST_NEEDED);
        // And soon as often as before where it pays again.
        for _ in 0..MOST_NEEDED {
            busy_poll.slept(SHORT);
        }
        for _ in 0..10 {
            busy_poll.watched(true);
        }
        assert_eq!(busy_poll.needed, 1);
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let lookouts = PollSlots { free: AtomicUsize::new(1) };
        let one = lookouts.take();
        assert!(one.is_some() && lookouts.take().is_none());
        drop(one);
        assert!(lookouts.take().is_some());
        assert!(PollSlots { free: AtomicUsize::new(0) }.take().is_none());
    }
}
