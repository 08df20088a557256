//! Requests against a model disk: a valid one gets exactly the model's answer, any other exactly its error, and what
//! follows at the end may be garbage.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use sealdisk::nbd::wire::handshake::{InfoRequest, MetaContextRequest, OptionHeader, OptionType};
use sealdisk::nbd::wire::transmission::{HeaderStyle, ReplyHeader, Request, command, command_flag as flag};

#[path = "nbd_served.rs"]
mod nbd_served;

use nbd_served::{DISK, MAX_REQUEST, served};

const MAX_REQUESTS: usize = 200;
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;

/// What the model answers.
#[derive(Debug, PartialEq)]
enum Answer {
    Error(u32),
    Done,
    Data(Vec<u8>),
    Status,
}

struct Client {
    stream: UnixStream,
    style: HeaderStyle,
    read_only: bool,
    contexts: bool,
}

/// `data`: a byte of settings, then 8 bytes for each request; what is left over is sent as it is.
pub(crate) fn run(data: &[u8]) {
    let Some((settings, data)) = data.split_first() else { return };
    let mut client = Client::attach(*settings);
    let mut model = vec![0; DISK];
    served().disk.zero(0, DISK as u64, sealdisk::disk::Durability::Volatile).expect("a zeroed disk");
    let (requests, rest) = data.as_chunks::<8>();
    for (cookie, bytes) in (0..).zip(requests.iter().take(MAX_REQUESTS)) {
        let (request, payload) = client.decode(cookie, bytes);
        let expected = client.expect(&request, &payload, &mut model);
        client.send(&[request.emit(client.style), payload].concat());
        let answered = client.answer(&request, &model);
        assert_eq!(answered, expected, "{request:?} of {:?}", client.style);
    }
    let _ = client.stream.write_all(rest);
    let _ = client.stream.shutdown(std::net::Shutdown::Write);
    let mut after = Vec::new();
    if let Err(error) = client.stream.read_to_end(&mut after) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server does not end");
    }
    let mut stored = vec![0; DISK];
    served().disk.read(0, &mut stored).expect("a readable disk");
    assert!(stored == model, "the disk is what the model says");
}

