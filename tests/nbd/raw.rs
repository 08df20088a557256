//! A client of raw bytes: it can say anything, and takes apart whatever comes back.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use sealdisk::nbd::wire::handshake::{InfoRequest, MetaContextRequest, OptionHeader, OptionType, greeting};
use sealdisk::nbd::wire::transmission::{HeaderStyle, ReplyHeader, Request, command, command_flag};

/// How long the server may take for anything.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A byte stream with a time limit.
pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) style: HeaderStyle,
    next_cookie: u64,
    /// Offsets of requests by cookie: extended replies carry them.
    offsets: HashMap<u64, u64>,
    /// The socket itself, where it is a unix socket.
    socket: Option<UnixStream>,
}

/// A reply to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OptionReply {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

pub(crate) const ACK: u32 = 1;
pub(crate) const SERVER: u32 = 2;
pub(crate) const INFO: u32 = 3;
pub(crate) const META_CONTEXT: u32 = 4;
pub(crate) const ERR: u32 = 1 << 31;

/// Extents by context id, each as (length, status).
pub(crate) type Status = Vec<(u32, Vec<(u64, u64)>)>;

/// A reply of the transmission phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) header: ReplyHeader,
    pub(crate) payload: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        let socket = stream.try_clone().unwrap();
        Self { socket: Some(socket), ..Self::over(Box::new(stream)) }
    }

    pub(crate) fn connect_tcp(addr: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self::over(Box::new(stream))
    }

    pub(crate) fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, style: HeaderStyle::Simple, next_cookie: 0, offsets: HashMap::new(), socket: None }
    }

    /// Connected, greeted, and agreed on fixed newstyle without zeroes.
    pub(crate) fn greeted(socket: &Path) -> Self {
        let mut client = Self::connect(socket);
        client.greet(3);
        client
    }

    /// In transmission on the default export, with the given style of headers.
    pub(crate) fn attached(socket: &Path, style: HeaderStyle) -> Self {
        Self::attached_with(socket, style, &[])
    }

    /// The same with metadata contexts.
    pub(crate) fn attached_with(socket: &Path, style: HeaderStyle, contexts: &[&str]) -> Self {
        let mut client = Self::greeted(socket);
        client.negotiate(style);
        if !contexts.is_empty() {
            let replies = client.meta_context(OptionType::SetMetaContext, "", contexts);
            assert_eq!(replies.len(), contexts.len() + 1, "{replies:?}");
        }
        client.go("");
        client
    }

    pub(crate) fn greet(&mut self, client_flags: u32) {
        assert_eq!(self.receive(18), greeting());
        self.send(&client_flags.to_be_bytes());
    }

    pub(crate) fn negotiate(&mut self, style: HeaderStyle) {
        let option = match style {
            HeaderStyle::Simple => return,
            HeaderStyle::Structured => OptionType::StructuredReply,
            HeaderStyle::Extended => OptionType::ExtendedHeaders,
        };
        assert_eq!(self.option(option, &[]).last().unwrap().kind, ACK);
        self.style = style;
    }

    /// GO without information requests, which has to succeed. The transmission flags.
    pub(crate) fn go(&mut self, name: &str) -> u16 {
        let replies = self.info(OptionType::Go, name, &[]);
        assert_eq!(replies.last().unwrap().kind, ACK, "{replies:?}");
        u16::from_be_bytes(replies[0].data[10..].try_into().unwrap())
    }

    pub(crate) fn info(&mut self, option: OptionType, name: &str, wanted: &[u16]) -> Vec<OptionReply> {
        self.option(option, &InfoRequest { name, wanted: wanted.to_vec() }.emit())
    }

    pub(crate) fn meta_context(&mut self, option: OptionType, name: &str, queries: &[&str]) -> Vec<OptionReply> {
        self.option(option, &MetaContextRequest { name, queries: queries.to_vec() }.emit())
    }

    pub(crate) fn send_option(&mut self, option: OptionType, data: &[u8]) {
        let mut bytes = OptionHeader { option, length: data.len() as u32 }.emit().to_vec();
        bytes.extend_from_slice(data);
        self.send(&bytes);
    }

    /// Sends an option and receives all its replies; the last is ACK or an error.
    pub(crate) fn option(&mut self, option: OptionType, data: &[u8]) -> Vec<OptionReply> {
        self.send_option(option, data);
        self.option_replies()
    }

    pub(crate) fn option_replies(&mut self) -> Vec<OptionReply> {
        let mut replies = Vec::new();
        loop {
            let reply = self.option_reply();
            let last = reply.kind == ACK || reply.kind >= ERR;
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    fn option_reply(&mut self) -> OptionReply {
        let header = self.receive(20);
        assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        OptionReply { option: field(8), kind: field(12), data: self.receive(field(16) as usize) }
    }

    /// Sends a request, with payload where `data` has any, and gives its cookie.
    pub(crate) fn request(&mut self, command: u16, flags: u16, offset: u64, length: u64, data: &[u8]) -> u64 {
        self.next_cookie += 1;
        let cookie = self.next_cookie;
        self.offsets.insert(cookie, offset);
        let mut bytes = Request { flags, command, cookie, offset, length }.emit(self.style);
        bytes.extend_from_slice(data);
        self.send(&bytes);
        cookie
    }

    /// One reply, whoever it is for. `data`: bytes that follow a simple reply without error.
    pub(crate) fn reply(&mut self, data: usize) -> Reply {
        let mut bytes = self.receive(4);
        let rest = match u32::from_be_bytes(bytes[..].try_into().unwrap()) {
            0x6744_6698 => 12,
            0x668e_33ef => 16,
            0x6e8a_278c => 28,
            magic => panic!("no reply starts with {magic:#x}"),
        };
        bytes.extend(self.receive(rest));
        let (header, _) = ReplyHeader::parse(&bytes).unwrap();
        if let (32, ReplyHeader::Chunk { cookie, .. }) = (bytes.len(), header)
            && let Some(offset) = self.offsets.get(&cookie)
        {
            assert_eq!(bytes[16..24], offset.to_be_bytes(), "an extended reply carries the offset of its request");
        }
        let length = match header {
            ReplyHeader::Simple { error: 0, .. } => data,
            ReplyHeader::Simple { .. } => 0,
            ReplyHeader::Chunk { length, .. } => length as usize,
        };
        Reply { header, payload: self.receive(length) }
    }

    /// The error of the next reply, which has to be for `cookie` and carry no data. 0: success.
    pub(crate) fn outcome(&mut self, cookie: u64) -> u32 {
        let reply = self.reply(0);
        match reply.header {
            ReplyHeader::Simple { error, cookie: for_cookie } => {
                assert_eq!(for_cookie, cookie);
                error
            }
            ReplyHeader::Chunk { kind, cookie: for_cookie, done, .. } => {
                assert_eq!(for_cookie, cookie);
                assert!(done, "one chunk is the whole reply");
                match kind {
                    0 => 0,
                    kind if kind & 0x8000 != 0 => error_of(&reply.payload),
                    kind => panic!("a chunk of type {kind}"),
                }
            }
        }
    }

    /// Sends a request without payload and gives the error of its reply.
    pub(crate) fn try_request(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> u32 {
        let cookie = self.request(command, flags, offset, length, &[]);
        self.outcome(cookie)
    }

    pub(crate) fn try_write(&mut self, offset: u64, data: &[u8], flags: u16) -> u32 {
        let extra = if self.style == HeaderStyle::Extended { command_flag::PAYLOAD_LEN } else { 0 };
        let cookie = self.request(command::WRITE, flags | extra, offset, data.len() as u64, data);
        self.outcome(cookie)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.try_write(offset, data, 0), 0);
    }

    /// Reads and puts the reply together, whatever its form; the error otherwise.
    pub(crate) fn try_read(&mut self, offset: u64, len: usize, flags: u16) -> Result<Vec<u8>, u32> {
        let cookie = self.request(command::READ, flags, offset, len as u64, &[]);
        self.read_reply(cookie, offset, len).map(|(data, _)| data)
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        self.try_read(offset, len, 0).unwrap()
    }

    /// The whole reply to a read, checked as the protocol has it, and the types of its chunks.
    pub(crate) fn read_reply(&mut self, cookie: u64, offset: u64, len: usize) -> Result<(Vec<u8>, Vec<u16>), u32> {
        let mut data = vec![0xa5; len];
        let mut covered = vec![false; len.div_ceil(512) + 1];
        let mut bytes = 0;
        let mut kinds = Vec::new();
        let mut error = None;
        loop {
            let Reply { header, payload } = self.reply(len);
            let (kind, for_cookie, done) = match header {
                ReplyHeader::Simple { error, cookie: for_cookie } => {
                    assert_eq!((self.style, for_cookie), (HeaderStyle::Simple, cookie));
                    return if error == 0 { Ok((payload, kinds)) } else { Err(error) };
                }
                ReplyHeader::Chunk { kind, cookie, done, .. } => (kind, cookie, done),
            };
            assert_eq!(for_cookie, cookie);
            kinds.push(kind);
            let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
            let mut fill = |at: u64, part: Option<&[u8]>, length: usize| {
                let from = at.checked_sub(offset).expect("inside the request") as usize;
                assert!(from + length <= len && length > 0, "inside the request");
                match part {
                    Some(part) => data[from..from + length].copy_from_slice(part),
                    None => data[from..from + length].fill(0),
                }
                let first = std::mem::replace(&mut covered[from / 512], true);
                assert!(!first || !from.is_multiple_of(512), "no byte comes twice");
                bytes += length;
            };
            match kind {
                0 => assert!(done && payload.is_empty()),
                1 => fill(number(0), Some(&payload[8..]), payload.len() - 8),
                2 => {
                    assert_eq!(payload.len(), 12);
                    fill(number(0), None, u32::from_be_bytes(payload[8..].try_into().unwrap()) as usize);
                }
                kind if kind & 0x8000 != 0 => error = Some(error_of(&payload)),
                kind => panic!("a chunk of type {kind} answers a read"),
            }
            if done {
                break;
            }
        }
        match error {
            Some(error) => Err(error),
            None => {
                assert_eq!(bytes, len, "all bytes come");
                Ok((data, kinds))
            }
        }
    }

    /// BLOCK_STATUS: for each context id, its extents as (length, status).
    pub(crate) fn status(&mut self, offset: u64, length: u64, flags: u16) -> Result<Status, u32> {
        let cookie = self.request(command::BLOCK_STATUS, flags, offset, length, &[]);
        self.status_reply(cookie)
    }

    pub(crate) fn status_reply(&mut self, cookie: u64) -> Result<Status, u32> {
        let mut contexts = Vec::new();
        loop {
            let Reply { header, payload } = self.reply(0);
            let (kind, for_cookie, done) = match header {
                ReplyHeader::Simple { error, cookie: for_cookie } => {
                    assert!(error != 0 && for_cookie == cookie);
                    return Err(error);
                }
                ReplyHeader::Chunk { kind, cookie, done, .. } => (kind, cookie, done),
            };
            assert_eq!(for_cookie, cookie);
            let field = |bytes: &[u8]| u64::from(u32::from_be_bytes(bytes.try_into().unwrap()));
            let wide = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
            let id = field(&payload[..4]) as u32;
            let extents: Vec<_> = match kind {
                5 => payload[4..].chunks(8).map(|e| (field(&e[..4]), field(&e[4..]))).collect(),
                6 => {
                    let extents: Vec<_> = payload[8..].chunks(16).map(|e| (wide(&e[..8]), wide(&e[8..]))).collect();
                    assert_eq!(extents.len() as u64, field(&payload[4..8]));
                    extents
                }
                kind if kind & 0x8000 != 0 => return Err(error_of(&payload)),
                kind => panic!("a chunk of type {kind} answers block status"),
            };
            assert!(!extents.is_empty() && extents.iter().all(|(length, _)| *length > 0));
            contexts.push((id, extents));
            if done {
                return Ok(contexts);
            }
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends what the server takes of `bytes`, and gives up when it takes no more.
    pub(crate) fn shout(&mut self, bytes: &[u8]) {
        let socket = self.socket.as_ref().expect("a unix socket");
        socket.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// What has come; `None`: it has ended.
    pub(crate) fn try_receive(&mut self) -> Option<Vec<u8>> {
        let mut buf = vec![0; 64 << 10];
        let received = self.stream.read(&mut buf).ok().filter(|received| *received > 0)?;
        buf.truncate(received);
        Some(buf)
    }

    /// Asserts that the server ends the connection, without another byte.
    pub(crate) fn assert_ended(&mut self) {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("the server says something instead of ending the connection"),
            Err(e) => assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{e}"),
        }
    }
}

fn error_of(payload: &[u8]) -> u32 {
    let length = usize::from(u16::from_be_bytes(payload[4..6].try_into().unwrap()));
    std::str::from_utf8(&payload[6..6 + length]).expect("messages are text");
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// A polite client: attaches, writes, reads back, leaves. Panics when anything is not as it should be.
pub(crate) fn polite(socket: &Path) {
    let mut client = Client::attached(socket, HeaderStyle::Structured);
    let data: Vec<u8> = (0..9000u32).map(|i| (i % 251) as u8).collect();
    client.write(12_345, &data);
    assert_eq!(client.read(12_345, 9000), data);
    assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
    client.request(command::DISC, 0, 0, 0, &[]);
    client.assert_ended();
}
