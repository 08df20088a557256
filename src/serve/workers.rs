//! Threads that wait for the disk, so that connections never do.
//!
//! Each connection has a [`CompletionQueue`]: jobs go in, finished ones come out. Threads take one job from each queue
//! in turn, so a connection with a thousand slow requests does not push another's single one to the end of the queue.
//! Threads are started as they are needed, up to a limit, and end when there has been nothing to do for a while. The
//! queues of one pool may have [jobs](Job) of different kinds: connections that speak different protocols share it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::EventfdFlags;

/// How long a thread waits for work before it ends.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes of stack of a thread.
const STACK: usize = 512 << 10;

/// Work that may wait for the disk.
pub(crate) trait Job: fmt::Debug + Send + 'static {
    /// What comes back to the connection.
    type Done: fmt::Debug + Send;

    fn run(self) -> Self::Done;
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Workers {
    state: Mutex<State>,
    work: Condvar,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Queues with jobs that no thread has claimed, each once.
    queues: VecDeque<Arc<dyn Queue>>,
    threads: usize,
    /// Threads that wait and that no submitted job has claimed yet.
    idle: usize,
}

impl Workers {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Condvar::new(), max })
    }

    /// Threads there are, and those of them that wait for the disk.
    pub(crate) fn threads(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.threads, state.threads.saturating_sub(state.idle))
    }

    /// Threads there may be.
    pub(crate) fn limit(&self) -> usize {
        self.max
    }

    /// Hands over a job; it comes back through `queue`. With no thread to be had it is done before this returns.
    pub(crate) fn submit<J: Job>(self: &Arc<Self>, queue: &Arc<CompletionQueue<J>>, job: J) {
        let mut state = self.state.lock();
        if queue.push(job) {
            state.queues.push_back(Arc::<CompletionQueue<J>>::clone(queue));
        }
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
                    && let Some(queue) = state.next()
                {
                    drop(state);
                    queue.run_claimed();
                }
            }
        }
    }

    /// Forgets the jobs of a connection that is gone; those being done are finished.
    pub(crate) fn abandon<J: Job>(&self, queue: &Arc<CompletionQueue<J>>) {
        let mut state = self.state.lock();
        state.queues.retain(|queued| !std::ptr::addr_eq(Arc::as_ptr(queued), Arc::as_ptr(queue)));
        let forgotten = std::mem::take(&mut queue.jobs.lock().waiting);
        drop(state);
        drop(forgotten);
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(queue) = state.next() {
                drop(state);
                queue.run_claimed();
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
    /// The queue whose turn it is, with a job of it claimed.
    fn next(&mut self) -> Option<Arc<dyn Queue>> {
        let queue = self.queues.pop_front()?;
        if queue.claim() {
            self.queues.push_back(Arc::clone(&queue));
        }
        Some(queue)
    }
}

/// A queue as the pool sees it, whatever its jobs are.
trait Queue: fmt::Debug + Send + Sync {
    /// Claims a job. Whether there are more that are not claimed.
    fn claim(&self) -> bool;

    /// Does a job that was claimed, unless it was abandoned meanwhile.
    fn run_claimed(&self);
}

/// The way of one connection's jobs through the pool.
#[derive(Debug)]
pub(crate) struct CompletionQueue<J: Job> {
    jobs: Mutex<Jobs<J>>,
    done: Mutex<Vec<J::Done>>,
    /// Readable when a job has finished while the connection sleeps.
    wakeup: OwnedFd,
    sleeping: AtomicBool,
}

#[derive(Debug)]
struct Jobs<J> {
    waiting: VecDeque<J>,
    /// Threads that are about to take one of them.
    claimed: usize,
}

impl<J: Job> Queue for CompletionQueue<J> {
    fn claim(&self) -> bool {
        let mut jobs = self.jobs.lock();
        jobs.claimed += 1;
        jobs.waiting.len() > jobs.claimed
    }

    fn run_claimed(&self) {
        let mut jobs = self.jobs.lock();
        jobs.claimed -= 1;
        let job = jobs.waiting.pop_front();
        drop(jobs);
        if let Some(job) = job {
            self.finish(job.run());
        }
    }
}

impl<J: Job> CompletionQueue<J> {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let wakeup = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let sleeping = AtomicBool::new(false);
        let jobs = Mutex::new(Jobs { waiting: VecDeque::new(), claimed: 0 });
        Ok(Arc::new(Self { jobs, done: Mutex::default(), wakeup, sleeping }))
    }

    /// Whether it is the only one that is not claimed.
    fn push(&self, job: J) -> bool {
        let mut jobs = self.jobs.lock();
        jobs.waiting.push_back(job);
        jobs.waiting.len() == jobs.claimed + 1
    }

    fn finish(&self, done: J::Done) {
        self.done.lock().push(done);
        // Pairs with `sleep`: either this sees that the connection sleeps, or the connection sees the job.
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.wakeup, &1u64.to_ne_bytes());
        }
    }

    /// Moves finished jobs to the end of `into`.
    pub(crate) fn collect(&self, into: &mut VecDeque<J::Done>) {
        into.extend(self.done.lock().drain(..));
    }

    /// Announces that the connection is about to wait for the wakeup. `None`: a job has finished already.
    pub(crate) fn sleep(&self) -> Option<BorrowedFd<'_>> {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.done.lock().is_empty() {
            return Some(self.wakeup.as_fd());
        }
        self.wake(false);
        None
    }

    /// Ends the sleep, for whatever reason the connection woke; `rang`: the wakeup was readable. A job that finishes at
    /// the same moment may ring afterwards: the next sleep is then a short one.
    pub(crate) fn wake(&self, rang: bool) {
        self.sleeping.store(false, Ordering::SeqCst);
        if rang {
            let _ = rustix::io::read(&self.wakeup, &mut [0; 8]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits until it is told to go on, and tells its number.
    #[derive(Debug)]
    struct Waiting(mpsc::Receiver<()>, mpsc::Sender<u32>);

    #[derive(Debug)]
    struct Quick(u32, mpsc::Sender<u32>);

    impl Job for Waiting {
        type Done = ();

        fn run(self) {
            self.0.recv().unwrap();
            self.1.send(0).unwrap();
        }
    }

    impl Job for Quick {
        type Done = u32;

        fn run(self) -> u32 {
            self.1.send(self.0).unwrap();
            self.0
        }
    }

    #[test]
    fn queues_of_all_kinds_take_turns_and_abandoned_jobs_are_forgotten() {
        let pool = Workers::new(1);
        let (go_on, waits) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let first = CompletionQueue::new().unwrap();
        pool.submit(&first, Waiting(waits, tell.clone()));
        let queues: Vec<_> = (0..3).map(|_| CompletionQueue::new().unwrap()).collect();
        for (queue, jobs) in queues.iter().zip([&[11, 12, 13][..], &[21], &[31, 32]]) {
            jobs.iter().for_each(|job| pool.submit(queue, Quick(*job, tell.clone())));
        }
        pool.abandon(&queues[2]);
        pool.submit(&queues[2], Quick(33, tell.clone()));
        go_on.send(()).unwrap();
        let order: Vec<_> = (0..6).map(|_| told.recv().unwrap()).collect();
        assert_eq!(order, [0, 11, 21, 33, 12, 13]);
        // The last one is told of before it is done.
        let mut done = VecDeque::new();
        while done.len() < 3 {
            queues[0].collect(&mut done);
        }
        assert_eq!(done, [11, 12, 13]);
        assert_eq!(pool.threads().0, 1);
        drop(tell);
        assert!(told.recv().is_err(), "no job was done twice");
    }
}
