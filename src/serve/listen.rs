//! Listening sockets: unix, TCP, and those that the service manager hands over.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::audience::{Listening, TlsUse};
use super::listener_policy::ListenerPolicy;
use crate::{Error, ErrorKind, Result};

/// Bytes of the longest path a unix socket address holds.
const MAX_SOCKET_PATH: usize = 107;

/// A bound socket on which clients arrive, and how they come in there.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    policy: ListenerPolicy,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// What it does about TLS.
    pub(crate) fn tls(&self) -> TlsUse {
        match &self.socket {
            Socket::Unix(_) => self.policy.unix_tls(),
            Socket::Tcp(_) => self.policy.tcp_tls(),
        }
    }

    /// Address and port; `None`: it is a unix socket.
    pub(crate) fn tcp_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(_) => None,
            Socket::Tcp(socket) => socket.local_addr().ok(),
        }
    }

    /// The socket, and who may attach there; `None`: it has no address.
    pub(crate) fn listening(&self) -> Option<Listening> {
        match &self.socket {
            Socket::Unix(socket) => {
                let addr = socket.local_addr().ok();
                Some(Listening::unix(addr.as_ref().and_then(|addr| addr.as_pathname()), &self.policy))
            }
            Socket::Tcp(socket) => Some(Listening::tcp(socket.local_addr().ok()?, &self.policy)),
        }
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// The socket file of a listener, removed when the server ends, unless another has taken its place, or the process is
/// confined and the file lies outside the account.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who may connect to a unix socket, by the mode and group of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// Permission bits; connecting takes the right to write.
    pub mode: u32,
    /// `None`: the group that new files of this process get.
    pub group: Option<u32>,
}

impl Default for SocketAccess {
    /// This user alone.
    fn default() -> Self {
        Self { mode: 0o600, group: None }
    }
}

/// Refuses socket paths that are too long, all of them at once. Each comes with the words that name another.
pub(crate) fn check_lengths(paths: &[(&str, &Path)]) -> Result<()> {
    let long: Vec<_> = paths.iter().filter(|(_, path)| path.as_os_str().len() > MAX_SOCKET_PATH).collect();
    if long.is_empty() {
        return Ok(());
    }
    let list = |texts: Vec<String>| texts.join(" and ");
    let named = list(long.iter().map(|(_, path)| path.display().to_string()).collect());
    let words = list(long.iter().map(|(words, _)| (*words).to_owned()).collect());
    let what = format!("the path of a socket has {MAX_SOCKET_PATH} bytes at the most: {named}");
    Err(Error::new(ErrorKind::InvalidInput, what).hint(format!("choose {words}, for example under /run")))
}

/// Makes room for a socket at `path`: a stale socket file is removed; a live one is refused with [`ErrorKind::InUse`],
/// any other file with [`ErrorKind::AlreadyExists`], too long a path with [`ErrorKind::InvalidInput`].
pub(crate) fn make_room(path: &Path) -> Result<()> {
    check_lengths(&[("a shorter path", path)])?;
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket")
                .at_path(path)
                .hint("name a path where nothing is: no file is overwritten"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(Error::new(ErrorKind::InUse, "another server listens on this socket")
                .at_path(path)
                .hint("choose another path for one of the two"));
        }
        fs::remove_file(path).map_err(|e| Error::io("cannot replace a stale socket", e).at_path(path))?;
    }
    Ok(())
}

/// Binds a socket that those may connect to whom `access` lets, from its first moment on, where there is room: see
/// [`make_room`].
pub(crate) fn unix(path: &Path, access: SocketAccess, policy: &ListenerPolicy) -> Result<(Listener, SocketFile)> {
    let failed = |what: &str, e: io::Error| Error::io(what, e).at_path(path);
    make_room(path)?;
    // The mask makes the file 0600 from its first moment; a chmod afterwards would leave a gap.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed("cannot listen", error).hint(
            "the socket needs a free inode and a block of its file system (df -i, df): make room there, or have              --socket and --control elsewhere, such as under /run",
        ),
        _ => failed("cannot listen", error),
    })?;
    let now = fs::symlink_metadata(path).map_err(|e| failed("cannot listen", e))?;
    let file = SocketFile { path: path.to_owned(), identity: (now.dev(), now.ino()) };
    if access != SocketAccess::default() {
        open_to(&file, access)?;
    }
    Ok((Listener { socket: Socket::Unix(listener), policy: policy.clone() }, file))
}

/// Gives the socket file its group and then its mode: it is never open to the members of another group. What is changed
/// is the file that was bound, whatever lies at its path by now.
fn open_to(file: &SocketFile, access: SocketAccess) -> Result<()> {
    let failed = |what: &str, e: io::Error| Error::io(what, e).at_path(&file.path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&file.path, flags, Mode::empty()).map_err(|e| failed("cannot open", e.into()))?;
    let there = rustix::fs::fstat(&fd).map_err(|e| failed("cannot examine the socket", e.into()))?;
    if (there.st_dev, there.st_ino) != file.identity {
        return Err(Error::new(ErrorKind::InUse, "another process has replaced the socket").at_path(&file.path));
    }
    if let Some(group) = access.group {
        rustix::fs::chownat(&fd, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH).map_err(|e| {
            failed("the socket cannot be given to the group", e.into())
                .hint("a user can name a group of which it is a member; root can name any")
        })?;
    }
    // There is no chmod of a descriptor that is open for its path alone, but for the way round /proc.
    let way = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::set_permissions(way, fs::Permissions::from_mode(access.mode)).map_err(|e| failed("cannot set the mode", e))
}

