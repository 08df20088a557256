//! What one connection notes of its answers: numbers for the metrics, and lines for the log.
//!
//! The clock is read when requests arrive and once before replies are sent, not for each request: all that were
//! answered in between have waited until then.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::counters::{Command, Counts, Tally};
use super::errno::Errno;
use super::log_limiter::Limiter;
use super::output::ReplyTarget;
use super::request::Refusal;
use super::server_stats::{Attached, Stats};
use super::session::Session;
use crate::Error;

/// Lines about failed requests of one client: at once, and then in a second.
const FAILURE_LINES: (u32, f64) = (10, 1.0);

/// Why a request failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause<'a> {
    /// The client asked for what it may not have.
    Refused(Refusal),
    Disk(&'a Error),
}

impl Cause<'_> {
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::Refused(refusal) => refusal.errno,
            Self::Disk(error) => error.kind().into(),
        }
    }

    /// For the client: without the paths of the server.
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Refused(refusal) => refusal.why,
            Self::Disk(error) => error.what(),
        }
    }
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => f.write_str(refusal.why),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Record {
    stats: Arc<Stats>,
    tally: Arc<Tally>,
    /// Who it is about, as the log says it.
    peer: String,
    export: String,
    began: Instant,
    /// Answered since the clock was last read; neighbours that are alike are one.
    answered: Vec<Answered>,
    lines: Limiter,
}

#[derive(Debug, PartialEq, Eq)]
struct Answered {
    command: Command,
    arrived: Instant,
    count: u64,
}

impl Record {
    /// Begins the record of a client, with a line in the log.
    pub(super) fn begin(stats: &Arc<Stats>, session: &Session, peer: &str, tls: bool) -> Self {
        let began = Instant::now();
        let export = &session.export;
        if stats.may_log_coming() {
            let client = session.client.name();
            info!(%peer, client, export = %export.name, tls, read_only = export.read_only, "attached");
        }
        let client = Attached {
            peer: peer.to_owned(),
            export: export.name.clone(),
            identity: Arc::clone(&session.client),
            tls,
            read_only: export.read_only,
            since: began,
        };
        Self {
            stats: Arc::clone(stats),
            tally: stats.begin(export.disk.uuid(), client),
            peer: peer.to_owned(),
            export: export.name.clone(),
            began,
            answered: Vec::new(),
            lines: Limiter::new(FAILURE_LINES.0, FAILURE_LINES.1, began),
        }
    }

    /// The reply of a request is complete.
    #[inline]
    pub(super) fn answered(&mut self, to: ReplyTarget) {
        self.tally.moved(to.command, to.length);
        self.note(to);
    }

    #[inline]
    fn note(&mut self, ReplyTarget { command, arrived, .. }: ReplyTarget) {
        match self.answered.last_mut() {
            Some(last) if last.command == command && last.arrived == arrived => last.count += 1,
            _ => self.answered.push(Answered { command, arrived, count: 1 }),
        }
    }

    /// The reply of a request is complete, and an error.
    #[cold]
    pub(super) fn failed(&mut self, to: ReplyTarget, cause: Cause<'_>) {
        self.note(to);
        let errno = cause.errno();
        self.tally.failed(errno);
        let now = Instant::now();
        let Some(own) = self.lines.allow(now) else { return self.stats.suppressed() };
        let Some(all) = self.stats.may_log_failure(now) else { return self.stats.suppressed() };
        if own > 0 {
            info!(peer = %self.peer, suppressed = own, "lines about failed requests of this client were left out");
        }
        if all > 0 {
            info!(suppressed = all, "lines about failed requests of all clients were left out");
        }
        let (peer, export, command) = (&self.peer, &self.export, to.command.name());
        let (offset, length, errno) = (to.offset, to.length, errno.name());
        match cause {
            Cause::Refused(_) => {
                info!(%peer, %export, command, offset, length, errno, error = %cause, "request refused");
            }
            Cause::Disk(_) => {
                warn!(%peer, %export, command, offset, length, errno, error = %cause, "request failed");
            }
        }
    }

    /// Reads the clock for what was answered, before it is sent.
    #[inline]
    pub(super) fn record_latency(&mut self, in_flight: usize) {
        self.tally.in_flight.set(in_flight as u64);
        if !self.answered.is_empty() {
            let now = Instant::now();
            for Answered { command, arrived, count } in self.answered.drain(..) {
                self.tally.answered(command, now.saturating_duration_since(arrived), count);
            }
        }
    }

    /// Ends the record, with a line in the log; `error`: why the server ended the connection.
    pub(super) fn end(mut self, error: Option<&std::io::Error>) {
        self.record_latency(0);
        if error.is_some() {
            self.stats.cut_off.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if !self.stats.may_log_coming() {
            return;
        }
        let mut counts = Counts::default();
        counts.add(&self.tally);
        let (peer, export, seconds) = (&self.peer, &self.export, self.began.elapsed().as_secs_f64());
        let (requests, failed, unlogged) = (counts.requests(), counts.failures(), self.lines.suppressed());
        let (read_bytes, written_bytes) = (counts.of(Command::Read).bytes, counts.of(Command::Write).bytes);
        match error {
            None => info!(
                %peer, %export, seconds, requests, failed, unlogged, read_bytes, written_bytes, "detached"
            ),
            Some(error) => info!(
                %peer, %export, seconds, requests, failed, unlogged, read_bytes, written_bytes, %error, "cut off"
            ),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.stats.end(&self.tally);
    }
}
