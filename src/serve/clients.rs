//! Which clients a server has, from their arrival to its end: the one place that lets them in.
//!
//! 1. Handshakes are counted apart from clients that are attached, and the oldest makes room for a new one, so clients
//!    that connect and say nothing keep no other out.
//! 2. An attached client has one of so many places until it leaves: it never makes room for another.
//! 3. At the end no more requests are read, and what is in flight is finished and answered; a client that does not take
//!    its answers is cut off.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::limits::Limits;
use super::places::{Place, Places};
use super::server_stats::Stats;
use super::turned_away::{HandshakeEnd, Reason};

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Clients {
    stats: Arc<Stats>,
    handshakes: Arc<Places>,
    /// One for each attached client.
    places: Arc<Semaphore>,
    next_id: AtomicU64,
    /// Sockets of attached clients.
    sockets: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    /// Handshakes and attached clients together.
    alive: watch::Sender<usize>,
    /// No more requests are read: clients that attach now are cut off at once.
    cut: AtomicBool,
    grace: Duration,
    stall_timeout: Duration,
}

impl Clients {
    pub(crate) fn new(limits: &Limits, stats: &Arc<Stats>) -> Arc<Self> {
        Arc::new(Self {
            stats: Arc::clone(stats),
            handshakes: Places::new(limits.max_handshakes),
            places: Arc::new(Semaphore::new(limits.max_connections)),
            next_id: AtomicU64::new(0),
            sockets: Mutex::default(),
            alive: watch::Sender::new(0),
            cut: AtomicBool::new(false),
            grace: limits.shutdown_grace,
            stall_timeout: limits.stall_timeout,
        })
    }

    /// Begins the handshake of a client that has arrived.
    pub(crate) fn greet(self: &Arc<Self>) -> Greeting {
        let place = self.handshakes.take();
        self.stats.handshakes.fetch_add(1, Ordering::Relaxed);
        self.alive.send_modify(|alive| *alive += 1);
        Greeting { clients: Arc::clone(self), place }
    }

    /// A descriptor is missing: a handshake that is waited for holds one.
    pub(crate) fn give_up_oldest_handshake(&self) {
        self.handshakes.give_up_oldest();
    }

    /// A place for a client that is about to attach; `None`: as many are attached as may be.
    pub(crate) fn admit(&self) -> Option<Admitted> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.stats.connections_refused.fetch_add(1, Ordering::Relaxed);
        }
        place.map(Admitted)
    }

    /// The client of `socket` is attached, until what this returns is dropped; `kept` goes with it. `None`: the server
    /// reads no more requests.
    pub(crate) fn attach(
        self: &Arc<Self>,
        place: Admitted,
        socket: Arc<OwnedFd>,
        kept: Option<Box<dyn Send>>,
    ) -> Option<AttachedClient> {
        self.alive.send_modify(|alive| *alive += 1);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.sockets.lock().insert(id, socket);
        let client = AttachedClient { clients: Arc::clone(self), id, _place: place, kept };
        // In this order: either the end finds the socket, or this finds the end.
        (!self.cut.load(Ordering::SeqCst)).then_some(client)
    }

    /// Ends everything that is alive.
    pub(crate) async fn end(&self) {
        if self.all_gone_within(self.grace).await {
            return;
        }
        self.cut.store(true, Ordering::SeqCst);
        self.handshakes.give_up_all();
        self.shut(Shutdown::Read);
        if !self.all_gone_within(self.stall_timeout).await {
            tracing::warn!("some clients do not take their last replies");
            self.shut(Shutdown::Both);
            self.all_gone_within(self.grace.max(Duration::from_secs(1))).await;
        }
    }

    fn shut(&self, how: Shutdown) {
        for client in self.sockets.lock().values() {
            let _ = rustix::net::shutdown(client, how);
        }
    }

    async fn all_gone_within(&self, limit: Duration) -> bool {
        let mut alive = self.alive.subscribe();
        tokio::time::timeout(limit, alive.wait_for(|alive| *alive == 0)).await.is_ok()
    }
}

/// The handshake of a client, as long as it lasts.
#[derive(Debug)]
pub(crate) struct Greeting {
    clients: Arc<Clients>,
    place: Place,
}

impl Greeting {
    /// What `handshake` comes to, unless it is ended from outside.
    pub(crate) async fn hold<T>(
        &mut self,
        handshake: impl Future<Output = Result<T, HandshakeEnd>>,
    ) -> Result<T, HandshakeEnd> {
        match self.place.hold(handshake).await {
            Some(done) => done,
            None if self.clients.cut.load(Ordering::SeqCst) => Err(HandshakeEnd::Left),
            None => Err(HandshakeEnd::away(
                Reason::Handshakes,
                "it made room for a newer client (--max-handshakes, or no descriptors are left)",
            )),
        }
    }

    /// It ended without a client.
    pub(crate) fn failed(&self, peer: &str, end: HandshakeEnd) {
        self.clients.stats.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        if let HandshakeEnd::TurnedAway(reason, why) = end {
            self.clients.stats.turned_away(peer, reason, why);
        }
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.clients.stats.handshakes.fetch_sub(1, Ordering::Relaxed);
        self.clients.alive.send_modify(|alive| *alive -= 1);
    }
}

/// A place among the attached clients.
#[derive(Debug)]
pub(crate) struct Admitted(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// A client that is attached.
pub(crate) struct AttachedClient {
    clients: Arc<Clients>,
    id: u64,
    _place: Admitted,
    kept: Option<Box<dyn Send>>,
}

impl Drop for AttachedClient {
    fn drop(&mut self) {
        self.clients.sockets.lock().remove(&self.id);
        // Before the client is taken for gone.
        drop(self.kept.take());
        self.clients.alive.send_modify(|alive| *alive -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_client_keeps_its_place_until_it_leaves_and_the_end_waits_for_it() {
        let limits = Limits { max_connections: 1, shutdown_grace: Duration::ZERO, ..Limits::default() };
        let stats = Stats::new(&limits);
        let clients = Clients::new(&limits, &stats);
        let socket = || UnixStream::pair().unwrap();
        let (near, _far) = socket();
        let mut received = near.try_clone().unwrap();
        let client = clients.attach(clients.admit().unwrap(), Arc::new(near.into()), None).unwrap();
        assert!(clients.admit().is_none());
        assert_eq!(stats.read().connections_refused_total, 1);
        // Leaves once no more can be read of it.
        let leaving = std::thread::spawn(move || {
            assert_eq!(received.read(&mut [0]).unwrap(), 0);
            drop(client);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut greeting = clients.greet();
            let silent = async move { greeting.hold(std::future::pending::<Result<(), _>>()).await };
            let (ended, ()) = tokio::join!(silent, clients.end());
            assert!(matches!(ended, Err(HandshakeEnd::Left)), "{ended:?}");
        });
        leaving.join().unwrap();
        let place = clients.admit().expect("it has left");
        assert!(clients.attach(place, Arc::new(socket().0.into()), None).is_none(), "no more is served");
    }
}