/// Which TCP addresses may be listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Anybody,
    /// Loopback ones, because of what is lacking for others. The hint says how others would be allowed.
    ThisMachine {
        lacking: &'static str,
        hint: &'static str,
    },
}

/// Binds a TCP socket.
pub(crate) fn tcp(addr: SocketAddr, reach: Reach, policy: &ListenerPolicy) -> Result<(Listener, SocketAddr)> {
    check_reach(addr, reach)?;
    let failed = |e| Error::io(format!("cannot listen on {addr}"), e);
    let listener = TcpListener::bind(addr).map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((Listener { socket: Socket::Tcp(listener), policy: policy.clone() }, addr))
}

/// Takes a listening socket of the service manager.
pub(crate) fn adopt(fd: OwnedFd, reach: Reach, policy: &ListenerPolicy) -> Result<Listener> {
    let failed = |e: rustix::io::Errno| Error::io("a descriptor handed over is no listening socket", e.into());
    if sockopt::socket_type(&fd).map_err(failed)? != SocketType::STREAM
        || !sockopt::socket_acceptconn(&fd).map_err(failed)?
    {
        return Err(Error::new(ErrorKind::InvalidInput, "a descriptor handed over is no listening stream socket"));
    }
    let socket = match sockopt::socket_domain(&fd).map_err(failed)? {
        AddressFamily::UNIX => Socket::Unix(UnixListener::from(fd)),
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = TcpListener::from(fd);
            let addr = listener.local_addr().map_err(|e| Error::io("a socket handed over has no address", e))?;
            check_reach(addr, reach)?;
            Socket::Tcp(listener)
        }
        _ => return Err(Error::new(ErrorKind::InvalidInput, "a socket handed over is neither unix nor TCP")),
    };
    Ok(Listener { socket, policy: policy.clone() })
}

fn check_reach(addr: SocketAddr, reach: Reach) -> Result<()> {
    match reach {
        Reach::ThisMachine { lacking, hint } if !addr.ip().to_canonical().is_loopback() => {
            let what = format!("{addr} is reachable from other machines, {lacking}");
            Err(Error::new(ErrorKind::InvalidInput, what).hint(hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path, access: SocketAccess) -> Result<(Listener, SocketFile)> {
        super::unix(path, access, &ListenerPolicy::default())
    }

    fn tcp(addr: SocketAddr, reach: Reach) -> Result<(Listener, SocketAddr)> {
        super::tcp(addr, reach, &ListenerPolicy::default())
    }

    fn adopt(fd: OwnedFd, reach: Reach) -> Result<Listener> {
        super::adopt(fd, reach, &ListenerPolicy::default())
    }

    const HERE: Reach = Reach::ThisMachine { lacking: "", hint: "" };
    const PRIVATE: SocketAccess = SocketAccess { mode: 0o600, group: None };

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = unix(&path, PRIVATE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(unix(&path, PRIVATE).unwrap_err().kind(), ErrorKind::InUse);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_another_server_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, file) = unix(&path, PRIVATE).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn other_files_and_long_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain");
        fs::write(&path, "kept").unwrap();
        assert_eq!(unix(&path, PRIVATE).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        assert_eq!(unix(&dir.path().join("x".repeat(120)), PRIVATE).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_socket_has_the_mode_and_group_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let group = rustix::process::getegid().as_raw();
        for mode in [0o660, 0o666, 0o600, 0o620] {
            let (_listener, _file) = unix(&path, SocketAccess { mode, group: Some(group) }).unwrap();
            let there = fs::metadata(&path).unwrap();
            assert_eq!((there.mode() & 0o7777, there.gid()), (mode, group));
        }
    }

    #[test]
    fn plaintext_stays_on_loopback() {
        for addr in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "[::ffff:192.0.2.1]:0"] {
            assert_eq!(tcp(addr.parse().unwrap(), HERE).unwrap_err().kind(), ErrorKind::InvalidInput, "{addr}");
        }
        tcp("127.0.0.1:0".parse().unwrap(), HERE).unwrap();
        tcp("0.0.0.0:0".parse().unwrap(), Reach::Anybody).unwrap();
    }

    #[test]
    fn only_listening_stream_sockets_are_adopted() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(adopt(one.into(), Reach::Anybody).unwrap_err().kind(), ErrorKind::InvalidInput);
        let open = TcpListener::bind("0.0.0.0:0").unwrap();
        assert_eq!(adopt(open.into(), HERE).unwrap_err().kind(), ErrorKind::InvalidInput);
        adopt(TcpListener::bind("127.0.0.1:0").unwrap().into(), HERE).unwrap();
    }
}
