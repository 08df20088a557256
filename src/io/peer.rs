//! The process at the other end of a unix socket, as the kernel knows it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};

/// Credentials of a peer: those with which it connected, or those with which it began to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    /// `None`: the peer lies in a pid namespace that this process cannot see into. SO_PEERCRED has a 0 there.
    pub pid: Option<u32>,
}

impl Peer {
    /// The peer of a connected unix socket.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).ok().filter(|&pid| pid != 0);
        Ok(Self { uid: credentials.uid(), pid })
    }
}

/// As the log has it: `uid=1000,pid=7`, or `uid=1000`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid={}", self.uid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, ",pid={pid}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_of_this_process_is_this_process() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let peer = Peer::of(&one).expect("credentials");
        assert_eq!(peer, Peer { uid: rustix::process::geteuid().as_raw(), pid: Some(std::process::id()) });
    }

    #[test]
    fn a_peer_without_a_process_id_is_named_by_its_user() {
        assert_eq!(Peer { uid: 7, pid: Some(9) }.to_string(), "uid=7,pid=9");
        assert_eq!(Peer { uid: 7, pid: None }.to_string(), "uid=7");
    }
}
