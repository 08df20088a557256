//! Acts under way: those whose work goes on after the request that begins it. Each leaves a line when it begins, before
//! anything is done, and one when it ends: done, failed, or stopped where the account is closed before that.
//!
//! - A [`Ticket`] is the right to tell the end of an act: of a thread of the server, or of a connection.
//! - Where a verb does the work piece by piece, the piece that ends it tells.
//! - An end is told once: the first to tell it wins.
//! - The act of a verb that is killed stays under way until the account is closed. A process that is killed itself
//!   tells no end.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::acts::{self, Act, Asker};
use super::audit_log::line::Outcome;
use super::registry::Shared;
use crate::Result;
use crate::disk::Disk;

/// How long a closing account waits for the connections of copies to end by themselves.
const LEAVING: Duration = Duration::from_secs(2);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    table: Mutex<Table>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Of scrubs in the background, by disk.
    scrubs: Mutex<Vec<(Uuid, Ticket)>>,
}

#[derive(Debug, Default)]
struct Table {
    begun: Vec<Begun>,
    last: u64,
    /// The account is being closed: no thread begins another piece.
    stopping: bool,
}

#[derive(Debug)]
struct Begun {
    id: u64,
    act: Act,
    asker: Asker,
    /// What it has begun with is done without an error.
    started: bool,
    /// Its connection has ended.
    left: bool,
    /// Its last line is being written.
    ending: bool,
}

/// How an act ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed(String),
    /// Before it was done, and why.
    Stopped(String),
}

impl End {
    pub(super) fn of<T>(result: &Result<T>) -> Self {
        result.as_ref().err().map_or(Self::Done, |error| Self::Failed(error.to_string()))
    }

    fn line(self, act: &Act) -> (Outcome, String, Option<String>) {
        match self {
            Self::Done => (Outcome::Done, act.detail.clone(), None),
            Self::Failed(error) => (Outcome::Failed, act.detail.clone(), Some(error)),
            Self::Stopped(why) => (Outcome::Stopped, why, None),
        }
    }
}

impl UnderWay {
    /// Notes that an act begins; its line is the caller's to write.
    pub(super) fn begin(&self, act: Act, asker: Asker) -> u64 {
        let mut table = self.table.lock();
        table.last += 1;
        let id = table.last;
        table.begun.push(Begun { id, act, asker, started: false, left: false, ending: false });
        id
    }

    /// The act of this verb on this disk that `asker` has begun.
    pub(super) fn find(&self, act: &Act, asker: Asker) -> Option<u64> {
        let table = self.table.lock();
        let same = |begun: &&Begun| {
            !begun.ending && (begun.act.verb, &begun.act.on, begun.asker) == (act.verb, &act.on, asker)
        };
        table.begun.iter().find(same).map(|begun| begun.id)
    }

    /// Ends an act without a line.
    pub(super) fn forget(&self, id: u64) {
        self.table.lock().begun.retain(|begun| begun.id != id);
    }

    /// The acts of which the caller may tell the end, and has to [forget](Self::forget) them then.
    fn take(&self, of: impl Fn(&Begun) -> bool) -> Vec<(u64, Act, Asker)> {
        let mut table = self.table.lock();
        let taken = table.begun.iter_mut().filter(|begun| !begun.ending && of(begun)).map(|begun| {
            begun.ending = true;
            (begun.id, begun.act.clone(), begun.asker)
        });
        taken.collect()
    }

