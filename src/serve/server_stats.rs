//! What a server counts of all its connections, for whoever watches it. Reading takes no lock that a request waits for.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

use super::Identity;
use super::buffers::Buffers;
use super::counters::{Counts, Tally};
use super::limits::Limits;
use super::log_limiter::Limiter;
use super::turned_away::{Reason, Turnings};
use super::workers::Workers;

/// Lines of the log that all clients together may cause at once, and then in a second: for failed requests, and for
/// coming and going.
const FAILURE_LINES: (u32, f64) = (50, 10.0);
const COMING_LINES: (u32, f64) = (200, 20.0);

/// See the module documentation.
#[derive(Debug)]
pub struct Stats {
    state: Mutex<State>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) handshakes: AtomicUsize,
    /// Handshakes that ended without a client in transmission, and clients refused because there were too many.
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) cut_off: AtomicU64,
    pub(crate) lines_suppressed: AtomicU64,
    turnings: Turnings,
    failures: Mutex<Limiter>,
    coming: Mutex<Limiter>,
    max_connections: usize,
    budget: usize,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<Live>,
    attached: u64,
    ended: Counts,
    ended_of: BTreeMap<Uuid, Counts>,
}

#[derive(Debug)]
struct Live {
    disk: Uuid,
    tally: Arc<Tally>,
    client: Attached,
}

/// A client in transmission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// As the log names it.
    pub peer: String,
    /// The export, as it was called when the client attached it.
    pub export: String,
    pub identity: Arc<Identity>,
    pub tls: bool,
    pub read_only: bool,
    pub since: Instant,
}

/// Numbers of a moment. Those called totals only grow.
#[derive(Debug, Clone)]
pub struct StatsSample {
    /// Of all clients there were.
    pub all: Counts,
    /// By the disk they had attached; snapshots count with their disk.
    pub disks: BTreeMap<Uuid, Counts>,
    /// Clients in transmission now.
    pub connections: usize,
    pub connections_total: u64,
    pub connections_refused_total: u64,
    /// Clients whose connection the server ended: they broke the protocol, stalled, or were gone.
    pub cut_off_total: u64,
    /// Handshakes under way.
    pub handshakes: usize,
    pub handshakes_failed_total: u64,
    /// Clients that were turned away, in the order of [`Reason::ALL`].
    pub turned_away_total: [u64; Reason::ALL.len()],
    /// Bytes of buffers in use beyond what is reserved for each connection, and how many may be.
    pub buffer_bytes: usize,
    pub buffer_limit: usize,
    /// Threads that wait for the disk, those of them that do so now, and how many there may be.
    pub disk_threads: usize,
    pub disk_threads_busy: usize,
    pub disk_threads_limit: usize,
    pub connections_limit: usize,
    /// Bytes of buffers of all connections together, what is reserved for each included.
    pub budget: usize,
    /// Lines left out of the log because clients caused too many.
    pub lines_suppressed_total: u64,
}

