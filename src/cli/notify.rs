//! Word to the service manager, as sd_notify(3) describes it: a datagram to the socket that NOTIFY_SOCKET names.
//!
//! The socket is connected before the process is confined, since afterwards none can be. A manager that does not read
//! holds up nothing: what it has no room for is sent by a thread that waits, for a while.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// The variable with the address: a path, or a name after an `@`.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// How long a manager may have no room for a word.
const TIMEOUT: Duration = Duration::from_secs(60);

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

    fn tell(&self, word: &'static str) {
        let Some(socket) = &self.0 else { return };
        let failed = move |error: &io::Error| tracing::warn!(%error, "the service manager cannot be told {word}");
        match socket.send(word.as_bytes()) {
            Ok(_) => {}
            // Its queue is full, as may be while a machine starts.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let later = socket.try_clone().and_then(|socket| {
                    let wait = move || send_later(&socket, word.as_bytes()).unwrap_or_else(|error| failed(&error));
                    std::thread::Builder::new().name("notify".into()).spawn(wait)
                });
                if let Err(error) = later {
                    failed(&error);
                }
            }
            Err(error) => failed(&error),
        }
    }
}

/// Sends `word` as soon as there is room for it.
fn send_later(socket: &UnixDatagram, word: &[u8]) -> io::Result<()> {
    let until = Instant::now() + TIMEOUT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&left)))?;
        match socket.send(word) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
            sent => return sent.map(drop),
        }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    socket.set_nonblocking(true)?;
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

    #[test]
    fn a_manager_that_does_not_read_holds_up_nothing_and_is_told_later() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        let stuck = UnixDatagram::bind(&path).expect("bound");
        let manager = Manager(Some(connect(path.as_os_str()).expect("connected")));
        let mut sent = 0;
        while manager.0.as_ref().expect("connected").send(b"noise").is_ok() {
            sent += 1;
        }
        manager.ready();
        let mut buf = [0; 64];
        for _ in 0..sent {
            assert_eq!(stuck.recv(&mut buf).expect("received"), b"noise".len());
        }
        let len = stuck.recv(&mut buf).expect("received");
        assert_eq!(&buf[..len], b"READY=1");
        drop(stuck);
        manager.stopping();
    }
}