    /// Waits for `time`. `true`: the account is being closed.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut table = self.table.lock();
        while !table.stopping && !self.changed.wait_until(&mut table, until).timed_out() {}
        table.stopping
    }

    /// Takes a thread that ends soon after [`UnderWay::pause`] has told it to.
    pub(super) fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Has the threads end that do the work of acts, after the piece in hand.
    pub(super) fn stop_threads(&self) {
        self.table.lock().stopping = true;
        self.changed.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("the thread of an act panicked");
            }
        }
    }

    pub(super) fn scrub_begins(&self, disk: Uuid, begun: Ticket) {
        self.scrubs.lock().push((disk, begun));
    }

    /// The background work of a disk rests: its scrubs have ended if it failed, or if nothing is left to scrub.
    pub(super) fn scrub_rests(&self, disk: &Disk, rested: &Result<()>) {
        let mut scrubs = self.scrubs.lock();
        let of_disk = |(uuid, _): &(Uuid, Ticket)| *uuid == disk.uuid();
        if !scrubs.iter().any(of_disk) {
            return;
        }
        let is_left = disk.admin().usage().map_or(true, |usage| usage.pending_scrub != Some(0));
        if rested.is_ok() && is_left {
            return;
        }
        let (ended, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut *scrubs).into_iter().partition(of_disk);
        *scrubs = kept;
        drop(scrubs);
        ended.into_iter().for_each(|(_, begun)| begun.end(End::of(rested)));
    }

    /// Waits a little for connections that are ending, and for lines that are being written.
    fn wait_for_ends(&self) {
        let until = Instant::now() + LEAVING;
        let mut table = self.table.lock();
        while table.begun.iter().any(|begun| begun.ending || begun.act.ends_with_its_connection())
            && !self.changed.wait_until(&mut table, until).timed_out()
        {}
    }
}

impl Shared {
    /// The request that began an act is answered: with an error it has ended.
    pub(super) fn act_started(&self, id: u64, error: Option<&str>) {
        if let Some(error) = error {
            return self.end_act(id, End::Failed(error.to_owned()));
        }
        let mut table = self.under_way.table.lock();
        let Some(begun) = table.begun.iter_mut().find(|begun| begun.id == id) else { return };
        begun.started = true;
        let left = begun.left;
        drop(table);
        if left {
            self.end_act(id, End::Done);
        }
    }

    /// The connection of an act has ended.
    fn act_left(&self, id: u64) {
        let mut table = self.under_way.table.lock();
        let Some(begun) = table.begun.iter_mut().find(|begun| begun.id == id) else { return };
        begun.left = true;
        let started = begun.started;
        drop(table);
        if started {
            self.end_act(id, End::Done);
        }
    }

    /// Ends an act, with its line.
    pub(super) fn end_act(&self, id: u64, end: End) {
        self.end_acts(|begun| begun.id == id, |_| end.clone());
    }

    /// The acts on a disk that was deleted have ended.
    pub(super) fn end_acts_on(&self, disk: &str) {
        self.end_acts(|begun| begun.act.on == disk, |_| End::Stopped("the disk was deleted".to_owned()));
    }

    /// Ends what is still under way, as the account is closed, and the audit log.
    pub(super) fn end_all_acts(&self) {
        self.under_way.wait_for_ends();
        let who = if self.server.get().is_some() { "the server ends" } else { "the verb ends" };
        self.end_acts(|_| true, |act| End::Stopped(format!("{who}: {}", act.goes_on())));
        if let Some(log) = self.audit_log.get() {
            log.end();
        }
    }

    fn end_acts(&self, of: impl Fn(&Begun) -> bool, end: impl Fn(&Act) -> End) {
        for (id, act, asker) in self.under_way.take(of) {
            let (outcome, detail, error) = end(&act).line(&act);
            // The act has ended whether or not its line is written; the log keeps a line that it cannot write yet.
            let _ = acts::tell(self, &Act { detail, ..act }, asker, outcome, error, None);
            self.under_way.forget(id);
            self.under_way.changed.notify_all();
        }
    }
}

/// The right to tell how an act ends.
#[derive(Debug)]
pub struct Ticket {
    shared: Weak<Shared>,
    id: u64,
}

impl Ticket {
    pub(super) fn new(shared: &Arc<Shared>, id: u64) -> Self {
        Self { shared: Arc::downgrade(shared), id }
    }

    pub(super) fn end(self, end: End) {
        if let Some(shared) = self.shared.upgrade() {
            shared.end_act(self.id, end);
        }
    }

    /// What a connection keeps: the act is done when the connection ends.
    pub(super) fn ends_when_dropped(self) -> impl Send {
        EndsWhenDropped(self)
    }
}

struct EndsWhenDropped(Ticket);

impl Drop for EndsWhenDropped {
    fn drop(&mut self) {
        if let Some(shared) = self.0.shared.upgrade() {
            shared.act_left(self.0.id);
        }
    }
}
