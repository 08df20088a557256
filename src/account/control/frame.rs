//! Messages of the control socket: a header, a body, and open files beside it.
//!
//! ```text
//! offset  bytes  field (little-endian)
//! 0       6      "sdctl" and a zero byte
//! 6       2      version of the protocol
//! 8       4      bytes of the body
//! 12      4      number of open files, sent with the header (SCM_RIGHTS)
//! 16             the body: JSON
//! ```
//! A message is bounded in bytes, files and time before anything is allocated for it.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Error, ErrorKind, Result};

/// The version both sides must speak.
pub const VERSION: u16 = 1;
/// Open files in one message: a base image of the greatest depth, and some.
pub const MAX_FILES: usize = 136;

const MAGIC: [u8; 6] = *b"sdctl\0";
const HEADER: usize = size_of::<Header>();

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 6],
    version: U16,
    body: U32,
    files: U32,
}

/// A message as received.
#[derive(Debug)]
pub struct Frame {
    pub body: Vec<u8>,
    pub files: Vec<OwnedFd>,
    /// The real user id of the process that sent it, from the kernel (SCM_CREDENTIALS). `None`: the socket does not ask
    /// for it.
    pub sender: Option<u32>,
}

/// Sends one message.
pub fn send(mut stream: &UnixStream, body: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
    let failed = |error: io::Error| Error::io("the control connection failed", error);
    let body_bytes = u32::try_from(body.len()).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    assert!(files.len() <= MAX_FILES, "no caller passes more");
    let header = Header {
        magic: MAGIC,
        version: U16::new(VERSION),
        body: U32::new(body_bytes),
        files: U32::new(files.len() as u32),
    };
    if files.is_empty() {
        // A confined server has no sendmsg(2), as that takes an address.
        return stream.write_all(header.as_bytes()).and_then(|()| stream.write_all(body)).map_err(failed);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)), "the space is made for them");
    // The files travel with the first byte; what the call leaves of the header follows without them.
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(stream, &[IoSlice::new(header.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)
    });
    let sent = sent.map_err(|e| failed(e.into()))?;
    stream.write_all(&header.as_bytes()[sent..]).and_then(|()| stream.write_all(body)).map_err(failed)
}

/// Receives one message with a body of at most `limit` bytes within `timeout` (`None`: for as long as it takes).
/// `Ok(None)`: the other side closed the connection before a message began.
pub fn receive(stream: &UnixStream, limit: usize, timeout: Option<Duration>) -> Result<Option<Frame>> {
    let deadline = timeout.map(|p| Instant::now() + p);
    let mut receiver = Receiver { stream, deadline, files: Vec::new(), sender: None };
    let mut header = [0; HEADER];
    match receiver.fill(&mut header)? {
        0 => return Ok(None),
        HEADER => {}
        _ => return Err(broken("it ended inside a message")),
    }
    let header = Header::read_from_bytes(&header).map_err(|_| broken("a header of the wrong size"))?;
    if header.magic != MAGIC {
        return Err(broken("the other side is no sealdisk")
            .hint("another program listens on this socket: end it, then start the server of the account again"));
    }
    if header.version.get() != VERSION {
        let version = header.version.get();
        let what = format!("the other side of the control socket speaks version {version}, this program {VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, what).hint("use the program that the server was started from"));
    }
    let bytes = header.body.get() as usize;
    if bytes > limit {
        return Err(broken(&format!("a message of {bytes} bytes where {limit} are allowed")));
    }
    let mut body = vec![0; bytes];
    if receiver.fill(&mut body)? != bytes {
        return Err(broken("it ended inside a message"));
    }
    if receiver.files.len() != header.files.get() as usize {
        return Err(
            broken("open files were lost on the way").hint("the limit of open files (ulimit -n) may have been reached")
        );
    }
    Ok(Some(Frame { body, files: receiver.files, sender: receiver.sender }))
}

fn broken(what: &str) -> Error {
    let error = Error::new(ErrorKind::Io, format!("the control connection failed: {what}"));
    error.hint("see the log of the server that has the account, then try again")
}

struct Receiver<'a> {
    stream: &'a UnixStream,
    deadline: Option<Instant>,
    files: Vec<OwnedFd>,
    sender: Option<u32>,
}

