//! What one connection notes of its answers: numbers for the metrics, and lines for the log.
//!
//! The clock is read when requests arrive and once before replies are sent, not for each request: all that were
//! answered in between have waited until then.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};
use uuid::Uuid;

use super::counters::{Command, Counts, RequestError, Tally};
use super::log_limiter::Limiter;
use super::server_stats::{Attached, Stats};
use crate::Error;

/// Lines about failed requests of one client: at once, and then in a second.
const FAILURE_LINES: (u32, f64) = (10, 1.0);

/// A request, as far as it is counted and logged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoggedRequest {
    pub(crate) command: Command,
    /// Byte of the export at which it begins.
    pub(crate) offset: u64,
    /// Bytes that it asks for.
    pub(crate) length: u64,
    pub(crate) arrived: Instant,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Record {
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
    /// Begins the record of a client that has attached `disk`, with a line in the log.
    pub(crate) fn begin(stats: &Arc<Stats>, disk: Uuid, client: Attached) -> Self {
        let Attached { peer, export, tls, read_only, since: began, .. } = &client;
        let began = *began;
        if stats.may_log_coming() {
            info!(%peer, client = client.identity.name(), %export, tls, read_only, "attached");
        }
        let (peer, export) = (peer.clone(), export.clone());
        Self {
            stats: Arc::clone(stats),
            tally: stats.begin(disk, client),
            peer,
            export,
            began,
            answered: Vec::new(),
            lines: Limiter::new(FAILURE_LINES.0, FAILURE_LINES.1, began),
        }
    }

    /// The reply of a request is complete.
    #[inline]
    pub(crate) fn answered(&mut self, request: LoggedRequest) {
        self.tally.moved(request.command, request.length);
        self.note(request);
    }

    #[inline]
    fn note(&mut self, LoggedRequest { command, arrived, .. }: LoggedRequest) {
        match self.answered.last_mut() {
            Some(last) if last.command == command && last.arrived == arrived => last.count += 1,
            _ => self.answered.push(Answered { command, arrived, count: 1 }),
        }
    }

    /// The reply of a request is complete, and an error: the client asked for what it may not have.
    #[cold]
    pub(crate) fn refused(&mut self, request: LoggedRequest, kind: RequestError, why: &str) {
        if self.may_log_failure(request, kind) {
            let (peer, export, errno) = (&self.peer, &self.export, kind.name());
            let (command, LoggedRequest { offset, length, .. }) = (request.command.name(), request);
            info!(%peer, %export, command, offset, length, errno, error = %why, "request refused");
        }
    }

    /// The reply of a request is complete, and an error of the disk.
    #[cold]
    pub(crate) fn failed(&mut self, request: LoggedRequest, kind: RequestError, error: &Error) {
        if self.may_log_failure(request, kind) {
            let (peer, export, errno) = (&self.peer, &self.export, kind.name());
            let (command, LoggedRequest { offset, length, .. }) = (request.command.name(), request);
            warn!(%peer, %export, command, offset, length, errno, %error, "request failed");
        }
    }

    /// Counts a failed request. Whether a line about it may be written.
    fn may_log_failure(&mut self, request: LoggedRequest, kind: RequestError) -> bool {
        self.note(request);
        self.tally.failed(kind);
        let now = Instant::now();
        let own = self.lines.allow(now);
        let Some((own, all)) = own.and_then(|own| Some((own, self.stats.may_log_failure(now)?))) else {
            self.stats.suppressed();
            return false;
        };
        if own > 0 {
            info!(peer = %self.peer, suppressed = own, "lines about failed requests of this client were left out");
        }
        if all > 0 {
            info!(suppressed = all, "lines about failed requests of all clients were left out");
        }
        true
    }

    /// Reads the clock for what was answered, before it is sent.
    #[inline]
    pub(crate) fn record_latency(&mut self, in_flight: usize) {
        self.tally.in_flight.set(in_flight as u64);
        if !self.answered.is_empty() {
            let now = Instant::now();
            for Answered { command, arrived, count } in self.answered.drain(..) {
                self.tally.answered(command, now.saturating_duration_since(arrived), count);
            }
        }
    }

    /// Ends the record, with a line in the log; `error`: why the server ended the connection.
    pub(crate) fn end(mut self, error: Option<&std::io::Error>) {
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
