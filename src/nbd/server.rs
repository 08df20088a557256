//! The server: sockets in, connections out, and an orderly end.
//!
//! 1. Handshakes run as tasks. Which of them go on, and which clients are let in, [`Clients`] says.
//! 2. A client that reaches transmission gets a thread of its own and counts among the connections.
//! 3. At the end: no new clients; requests that still arrive are refused for a while; then [`Clients`] ends them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustls::ServerConnection;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::Config;
use super::connection::{Connection, Shared};
use super::handshake::{Handshake, Outcome, Security, ServerContext};
use super::local_attach::LocalAttach;
use super::session::Session;
use crate::serve::accept::{Arrival, Arrivals, Stream, accept};
use crate::serve::busy_poll::PollSlots;
use crate::serve::certificate;
use crate::serve::channel::Channel;
use crate::serve::client_log::Record;
use crate::serve::clients::{Admitted, Clients};
use crate::serve::listen::{self, Listener, Reach, SocketAccess, SocketFile};
use crate::serve::server_stats::{Attached, Stats};
use crate::serve::turned_away::{HandshakeEnd, Reason};
use crate::serve::{Exports, Identity, ListenerPolicy, Listening, TlsUse};
use crate::{Error, ErrorKind, Result};

/// Bytes of stack of a connection's thread.
const STACK: usize = 512 << 10;

/// An NBD server over a set of exports. Bind it to sockets, then run it.
pub struct Server {
    hub: Arc<Hub>,
    listeners: Vec<Listener>,
    files: Vec<SocketFile>,
}

impl Server {
    /// [`crate::ErrorKind::InvalidInput`] when settings contradict each other.
    pub fn new(exports: Arc<dyn Exports>, config: Config) -> Result<Self> {
        config.check()?;
        let stats = Stats::new(&config.limits);
        let hub = Arc::new(Hub::new(exports, Arc::new(config), stats));
        Ok(Self { hub, listeners: Vec::new(), files: Vec::new() })
    }

    /// What it counts, for whoever watches it.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.hub.stats)
    }

    /// A way in for verbs of this program.
    #[must_use]
    pub fn local_attach(&self) -> LocalAttach {
        LocalAttach::new(Arc::clone(&self.hub))
    }

    /// Listens on a unix socket that only this user may connect to (0600). A stale socket file is replaced, a live one
    /// refused with [`crate::ErrorKind::InUse`]. The file is removed when the server ends.
    pub fn listen_unix(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.listen_unix_for(path, SocketAccess::default())
    }

    /// The same for others than this user.
    pub fn listen_unix_for(&mut self, path: impl AsRef<Path>, access: SocketAccess) -> Result<()> {
        let (listener, file) = listen::unix(path.as_ref(), access, self.policy())?;
        self.listeners.push(listener);
        self.files.push(file);
        Ok(())
    }

    /// Listens on a TCP address and returns it with the port that was chosen, if it was 0. An address that is not
    /// loopback is refused unless clients have to prove themselves by a certificate, or
    /// [`ListenerPolicy::insecure_tcp`](crate::serve::ListenerPolicy::insecure_tcp) or
    /// [`insecure_anonymous_clients`](crate::serve::ListenerPolicy::insecure_anonymous_clients) says otherwise.
    pub fn listen_tcp(&mut self, addr: SocketAddr) -> Result<SocketAddr> {
        let (listener, addr) = listen::tcp(addr, self.reach(), self.policy())?;
        self.listeners.push(listener);
        Ok(addr)
    }

    /// Takes a listening unix or TCP socket that was bound by somebody else, as in socket activation.
    pub fn adopt(&mut self, socket: OwnedFd) -> Result<()> {
        self.listeners.push(listen::adopt(socket, self.reach(), self.policy())?);
        Ok(())
    }

    fn policy(&self) -> &ListenerPolicy {
        &self.hub.shared.config.listeners
    }

    fn reach(&self) -> Reach {
        let policy = self.policy();
        let proven = policy.asks_clients() || policy.insecure_anonymous_clients;
        match policy.tcp_tls() {
            _ if policy.insecure_tcp => Reach::Anybody,
            TlsUse::Required if proven => Reach::Anybody,
            TlsUse::Required => Reach::ThisMachine {
                lacking: "and no client has to prove who it is",
                hint: "--tls-client-ca asks clients for a certificate; --insecure-anonymous-clients lets anybody read and write the disks",
            },
            _ => Reach::ThisMachine {
                lacking: "and without TLS",
                hint: "--tls-cert, --tls-key and --tls-client-ca protect it; --insecure-tcp lets anybody read and write the disks",
            },
        }
    }

    /// The sockets it listens on, and who may attach there.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        self.listeners.iter().filter_map(Listener::listening).collect()
    }

    /// Serves until `stop` is ready, then: accepts no more, answers what still arrives with "shutting down" for
    /// [`shutdown_grace`](crate::serve::Limits::shutdown_grace), or with none carries out what has arrived, finishes
    /// what is in flight, and returns when the last connection has ended. Flushing the disks is left to their owner.
    /// Runs on a multi-threaded tokio runtime with time and I/O.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { hub, listeners, files } = self;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let accept = accept(listener, Arc::clone(&hub)).map_err(|e| Error::io("cannot accept connections", e))?;
            accepting.spawn(accept);
        }
        stop.await;
        // Handshakes see this before a new client could be accepted in their place. Without a grace nobody is refused,
        // so that no client takes the end for an error of the disk: see `Limits::shutdown_grace`.
        hub.shared.stopping.store(!hub.shared.config.limits.shutdown_grace.is_zero(), Ordering::Relaxed);
        accepting.shutdown().await;
        drop(files);
        hub.clients.end().await;
        Ok(())
    }
}

