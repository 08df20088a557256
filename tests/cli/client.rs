//! An NBD client of another author, for bytes that have to be exact.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd::client::{NbdClient, handshake};

use crate::support::Server;

pub(crate) struct Client(NbdClient<UnixStream>);

impl Client {
    pub(crate) fn attach(server: &Server, export: &str) -> Self {
        let mut stream = UnixStream::connect(server.socket()).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
        let export = handshake(&mut stream, export.as_bytes()).expect("a handshake");
        Self(NbdClient::new(stream, &export))
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.seek(SeekFrom::Start(offset)).expect("seek");
        self.0.write_all(data).expect("a write is acknowledged");
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.0.seek(SeekFrom::Start(offset)).expect("seek");
        self.0.read_exact(&mut data).expect("a read is answered");
        data
    }

    pub(crate) fn flush(&mut self) {
        self.0.flush().expect("a flush is acknowledged");
    }

    /// Writes and flushes; `false`: the server is gone.
    pub(crate) fn try_write(&mut self, offset: u64, data: &[u8]) -> bool {
        self.0.seek(SeekFrom::Start(offset)).expect("seek");
        self.0.write_all(data).and_then(|()| self.0.flush()).is_ok()
    }

    /// Attaches to a server that may be gone in the middle of it.
    #[allow(dead_code, reason = "not every suite kills its server")]
    pub(crate) fn try_attach(server: &Server, export: &str) -> Option<Self> {
        let mut stream = UnixStream::connect(server.socket()).ok()?;
        let export = handshake(&mut stream, export.as_bytes()).ok()?;
        Some(Self(NbdClient::new(stream, &export)))
    }

    /// `false`: the server is gone or stopping.
    #[allow(dead_code, reason = "not every suite kills its server")]
    pub(crate) fn try_flush(&mut self) -> bool {
        self.0.flush().is_ok()
    }

    /// Writes without a flush; `false`: the server is gone or stopping.
    pub(crate) fn try_write_volatile(&mut self, offset: u64, data: &[u8]) -> bool {
        self.0.seek(SeekFrom::Start(offset)).expect("seek");
        self.0.write_all(data).is_ok()
    }
}
