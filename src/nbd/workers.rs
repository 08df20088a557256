//! Threads that wait for the disk, so that connections never do.
//!
//! Each connection has a [`CompletionQueue`]: jobs go in, finished ones come out. Threads take one job from each queue
//! in turn, so a connection with a thousand slow requests does not push another's single one to the end of the queue.
//! Threads are started as they are needed, up to a limit, and end when there has been nothing to do for a while.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::EventfdFlags;

use super::job::{Done, Job};

/// How long a thread waits for work before it ends.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes of stack of a thread.
const STACK: usize = 512 << 10;

/// The pool.
#[derive(Debug)]
pub(super) struct Workers {
    state: Mutex<State>,
    work: Condvar,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Lanes with jobs waiting, each once.
    queues: VecDeque<Arc<CompletionQueue>>,
    threads: usize,
    /// Threads that wait and that no submitted job has claimed yet.
    idle: usize,
}

impl Workers {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Condvar::new(), max })
    }

    /// Threads there are, and those of them that wait for the disk.
    pub(super) fn threads(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.threads, state.threads.saturating_sub(state.idle))
    }

    /// Threads there may be.
    pub(super) fn limit(&self) -> usize {
        self.max
    }

    /// Hands over a job; it comes back through `queue`. With no thread to be had it is done before this returns.
    pub(super) fn submit(self: &Arc<Self>, queue: &Arc<CompletionQueue>, job: Job) {
        let mut state = self.state.lock();
        let mut jobs = queue.jobs.lock();
        jobs.push_back(job);
        if jobs.len() == 1 {
            state.queues.push_back(Arc::clone(queue));
        }
        drop(jobs);
        if state.idle > 0 {
            state.idle -= 1;
            self.work.notify_one();
        } else if state.threads < self.max {
            state.threads += 1;
            drop(state);
            let pool = Arc::clone(self);
            let builder = std::thread::Builder::new().name("nbd-disk".into()).stack_size(STACK);
            if builder.spawn(move || pool.run()).is_err() {
                let mut state = self.state.lock();
                state.threads -= 1;
                if state.threads == 0
                    && let Some((queue, job)) = state.next()
                {
                    drop(state);
                    queue.finish(job.run());
                }
            }
        }
    }

    /// Forgets the jobs of a connection that is gone; those being done are finished.
    pub(super) fn abandon(&self, queue: &Arc<CompletionQueue>) {
        let mut state = self.state.lock();
        state.queues.retain(|queued| !Arc::ptr_eq(queued, queue));
        let forgotten = std::mem::take(&mut *queue.jobs.lock());
        drop(state);
        drop(forgotten);
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some((queue, job)) = state.next() {
                drop(state);
                queue.finish(job.run());
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            if self.work.wait_for(&mut state, LINGER).timed_out() && state.idle > 0 {
                state.idle -= 1;
                if state.queues.is_empty() {
                    state.threads -= 1;
                    return;
                }
            }
        }
    }
}

impl State {
    fn next(&mut self) -> Option<(Arc<CompletionQueue>, Job)> {
        let queue = self.queues.pop_front()?;
        let mut jobs = queue.jobs.lock();
        let job = jobs.pop_front()?;
        if !jobs.is_empty() {
            self.queues.push_back(Arc::clone(&queue));
        }
        drop(jobs);
        Some((queue, job))
    }
}

/// The way of one connection's jobs through the pool.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    /// Locked only while the pool's state is.
    jobs: Mutex<VecDeque<Job>>,
    done: Mutex<Vec<Done>>,
    /// Readable when a job has finished while the connection sleeps.
    wakeup: OwnedFd,
    sleeping: AtomicBool,
}

impl CompletionQueue {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let wakeup = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let sleeping = AtomicBool::new(false);
        Ok(Arc::new(Self { jobs: Mutex::default(), done: Mutex::default(), wakeup, sleeping }))
    }

    fn finish(&self, done: Done) {
        self.done.lock().push(done);
        // Pairs with `sleep`: either this sees that the connection sleeps, or the connection sees the job.
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.wakeup, &1u64.to_ne_bytes());
        }
    }

    /// Moves finished jobs to the end of `into`.
    pub(super) fn collect(&self, into: &mut VecDeque<Done>) {
        into.extend(self.done.lock().drain(..));
    }

    /// Announces that the connection is about to wait for the wakeup. `None`: a job has finished already.
    pub(super) fn sleep(&self) -> Option<BorrowedFd<'_>> {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.done.lock().is_empty() {
            return Some(self.wakeup.as_fd());
        }
        self.wake(false);
        None
    }

    /// Ends the sleep, for whatever reason the connection woke; `rang`: the wakeup was readable. A job that finishes at
    /// the same moment may ring afterwards: the next sleep is then a short one.
    pub(super) fn wake(&self, rang: bool) {
        self.sleeping.store(false, Ordering::SeqCst);
        if rang {
            let _ = rustix::io::read(&self.wakeup, &mut [0; 8]);
        }
    }
}
