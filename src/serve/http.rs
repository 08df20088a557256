//! HTTP, as far as this program serves it: routes over HTTP/1, one request a connection.
//!
//! 1. Connections are bounded in number and time; the oldest makes room for a new one, so that clients which connect
//!    and say nothing keep nobody out.
//! 2. A request has to name this machine as its host: a page in somebody's browser that has its own name resolve to a
//!    loopback address gets nothing (DNS rebinding). Not where other machines may connect anyway.
//! 3. It all runs on one thread of its own, which no request of another front end waits for.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::ListenerPolicy;
use super::accept::{Arrival, Arrivals, Stream, accept};
use super::listen::{self, Listener, Reach};
use super::places::{Place, Places};
use crate::{Error, ErrorKind, Result};

/// What bounds an HTTP server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpLimits {
    /// Connections at once; the oldest makes room for a further one.
    pub(crate) connections: usize,
    /// From accept to the last byte of the answer.
    pub(crate) timeout: Duration,
    /// Bytes of a request's head.
    pub(crate) head: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { connections: 16, timeout: Duration::from_secs(10), head: 16 << 10 }
    }
}

/// A bound endpoint; it answers from [`HttpServer::start`] on. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct HttpServer {
    /// What is served, as errors, the log and its thread call it.
    what: &'static str,
    listener: Option<Listener>,
    addr: SocketAddr,
    limits: HttpLimits,
    /// Answers whatever host a request names.
    any_host: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is answered to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "text/plain", body: body.into() }
    }
}

type Handler = Box<dyn Fn(&Request<Incoming>) -> Answer + Send + Sync>;

/// What is served, by path.
#[derive(Default)]
pub(crate) struct Routes(Vec<(&'static str, Handler)>);

impl Routes {
    /// Has `handler` answer what GETs `path`. It runs on the thread of the server.
    #[must_use]
    pub(crate) fn get(
        mut self,
        path: &'static str,
        handler: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.0.push((path, Box::new(handler)));
        self
    }

    fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET it\n");
        }
        match self.0.iter().find(|(path, _)| *path == request.uri().path()) {
            Some((_, handler)) => handler(request),
            None => {
                let paths: Vec<_> = self.0.iter().map(|(path, _)| *path).collect();
                Answer::text(StatusCode::NOT_FOUND, format!("there are only {} here\n", paths.join(" and ")))
            }
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(path, _)| path)).finish()
    }
}

impl HttpServer {
    /// Binds an endpoint for `what`.
    pub(crate) fn bind(what: &'static str, addr: SocketAddr, reach: Reach, limits: HttpLimits) -> Result<Self> {
        let (listener, addr) = listen::tcp(addr, reach, &ListenerPolicy::default())?;
        Ok(Self::of(what, listener, addr, reach, limits))
    }

    /// Takes a listening TCP socket that was bound by somebody else, as in socket activation.
    pub(crate) fn adopt(what: &'static str, socket: OwnedFd, reach: Reach, limits: HttpLimits) -> Result<Self> {
        let listener = listen::adopt(socket, reach, &ListenerPolicy::default())?;
        let no_tcp = || Error::new(ErrorKind::InvalidInput, format!("the socket for {what} is no TCP socket"));
        let addr = listener.tcp_addr().ok_or_else(no_tcp)?;
        Ok(Self::of(what, listener, addr, reach, limits))
    }

    fn of(what: &'static str, listener: Listener, addr: SocketAddr, reach: Reach, limits: HttpLimits) -> Self {
        let any_host = reach == Reach::Anybody;
        Self { what, listener: Some(listener), addr, limits, any_host, stop: None, thread: None }
    }

    /// With the port that was chosen, if it was 0.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers from now on. Not to be called on a tokio runtime.
    pub(crate) fn start(&mut self, routes: Routes) -> Result<()> {
        let Self { what, limits, any_host, .. } = *self;
        let failed = |error| Error::io(format!("cannot serve {what}"), error);
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::new(Shared { what, routes, limits, any_host, places: Places::new(limits.connections) });
        let accepting = runtime.block_on(async { accept(listener, shared) }).map_err(failed)?;
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        };
        self.thread = Some(std::thread::Builder::new().name(what.into()).spawn(serve).map_err(failed)?);
        self.stop = Some(stop);
        Ok(())
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the {} thread panicked", self.what);
        }
    }
}

/// What all connections of a server share.
#[derive(Debug)]
struct Shared {
    what: &'static str,
    routes: Routes,
    limits: HttpLimits,
    any_host: bool,
    places: Arc<Places>,
}

impl Arrivals for Shared {
    async fn arrived(self: &Arc<Self>, client: Arrival) {
        tokio::spawn(serve(client.stream, self.places.take(), Arc::clone(self)));
    }

    fn not_accepted(&self, error: &io::Error) {
        tracing::debug!(%error, "a client of the {} cannot be accepted", self.what);
    }
}

async fn serve(stream: Stream, mut place: Place, shared: Arc<Shared>) {
    let (what, limits, of_service) = (shared.what, shared.limits, Arc::clone(&shared));
    let answer = service_fn(move |request| {
        let shared = Arc::clone(&of_service);
        async move { Ok::<_, Infallible>(shared.answer(&request)) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(limits.head)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.timeout)
        .serve_connection(TokioIo::new(stream), answer);
    match place.hold(tokio::time::timeout(limits.timeout, connection)).await {
        None | Some(Ok(Ok(()))) => {}
        Some(Ok(Err(error))) => tracing::debug!(%error, "a client of the {what} was let go"),
        Some(Err(_)) => tracing::debug!("a client of the {what} took too long"),
    }
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Answer { status, content_type, body } = match self.any_host || names_this_machine(request) {
            true => self.routes.answer(request),
            false => Answer::text(StatusCode::MISDIRECTED_REQUEST, "ask for localhost or 127.0.0.1\n"),
        };
        let response = Response::builder().status(status).header(CONTENT_TYPE, content_type).header(ALLOW, "GET, HEAD");
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