impl Client {
    fn attach(settings: u8) -> Self {
        let style = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(settings % 3)];
        let read_only = settings & 0x40 != 0;
        let contexts = settings & 0x80 != 0 && style != HeaderStyle::Simple;
        let mut client = Self { stream: served().connect(), style, read_only, contexts };
        let name = if read_only { "ro" } else { "rw" };
        client.send(&3u32.to_be_bytes());
        client.receive(18);
        match style {
            HeaderStyle::Simple => {}
            HeaderStyle::Structured => client.option(OptionType::StructuredReply, &[]),
            HeaderStyle::Extended => client.option(OptionType::ExtendedHeaders, &[]),
        }
        if contexts {
            let request = MetaContextRequest { name, queries: vec!["base:allocation"] };
            client.option(OptionType::SetMetaContext, &request.emit());
        }
        client.option(OptionType::Go, &InfoRequest { name, wanted: vec![] }.emit());
        client
    }

    fn option(&mut self, option: OptionType, data: &[u8]) {
        self.send(&[&OptionHeader { option, length: data.len() as u32 }.emit(), data].concat());
        loop {
            let header = self.receive(20);
            let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
            self.receive(field(16) as usize);
            assert!(field(12) < 1 << 31, "{option:?} is refused");
            if field(12) == 1 {
                return;
            }
        }
    }

    /// A request from 8 bytes. Ranges lie mostly on the disk, often at its edges, and sometimes far away.
    fn decode(&self, cookie: u64, bytes: &[u8; 8]) -> (Request, Vec<u8>) {
        let [command, flags, where_, how_long, a, b, c, d] = *bytes;
        let near = u64::from(u16::from_be_bytes([a, b]));
        let offset = match where_ % 8 {
            0..4 => near,
            4 => near & !511,
            5 => DISK as u64 - near % 600,
            6 => DISK as u64 + near,
            _ => u64::MAX - near,
        };
        let short = u64::from(u16::from_be_bytes([c, d]));
        let length = match how_long % 8 {
            0..3 => short % 5000,
            3 => short & !511,
            4 => (DISK as u64).saturating_sub(offset),
            5 => u64::from(MAX_REQUEST) + short % 3 - 1,
            6 => 0,
            _ => (u64::MAX - short) & if self.style == HeaderStyle::Extended { u64::MAX } else { 0xffff_ffff },
        };
        let command = if command % 16 < 10 { u16::from(command % 16) } else { u16::from(command) << 4 | 9 };
        let command = if command == command::DISC { command::READ } else { command };
        let mut flags = match flags % 4 {
            0 | 1 => 0,
            2 => 1 << (flags >> 2 & 15),
            _ => u16::from(flags),
        };
        let mut length = length;
        // What makes a payload too long to send, or ends the connection as it should, is tried elsewhere.
        flags &= !flag::PAYLOAD_LEN;
        if command == command::WRITE {
            length = length.min(u64::from(MAX_REQUEST) + if self.style == HeaderStyle::Extended { 0 } else { 5 });
            // Clients leave it out.
            if self.style == HeaderStyle::Extended && d % 4 != 0 {
                flags |= flag::PAYLOAD_LEN;
            }
        }
        let request = Request { flags, command, cookie, offset, length };
        let payload = (0..request.payload_len(self.style)).map(|at| (at as u8 ^ d).wrapping_mul(29) | 1).collect();
        (request, payload)
    }

    /// The protocol in the fewest words, and its effect on the model.
    fn expect(&self, request: &Request, payload: &[u8], model: &mut [u8]) -> Answer {
        let &Request { flags, command, offset, length, .. } = request;
        let allowed = match command {
            command::READ if self.style != HeaderStyle::Simple => flag::DF,
            command::WRITE if self.style == HeaderStyle::Extended => flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        let changes = [command::WRITE, command::TRIM, command::WRITE_ZEROES].contains(&command);
        let past = offset.checked_add(length).is_none_or(|end| end > DISK as u64);
        let long = length > MAX_REQUEST.into();
        let both = flag::NO_HOLE | flag::FAST_ZERO;
        let error = match command {
            8.. => EINVAL,
            _ if flags & !(allowed | flag::FUA) != 0 => EINVAL,
            _ if changes && self.read_only => EPERM,
            command::READ if long => EOVERFLOW,
            command::WRITE if long => EINVAL,
            command::FLUSH if offset != 0 || length != 0 => EINVAL,
            command::WRITE_ZEROES if flags & both == both => ENOTSUP,
            command::BLOCK_STATUS if !self.contexts => EINVAL,
            command::WRITE | command::WRITE_ZEROES if past => ENOSPC,
            _ if past => EINVAL,
            command::BLOCK_STATUS if length == 0 => EINVAL,
            _ => 0,
        };
        if error != 0 {
            return Answer::Error(error);
        }
        let range = offset as usize..(offset + length) as usize;
        match command {
            command::READ if length == 0 => return Answer::Done,
            command::READ => return Answer::Data(model[range].to_vec()),
            command::WRITE => model[range].copy_from_slice(payload),
            command::TRIM | command::WRITE_ZEROES => model[range].fill(0),
            command::BLOCK_STATUS => return Answer::Status,
            _ => {}
        }
        Answer::Done
    }

    /// The whole answer to one request, checked for its form.
    fn answer(&mut self, request: &Request, model: &[u8]) -> Answer {
        let mut data = vec![0xa5; request.length as usize & 0xffff];
        let (mut covered, mut error, mut status) = (0, None, false);
        loop {
            let header = self.header();
            let (kind, cookie, done, length) = match header {
                ReplyHeader::Simple { error, cookie } => {
                    assert!(self.style != HeaderStyle::Extended && cookie == request.cookie);
                    assert!(self.style == HeaderStyle::Simple || request.command != command::READ);
                    return match (error, request.command) {
                        (0, command::READ) if request.length > 0 => Answer::Data(self.receive(request.length as usize)),
                        (0, _) => Answer::Done,
                        (error, _) => Answer::Error(error),
                    };
                }
                ReplyHeader::Chunk { kind, cookie, done, length } => (kind, cookie, done, length),
            };
            assert_eq!(cookie, request.cookie);
            let payload = self.receive(length as usize);
            let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap_or_default());
            match kind {
                0 => assert!(done && payload.is_empty()),
                1 | 2 => {
                    let at = (number(0) - request.offset) as usize;
                    let len = if kind == 1 { payload.len() - 8 } else { number(4) as u32 as usize };
                    assert!(len > 0 && at + len <= data.len());
                    match kind {
                        1 => data[at..at + len].copy_from_slice(&payload[8..]),
                        _ => data[at..at + len].fill(0),
                    }
                    covered += len;
                }
                5 | 6 => {
                    check_status(request, kind == 6, &payload, model);
                    status = true;
                }
                kind => {
                    assert!(kind & 0x8000 != 0, "a chunk of type {kind}");
                    error = Some(u32::from_be_bytes(payload[..4].try_into().unwrap_or_default()));
                }
            }
            if done {
                break;
            }
        }
        match error {
            Some(error) => Answer::Error(error),
            None if status => Answer::Status,
            None if request.command == command::READ && request.length > 0 => {
                assert_eq!(covered, data.len());
                Answer::Data(data)
            }
            None => Answer::Done,
        }
    }

    fn header(&mut self) -> ReplyHeader {
        let mut bytes = self.receive(16);
        loop {
            if let Some((header, length)) = ReplyHeader::parse(&bytes) {
                assert_eq!(bytes.len(), length);
                return header;
            }
            assert!(bytes.len() < 32, "no reply starts with {bytes:?}");
            let more = if bytes.len() == 16 { 4 } else { 12 };
            bytes.extend(self.receive(more));
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes requests");
    }

    fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }
}

/// Extents are in range, and none that is called zero holds anything else.
fn check_status(request: &Request, wide: bool, payload: &[u8], model: &[u8]) {
    let (skip, size) = if wide { (8, 16) } else { (4, 8) };
    let extents = payload[skip..].chunks_exact(size);
    assert!(extents.len() > 0 && extents.remainder().is_empty());
    assert!(request.flags & flag::REQ_ONE == 0 || extents.len() == 1);
    let mut at = request.offset as usize;
    for extent in extents {
        let (length, status) = extent.split_at(size / 2);
        let number = |bytes: &[u8]| bytes.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        let end = at + number(length);
        assert!(end > at && end <= (request.offset + request.length) as usize);
        assert!(number(status) & 2 == 0 || model[at..end].iter().all(|byte| *byte == 0));
        at = end;
    }
}
