//! The endpoint: `GET /metrics` and `GET /healthz`.
//!
//! A look at the disks is shared by all who ask within a while, and that while grows with what a look costs: however
//! many ask, looking takes a sixth of one thread's time at most.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use parking_lot::Mutex;

use super::process::Process;
use super::sample::{Observed, Sampler};
use super::{families, health};
use crate::serve::http::{Answer, HttpLimits, HttpServer, Routes};
use crate::serve::listen::Reach;
use crate::{Error, Result};

/// What is served, as errors and the log call it.
const WHAT: &str = "metrics";
/// How long a look serves at least.
const FRESH: Duration = Duration::from_millis(100);
/// How long it serves, in times of what it cost.
const COST: u32 = 5;
/// What the encoder writes.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A bound endpoint; it answers from [`MetricsServer::start`] on. Dropping it stops it.
#[derive(Debug)]
pub struct MetricsServer {
    http: HttpServer,
    process: Option<Process>,
}

/// What is told is no secret of the disks, but names them.
fn reach(exposed: bool) -> Reach {
    match exposed {
        true => Reach::Anybody,
        false => Reach::ThisMachine {
            lacking: "and the metrics have no password",
            hint: "--insecure-metrics lets other machines see what it tells of the disks",
        },
    }
}

impl MetricsServer {
    /// Binds it. Other than loopback addresses are refused unless `exposed`.
    pub fn bind(addr: SocketAddr, exposed: bool) -> Result<Self> {
        Self::of(HttpServer::bind(WHAT, addr, reach(exposed), HttpLimits::default())?)
    }

    /// Takes a listening TCP socket that was bound by somebody else, as in socket activation.
    pub fn adopt(socket: OwnedFd, exposed: bool) -> Result<Self> {
        Self::of(HttpServer::adopt(WHAT, socket, reach(exposed), HttpLimits::default())?)
    }

    fn of(http: HttpServer) -> Result<Self> {
        let failed = |error| Error::io(format!("cannot serve metrics on {}", http.addr()), error);
        let process = Process::open().map_err(failed)?;
        Ok(Self { http, process: Some(process) })
    }

    /// With the port that was chosen, if it was 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// Answers from now on.
    pub fn start(&mut self, source: Observed) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        let of_metrics = Arc::new(Mutex::new(Latest::new(Sampler::new(source, process))));
        let of_health = Arc::clone(&of_metrics);
        let routes = Routes::default()
            .get("/metrics", move |_| of_metrics.lock().look().metrics())
            .get("/healthz", move |_| of_health.lock().look().health());
        self.http.start(routes)
    }
}

#[derive(Debug)]
struct Latest {
    sampler: Sampler,
    look: Rendered,
    taken: Option<Instant>,
}

/// What is answered from one sample.
#[derive(Debug, Default)]
struct Rendered {
    /// `None`: it cannot be written.
    text: Option<Bytes>,
    /// Why the server is not fit to serve; `None`: it is.
    unfit: Option<Bytes>,
}

impl Rendered {
    fn metrics(&self) -> Answer {
        match &self.text {
            Some(text) => Answer { status: StatusCode::OK, content_type: TEXT, body: text.clone() },
            None => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
        }
    }

    fn health(&self) -> Answer {
        match &self.unfit {
            None => Answer::text(StatusCode::OK, "ok\n"),
            Some(reasons) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, reasons.clone()),
        }
    }
}

impl Latest {
    fn new(sampler: Sampler) -> Self {
        Self { sampler, look: Rendered::default(), taken: None }
    }

    fn look(&mut self) -> &Rendered {
        let serves = (self.sampler.took() * COST).max(FRESH);
        if self.taken.is_none_or(|taken| taken.elapsed() > serves) {
            let sample = self.sampler.sample();
            let poisoned =
                sample.disks.iter().filter(|disk| disk.disk_stats.is_some_and(|disk_stats| disk_stats.poisoned));
            let reasons = health::reasons(&sample.account, poisoned.map(|disk| disk.name.as_str()));
            let unfit = (!reasons.is_empty()).then(|| (reasons.join("\n") + "\n").into());
            self.look = Rendered { text: families::encode(sample).ok().map(Bytes::from), unfit };
            self.taken = Some(Instant::now());
        }
        &self.look
    }
}