impl Stats {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let now = Instant::now();
        let limiter = |(burst, per_second)| Mutex::new(Limiter::new(burst, per_second, now));
        Arc::new(Self {
            state: Mutex::default(),
            buffers: Buffers::new(limits),
            workers: Workers::new(limits.workers),
            handshakes: AtomicUsize::new(0),
            handshakes_failed: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
            lines_suppressed: AtomicU64::new(0),
            turnings: Turnings::new(now),
            failures: limiter(FAILURE_LINES),
            coming: limiter(COMING_LINES),
            max_connections: limits.max_connections,
            budget: limits.budget,
        })
    }

    /// The numbers of a client that has attached `disk`, for [`Stats::end`] to take back.
    pub(crate) fn begin(&self, disk: Uuid, client: Attached) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        let mut state = self.state.lock();
        state.attached += 1;
        state.live.push(Live { disk, tally: Arc::clone(&tally), client });
        tally
    }

    pub(crate) fn end(&self, tally: &Arc<Tally>) {
        tally.in_flight.set(0);
        let mut state = self.state.lock();
        if let Some(index) = state.live.iter().position(|live| Arc::ptr_eq(&live.tally, tally)) {
            let Live { disk, tally, client: _ } = state.live.swap_remove(index);
            state.ended.add(&tally);
            state.ended_of.entry(disk).or_default().add(&tally);
        }
    }

    /// Whether a line about a failed request may be written now; how many were not since the last one.
    pub(crate) fn may_log_failure(&self, now: Instant) -> Option<u64> {
        self.failures.lock().allow(now)
    }

    /// Whether a line about a client that comes or goes may be written now.
    pub(crate) fn may_log_coming(&self) -> bool {
        let allowed = self.coming.lock().allow(Instant::now());
        match allowed {
            None => self.suppressed(),
            Some(0) => {}
            Some(suppressed) => tracing::info!(suppressed, "lines about clients that came or went were left out"),
        }
        allowed.is_some()
    }

    /// A client was turned away before it was attached.
    pub(crate) fn turned_away(&self, peer: &str, reason: Reason, why: impl Display) {
        if !self.turnings.note(peer, reason, why) {
            self.suppressed();
        }
    }

    pub(crate) fn suppressed(&self) {
        self.lines_suppressed.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets what was counted of disks that are not there any more.
    pub fn retain(&self, known: impl Fn(&Uuid) -> bool) {
        self.state.lock().ended_of.retain(|disk, _| known(disk));
    }

    /// The clients in transmission and what they did, the first to attach first.
    #[must_use]
    pub fn clients(&self) -> Vec<(Attached, Counts)> {
        let counts = |tally: &Tally| {
            let mut counts = Counts::default();
            counts.add(tally);
            counts
        };
        let state = self.state.lock();
        let mut clients: Vec<_> = state.live.iter().map(|live| (live.client.clone(), counts(&live.tally))).collect();
        drop(state);
        clients.sort_by_key(|(client, _)| client.since);
        clients
    }

    #[must_use]
    pub fn read(&self) -> StatsSample {
        let state = self.state.lock();
        let (mut all, mut disks) = (state.ended, state.ended_of.clone());
        for Live { disk, tally, client: _ } in &state.live {
            all.add(tally);
            disks.entry(*disk).or_default().add(tally);
        }
        let (connections, connections_total) = (state.live.len(), state.attached);
        drop(state);
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (disk_threads, disk_threads_busy) = self.workers.threads();
        StatsSample {
            all,
            disks,
            connections,
            connections_total,
            connections_refused_total: count(&self.connections_refused),
            cut_off_total: count(&self.cut_off),
            handshakes: self.handshakes.load(Ordering::Relaxed),
            handshakes_failed_total: count(&self.handshakes_failed),
            turned_away_total: self.turnings.counts(),
            buffer_bytes: self.buffers.used(),
            buffer_limit: self.buffers.limit(),
            disk_threads,
            disk_threads_busy,
            disk_threads_limit: self.workers.limit(),
            connections_limit: self.max_connections,
            budget: self.budget,
            lines_suppressed_total: count(&self.lines_suppressed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::counters::Command;
    use super::*;

    #[test]
    fn nothing_is_lost_when_a_client_leaves() {
        let stats = Stats::new(&Limits::default());
        let (disk, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let client = |export: &str| Attached {
            peer: "somebody".to_owned(),
            export: export.to_owned(),
            identity: Arc::default(),
            tls: false,
            read_only: false,
            since: Instant::now(),
        };
        let (one, two) = (stats.begin(disk, client("one")), stats.begin(other, client("two")));
        one.answered(Command::Write, Duration::ZERO, 5);
        two.answered(Command::Write, Duration::ZERO, 2);
        one.in_flight.set(3);
        let before = stats.read();
        assert_eq!((before.connections, before.all.in_flight, before.all.requests()), (2, 3, 7));
        let clients: Vec<_> =
            stats.clients().iter().map(|(client, counts)| (client.export.clone(), counts.requests())).collect();
        assert_eq!(clients, [("one".to_owned(), 5), ("two".to_owned(), 2)]);
        stats.end(&one);
        assert_eq!(stats.clients().len(), 1);
        stats.end(&one);
        let after = stats.read();
        assert_eq!((after.connections, after.connections_total, after.all.in_flight), (1, 2, 0));
        assert_eq!((after.all.requests(), after.disks[&disk].requests(), after.disks[&other].requests()), (7, 5, 2));
        stats.retain(|known| *known == other);
        let left = stats.read();
        assert_eq!((left.all.requests(), left.disks.len()), (7, 1));
    }
}
