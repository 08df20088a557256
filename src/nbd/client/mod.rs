//! A client of NBD servers, this one and others, as far as copying a disk needs one.
//!
//! Another server is spoken to in fixed newstyle, without TLS, with structured replies and `base:allocation` where it
//! has them. A server of this program may hand over a connection that needs no handshake ([`super::LocalAttach`]).
//! Reads and writes are pipelined.
//!
//! Another server may be broken or hostile. Whatever it sends is checked before anything is allocated or believed for
//! it, everything that it could send without end has a limit, and it is waited for only as long as it gets on
//! ([`transport`]). What breaks the protocol is an error, after which the connection is of no use. That it lies about
//! its content nobody can see.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::errno::Errno;
use super::uri::Uri;
use super::wire::transmission::{HeaderStyle, MAX_REPLY_LEN, ReplyHeader, Request, SIMPLE_REPLY_LEN, command};
use crate::base::Content;
use crate::copy::target::TargetDisk;
use crate::serve::AttachTerms;
use crate::{Error, ErrorKind, Result};

mod change;
mod handshake;
mod read;
mod status;
mod transport;

use status::Status;
pub use transport::{LEAST_RATE, WaitBudget};
use transport::{Transport, word, words};

/// Bytes of one request.
const PART: usize = 1 << 20;
/// Requests under way at once.
const DEPTH: usize = 8;
/// Bytes whose status is asked for at a time.
const STATUS: u64 = 1 << 30;
/// Payload of a chunk that tells an error: a number, and a text of 4,096 bytes at the most.
const MOST_ERROR: u64 = 6 + 4096 + 8;

