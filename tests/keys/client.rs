//! An NBD client of another author, whose requests may fail.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nbd::client::{NbdClient, handshake};

use crate::support::Server;

pub(crate) struct Client(NbdClient<UnixStream>);

impl Client {
    pub(crate) fn attach(server: &Server, export: &str) -> io::Result<Self> {
        Self::attach_at(server.socket(), export)
    }

    pub(crate) fn attach_at(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let export = handshake(&mut stream, export.as_bytes())?;
        Ok(Self(NbdClient::new(stream, &export)))
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.write_all(data)
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; len];
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.read_exact(&mut data)?;
        Ok(data)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