/// What a handshake leads to.
struct Ready {
    session: Session,
    socket: OwnedFd,
    tls: Option<ServerConnection>,
    place: Admitted,
    /// Goes with the client.
    kept: Option<Box<dyn Send>>,
}

/// Everything that is alive in a running server.
pub(super) struct Hub {
    exports: Arc<dyn Exports>,
    shared: Arc<Shared>,
    pub(super) stats: Arc<Stats>,
    clients: Arc<Clients>,
}

impl Hub {
    pub(super) fn new(exports: Arc<dyn Exports>, config: Arc<Config>, stats: Arc<Stats>) -> Self {
        let shared = Arc::new(Shared {
            buffers: Arc::clone(&stats.buffers),
            workers: Arc::clone(&stats.workers),
            stopping: Arc::new(AtomicBool::new(false)),
            lookouts: PollSlots::new(),
            config,
        });
        Self { exports, clients: Clients::new(&shared.config.limits, &stats), shared, stats }
    }

    /// Starts the handshake with a client.
    fn greet(self: &Arc<Self>, client: Arrival) {
        let Arrival { stream, from, tls } = client;
        let (identity, peer, security) = (from.identity(), from.to_string(), Security::Plain(tls));
        let (mut greeting, hub) = (self.clients.greet(), Arc::clone(self));
        tokio::spawn(async move {
            match greeting.hold(hub.negotiate(stream, security, identity, &peer)).await {
                Ok(Some(ready)) => hub.start(ready, peer),
                Ok(None) => debug!(%peer, "the client left during the handshake"),
                Err(ended) => {
                    if matches!(ended, HandshakeEnd::Left) {
                        debug!(%peer, "the client broke the handshake off");
                    }
                    greeting.failed(&peer, ended);
                }
            }
        });
    }

