//! Messages of the transmission phase: requests, simple replies, reply chunks.
//!
//! Three styles of headers exist; the handshake settles one of them for the connection ([`HeaderStyle`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U32, U64};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Transmission flags: what the server offers for an export.
pub mod flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Command flags of a request.
pub mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Command types.
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Types of reply chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ChunkType {
    None = 0,
    OffsetData = 1,
    OffsetHole = 2,
    BlockStatus = 5,
    BlockStatusExt = 6,
    Error = (1 << 15) + 1,
    ErrorOffset = (1 << 15) + 2,
}

/// Set on the last chunk of a reply.
const DONE: u16 = 1;

/// Flags of `base:allocation`.
pub mod state {
    pub const HOLE: u32 = 1 << 0;
    pub const ZERO: u32 = 1 << 1;
}

/// How requests and replies of a connection are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderStyle {
    /// Compact requests, simple replies only.
    Simple,
    /// Compact requests; reads and block status are answered in structured chunks.
    Structured,
    /// Extended requests with 64-bit lengths; every reply is made of extended chunks.
    Extended,
}

impl HeaderStyle {
    /// Bytes of a request header.
    #[must_use]
    pub const fn request_len(self) -> usize {
        match self {
            Self::Simple | Self::Structured => size_of::<CompactRequest>(),
            Self::Extended => size_of::<ExtendedRequest>(),
        }
    }

    /// Bytes of a chunk header; of a simple reply where there are no chunks.
    #[must_use]
    pub const fn reply_len(self) -> usize {
        match self {
            Self::Simple => SIMPLE_REPLY_LEN,
            Self::Structured => size_of::<StructuredChunk>(),
            Self::Extended => size_of::<ExtendedChunk>(),
        }
    }
}

/// Bytes of a simple reply.
pub const SIMPLE_REPLY_LEN: usize = size_of::<SimpleReply>();
/// Bytes of the longest chunk header.
pub const MAX_REPLY_LEN: usize = size_of::<ExtendedChunk>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct CompactRequest {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    length: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExtendedRequest {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    length: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SimpleReply {
    magic: U32,
    error: U32,
    cookie: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StructuredChunk {
    magic: U32,
    flags: U16,
    kind: U16,
    cookie: U64,
    length: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExtendedChunk {
    magic: U32,
    flags: U16,
    kind: U16,
    cookie: U64,
    offset: U64,
    length: U64,
}

/// A request as it was sent: nothing in it is checked but its magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    /// Byte of the export.
    pub offset: u64,
    /// Bytes of the export, or of payload (see [`Request::payload_len`]).
    pub length: u64,
}

impl Request {
    /// Parses the header at the start of `bytes`. `None`: no request starts here, or fewer than
    /// [`HeaderStyle::request_len`] bytes are there.
    #[inline]
    #[must_use]
    pub fn parse(style: HeaderStyle, bytes: &[u8]) -> Option<Self> {
        if style == HeaderStyle::Extended {
            let (raw, _) = ExtendedRequest::ref_from_prefix(bytes).ok()?;
            return (raw.magic == EXTENDED_REQUEST_MAGIC).then(|| Self {
                flags: raw.flags.get(),
                command: raw.command.get(),
                cookie: raw.cookie.get(),
                offset: raw.offset.get(),
                length: raw.length.get(),
            });
        }
        let (raw, _) = CompactRequest::ref_from_prefix(bytes).ok()?;
        (raw.magic == REQUEST_MAGIC).then(|| Self {
            flags: raw.flags.get(),
            command: raw.command.get(),
            cookie: raw.cookie.get(),
            offset: raw.offset.get(),
            length: u64::from(raw.length.get()),
        })
    }

    /// The header as a client sends it. A compact one carries the low 32 bits of `length`.
    #[must_use]
    pub fn emit(&self, style: HeaderStyle) -> Vec<u8> {
        let (flags, command) = (self.flags.into(), self.command.into());
        let (cookie, offset) = (self.cookie.into(), self.offset.into());
        if style == HeaderStyle::Extended {
            let (magic, length) = (EXTENDED_REQUEST_MAGIC.into(), self.length.into());
            return ExtendedRequest { magic, flags, command, cookie, offset, length }.as_bytes().to_vec();
        }
        let (magic, length) = (REQUEST_MAGIC.into(), (self.length as u32).into());
        CompactRequest { magic, flags, command, cookie, offset, length }.as_bytes().to_vec()
    }

    /// Bytes of payload that follow the header. A write always has some: with extended headers its client has to set
    /// PAYLOAD_LEN, and that of QEMU 9 and 10 does not.
    #[inline]
    #[must_use]
    pub fn payload_len(&self, style: HeaderStyle) -> u64 {
        let told = style == HeaderStyle::Extended && self.flags & command_flag::PAYLOAD_LEN != 0;
        if told || self.command == command::WRITE { self.length } else { 0 }
    }
}

/// Writes a simple reply to the start of `out` and returns its length. `error` 0: success.
#[inline]
pub fn put_simple_reply(out: &mut [u8], cookie: u64, error: u32) -> usize {
    let reply = SimpleReply { magic: SIMPLE_REPLY_MAGIC.into(), error: error.into(), cookie: cookie.into() };
    out[..SIMPLE_REPLY_LEN].copy_from_slice(reply.as_bytes());
    SIMPLE_REPLY_LEN
}

/// The header of a reply chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub kind: ChunkType,
    pub cookie: u64,
    /// The offset of the *request*, whatever the chunk covers.
    pub request_offset: u64,
    /// Bytes of payload. A structured chunk carries 32 bits of it.
    pub length: u64,
    /// Whether it is the last of its reply.
    pub done: bool,
}

impl Chunk {
    /// Writes the header to the start of `out` and returns its length. There are no chunks in
    /// [`HeaderStyle::Simple`]; it is framed as structured.
    #[inline]
    pub fn put(&self, style: HeaderStyle, out: &mut [u8]) -> usize {
        let flags = if self.done { DONE } else { 0 }.into();
        let (kind, cookie) = ((self.kind as u16).into(), self.cookie.into());
        if style == HeaderStyle::Extended {
            let (magic, offset, length) = (EXTENDED_REPLY_MAGIC.into(), self.request_offset.into(), self.length.into());
            let chunk = ExtendedChunk { magic, flags, kind, cookie, offset, length };
            out[..size_of::<ExtendedChunk>()].copy_from_slice(chunk.as_bytes());
            return size_of::<ExtendedChunk>();
        }
        let (magic, length) = (STRUCTURED_REPLY_MAGIC.into(), (self.length as u32).into());
        let chunk = StructuredChunk { magic, flags, kind, cookie, length };
        out[..size_of::<StructuredChunk>()].copy_from_slice(chunk.as_bytes());
        size_of::<StructuredChunk>()
    }
}

/// A reply header as a client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    Simple {
        error: u32,
        cookie: u64,
    },
    /// `kind` as it was sent; `length` bytes of payload follow.
    Chunk {
        kind: u16,
        cookie: u64,
        done: bool,
        length: u64,
    },
}

