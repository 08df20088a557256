//! The endpoint: `GET /metrics` and `GET /healthz` over HTTP/1, one request a connection.
//!
//! 1. Connections are bounded in number and time; the oldest makes room for a new one, so that clients which connect
//!    and say nothing keep nobody out.
//! 2. A look at the disks is shared by all who ask within a while, and that while grows with what a look costs: however
//!    many ask, looking takes a sixth of one thread's time at most.
//! 3. A request has to name this machine as its host: a page in somebody's browser that has its own name resolve to a
//!    loopback address gets nothing (DNS rebinding). Not where the metrics are open to other machines anyway.
//! 4. It all runs on one thread of its own, which no request of an NBD client waits for.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;

use super::process::Process;
use super::sample::{Observed, Sampler};
use super::{families, health};
use crate::serve::ListenerPolicy;
use crate::serve::listen::{self, Listener, Reach, Socket};
use crate::{Error, ErrorKind, Result};

/// Clients at once.
const CONNECTIONS: usize = 16;
/// From accept to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD: usize = 16 << 10;
/// How long a look serves at least.
const FRESH: Duration = Duration::from_millis(100);
/// How long it serves, in times of what it cost.
const COST: u32 = 5;
/// How long accepting pauses when the system has no descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// What the encoder writes.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A bound endpoint; it answers from [`MetricsServer::start`] on. Dropping it stops it.
#[derive(Debug)]
pub struct MetricsServer {
    listener: Option<std::net::TcpListener>,
    process: Option<Process>,
    addr: SocketAddr,
    /// Open to other machines.
    exposed: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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
        let (listener, addr) = listen::tcp(addr, reach(exposed), &ListenerPolicy::default())?;
        Self::of(listener, addr, exposed)
    }

    /// Takes a listening TCP socket that was bound by somebody else, as in socket activation.
    pub fn adopt(socket: OwnedFd, exposed: bool) -> Result<Self> {
        let listener = listen::adopt(socket, reach(exposed), &ListenerPolicy::default())?;
        let no_tcp = || Error::new(ErrorKind::InvalidInput, "the socket for metrics is no TCP socket");
        let addr = listener.tcp_addr().ok_or_else(no_tcp)?;
        Self::of(listener, addr, exposed)
    }

    fn of(listener: Listener, addr: SocketAddr, exposed: bool) -> Result<Self> {
        let failed = |error| Error::io(format!("cannot serve metrics on {addr}"), error);
        let Socket::Tcp(listener) = listener.into_socket() else {
            return Err(failed(io::ErrorKind::Unsupported.into()));
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let process = Process::open().map_err(failed)?;
        Ok(Self { listener: Some(listener), process: Some(process), addr, exposed, stop: None, thread: None })
    }

    /// With the port that was chosen, if it was 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers from now on.
    pub fn start(&mut self, source: Observed) -> Result<()> {
        let failed = |error| Error::io("cannot serve metrics", error);
        let (Some(listener), Some(process)) = (self.listener.take(), self.process.take()) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let looks =
            Arc::new(Looks { latest: Mutex::new(Latest::new(Sampler::new(source, process))), any_host: self.exposed });
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, looks) => {}
                    _ = stopped => {}
                }
            });
        };
        self.thread = Some(std::thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failed)?);
        self.stop = Some(stop);
        Ok(())
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metrics thread panicked");
        }
    }
}

async fn accept(listener: std::net::TcpListener, looks: Arc<Looks>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics cannot be served"),
    };
    let mut clients: VecDeque<Task<()>> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                clients.retain(|client| !client.is_finished());
                if clients.len() >= CONNECTIONS
                    && let Some(oldest) = clients.pop_front()
                {
                    oldest.abort();
                }
                clients.push_back(tokio::spawn(serve(stream, Arc::clone(&looks))));
            }
            Err(error) => {
                tracing::debug!(%error, "a client of the metrics cannot be accepted");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, looks: Arc<Looks>) {
    let answer = service_fn(move |request| {
        let looks = Arc::clone(&looks);
        async move { Ok::<_, Infallible>(looks.answer(&request)) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics was let go"),
        Err(_) => tracing::debug!("a client of the metrics took too long"),
    }
}

#[derive(Debug)]
struct Looks {
    latest: Mutex<Latest>,
    any_host: bool,
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

impl Looks {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, kind, body) = match (request.method(), request.uri().path()) {
            _ if !(self.any_host || names_this_machine(request)) => {
                (StatusCode::MISDIRECTED_REQUEST, "text/plain", "ask for localhost or 127.0.0.1\n".into())
            }
            (&Method::GET | &Method::HEAD, "/metrics") => match &self.latest.lock().look().text {
                Some(text) => (StatusCode::OK, TEXT, text.clone()),
                None => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the metrics cannot be written\n".into()),
            },
            (&Method::GET | &Method::HEAD, "/healthz") => match &self.latest.lock().look().unfit {
                None => (StatusCode::OK, "text/plain", "ok\n".into()),
                Some(reasons) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", reasons.clone()),
            },
            (&Method::GET | &Method::HEAD, _) => {
                (StatusCode::NOT_FOUND, "text/plain", "there are only /metrics and /healthz here\n".into())
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET it\n".into()),
        };
        let response = Response::builder().status(status).header(CONTENT_TYPE, kind).header(ALLOW, "GET, HEAD");
        // Only a header that does not parse could fail, and these are fixed.
        response.body(Full::new(body)).unwrap_or_default()
    }
}

/// Whether the host that a request asks for is a loopback address or `localhost`. One that names no host is no
/// browser's.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let host = match (request.uri().authority(), request.headers().get(HOST)) {
        (Some(authority), _) => Some(authority.clone()),
        (None, None) => return true,
        (None, Some(host)) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
    };
    host.is_some_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let loopback = name.parse().is_ok_and(|addr: IpAddr| addr.to_canonical().is_loopback());
        loopback || name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: Option<&str>, target: &str) -> bool {
        let request = Request::get(target);
        let request = if let Some(host) = host { request.header(HOST, host) } else { request };
        names_this_machine(&request.body(()).unwrap())
    }

    #[test]
    fn only_a_loopback_host_is_this_machine() {
        for host in ["localhost", "LOCALHOST:9434", "localhost.:9434", "127.0.0.1:9434", "127.8.9.1", "[::1]:9434"] {
            assert!(asked(Some(host), "/metrics"), "{host}");
        }
        assert!(asked(None, "/metrics"));
        for host in [
            "attacker.example",
            "attacker.example:9434",
            "localhost.attacker.example",
            "192.0.2.1",
            "0.0.0.0",
            "",
            "a b",
            "@",
        ] {
            assert!(!asked(Some(host), "/metrics"), "{host:?}");
        }
        // An absolute target counts instead of the header (RFC 9112, section 3.2.2).
        assert!(!asked(Some("localhost"), "http://attacker.example/metrics"));
        assert!(asked(Some("attacker.example"), "http://localhost:9434/metrics"));
    }
}
