//! Sockets that the service manager opened for us (LISTEN_FDS), as systemd and libnbd do.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use listenfd::ListenFd;

use crate::{Error, Result};

/// Listening sockets handed over at the start.
#[derive(Debug, Default)]
pub(super) struct Handed {
    pub(super) sockets: Vec<OwnedFd>,
    /// Where the first unix socket of them lies in the file system.
    pub(super) path: Option<PathBuf>,
    /// The one that is called [`METRICS`].
    pub(super) metrics: Option<OwnedFd>,
}

/// `FileDescriptorName=` of the socket for metrics.
const METRICS: &str = "metrics";

impl Handed {
    /// Takes them; to be called once. None without a service manager.
    pub(super) fn take() -> Result<Self> {
        let mut handed = Self::default();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut fds = ListenFd::from_env();
        for index in 0..fds.len() {
            if names.get(index) == Some(&METRICS) {
                let tcp = fds.take_tcp_listener(index);
                let tcp = tcp.map_err(|e| Error::io("the socket for metrics is no listening TCP socket", e))?;
                handed.metrics = tcp.map(OwnedFd::from);
                continue;
            }
            if let Ok(Some(unix)) = fds.take_unix_listener(index) {
                let path = unix.local_addr().ok().and_then(|addr| addr.as_pathname().map(PathBuf::from));
                handed.path = handed.path.or(path);
                handed.sockets.push(unix.into());
                continue;
            }
            let tcp = fds.take_tcp_listener(index);
            let tcp = tcp.map_err(|e| Error::io("a descriptor of the service manager is no listening socket", e))?;
            handed.sockets.extend(tcp.map(OwnedFd::from));
        }
        Ok(handed)
    }
}
