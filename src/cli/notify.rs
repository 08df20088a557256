//! Word to the service manager, as sd_notify(3) describes it: a datagram to the socket that NOTIFY_SOCKET names.
//!
//! The socket is connected before the process is confined, since afterwards none can be.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable with the address: a path, or a name after an `@`.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// A service manager that wants word, if there is one.
#[derive(Debug, Default)]
pub(super) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// The one of this process. One that cannot be reached is logged, and hears nothing.
    pub(super) fn from_env() -> Self {
        let Some(address) = std::env::var_os(VARIABLE).filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        Self(connect(&address).map_err(|error| tracing::warn!(?address, %error, "no way to the service manager")).ok())
    }

    /// Clients are served from now on.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, word: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(word.as_bytes())) {
            tracing::warn!(%error, "the service manager cannot be told {word}");
        }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_reaches_either_kind_of_address() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        let name = format!("sealdisk-unit-test-{}", std::process::id());
        let in_file = UnixDatagram::bind(&path).expect("bound");
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("bound");
        for (socket, address) in [(in_file, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let manager = Manager(Some(connect(&address).expect("connected")));
            manager.ready();
            let mut buf = [0; 64];
            let len = socket.recv(&mut buf).expect("received");
            assert_eq!(&buf[..len], b"READY=1");
        }
        // Without a manager there is nobody to tell.
        Manager::default().stopping();
    }
}
