//! The thread of a server that looks after its disks: whether those that nobody has asked for yet would open, and
//! whether the bases of all are still what they were.
//!
//! 1. Nothing is changed, and a disk is looked at in the time that opening it takes; in between the thread rests for
//!    several times as long. So a server of thousands of disks starts at once, and hears of its damaged ones in a
//!    while.
//! 2. Where the keys are not at hand, nothing is looked at.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::attachment::Use;
use super::entry::{Entry, EntryState};
use super::registry::Shared;
use crate::{Error, Result};

/// The bases of open disks are looked at so often.
const OPEN: Duration = Duration::from_secs(5);
/// Those of closed ones every so many times.
const CLOSED: u32 = 12;
/// After a look the thread rests for so many times what it took.
const REST: u32 = 4;

/// The running thread.
#[derive(Debug)]
pub(super) struct Inspection {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Rests; `false`: the end has come.
    fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut told = self.told.lock();
        while !*told {
            if self.changed.wait_until(&mut told, until).timed_out() {
                return true;
            }
        }
        false
    }
}

/// How closely a disk is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// As if it were opened, if it is closed.
    Whole,
    /// At the files of its base.
    Base,
    /// The same, but only if it is open.
    OpenBase,
}

impl Inspection {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (stop, of_thread) = (Arc::new(Stop::default()), Arc::downgrade(shared));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("inspection".into());
        let thread = thread.spawn(move || run(&of_thread, &told));
        let thread = thread.map_err(|error| Error::io("cannot start a thread", error))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        *self.stop.told.lock() = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the inspection thread panicked");
        }
    }
}

fn run(shared: &Weak<Shared>, stop: &Stop) {
    for round in 0_u32.. {
        let depth = match round {
            0 => Depth::Whole,
            _ if round.is_multiple_of(CLOSED) => Depth::Base,
            _ => Depth::OpenBase,
        };
        let Some(entries) = shared.upgrade().map(|shared| shared.all_entries()) else { return };
        for entry in entries {
            let Some(shared) = shared.upgrade() else { return };
            let began = Instant::now();
            shared.inspect(&entry, depth);
            drop(shared);
            if depth == Depth::Whole && !stop.rest(began.elapsed() * REST) {
                return;
            }
        }
        if !stop.rest(OPEN) {
            return;
        }
    }
}

impl Shared {
    fn inspect(&self, entry: &Entry, depth: Depth) {
        if self.require_keys().is_err() {
            return;
        }
        // Held without its state: its base may lie where a look takes long.
        if let Some(disk) = entry.attach_open(Use::Inspection) {
            return entry.health.base(&entry.name, disk.admin().check_base());
        }
        let account = self.settings.read();
        let state = entry.state.lock();
        match &*state {
            // Opened meanwhile, it is looked at the next time.
            EntryState::Gone | EntryState::Open(_) => {}
            EntryState::Closed if depth == Depth::OpenBase => {}
            EntryState::Closed => {
                let found = match depth {
                    Depth::Whole => self.would_open(&account, entry),
                    Depth::Base | Depth::OpenBase => self.base_is_there(entry),
                };
                drop((state, account));
                match found {
                    Ok(()) if depth == Depth::Whole => entry.health.opens(&entry.name),
                    // What else is wrong with it does not show in its base.
                    Ok(()) => {}
                    Err(error) => entry.health.found_unable(&entry.name, &error),
                }
                // One that it is a clone of may have been opened for it.
                self.close_idle();
            }
        }
    }
}