    /// `None`: the client ended it in order.
    async fn negotiate(
        &self,
        mut stream: Stream,
        security: Security,
        identity: Identity,
        peer: &str,
    ) -> std::result::Result<Option<Ready>, HandshakeEnd> {
        let config = &self.shared.config;
        let mut place = None;
        let mut admit = || {
            place = self.clients.admit();
            place.is_some()
        };
        let Shared { stopping, .. } = &*self.shared;
        let at = ServerContext { exports: &self.exports, config, stopping, stats: &self.stats };
        let mut handshake = Handshake::start(&mut stream, at, peer, identity, &mut admit).await?;
        let (session, stream, tls) = match handshake.haggle(&mut stream, security).await? {
            Outcome::Transmit(session) => (session, stream, None),
            Outcome::StartTls => {
                let Some(tls) = &config.listeners.tls else { return Ok(None) };
                let accepted = handshake.wait(TlsAcceptor::from(tls.config()).accept(stream)).await;
                let mut stream = accepted.map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut => error.into(),
                    _ => HandshakeEnd::away(Reason::Tls, error.to_string()),
                })?;
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                handshake.proven(shown.map(|certificate| certificate::names(certificate)).unwrap_or_default());
                let Outcome::Transmit(session) = handshake.haggle(&mut stream, Security::Established).await? else {
                    handshake.wait(stream.shutdown()).await?;
                    return Ok(None);
                };
                let (stream, tls) = stream.into_inner();
                (session, stream, Some(tls))
            }
            Outcome::End => {
                handshake.wait(stream.shutdown()).await?;
                return Ok(None);
            }
        };
        let Some(place) = place else { return Ok(None) };
        Ok(Some(Ready { session: *session, socket: stream.into_socket()?, tls, place, kept: None }))
    }

    /// Gives a client that needs no handshake its thread, and says how many bytes one request may carry.
    pub(super) fn admit(self: &Arc<Self>, session: Session, socket: OwnedFd, kept: Box<dyn Send>) -> Result<u32> {
        let Some(place) = self.clients.admit() else {
            let most = self.shared.config.limits.max_connections;
            return Err(Error::new(ErrorKind::LimitExceeded, format!("the server has its {most} clients already"))
                .hint("detach one, or serve with a larger --max-connections"));
        };
        self.start(Ready { session, socket, tls: None, place, kept: Some(kept) }, "a verb of this program".into());
        Ok(self.shared.config.max_request)
    }

    /// Gives a client its thread.
    fn start(self: &Arc<Self>, ready: Ready, peer: String) {
        let Ready { session, socket, tls, place, kept } = ready;
        let (shared, hub) = (Arc::clone(&self.shared), Arc::clone(self));
        let channel = match Channel::new(socket, tls, Connection::tick(&shared.config.limits)) {
            Ok(channel) => channel,
            Err(error) => return warn!(%peer, %error, "cannot serve a client"),
        };
        let Some(guard) = self.clients.attach(place, channel.socket(), kept) else { return };
        let serve = move || {
            // Until the connection has ended.
            let _guard = guard;
            let client = Attached {
                peer: peer.clone(),
                export: session.export.name.clone(),
                identity: Arc::clone(&session.client),
                tls: channel.is_tls(),
                read_only: session.export.read_only,
                since: Instant::now(),
            };
            let record = Record::begin(&hub.stats, session.export.disk.uuid(), client);
            match Connection::new(shared, session, channel, record) {
                Ok(connection) => connection.run(),
                Err(error) => warn!(%peer, %error, "cannot serve a client"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("nbd-client".into()).stack_size(STACK).spawn(serve) {
            warn!(%error, "no thread for a client");
        }
    }
}

impl Arrivals for Hub {
    async fn arrived(self: &Arc<Self>, client: Arrival) {
        self.greet(client);
    }

    fn not_accepted(&self, error: &io::Error) {
        warn!(%error, "cannot accept a client");
        self.clients.give_up_oldest_handshake();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sockets: Vec<_> = self.files.iter().map(SocketFile::path).collect();
        f.debug_struct("Server")
            .field("config", &self.hub.shared.config)
            .field("sockets", &sockets)
            .finish_non_exhaustive()
    }
}
