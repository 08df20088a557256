//! The asking side of the control socket.

use std::io;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::Value;

use super::{ANSWER_BYTES, Reply, frame};
use crate::account::failure::Failure;
use crate::account::request::Request;
use crate::io::peer::Peer;
use crate::{Error, ErrorKind};

/// The way to the server of an account. A connection for each request: the server gives up one that is silent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// The user whose server it must be, if not root's.
    owner: u32,
    /// Whose being there proved that somebody listens.
    first: Mutex<Option<UnixStream>>,
}

impl Client {
    /// Reaches the server that listens at `path`: one of user `owner`, or of root. Another one is refused with
    /// [`io::ErrorKind::PermissionDenied`], before anything is sent to it.
    pub fn connect(path: &Path, owner: u32) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), owner, first: Mutex::new(Some(dial(path, owner)?)) })
    }

    /// Has the server perform `request`. `files` travel with it. Waits for as long as the server works on it.
    pub fn call(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Value, Failure> {
        let body = serde_json::to_vec(request).map_err(|e| Error::io("JSON failed", e.into()))?;
        let first = self.first.lock().take();
        let stream = match first {
            Some(stream) => stream,
            None => dial(&self.path, self.owner).map_err(|error| {
                Error::io("cannot reach the server of the account any more", error).at_path(&self.path)
            })?,
        };
        let sent = frame::send(&stream, &body, files);
        if sent.is_err() {
            // A server that refuses this user says why before it hears the request, and hangs up. Others end now.
            let _ = stream.shutdown(Shutdown::Write);
        }
        let received = frame::receive(&stream, ANSWER_BYTES, None);
        let received = if let (Err(error), Ok(None) | Err(_)) = (sent, &received) { Err(error) } else { received };
        let Some(frame) = received? else {
            let what = "the server ended before it answered";
            return Err(Error::new(ErrorKind::Io, what).hint("`sealdisk status` shows what it had done").into());
        };
        match serde_json::from_slice(&frame.body) {
            Ok(Reply::Done(value)) => Ok(value),
            Ok(Reply::Failed(failure)) => Err(failure),
            Err(error) => Err(Error::new(ErrorKind::Io, format!("the server's answer makes no sense: {error}")).into()),
        }
    }
}

/// What was written where a server listens may come from anybody who could write there: only the kernel knows who
/// listens.
fn dial(path: &Path, owner: u32) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    let peer = Peer::of(&stream)?;
    if peer.uid == owner || peer.uid == 0 {
        return Ok(stream);
    }
    let what = format!("a process of uid {} listens there, and the account is uid {owner}'s", peer.uid);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_server_of_another_user_is_sent_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("socket");
        let _listener = UnixListener::bind(&path).expect("a socket");
        let own = rustix::process::geteuid().as_raw();
        Client::connect(&path, own).expect("this user's");
        let refused = Client::connect(&path, own + 1);
        // Root may serve whatever account.
        assert_eq!(refused.is_ok(), own == 0);
    }
}
