//! A client of NBD servers, this one and others, as far as copying a disk needs one.
//!
//! Another server is spoken to in fixed newstyle, without TLS, with structured replies and `base:allocation` where it has
//! them. A server of this program may hand over a connection that needs no handshake ([`super::Door`]). Reads and writes are
//! pipelined. What a server sends is checked before anything is allocated for it; a silent one is given up.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::door::{CONTEXT, Terms};
use super::errno::Errno;
use super::uri::{Place, Uri};
use super::wire::handshake::{
    self, InfoRequest, InfoType, MetaContextRequest, OptionHeader, OptionType, ReplyType, flag as handshake_flag,
};
use super::wire::transmission::{ChunkType, HeaderStyle, ReplyHeader, Request, command, command_flag, flag, state};
use crate::base::Content;
use crate::{Error, ErrorKind, Result};

/// How long another server may stay silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// Data of an option reply, or of a chunk that is no content, at the most.
const LIMIT: u64 = 16 << 20;
/// Bytes of one request.
const PART: usize = 1 << 20;
/// Requests under way at once.
const DEPTH: usize = 8;
/// Bytes whose status is asked for at a time.
const STATUS: u64 = 1 << 30;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection in its transmission phase.
pub struct Client {
    stream: Box<dyn Stream>,
    style: HeaderStyle,
    /// The id of `base:allocation`, where the server has it.
    context: Option<u32>,
    size: u64,
    /// Bytes the server serves in one request.
    most: usize,
    cookie: u64,
    /// Changes that are not answered yet: cookie and offset.
    changes: Vec<(u64, u64)>,
    status: Status,
}

/// What the server said last: the runs of `[begin, end)` that may be other than zero.
#[derive(Default)]
struct Status {
    begin: u64,
    end: u64,
    data: Vec<(u64, u64)>,
}

/// A part of a read that is under way.
struct Part {
    cookie: u64,
    start: usize,
    len: usize,
    /// Bytes of it that came.
    filled: usize,
    /// Begin and end of what came: chunks may come in any order, but each byte once.
    came: BTreeMap<usize, usize>,
}

impl Part {
    /// Notes that `range` of it came. Otherwise a byte that came twice could stand for one that never did.
    fn fill(&mut self, range: &Range<usize>) -> Result<()> {
        let before = self.came.range(..range.end).next_back();
        if range.is_empty() || before.is_some_and(|(_, &end)| end > range.start) {
            return Err(broken("data that came already"));
        }
        self.came.insert(range.start, range.end);
        self.filled += range.len();
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("size", &self.size).finish_non_exhaustive()
    }
}

fn failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::new(ErrorKind::Io, "the NBD server is silent"),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Error::new(ErrorKind::Shutdown, "the NBD server ended the connection")
        }
        _ => Error::io("the NBD connection failed", error),
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Io, format!("the NBD server sent nonsense: {what}"))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

