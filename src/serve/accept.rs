//! Accepting: the one loop by which clients reach every server of this program, whatever it speaks.
//!
//! A server says what becomes of a client that arrived ([`Arrivals`]). What keeps clients from being accepted is told
//! and waited out, so that a lack of descriptors neither ends a server nor takes all of a processor.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::listen::{Listener, Socket};
use super::{Identity, TlsUse};
use crate::io::peer::Peer;

/// How long accepting pauses when the system has no descriptors left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// A server at whose listeners clients arrive.
pub(crate) trait Arrivals: Send + Sync + 'static {
    /// Takes a client. The next one is accepted when this is done.
    fn arrived(self: &Arc<Self>, client: Arrival) -> impl Future<Output = ()> + Send;

    /// A client could not be accepted, for lack of descriptors most likely: it is tried again after a pause.
    fn not_accepted(&self, error: &io::Error);
}

/// A client that has connected, and of which nothing was read yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) stream: Stream,
    pub(crate) from: Origin,
    /// What the listener does about TLS.
    pub(crate) tls: TlsUse,
}

/// Where a client comes from, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// `None`: the kernel does not say who connected.
    Unix(Option<Peer>),
    Tcp(SocketAddr),
}

impl Origin {
    /// Who the client is before it has proven anything.
    pub(crate) fn identity(&self) -> Identity {
        match self {
            Self::Unix(Some(peer)) => Identity { peer: self.to_string(), uid: Some(peer.uid), certificate: Vec::new() },
            Self::Unix(None) | Self::Tcp(_) => Identity { peer: self.to_string(), ..Identity::default() },
        }
    }
}

/// As the log names the client.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(Some(peer)) => write!(f, "unix:{peer}"),
            Self::Unix(None) => f.write_str("unix"),
            Self::Tcp(addr) => addr.fmt(f),
        }
    }
}

/// Hands the clients of `listener` to `server`, for ever. To be called on a tokio runtime with time and I/O. An error:
/// the socket cannot be used there.
pub(crate) fn accept<S: Arrivals>(
    listener: Listener,
    server: Arc<S>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let tls = listener.tls();
    let socket = match listener.into_socket() {
        Socket::Unix(socket) => {
            socket.set_nonblocking(true)?;
            Accepting::Unix(UnixListener::from_std(socket)?)
        }
        Socket::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            Accepting::Tcp(TcpListener::from_std(socket)?)
        }
    };
    Ok(async move {
        loop {
            match socket.accept().await {
                Ok((stream, from)) => server.arrived(Arrival { stream, from, tls }).await,
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    server.not_accepted(&error);
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    })
}

enum Accepting {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Accepting {
    async fn accept(&self) -> io::Result<(Stream, Origin)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::of(&stream).ok();
                Ok((Stream::Unix(stream), Origin::Unix(peer)))
            }
            Self::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                // Replies are gathered already, and a client that has lost its network must be noticed some day.
                let _ = stream.set_nodelay(true);
                let _ = sockopt::set_socket_keepalive(&stream, true);
                Ok((Stream::Tcp(stream), Origin::Tcp(addr)))
            }
        }
    }
}

/// Whether the client went away, or its network did, before it was accepted: see accept(2).
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), ConnectionAborted | HostUnreachable | NetworkDown | NetworkUnreachable)
}

/// A connected socket, of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Takes the socket out of the runtime. It does not block until it is told to.
    pub(crate) fn into_socket(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(stream) => Ok(stream.into_std()?.into()),
            Self::Tcp(stream) => Ok(stream.into_std()?.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tcp(stream) => stream.is_write_vectored(),
        }
    }
}