/// A connection in its transmission phase.
pub struct Client {
    transport: Transport,
    style: HeaderStyle,
    /// The id of `base:allocation`, where the server has it.
    context: Option<u32>,
    size: u64,
    /// Bytes the server serves in one request.
    most: usize,
    /// Of the last request: they are counted.
    cookie: u64,
    /// Requests that were answered to the end.
    answered: u64,
    /// Changes that are not answered yet: cookie and offset.
    changes: Vec<(u64, u64)>,
    status: Status,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Client {
    /// Attaches the export of a URI.
    pub fn connect(uri: &Uri, budget: WaitBudget) -> Result<Self> {
        Self::connect_and(uri, budget, || Ok(()))
    }

    /// The same, with `before` done when the server is reached and nothing of it was read yet.
    pub fn connect_and(uri: &Uri, budget: WaitBudget, before: impl FnOnce() -> Result<()>) -> Result<Self> {
        let transport = Transport::reach(uri, budget)?;
        before()?;
        Self::attach(transport, &uri.export)
    }

    /// Attaches an export of the server at the other end of `stream`, of which nothing was read yet. A read or write
    /// that takes long may fail with [`std::io::ErrorKind::WouldBlock`], and is tried again as long as the budget
    /// lasts.
    pub fn over(stream: impl Read + Write + Send + 'static, export: &str, budget: WaitBudget) -> Result<Self> {
        Self::attach(Transport::new(Box::new(stream), "the NBD server".to_owned(), Some(budget)), export)
    }

    fn attach(mut transport: Transport, export: &str) -> Result<Self> {
        let agreed = handshake::attach(&mut transport, export)?;
        Ok(Self::new(transport, agreed.style, agreed.context, agreed.size, agreed.most))
    }

    /// Takes a connection to a disk of `size` bytes that is in transmission, on the terms of [`super::LocalAttach`].
    #[must_use]
    pub fn attached(stream: UnixStream, size: u64, terms: AttachTerms) -> Self {
        let transport = Transport::new(Box::new(stream), "the server of the disk".to_owned(), None);
        Self::new(transport, HeaderStyle::Extended, Some(terms.context), size, (terms.most as usize).min(PART))
    }

    fn new(transport: Transport, style: HeaderStyle, context: Option<u32>, size: u64, most: usize) -> Self {
        Self {
            transport,
            style,
            context,
            size,
            most,
            cookie: 0,
            answered: 0,
            changes: Vec::new(),
            status: Status::default(),
        }
    }

    fn request(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> Result<u64> {
        self.transport.check()?;
        self.cookie += 1;
        let request = Request { flags, command, cookie: self.cookie, offset, length };
        self.transport.send(&request.emit(self.style))?;
        Ok(self.cookie)
    }

    /// The next header, in a form that was agreed on.
    fn reply(&mut self) -> Result<ReplyHeader> {
        let mut bytes = [0; MAX_REPLY_LEN];
        let (least, len) = (SIMPLE_REPLY_LEN, self.style.reply_len());
        self.transport.fill(&mut bytes[..least])?;
        let simple = self.style != HeaderStyle::Extended;
        match ReplyHeader::parse(&bytes[..least]) {
            Some((header, _)) if simple => return Ok(header),
            None if len > least => self.transport.fill(&mut bytes[least..len])?,
            _ => return Err(self.transport.broken("no reply")),
        }
        match ReplyHeader::parse(&bytes[..len]) {
            Some((header, parsed)) if parsed == len => Ok(header),
            _ => Err(self.transport.broken("no reply")),
        }
    }

    /// Reads a chunk that carries no content: [`ChunkType::None`] passes, an error is told, and anything else is none.
    fn plain_chunk(&mut self, kind: u16, done: bool, length: u64, offset: u64) -> Result<()> {
        if kind >> 15 == 1 {
            return Err(self.error_chunk(length, offset)?);
        }
        if kind != 0 || length != 0 || !done {
            return Err(self.transport.broken(format_args!("a chunk of type {kind} and {length} bytes")));
        }
        Ok(())
    }

    /// The error that a chunk tells.
    fn error_chunk(&mut self, length: u64, offset: u64) -> Result<Error> {
        let data = self.transport.receive_vec(length, MOST_ERROR, "an error")?;
        let told = data.get(6..).filter(|_| word(&data, 0) != Some(0));
        let Some(told) = told else { return Err(self.transport.broken("an error that is none")) };
        let message = usize::from(u16::from_be_bytes([data[4], data[5]]));
        let message = told.get(..message).ok_or_else(|| self.transport.broken("an error without its text"))?;
        Ok(self.refused(word(&data, 0).unwrap_or_default(), &words(message), offset))
    }

    fn refused(&self, error: u32, message: &str, offset: u64) -> Error {
        let (kind, known) = match error {
            error if error == Errno::NoSpace as u32 => (ErrorKind::NoSpace, ": no space left"),
            error if error == Errno::Shutdown as u32 => (ErrorKind::Shutdown, ": the server is stopping"),
            _ => (ErrorKind::Io, ""),
        };
        let why = if message.is_empty() { format!("error {error}") } else { message.to_owned() };
        Error::new(kind, format!("{} failed a request{known}: {why}", self.transport.peer())).at_offset(offset)
    }

    fn unasked(&self) -> Error {
        self.transport.broken("a reply to nothing that was asked")
    }

    /// Asks for the status of the bytes from `offset` on, as far as the server tells at once.
    fn ask_status(&mut self, context: u32, offset: u64) -> Result<()> {
        let asked = (self.size - offset).min(STATUS);
        let cookie = self.request(command::BLOCK_STATUS, 0, offset, asked)?;
        let mut status = None;
        loop {
            let (kind, done, length) = match self.reply()? {
                ReplyHeader::Chunk { kind, cookie: came, done, length } if came == cookie => (kind, done, length),
                ReplyHeader::Simple { error, cookie: came } if came == cookie && error != 0 => {
                    return Err(self.refused(error, "", offset));
                }
                _ => return Err(self.unasked()),
            };
            if status.is_some() || kind >> 15 == 1 || kind == 0 {
                // At most one that says that the reply is done.
                self.plain_chunk(kind, done, length, offset)?;
            } else {
                let payload = self.transport.receive_vec(length, status::MOST_BYTES, "a block status")?;
                let parsed = Status::parse(kind, &payload, context, (offset, asked), self.size);
                status = Some(parsed.map_err(|what| self.transport.broken(what))?);
            }
            if done {
                break;
            }
        }
        self.answered += 1;
        self.status = status.ok_or_else(|| self.transport.broken("no block status"))?;
        self.transport.progress(self.status.end() - offset);
        Ok(())
    }
}

impl Content for Client {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<u64>> {
        let Some(context) = self.context else { return Ok((offset < self.size).then_some(offset)) };
        self.await_writes()?;
        let mut at = offset;
        while at < self.size {
            if !self.status.covers(at) {
                self.ask_status(context, at)?;
            }
            match self.status.next_data(at) {
                Some(data) => return Ok(Some(data)),
                None => at = self.status.end(),
            }
        }
        Ok(None)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read(offset, buf)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A server that is told so first does all that is under way, and nobody would hear of it.
        if self.answered != self.cookie {
            return;
        }
        self.cookie += 1;
        let goodbye = Request { flags: 0, command: command::DISC, cookie: self.cookie, offset: 0, length: 0 };
        self.transport.send_if_possible(&goodbye.emit(self.style));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::wire::handshake::{OptionType, ReplyType, greeting, info_export, put_reply};
    use super::super::wire::transmission::{flag, put_simple_reply};
    use super::*;

    /// Says what it was given, and keeps what it is told.
    struct Scripted(Cursor<Vec<u8>>, Arc<Mutex<Vec<u8>>>);

    impl Read for Scripted {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Scripted {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.1.lock().expect("nobody else").extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn goodbye_is_said_only_when_nothing_is_under_way() {
        for answers in [0, 1, 2] {
            let mut says = greeting().to_vec();
            put_reply(&mut says, OptionType::StructuredReply, ReplyType::ErrUnsup, &[]);
            put_reply(&mut says, OptionType::Go, ReplyType::Info, &[&info_export(1024, flag::HAS_FLAGS)]);
            put_reply(&mut says, OptionType::Go, ReplyType::Ack, &[]);
            for cookie in 1..=answers {
                let mut reply = [0; 16];
                put_simple_reply(&mut reply, cookie, 0);
                says.extend([&reply[..], &[7; 512]].concat());
            }
            let told = Arc::new(Mutex::new(Vec::new()));
            let stream = Scripted(Cursor::new(says), Arc::clone(&told));
            let mut client =
                Client::over(stream, "x", WaitBudget::new(Duration::from_secs(60), || Ok(()))).expect("attached");
            for n in 0..2 {
                assert_eq!(client.read_at(n * 512, &mut [0; 512]).is_ok(), n < answers);
                if n >= answers {
                    break;
                }
            }
            drop(client);
            let told = told.lock().expect("nobody else");
            let len = HeaderStyle::Simple.request_len();
            let last = Request::parse(HeaderStyle::Simple, &told[told.len() - len..]).expect("a request");
            assert_eq!(last.command, if answers == 2 { command::DISC } else { command::READ });
        }
    }
}