impl Receiver<'_> {
    /// Bytes received: all of `buf`, or fewer at the end of the stream.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.some(&mut buf[done..])? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => broken("the other side is silent"),
            _ => Error::io("the control connection failed", error),
        };
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(broken("the other side is silent"));
        }
        self.stream.set_read_timeout(left).map_err(failed)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(self.stream, &mut [IoSliceMut::new(buf)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let received = received.map_err(|e| failed(e.into()))?;
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(files) => self.files.extend(files),
                RecvAncillaryMessage::ScmCredentials(sender) => {
                    let uid = sender.uid.as_raw();
                    if self.sender.is_some_and(|before| before != uid) {
                        return Err(broken("two users sent one message"));
                    }
                    self.sender = Some(uid);
                }
                _ => {}
            }
        }
        if self.files.len() > MAX_FILES || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(broken("too many open files in one message"));
        }
        Ok(received.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;

    const TIMEOUT: Option<Duration> = Some(Duration::from_secs(20));

    fn bytes(magic: &[u8; 6], version: u16, body: u32, files: u32) -> Vec<u8> {
        let header = Header { magic: *magic, version: U16::new(version), body: U32::new(body), files: U32::new(files) };
        header.as_bytes().to_vec()
    }

    /// What `receive` says to raw bytes after which the sender closes.
    fn received(raw: &[u8], limit: usize) -> Result<Option<Frame>> {
        let (mut near, far) = UnixStream::pair().expect("pair");
        near.write_all(raw).expect("written");
        drop(near);
        receive(&far, limit, TIMEOUT)
    }

    #[test]
    fn a_message_arrives_with_its_files() {
        let (near, far) = UnixStream::pair().expect("pair");
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"through the socket").expect("written");
        let sender = std::thread::spawn(move || {
            send(&near, &[7; 100_000], &[file.as_fd(), file.as_fd()]).expect("sent");
            send(&near, b"", &[]).expect("sent");
        });
        let frame = receive(&far, 100_000, TIMEOUT).expect("received").expect("one");
        assert_eq!(frame.body, vec![7; 100_000]);
        assert_eq!(frame.files.len(), 2);
        let mut same = std::fs::File::from(frame.files.into_iter().next().expect("two"));
        same.rewind().expect("seek");
        let mut text = String::new();
        same.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through the socket");
        let second = receive(&far, 0, TIMEOUT).expect("received").expect("empty");
        assert!(second.body.is_empty() && second.files.is_empty());
        assert!(receive(&far, 0, TIMEOUT).expect("closed").is_none());
        sender.join().expect("sender");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (raw, why) in [
            (bytes(b"GET / ", 1, 0, 0), "no sealdisk"),
            (bytes(&MAGIC, 2, 0, 0), "version 2"),
            (bytes(&MAGIC, VERSION, u32::MAX, 0), "4294967295 bytes"),
            (bytes(&MAGIC, VERSION, 9, 0), "9 bytes where 8"),
            (bytes(&MAGIC, VERSION, 8, 0), "inside a message"),
            (bytes(&MAGIC, VERSION, 0, 1), "lost"),
            (vec![b's'; 5], "inside a message"),
        ] {
            let error = received(&raw, 8).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(received(&[], 8).expect("closed").is_none());
    }

    #[test]
    fn a_silent_sender_is_given_up() {
        let (_near, far) = UnixStream::pair().expect("pair");
        let error = receive(&far, 8, Some(Duration::from_millis(20))).expect_err("silent");
        assert!(error.to_string().contains("silent"), "{error}");
    }
}
