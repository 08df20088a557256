//! Lines on their way to standard error or standard output of a server: putting one there never waits.
//!
//! A log file may lie on a full file system, a pipe may have lost its reader, or have one that does not read. None of
//! that may hold up or end a server. So a line goes into a bounded queue, and a thread that does nothing else writes
//! it.
//!
//! 1. [`Spool::put`] waits for nothing but a lock that is held for moments, and never for a descriptor.
//! 2. The descriptor is shared with other processes: its flags are not changed. Only the writing thread can be held up.
//! 3. What cannot be written stays in the queue and is tried again; what no longer fits is counted, and said in the log
//!    as soon as lines can be written again.
//! 4. The thread starts when it is told to, once the process is confined; [`Spool::finish`] starts it too, and waits
//!    for a bounded time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

/// Bytes that wait at the most; a single line may be longer.
const MOST: usize = 1 << 20;
/// How long the thread waits after a failed write before it tries again.
const AGAIN: Duration = Duration::from_secs(1);

/// The log of this process.
pub static LOG: Spool = Spool::new(Target::Error, OnFailure::Keep);
/// What a server says at its start.
pub static OUT: Spool = Spool::new(Target::Output, OnFailure::Discard);

thread_local! {
    /// Set in the thread that writes the log: what it has to say always fits.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// See the module documentation.
#[derive(Debug)]
pub struct Spool {
    target: Target,
    on_failure: OnFailure,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Error,
    Output,
}

/// What becomes of a line that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    Keep,
    /// The log says that it went.
    Discard,
}

#[derive(Debug)]
struct State {
    /// Lines go through here.
    open: bool,
    /// There is a thread that writes.
    started: bool,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread has taken a line out and not written it yet.
    writing: bool,
    /// The last write failed, with this.
    failed: Option<Errno>,
    /// Lines that did not fit: since the log last said so, and all.
    dropped: u64,
    dropped_total: u64,
}

impl Spool {
    const fn new(target: Target, on_failure: OnFailure) -> Self {
        let state = State {
            open: false,
            started: false,
            lines: VecDeque::new(),
            bytes: 0,
            writing: false,
            failed: None,
            dropped: 0,
            dropped_total: 0,
        };
        Self { target, on_failure, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// From now on lines go through here.
    pub fn open(&self) {
        self.state.lock().open = true;
    }

    /// Whether [`Spool::open`] was called.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// Takes a line, its line break included.
    pub fn put(&self, line: Vec<u8>) {
        let mut state = self.state.lock();
        if state.bytes > 0 && state.bytes + line.len() > MOST && !WRITES.get() {
            state.dropped += 1;
            state.dropped_total += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    /// Lines that were given up since the process started.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lock().dropped_total
    }

    /// Starts the thread that writes. It is bound by the confinement in force now.
    pub fn start(&'static self) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.started {
            let name = match self.target {
                Target::Error => "log",
                Target::Output => "output",
            };
            std::thread::Builder::new().name(name.into()).spawn(|| self.write_forever())?;
            state.started = true;
        }
        Ok(())
    }

    /// Waits until everything is written, for `limit` at the most. What failed before is tried once more.
    pub fn finish(&'static self, limit: Duration) {
        if !self.is_open() || self.start().is_err() {
            return;
        }
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        state.failed = None;
        self.changed.notify_all();
        while (state.writing || !state.lines.is_empty()) && state.failed.is_none() {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    fn write_forever(&self) {
        WRITES.set(true);
        let mut torn = false;
        loop {
            let line = self.take();
            // A line that broke off in the middle must not run into the next one.
            let written = if torn { self.write(b"\n").map_err(|(error, _)| (error, 0)) } else { Ok(()) };
            let written = written.and_then(|()| {
                torn = false;
                self.write(&line)
            });
            match written {
                Ok(()) => self.written(line.len()),
                Err((error, done)) => {
                    torn |= done > 0;
                    self.not_written(line, error);
                }
            }
        }
    }

    fn take(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.writing = true;
                return line;
            }
            self.changed.wait(&mut state);
        }
    }

    fn written(&self, len: usize) {
        let mut state = self.state.lock();
        state.bytes -= len;
        state.writing = false;
        state.failed = None;
        let dropped = std::mem::take(&mut state.dropped);
        self.changed.notify_all();
        drop(state);
        if dropped > 0 {
            tracing::warn!(dropped, "lines of the log were lost: they could not be written in time");
        }
    }

    fn not_written(&self, line: Vec<u8>, error: Errno) {
        let mut state = self.state.lock();
        state.writing = false;
        let first = state.failed.replace(error).is_none();
        match self.on_failure {
            OnFailure::Keep => state.lines.push_front(line),
            OnFailure::Discard => {
                state.bytes -= line.len();
                state.dropped_total += 1;
                if first {
                    let error = io::Error::from(error);
                    tracing::warn!(%error, "standard output cannot be written");
                }
            }
        }
        self.changed.notify_all();
        if self.on_failure == OnFailure::Keep {
            let until = Instant::now() + AGAIN;
            while state.failed.is_some() && !self.changed.wait_until(&mut state, until).timed_out() {}
        }
    }

    /// The error, and how many bytes went out before it.
    fn write(&self, line: &[u8]) -> Result<(), (Errno, usize)> {
        let (error, output) = (io::stderr(), io::stdout());
        let fd: BorrowedFd<'_> = match self.target {
            Target::Error => error.as_fd(),
            Target::Output => output.as_fd(),
        };
        write_all(fd, line)
    }
}

/// Writes `bytes`, however the descriptor is set: it may be shared. The error, and how many bytes went out before it.
pub(crate) fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), (Errno, usize)> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(fd, &bytes[done..]) {
            Ok(0) => return Err((Errno::IO, done)),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            // Another process that shares the descriptor has made it so.
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None);
            }
            Err(error) => return Err((error, done)),
        }
    }
    Ok(())
}

/// One event of the log, as `tracing` writes it.
#[derive(Debug)]
pub struct LogLine(Vec<u8>);

impl LogLine {
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::new())
    }
}

impl Default for LogLine {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            LOG.put(std::mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let spool = Spool::new(Target::Error, OnFailure::Keep);
        spool.put(vec![b'x'; 2 * MOST]);
        assert_eq!(spool.lost(), 0, "a single line fits, however long");
        spool.put(b"more\n".to_vec());
        spool.put(b"more\n".to_vec());
        assert_eq!((spool.lost(), spool.state.lock().lines.len()), (2, 1));
    }

    #[test]
    fn a_spool_that_is_not_open_does_not_wait() {
        static CLOSED: Spool = Spool::new(Target::Error, OnFailure::Keep);
        CLOSED.put(b"kept\n".to_vec());
        let began = Instant::now();
        CLOSED.finish(Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
