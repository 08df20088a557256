//! The listening side of the control socket: a thread that accepts, and one for each connection.
//!
//! As many connections as may be are served at once. For a further one the oldest gives way that has not sent a request
//! in full; where each has, the further one waits until a place is free.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::net::sockopt;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{REQUEST_BYTES, Reply, frame};
use crate::account::acts::{self, Asker};
use crate::account::failure::Failure;
use crate::account::registry::Registry;
use crate::account::request::Request;
use crate::io::peer::Peer;
use crate::serve::accept::{Arrival, Arrivals, accept};
use crate::serve::listen::{self, SocketFile};
use crate::serve::{ListenerPolicy, SocketAccess};
use crate::{Error, ErrorKind, Result};

/// Connections served at once.
const CONNECTIONS: usize = 16;
/// How often it is looked for a connection that gives way, while another one waits for a place.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a client may take to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may refuse to take its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A listening control socket. Dropping it stops it.
#[derive(Debug)]
pub struct ControlServer {
    file: SocketFile,
    /// Dropping it ends the accepting thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Listens at `path`, for this user alone, and answers requests about `registry`.
    pub fn start(path: &Path, registry: Arc<Registry>) -> Result<Self> {
        let (listener, file) = listen::unix(path, SocketAccess::default(), &ListenerPolicy::default())?;
        let failed = |error: io::Error| Error::io("cannot start the control socket", error).at_path(path);
        // What it accepts inherits this: every message then tells its sender's real user id, which is root's also where
        // root has become the owner of the account.
        sockopt::set_socket_passcred(&listener, true).map_err(|error| failed(error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let connections = Arc::new(Connections::new(registry));
        let accepting = runtime.block_on(async { accept(listener, Arc::clone(&connections)) }).map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
            connections.drain();
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve).map_err(failed)?;
        Ok(Self { file, stop: Some(stop), thread: Some(thread) })
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// Accepts no more, and returns when the requests in progress have been answered.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The connections being served.
#[derive(Debug)]
struct Connections {
    registry: Arc<Registry>,
    places: Arc<Semaphore>,
    /// The oldest first.
    open: Mutex<Vec<Arc<Client>>>,
    fewer: Condvar,
}

impl Connections {
    fn new(registry: Arc<Registry>) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        Self { registry, places, open: Mutex::default(), fewer: Condvar::new() }
    }

    /// Gives a connection its thread.
    fn serve(self: &Arc<Self>, stream: UnixStream, place: OwnedSemaphorePermit) {
        let client = Arc::new(Client { stream, state: Mutex::new(ClientState::Silent) });
        self.open.lock().push(Arc::clone(&client));
        let open = Open { client, connections: Arc::clone(self), _place: place };
        let started = std::thread::Builder::new().name("control-client".into()).spawn(move || {
            if let Err(error) = converse(&open.client, &open.connections.registry) {
                tracing::debug!(%error, "a control connection ended");
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "cannot start a thread for a control connection");
        }
    }

    /// A place, as soon as there is one.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            match tokio::time::timeout(LOOK_AGAIN, Arc::clone(&self.places).acquire_owned()).await {
                // It is never closed.
                Ok(place) => return place.ok(),
                Err(_) => self.end_oldest_silent(),
            }
        }
    }

    /// Ends the oldest connection that owes a request, if there is one.
    fn end_oldest_silent(&self) {
        if self.open.lock().iter().any(|client| client.give_way()) {
            tracing::debug!("a control connection without a request made room for a newer one");
        }
    }

    /// Lets no connection send another request, and waits for the answers to those that were sent.
    fn drain(&self) {
        let mut open = self.open.lock();
        for client in &*open {
            // Fails where the client has gone, and then there is nothing to end.
            let _ = client.stream.shutdown(Shutdown::Read);
        }
        while !open.is_empty() {
            self.fewer.wait(&mut open);
        }
    }
}

impl Arrivals for Connections {
    async fn arrived(self: &Arc<Self>, client: Arrival) {
        if self.places.available_permits() == 0 {
            self.end_oldest_silent();
        }
        let Some(place) = self.place().await else { return };
        match client.stream.into_socket() {
            Ok(socket) => self.serve(socket.into(), place),
            Err(error) => tracing::error!(%error, "a control connection cannot be served"),
        }
    }

    fn not_accepted(&self, error: &io::Error) {
        tracing::error!(%error, "a control connection cannot be accepted");
    }
}

/// The other side of a connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    state: Mutex<ClientState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientState {
    /// It owes a request, or what is left of one.
    Silent,
    /// Its request is being answered.
    Answered,
    /// It gave way.
    Ended,
}

impl Client {
    /// Ends the connection if its client is silent; `false`: it is not.
    fn give_way(&self) -> bool {
        let mut state = self.state.lock();
        let gives_way = *state == ClientState::Silent;
        if gives_way {
            *state = ClientState::Ended;
            // Fails where the client has gone, which ends it too.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        gives_way
    }

    /// `false`: it gave way before.
    fn enter(&self, next: ClientState) -> bool {
        let mut state = self.state.lock();
        let is_open = *state != ClientState::Ended;
        if is_open {
            *state = next;
        }
        is_open
    }
}

/// A connection that is being served. Its place becomes free with it, also when its thread panics.
struct Open {
    client: Arc<Client>,
    connections: Arc<Connections>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        open.retain(|other| !Arc::ptr_eq(other, &self.client));
        self.connections.fewer.notify_all();
    }
}

/// Answers one request after the other until the client has no more.
fn converse(client: &Client, registry: &Registry) -> Result<()> {
    let stream = &client.stream;
    let failed = |error: io::Error| Error::io("the control connection failed", error);
    stream.set_nonblocking(false).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
    let asker = match check_peer(stream) {
        Ok(asker) => asker,
        Err(error) => return answer(stream, &Err(error.into())),
    };
    loop {
        let frame = match frame::receive(stream, REQUEST_BYTES, Some(REQUEST_TIMEOUT)) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => {
                // The stream is out of step: nothing after this can be understood.
                return answer(stream, &Err(error.into()));
            }
        };
        if !client.enter(ClientState::Answered) {
            return Ok(());
        }
        let done = match serde_json::from_slice::<Request>(&frame.body) {
            Ok(request) => {
                let asker = Asker { uid: frame.sender.unwrap_or(asker.uid), ..asker };
                acts::perform(request, registry, frame.files, asker)
            }
            Err(error) => {
                let what = format!("the server does not understand the request: {error}");
                Err(Error::new(ErrorKind::InvalidInput, what).into())
            }
        };
        answer(stream, &done)?;
        client.enter(ClientState::Silent);
    }
}

fn answer(stream: &UnixStream, done: &std::result::Result<Value, Failure>) -> Result<()> {
    let reply = match done {
        Ok(value) => Reply::Done(value.clone()),
        Err(failure) => Reply::Failed(failure.clone()),
    };
    let body = serde_json::to_vec(&reply).map_err(|e| Error::io("JSON failed", e.into()))?;
    frame::send(stream, &body, &[])
}

/// Only the user who runs the server, and root, may ask. The mode of the socket says so too; this holds where somebody
/// has changed that.
fn check_peer(stream: &UnixStream) -> Result<Asker> {
    let peer = Peer::of(stream).map_err(|e| Error::io("the control connection failed", e))?;
    if peer.uid == rustix::process::geteuid().as_raw() || peer.uid == 0 {
        return Ok(Asker { uid: peer.uid, pid: peer.pid });
    }
    Err(Error::new(ErrorKind::InvalidInput, "only the user who runs the server may use its control socket"))
}
