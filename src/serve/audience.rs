//! Who may attach at a listener before any access rule, as the server says it at its start.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::listener_policy::ListenerPolicy;

/// A socket on which a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    pub address: Address,
    pub tls: TlsUse,
    pub audience: Audience,
    /// By which the server's certificate can be checked there; `None`: by the address, if at all.
    pub host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// A unix socket without a file (an abstract name), which has no permissions.
    Abstract,
    Tcp(SocketAddr),
}

/// What a listener does with STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsUse {
    Off,
    Offered,
    Required,
}

/// The clients that a listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// The owner of the socket file, and root.
    Owner { uid: u32 },
    /// The same, and the members of its group.
    Group { uid: u32, gid: u32 },
    /// Every user of this machine.
    Machine,
    /// Clients that show a certificate of the client authority.
    Certificate,
    /// Whatever reaches the address.
    Anybody,
}

impl Listening {
    pub(crate) fn unix(path: Option<&Path>, policy: &ListenerPolicy) -> Self {
        let file = path.and_then(|path| fs::metadata(path).ok());
        let audience = match file {
            // Connecting takes the right to write.
            Some(file) if file.mode() & 0o002 == 0 && file.mode() & 0o020 != 0 => {
                Audience::Group { uid: file.uid(), gid: file.gid() }
            }
            Some(file) if file.mode() & 0o002 == 0 => Audience::Owner { uid: file.uid() },
            _ => Audience::Machine,
        };
        let address = path.map_or(Address::Abstract, |path| Address::Unix(path.to_owned()));
        Self { address, tls: policy.unix_tls(), audience, host: None }
    }

    pub(crate) fn tcp(addr: SocketAddr, policy: &ListenerPolicy) -> Self {
        let audience = match () {
            () if policy.asks_clients() => Audience::Certificate,
            () if addr.ip().to_canonical().is_loopback() => Audience::Machine,
            () => Audience::Anybody,
        };
        let host = policy.tls.as_ref().and_then(|tls| tls.host_for(addr.ip()));
        Self { address: Address::Tcp(addr), tls: policy.tcp_tls(), audience, host }
    }

    /// Whether clients get in that prove nothing of themselves.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.audience, Audience::Machine | Audience::Anybody)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Abstract => f.write_str("a socket without a file"),
            Self::Tcp(addr) => write!(f, "{addr}"),
        }
    }
}

impl fmt::Display for TlsUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Offered => "offered",
            Self::Required => "required",
        })
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner { uid: 0 } => f.write_str("root"),
            Self::Owner { uid } => write!(f, "uid {uid} and root"),
            Self::Group { uid: 0, gid } => write!(f, "root and members of group {gid}"),
            Self::Group { uid, gid } => write!(f, "uid {uid}, members of group {gid}, and root"),
            Self::Machine => f.write_str("every user of this machine"),
            Self::Certificate => f.write_str("clients with a certificate of the client authority"),
            Self::Anybody => f.write_str("anybody who reaches the address"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_of_a_unix_socket_says_who_may_attach() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), fs::metadata(&path).unwrap().gid());
        for (mode, audience) in [
            (0o600, Audience::Owner { uid }),
            (0o644, Audience::Owner { uid }),
            (0o660, Audience::Group { uid, gid }),
            (0o666, Audience::Machine),
            (0o602, Audience::Machine),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Listening::unix(Some(&path), &ListenerPolicy::default()).audience, audience, "{mode:o}");
        }
        // Without a file there are no permissions.
        assert!(Listening::unix(None, &ListenerPolicy::default()).is_open());
    }

    #[test]
    fn only_loopback_is_this_machine() {
        for (addr, audience) in [
            ("127.0.0.1:1", Audience::Machine),
            ("[::1]:1", Audience::Machine),
            ("[::ffff:127.0.0.1]:1", Audience::Machine),
            ("0.0.0.0:1", Audience::Anybody),
            ("[::]:1", Audience::Anybody),
            ("192.0.2.1:1", Audience::Anybody),
        ] {
            assert_eq!(Listening::tcp(addr.parse().unwrap(), &ListenerPolicy::default()).audience, audience, "{addr}");
        }
    }
}
