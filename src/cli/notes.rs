//! What a verb notes on standard error while it works.
//!
//! A terminal may be stopped (Ctrl-S), a pipe may have a reader that does not read. A note waits for that only for
//! moments, so that it holds up no work and no lock of an account; the end of the program waits longer.
//!
//! The thread that writes ends with the last line: none is left over when a verb confines itself, unless it is stuck.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::spool;

/// How long a note waits to be written, so that notes and answers keep their order.
const PROMPTLY: Duration = Duration::from_millis(500);

/// Those of this process.
pub(super) static NOTES: Notes = Notes::new();

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Notes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// There is a thread, which takes line after line.
    writing: bool,
    /// A line was not written in time: no other one waits.
    stuck: bool,
}

impl Notes {
    const fn new() -> Self {
        let state = State { lines: VecDeque::new(), writing: false, stuck: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Writes a line, its line break included, or leaves it to be written.
    pub(super) fn put(&'static self, line: Vec<u8>) {
        let mut state = self.state.lock();
        state.lines.push_back(line);
        if !state.writing {
            let thread = std::thread::Builder::new().name("notes".into()).spawn(|| self.write());
            state.writing = thread.is_ok();
        }
        if !state.writing {
            drop(state);
            // Better late than not at all.
            return self.write();
        }
        if !state.stuck {
            self.wait(state, PROMPTLY);
        }
    }

    /// Waits for the notes that are not written yet, for `limit` at the most.
    pub(super) fn finish(&self, limit: Duration) {
        self.wait(self.state.lock(), limit);
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, limit: Duration) {
        let until = Instant::now() + limit;
        while state.writing {
            if self.changed.wait_until(&mut state, until).timed_out() {
                state.stuck = state.writing;
                return;
            }
        }
        state.stuck = false;
    }

    fn write(&self) {
        let error = io::stderr();
        loop {
            let mut state = self.state.lock();
            let Some(line) = state.lines.pop_front() else {
                state.writing = false;
                self.changed.notify_all();
                return;
            };
            drop(state);
            // Standard error may be closed.
            let _ = spool::write_all(error.as_fd(), &line);
        }
    }
}