impl Client {
    /// Attaches the export of a URI.
    pub fn connect(uri: &Uri) -> Result<Self> {
        let stream: Box<dyn Stream> = match &uri.place {
            Place::Unix(path) => {
                let connect = || {
                    let stream = UnixStream::connect(path)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Ok(stream)
                };
                Box::new(connect().map_err(|e| Error::io("cannot reach the NBD server", e).at_path(path))?)
            }
            Place::Tcp(host, port) => {
                let connect = || {
                    let stream = TcpStream::connect((host.as_str(), *port))?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                let what = format!("cannot reach the NBD server at {host}:{port}");
                Box::new(connect().map_err(|e| Error::io(what, e))?)
            }
        };
        let mut client = Self::new(stream, HeaderStyle::Simple, None, 0, PART);
        client.handshake(&uri.export)?;
        Ok(client)
    }

    /// Takes a connection to a disk of `size` bytes that is in transmission, on the terms of [`super::Door`].
    #[must_use]
    pub fn attached(stream: UnixStream, size: u64, terms: Terms) -> Self {
        Self::new(Box::new(stream), HeaderStyle::Extended, Some(terms.context), size, terms.most as usize)
    }

    fn new(stream: Box<dyn Stream>, style: HeaderStyle, context: Option<u32>, size: u64, most: usize) -> Self {
        let most = most.min(PART);
        Self { stream, style, context, size, most, cookie: 0, changes: Vec::new(), status: Status::default() }
    }

    /// The disk was resized.
    pub fn set_size(&mut self, size: u64) {
        self.size = size;
        self.status = Status::default();
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(failed)
    }

    fn receive<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn receive_vec(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > LIMIT {
            return Err(broken("a message far too long"));
        }
        let mut bytes = vec![0; len as usize];
        self.stream.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn handshake(&mut self, export: &str) -> Result<()> {
        let greeting: [u8; 18] = self.receive()?;
        if greeting[..16] != handshake::greeting()[..16] {
            return Err(broken("no newstyle greeting"));
        }
        let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
        if flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "the NBD server is too old: it speaks no fixed newstyle"));
        }
        let both = flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        self.send(&u32::from(both).to_be_bytes())?;
        if self.option(OptionType::StructuredReply, &[], &mut |_, _| Ok(()))? == ReplyType::Ack as u32 {
            self.style = HeaderStyle::Structured;
            let query = MetaContextRequest { name: export, queries: vec![CONTEXT] }.emit();
            let mut id = None;
            self.option(OptionType::SetMetaContext, &query, &mut |kind, data| {
                if kind == ReplyType::MetaContext as u32 && data.get(4..) == Some(CONTEXT.as_bytes()) {
                    id = word(data, 0);
                }
                Ok(())
            })?;
            self.context = id;
        }
        self.go(export)
    }

    fn go(&mut self, export: &str) -> Result<()> {
        let data = InfoRequest { name: export, wanted: vec![InfoType::BlockSize as u16] }.emit();
        let (mut found, mut most) = (None, self.most);
        let mut message = String::new();
        let end = self.option(OptionType::Go, &data, &mut |kind, data| {
            let number = data.first_chunk().map(|kind| u16::from_be_bytes(*kind));
            if kind != ReplyType::Info as u32 {
                message = String::from_utf8_lossy(data).chars().filter(|c| !c.is_control()).take(200).collect();
            } else if number == Some(InfoType::Export as u16) {
                let flags = data.get(10..12).and_then(|flags| flags.try_into().ok()).map(u16::from_be_bytes);
                found = long(data, 2).zip(flags);
            } else if number == Some(InfoType::BlockSize as u16)
                && let Some(bytes) = word(data, 10)
            {
                most = (bytes as usize).clamp(512, most) / 512 * 512;
            }
            Ok(())
        })?;
        let (Some((size, flags)), 1) = (found, end) else {
            let why = if message.is_empty() { String::new() } else { format!(": {message}") };
            let what = format!("the NBD server does not give the export \"{export}\"{why}");
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        if flags & flag::HAS_FLAGS == 0 {
            return Err(broken("no transmission flags"));
        }
        (self.size, self.most) = (size, most);
        Ok(())
    }

    /// Sends an option, hears its replies, and gives the type of the last one.
    fn option(
        &mut self,
        option: OptionType,
        data: &[u8],
        hear: &mut dyn FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<u32> {
        self.send(&OptionHeader { option, length: data.len() as u32 }.emit())?;
        self.send(data)?;
        let mut model = Vec::new();
        handshake::put_reply(&mut model, option, ReplyType::Ack, &[]);
        loop {
            let header: [u8; 20] = self.receive()?;
            if header[..12] != model[..12] {
                return Err(broken("no reply to the option"));
            }
            let (kind, length) = (word(&header, 12).unwrap_or_default(), word(&header, 16).unwrap_or_default());
            let data = self.receive_vec(u64::from(length))?;
            if kind == ReplyType::ErrTlsReqd as u32 {
                return Err(Error::new(ErrorKind::Unsupported, "the NBD server wants TLS, which is not spoken here")
                    .hint("pipe it: `nbdcopy URI - | sealdisk import - NAME`"));
            }
            hear(kind, &data)?;
            if kind == ReplyType::Ack as u32 || kind >> 31 == 1 {
                return Ok(kind);
            }
        }
    }

    fn request(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> Result<u64> {
        self.cookie += 1;
        let request = Request { flags, command, cookie: self.cookie, offset, length };
        self.send(&request.emit(self.style))?;
        Ok(self.cookie)
    }

    fn reply(&mut self) -> Result<ReplyHeader> {
        let mut bytes = [0; 32];
        let least = HeaderStyle::Simple.reply_len();
        self.stream.read_exact(&mut bytes[..least]).map_err(failed)?;
        if let Some((header, _)) = ReplyHeader::parse(&bytes[..least]) {
            return Ok(header);
        }
        let len = self.style.reply_len();
        self.stream.read_exact(&mut bytes[least..len]).map_err(failed)?;
        ReplyHeader::parse(&bytes[..len]).map(|(header, _)| header).ok_or_else(|| broken("no reply"))
    }

    fn read_reply(&mut self, offset: u64, buf: &mut [u8], parts: &mut Vec<Part>) -> Result<()> {
        let header = self.reply()?;
        let (ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. }) = header;
        let index = parts.iter().position(|part| part.cookie == cookie);
        let index = index.ok_or_else(|| broken("a reply to nothing that was asked"))?;
        let part = &mut parts[index];
        let at = offset + part.start as u64;
        let ours = &mut buf[part.start..part.start + part.len];
        match header {
            ReplyHeader::Simple { error: 0, .. } => {
                self.stream.read_exact(ours).map_err(failed)?;
                parts.swap_remove(index);
            }
            ReplyHeader::Simple { error, .. } => return Err(refused(error, "", at)),
            ReplyHeader::Chunk { kind, done, length, .. } => {
                // The range of `ours` that a chunk about `len` bytes at `from` fills.
                let range = |from: [u8; 8], len: u64| {
                    let start = u64::from_be_bytes(from).checked_sub(at)?;
                    let end = start.checked_add(len).filter(|&end| end <= ours.len() as u64)?;
                    Some(start as usize..end as usize)
                };
                if kind == ChunkType::OffsetData as u16 && length > 8 {
                    let mut from = [0; 8];
                    self.stream.read_exact(&mut from).map_err(failed)?;
                    let range = range(from, length - 8).ok_or_else(|| broken("data not asked for"))?;
                    part.fill(&range)?;
                    self.stream.read_exact(&mut ours[range]).map_err(failed)?;
                } else if kind == ChunkType::OffsetHole as u16 && length == 12 {
                    let (mut from, mut len) = ([0; 8], [0; 4]);
                    self.stream.read_exact(&mut from).map_err(failed)?;
                    self.stream.read_exact(&mut len).map_err(failed)?;
                    let range =
                        range(from, u32::from_be_bytes(len).into()).ok_or_else(|| broken("data not asked for"))?;
                    part.fill(&range)?;
                    ours[range].fill(0);
                } else {
                    self.other_chunk(kind, length, at)?;
                }
                if done {
                    let part = parts.swap_remove(index);
                    if part.filled != part.len {
                        return Err(broken("more or less data than asked for"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A chunk that carries no content: an error is told, anything else given back.
    fn other_chunk(&mut self, kind: u16, length: u64, offset: u64) -> Result<Vec<u8>> {
        let data = self.receive_vec(length)?;
        if kind >> 15 == 1 {
            let message = String::from_utf8_lossy(data.get(6..).unwrap_or_default());
            let message: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(refused(word(&data, 0).unwrap_or_default(), &message, offset));
        }
        Ok(data)
    }

    /// Writes `data` at byte `offset`. It need not be done when this returns: [`Client::settle`] waits for it.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let flags = if self.style == HeaderStyle::Extended { command_flag::PAYLOAD_LEN } else { 0 };
        let mut at = offset;
        for part in data.chunks(self.most) {
            while self.changes.len() >= DEPTH {
                self.hear_change()?;
            }
            let cookie = self.request(command::WRITE, flags, at, part.len() as u64)?;
            self.changes.push((cookie, at));
            self.send(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes the range zero, and gives back what it took. As [`Client::write`] it need not be done on return.
    pub fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let cookie = self.request(command::WRITE_ZEROES, 0, offset, len)?;
        self.changes.push((cookie, offset));
        Ok(())
    }

    /// Waits for all changes.
    pub fn settle(&mut self) -> Result<()> {
        while !self.changes.is_empty() {
            self.hear_change()?;
        }
        Ok(())
    }

    /// Makes all changes durable.
    pub fn flush(&mut self) -> Result<()> {
        self.settle()?;
        let cookie = self.request(command::FLUSH, 0, 0, 0)?;
        self.changes.push((cookie, 0));
        self.settle()
    }

    fn hear_change(&mut self) -> Result<()> {
        let header = self.reply()?;
        let (ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. }) = header;
        let index = self.changes.iter().position(|&(change, _)| change == cookie);
        let index = index.ok_or_else(|| broken("a reply to nothing that was asked"))?;
        let offset = self.changes[index].1;
        match header {
            ReplyHeader::Simple { error: 0, .. } => {}
            ReplyHeader::Simple { error, .. } => return Err(refused(error, "", offset)),
            ReplyHeader::Chunk { kind, done, length, .. } => {
                self.other_chunk(kind, length, offset)?;
                if !done {
                    return Ok(());
                }
            }
        }
        self.changes.swap_remove(index);
        Ok(())
    }

    /// Asks for the status of the bytes from `offset` on, as far as the server tells at once.
    fn ask_status(&mut self, context: u32, offset: u64) -> Result<()> {
        let length = (self.size - offset).min(STATUS);
        let cookie = self.request(command::BLOCK_STATUS, 0, offset, length)?;
        let mut status = Status { begin: offset, end: offset, data: Vec::new() };
        loop {
            let ReplyHeader::Chunk { kind, done, length, cookie: came } = self.reply()? else {
                return Err(broken("a simple reply to block status"));
            };
            if came != cookie {
                return Err(broken("a reply to nothing that was asked"));
            }
            let data = self.other_chunk(kind, length, offset)?;
            let extents = match () {
                () if word(&data, 0) != Some(context) => &[][..],
                () if kind == ChunkType::BlockStatus as u16 => &data[4..],
                () if kind == ChunkType::BlockStatusExt as u16 => data.get(8..).unwrap_or_default(),
                () => &[][..],
            };
            let wide = kind == ChunkType::BlockStatusExt as u16;
            for extent in extents.chunks_exact(if wide { 16 } else { 8 }) {
                let (len, flags) = match wide {
                    true => (long(extent, 0).unwrap_or_default(), long(extent, 8).unwrap_or_default()),
                    false => (word(extent, 0).map_or(0, u64::from), word(extent, 4).map_or(0, u64::from)),
                };
                let end = status.end.saturating_add(len).min(self.size);
                // Otherwise a server could fill the memory with extents of nothing.
                if end == status.end {
                    return Err(broken("the status of nothing"));
                }
                if flags & u64::from(state::ZERO) == 0 {
                    status.data.push((status.end, end));
                }
                status.end = end;
            }
            if done {
                break;
            }
        }
        if status.end == offset {
            return Err(broken("the status of nothing"));
        }
        self.status = status;
        Ok(())
    }
}

impl Content for Client {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<u64>> {
        let Some(context) = self.context else { return Ok((offset < self.size).then_some(offset)) };
        self.settle()?;
        let mut at = offset;
        while at < self.size {
            if !(self.status.begin..self.status.end).contains(&at) {
                self.ask_status(context, at)?;
            }
            let first = self.status.data.partition_point(|&(_, end)| end <= at);
            match self.status.data.get(first) {
                Some(&(start, _)) => return Ok(Some(start.max(at))),
                None => at = self.status.end,
            }
        }
        Ok(None)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.settle()?;
        let mut parts = Vec::with_capacity(DEPTH);
        let mut asked = 0;
        while asked < buf.len() || !parts.is_empty() {
            while asked < buf.len() && parts.len() < DEPTH {
                let len = self.most.min(buf.len() - asked);
                let cookie = self.request(command::READ, 0, offset + asked as u64, len as u64)?;
                parts.push(Part { cookie, start: asked, len, filled: 0, came: BTreeMap::new() });
                asked += len;
            }
            self.read_reply(offset, buf, &mut parts)?;
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A courtesy: the server may be gone.
        let _ = self.request(command::DISC, 0, 0, 0);
    }
}

fn refused(error: u32, message: &str, offset: u64) -> Error {
    let (kind, known) = match error {
        error if error == Errno::NoSpace as u32 => (ErrorKind::NoSpace, ": no space left"),
        error if error == Errno::Shutdown as u32 => (ErrorKind::Shutdown, ": the server is stopping"),
        _ => (ErrorKind::Io, ""),
    };
    let why = if message.is_empty() { format!("error {error}") } else { message.to_owned() };
    Error::new(kind, format!("a request to the disk failed{known}: {why}")).at_offset(offset)
}