impl ReplyHeader {
    /// Parses the header at the start of `bytes` and says how long it is. `None`: no reply starts here, or it is not
    /// all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (magic, _) = U32::ref_from_prefix(bytes).ok()?;
        match magic.get() {
            SIMPLE_REPLY_MAGIC => {
                let (raw, _) = SimpleReply::ref_from_prefix(bytes).ok()?;
                Some((Self::Simple { error: raw.error.get(), cookie: raw.cookie.get() }, size_of::<SimpleReply>()))
            }
            STRUCTURED_REPLY_MAGIC => {
                let (raw, _) = StructuredChunk::ref_from_prefix(bytes).ok()?;
                let (kind, cookie, length) = (raw.kind.get(), raw.cookie.get(), u64::from(raw.length.get()));
                let done = raw.flags.get() & DONE != 0;
                Some((Self::Chunk { kind, cookie, done, length }, size_of::<StructuredChunk>()))
            }
            EXTENDED_REPLY_MAGIC => {
                let (raw, _) = ExtendedChunk::ref_from_prefix(bytes).ok()?;
                let (kind, cookie, length) = (raw.kind.get(), raw.cookie.get(), raw.length.get());
                let done = raw.flags.get() & DONE != 0;
                Some((Self::Chunk { kind, cookie, done, length }, size_of::<ExtendedChunk>()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];

    fn requests() -> impl Strategy<Value = Request> {
        (any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(flags, command, cookie, offset, length)| Request { flags, command, cookie, offset, length })
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in requests(), tail: Vec<u8>) {
            for style in STYLES {
                let mut bytes = request.emit(style);
                prop_assert_eq!(bytes.len(), style.request_len());
                prop_assert_eq!(Request::parse(style, &bytes[..bytes.len() - 1]), None);
                bytes.extend_from_slice(&tail);
                let length = if style == HeaderStyle::Extended { request.length } else { request.length & 0xffff_ffff };
                prop_assert_eq!(Request::parse(style, &bytes), Some(Request { length, ..request }));
            }
        }

        #[test]
        fn replies_round_trip(cookie: u64, error: u32, request_offset: u64, length: u32, done: bool) {
            let mut out = [0; 64];
            let len = put_simple_reply(&mut out, cookie, error);
            prop_assert_eq!(ReplyHeader::parse(&out[..len]), Some((ReplyHeader::Simple { error, cookie }, len)));
            for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
                let kind = ChunkType::OffsetData;
                let chunk = Chunk { kind, cookie, request_offset, length: length.into(), done };
                let len = chunk.put(style, &mut out);
                prop_assert_eq!(len, style.reply_len());
                let expected = ReplyHeader::Chunk { kind: kind as u16, cookie, done, length: length.into() };
                prop_assert_eq!(ReplyHeader::parse(&out[..len]), Some((expected, len)));
                prop_assert_eq!(ReplyHeader::parse(&out[..len - 1]), None);
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            for style in STYLES {
                let _ = Request::parse(style, &bytes);
            }
            let _ = ReplyHeader::parse(&bytes);
        }
    }

    #[test]
    fn a_style_takes_its_own_magic_only() {
        let request = Request { flags: 0, command: 0, cookie: 1, offset: 2, length: 3 };
        let mut compact = request.emit(HeaderStyle::Structured);
        compact.extend_from_slice(&[0; 8]);
        assert_eq!(Request::parse(HeaderStyle::Extended, &compact), None);
        assert_eq!(Request::parse(HeaderStyle::Simple, &request.emit(HeaderStyle::Extended)), None);
    }

    #[test]
    fn payload_follows_writes_or_the_flag() {
        let write = Request { flags: 0, command: command::WRITE, cookie: 0, offset: 0, length: 512 };
        assert_eq!(write.payload_len(HeaderStyle::Simple), 512);
        assert_eq!(write.payload_len(HeaderStyle::Extended), 512);
        let read = Request { flags: command_flag::PAYLOAD_LEN, command: command::READ, ..write };
        assert_eq!(read.payload_len(HeaderStyle::Structured), 0);
        assert_eq!(read.payload_len(HeaderStyle::Extended), 512);
    }
}
