//! The thread that does the background work of an account's disks.
//!
//! A disk starts no thread; it calls the waker it was given when it has something to do. Disks are served in turn, one
//! step each, so that one with much to punch does not hold up the rest.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::attachment::Attachment;
use crate::disk::Disk;
use crate::{Error, Result};

/// Finds the open disk of a uuid; `None` when it has been closed meanwhile.
pub(super) type Find = dyn Fn(Uuid) -> Option<Attachment> + Send;
/// Hears that a disk has nothing to do for now, or why its work failed.
pub(super) type Rests = dyn Fn(&Disk, &Result<()>) + Send;

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Uuid>,
    stopped: bool,
}

impl Queue {
    fn push(&self, disk: Uuid) {
        let mut state = self.state.lock();
        if !state.waiting.contains(&disk) {
            state.waiting.push_back(disk);
            self.changed.notify_one();
        }
    }

    /// The next disk, waiting for one; `None`: stop.
    fn pop(&self) -> Option<Uuid> {
        let mut state = self.state.lock();
        while !state.stopped && state.waiting.is_empty() {
            self.changed.wait(&mut state);
        }
        if state.stopped { None } else { state.waiting.pop_front() }
    }
}

/// Asks for work on disks; cheap to clone.
#[derive(Clone)]
pub(super) struct Wake(Weak<Queue>);

impl Wake {
    /// A waker for `disk`.
    #[must_use]
    pub(super) fn for_disk(&self, disk: Uuid) -> Arc<dyn Fn() + Send + Sync> {
        let queue = self.0.clone();
        Arc::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.push(disk);
            }
        })
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// The running thread.
pub(super) struct Maintenance {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    pub(super) fn start(find: Box<Find>, rests: Box<Rests>) -> Result<Self> {
        let queue = Arc::new(Queue::default());
        let of_thread = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("maintenance".into())
            .spawn(move || run(&of_thread, &*find, &*rests))
            .map_err(|error| Error::io("cannot start a thread", error))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    #[must_use]
    pub(super) fn wake(&self) -> Wake {
        Wake(Arc::downgrade(&self.queue))
    }

    /// Lets the step in progress end, and no other begin.
    pub(super) fn stop(&mut self) {
        self.queue.state.lock().stopped = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the maintenance thread panicked");
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maintenance")
    }
}

fn run(queue: &Queue, find: &Find, rests: &Rests) {
    while let Some(uuid) = queue.pop() {
        let Some(disk) = find(uuid) else { continue };
        let rested = match disk.admin().maintain() {
            Ok(true) => {
                queue.push(uuid);
                continue;
            }
            done => done.map(drop),
        };
        if let Err(error) = &rested {
            // The disk asks again when it has something to do; a failed fsync has poisoned it, which clients see.
            tracing::error!(disk = %uuid, %error, "background work failed");
        }
        rests(&disk, &rested);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn each_disk_waits_once_and_stop_ends_it() {
        let (asked, looked_up) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let find = Box::new(move |uuid| {
            asked.send(uuid).expect("test listens");
            gate.recv().ok();
            None
        });
        let mut maintenance = Maintenance::start(find, Box::new(|_, _| {})).expect("thread");
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (wake_a, wake_b) = (maintenance.wake().for_disk(a), maintenance.wake().for_disk(b));
        wake_a();
        assert_eq!(looked_up.recv(), Ok(a));
        // While `a` is being served it may be asked for again, and every further wish is the same one.
        wake_a();
        wake_b();
        wake_a();
        for _ in 0..3 {
            go.send(()).expect("thread waits");
        }
        assert_eq!(looked_up.recv(), Ok(a));
        assert_eq!(looked_up.recv(), Ok(b));
        maintenance.stop();
        assert!(looked_up.try_recv().is_err());
        wake_a();
    }
}
