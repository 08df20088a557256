//! The asking side of the control socket.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::Value;

use super::{ANSWER_BYTES, Reply, frame};
use crate::account::failure::Failure;
use crate::account::request::Request;
use crate::{Error, ErrorKind};

/// The way to the server of an account. A connection for each request: the server gives up one that is silent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// Whose being there proved that somebody listens.
    first: Mutex<Option<UnixStream>>,
}

impl Client {
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), first: Mutex::new(Some(UnixStream::connect(path)?)) })
    }

    /// Has the server perform `request`. `files` travel with it. Waits for as long as the server works on it.
    pub fn call(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Value, Failure> {
        let body = serde_json::to_vec(request).map_err(|e| Error::io("JSON failed", e.into()))?;
        let first = self.first.lock().take();
        let stream = match first {
            Some(stream) => stream,
            None => UnixStream::connect(&self.path).map_err(|error| {
                Error::io("cannot reach the server of the account any more", error).at_path(&self.path)
            })?,
        };
        frame::send(&stream, &body, files)?;
        let Some(frame) = frame::receive(&stream, ANSWER_BYTES, None)? else {
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
