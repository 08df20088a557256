//! The listening side of the control socket: a thread that accepts, and one for each connection.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt;
use serde_json::Value;

use super::{REQUEST_BYTES, Reply, frame};
use crate::account::acts::{self, Asker};
use crate::account::failure::Failure;
use crate::account::registry::Registry;
use crate::account::request::Request;
use crate::io::peer::Peer;
use crate::serve::SocketAccess;
use crate::serve::listen::{self, SocketFile};
use crate::{Error, ErrorKind, Result};

/// Connections served at once; the next waits in the backlog.
const CONNECTIONS: usize = 16;
/// How long a client may take to send a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may refuse to take its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A listening control socket. Dropping it stops it.
#[derive(Debug)]
pub struct ControlServer {
    file: SocketFile,
    /// Closing it ends the accepting thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Listens at `path`, for this user alone, and answers requests about `registry`.
    pub fn start(path: &Path, registry: Arc<Registry>) -> Result<Self> {
        let (listener, file) = listen::unix(path, SocketAccess::default())?;
        let failed = |error: io::Error| Error::io("cannot start the control socket", error).at_path(path);
        listener.set_nonblocking(true).map_err(failed)?;
        // What it accepts inherits this: every message then tells its sender's real user id, which is root's also where
        // root has become the owner of the account.
        sockopt::set_socket_passcred(&listener, true).map_err(|error| failed(error.into()))?;
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &stopped, &registry))
            .map_err(failed)?;
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
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<Vec<Arc<UnixStream>>>,
    fewer: Condvar,
}

impl Connections {
    /// Waits for a free place.
    fn enter(&self, stream: &Arc<UnixStream>) {
        let mut open = self.open.lock();
        while open.len() >= CONNECTIONS {
            self.fewer.wait(&mut open);
        }
        open.push(Arc::clone(stream));
    }

    fn leave(&self, stream: &Arc<UnixStream>) {
        self.open.lock().retain(|other| !Arc::ptr_eq(other, stream));
        self.fewer.notify_all();
    }

    /// Lets no connection send another request, and waits for the answers to those that were sent.
    fn drain(&self) {
        let mut open = self.open.lock();
        for stream in &*open {
            // Fails where the client has gone, and then there is nothing to end.
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
        while !open.is_empty() {
            self.fewer.wait(&mut open);
        }
    }
}

fn accept(listener: &UnixListener, stopped: &UnixStream, registry: &Arc<Registry>) {
    let connections = Arc::new(Connections::default());
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        if let Err(error) = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, None)) {
            tracing::error!(%error, "the control socket cannot be waited for");
            break;
        }
        if !ready[1].revents().is_empty() {
            break;
        }
        match listener.accept() {
            Ok((stream, _)) => serve(Arc::new(stream), Arc::clone(&connections), Arc::clone(registry)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                tracing::error!(%error, "a control connection cannot be accepted");
                // Out of descriptors, most likely: the connection stays in the backlog.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    connections.drain();
}

fn serve(stream: Arc<UnixStream>, connections: Arc<Connections>, registry: Arc<Registry>) {
    connections.enter(&stream);
    let (of_thread, at_end) = (Arc::clone(&stream), Arc::clone(&connections));
    let started = std::thread::Builder::new().name("control-client".into()).spawn(move || {
        let _leave = Leave { stream: &of_thread, connections: &at_end };
        if let Err(error) = converse(&of_thread, &registry) {
            tracing::debug!(%error, "a control connection ended");
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "cannot start a thread for a control connection");
        connections.leave(&stream);
    }
}

/// Gives a place back, also when the thread panics.
struct Leave<'a> {
    stream: &'a Arc<UnixStream>,
    connections: &'a Connections,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.connections.leave(self.stream);
    }
}

/// Answers one request after the other until the client has no more.
fn converse(stream: &UnixStream, registry: &Registry) -> Result<()> {
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
