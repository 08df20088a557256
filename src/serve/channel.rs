//! The byte stream of a client in transmission: a socket, or TLS over one, used from one thread.
//!
//! Sending never waits; receiving waits only when asked to, and then for at most the time given to [`Channel::new`].

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown};
use rustls::ServerConnection;

/// Bytes of ciphertext read at once.
const CIPHERTEXT: usize = 64 << 10;
/// Bytes that a unix socket takes before the client has to (the kernel counts its own overhead as much again, and gives
/// less where `net.core.wmem_max` is less). With the usual 208 KiB a stream of long replies stops, and both sides sleep
/// and wake, several times a MiB.
const SOCKET_AHEAD: usize = 512 << 10;
/// Bytes of plaintext that TLS takes ahead of the socket.
const TLS_AHEAD: usize = 256 << 10;

/// See the module documentation.
pub(crate) struct Channel {
    socket: Arc<OwnedFd>,
    tls: Option<Box<Tls>>,
}

struct Tls {
    connection: ServerConnection,
    /// Ciphertext received and not yet taken by `connection`.
    ciphertext: Vec<u8>,
    taken: usize,
}

impl Channel {
    /// `tick` bounds a waiting receive.
    pub(crate) fn new(socket: OwnedFd, tls: Option<ServerConnection>, tick: Duration) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, false)?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(tick))?;
        // TCP fits its buffers to the path by itself, as long as nobody sets them.
        if sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
            sockopt::set_socket_send_buffer_size(&socket, SOCKET_AHEAD)?;
        }
        let tls = tls.map(|mut connection| {
            connection.set_buffer_limit(Some(TLS_AHEAD));
            Box::new(Tls { connection, ciphertext: Vec::new(), taken: 0 })
        });
        Ok(Self { socket: Arc::new(socket), tls })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket, for whoever has to cut the client off.
    pub(crate) fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Receives some bytes; 0: the client has ended the stream. `WouldBlock`: nothing has come, at once or in time.
    pub(crate) fn receive(&mut self, buf: &mut [u8], wait: bool) -> io::Result<usize> {
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match &mut self.tls {
            None => receive(&self.socket, buf, flags),
            Some(tls) => tls.receive(&self.socket, buf, flags),
        }
    }

    /// Takes some bytes to send, 1 at least; `WouldBlock` when the client takes none now.
    pub(crate) fn send(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => send(&self.socket, &[IoSlice::new(buf)]),
            Some(tls) => {
                if !tls.flush(&self.socket)? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let taken = tls.connection.writer().write(buf)?;
                tls.flush(&self.socket)?;
                Ok(taken)
            }
        }
    }

    /// Whether all that [`Channel::send`] took has reached the socket, as far as it could without waiting.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        self.tls.as_mut().map_or(Ok(true), |tls| tls.flush(&self.socket))
    }

    /// Ends the stream in order: TLS first, then the socket.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.connection.send_close_notify();
            let _ = tls.flush(&self.socket);
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl Tls {
    fn receive(&mut self, socket: &OwnedFd, buf: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // A stream cut off without the closing message ends like any other.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.taken == self.ciphertext.len() {
                self.ciphertext.resize(CIPHERTEXT, 0);
                let received = receive(socket, &mut self.ciphertext, flags);
                self.ciphertext.truncate(*received.as_ref().unwrap_or(&0));
                self.taken = 0;
                if received? == 0 {
                    return Ok(0);
                }
            }
            self.taken += self.connection.read_tls(&mut &self.ciphertext[self.taken..])?;
            if let Err(fault) = self.connection.process_new_packets() {
                let _ = self.flush(socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
            }
        }
    }

    fn flush(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Sender(socket)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

struct Sender<'a>(&'a OwnedFd);

impl Write for Sender<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        send(self.0, &[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        send(self.0, bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receive(socket: &OwnedFd, buf: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let (_, received) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buf, flags))?;
    Ok(received)
}

/// One call for each of `bufs`: sendmsg(2), which takes them all, also takes an address, so that a confined server does
/// without it. Only the first may fail: what was sent before counts.
fn send(socket: &OwnedFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut sent = 0;
    for (index, buf) in bufs.iter().enumerate() {
        let more = if index + 1 < bufs.len() { SendFlags::MORE } else { SendFlags::empty() };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more;
        match rustix::io::retry_on_intr(|| rustix::net::send(socket, buf, flags)) {
            Ok(bytes) => sent += bytes,
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error.into()),
        }
        if sent < bufs[..=index].iter().map(|buf| buf.len()).sum() {
            break;
        }
    }
    Ok(sent)
}
