//! Messages of the handshake phase: greeting, options, option replies.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_STRING, U16, U32, U64};

const NBDMAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const IHAVEOPT: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags, sent by the server, and the client flags of the same bits.
pub mod flag {
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Reserved bytes after the answer to EXPORT_NAME, unless both sides agreed on NO_ZEROES.
pub const EXPORT_NAME_ZEROES: usize = 124;

/// What the server says first.
#[must_use]
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&NBDMAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&IHAVEOPT.to_be_bytes());
    bytes[16..].copy_from_slice(&(flag::FIXED_NEWSTYLE | flag::NO_ZEROES).to_be_bytes());
    bytes
}

/// An option a client may ask for. Values not listed are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionType {
    ExportName,
    Abort,
    List,
    StartTls,
    Info,
    Go,
    StructuredReply,
    ListMetaContext,
    SetMetaContext,
    ExtendedHeaders,
    Unknown(u32),
}

impl From<u32> for OptionType {
    fn from(value: u32) -> Self {
        match value {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            other => Self::Unknown(other),
        }
    }
}

impl From<OptionType> for u32 {
    fn from(option: OptionType) -> Self {
        match option {
            OptionType::ExportName => 1,
            OptionType::Abort => 2,
            OptionType::List => 3,
            OptionType::StartTls => 5,
            OptionType::Info => 6,
            OptionType::Go => 7,
            OptionType::StructuredReply => 8,
            OptionType::ListMetaContext => 9,
            OptionType::SetMetaContext => 10,
            OptionType::ExtendedHeaders => 11,
            OptionType::Unknown(value) => value,
        }
    }
}

#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOption {
    magic: U64,
    option: U32,
    length: U32,
}

/// The header of an option; `length` bytes of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    pub option: OptionType,
    pub length: u32,
}

impl OptionHeader {
    pub const LEN: usize = size_of::<RawOption>();

    /// `None`: no option starts here.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let raw = RawOption::ref_from_bytes(bytes).ok()?;
        (raw.magic == IHAVEOPT).then(|| Self { option: raw.option.get().into(), length: raw.length.get() })
    }

    #[must_use]
    pub fn emit(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&IHAVEOPT.to_be_bytes());
        bytes[8..12].copy_from_slice(&u32::from(self.option).to_be_bytes());
        bytes[12..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// Type of an option reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ReplyType {
    Ack = 1,
    Server = 2,
    Info = 3,
    MetaContext = 4,
    ErrUnsup = (1 << 31) + 1,
    ErrPolicy = (1 << 31) + 2,
    ErrInvalid = (1 << 31) + 3,
    ErrPlatform = (1 << 31) + 4,
    ErrTlsReqd = (1 << 31) + 5,
    ErrUnknown = (1 << 31) + 6,
    ErrShutdown = (1 << 31) + 7,
    ErrBlockSizeReqd = (1 << 31) + 8,
    ErrTooBig = (1 << 31) + 9,
    ErrExtHeaderReqd = (1 << 31) + 10,
}

/// Appends one option reply; `parts` are its data, concatenated.
pub fn put_reply(out: &mut Vec<u8>, option: OptionType, kind: ReplyType, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&u32::from(option).to_be_bytes());
    out.extend_from_slice(&(kind as u32).to_be_bytes());
    out.extend_from_slice(&(length as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Information about an export (`NBD_INFO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum InfoType {
    Export = 0,
    Name = 1,
    Description = 2,
    BlockSize = 3,
}

/// Data of NBD_INFO_EXPORT: size in bytes and transmission flags.
#[must_use]
pub fn info_export(size: u64, flags: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&(InfoType::Export as u16).to_be_bytes());
    bytes[2..].copy_from_slice(&export_name_answer(size, flags));
    bytes
}

/// What answers EXPORT_NAME: size in bytes and transmission flags, before the zeroes.
#[must_use]
pub fn export_name_answer(size: u64, flags: u16) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&size.to_be_bytes());
    bytes[8..].copy_from_slice(&flags.to_be_bytes());
    bytes
}

/// Data of NBD_INFO_BLOCK_SIZE, all in bytes.
#[must_use]
pub fn info_block_size(minimum: u32, preferred: u32, maximum: u32) -> [u8; 14] {
    let mut bytes = [0; 14];
    bytes[..2].copy_from_slice(&(InfoType::BlockSize as u16).to_be_bytes());
    for (field, value) in [minimum, preferred, maximum].into_iter().enumerate() {
        bytes[2 + field * 4..][..4].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Why the data of an option was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A length reaches past the data, or data is left over.
    Framing,
    /// A string that is no UTF-8, holds NUL, or is longer than the protocol or the limit allows.
    Text,
    /// More queries than the limit.
    TooMany,
}

/// A name in an option: UTF-8 without NUL, of at most `max` bytes.
pub fn text(bytes: &[u8], max: usize) -> Result<&str, Malformed> {
    if bytes.len() > max.min(MAX_STRING) || bytes.contains(&0) {
        return Err(Malformed::Text);
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed::Text)
}

/// Data of INFO and GO.
#[derive(Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    pub name: &'a str,
    /// Asked-for information types, in order; unknown ones included.
    pub wanted: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    pub fn parse(data: &'a [u8], max_name: usize) -> Result<Self, Malformed> {
        let mut reader = Reader(data);
        let name = reader.string()?;
        let count = usize::from(reader.u16()?);
        if reader.0.len() != count * 2 {
            return Err(Malformed::Framing);
        }
        let name = text(name, max_name)?;
        let wanted = reader.0.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
        Ok(Self { name, wanted })
    }

    pub fn emit(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, self.name);
        data.extend_from_slice(&(self.wanted.len() as u16).to_be_bytes());
        for wanted in &self.wanted {
            data.extend_from_slice(&wanted.to_be_bytes());
        }
        data
    }
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, PartialEq, Eq)]
pub struct MetaContextRequest<'a> {
    pub name: &'a str,
    pub queries: Vec<&'a str>,
}

impl<'a> MetaContextRequest<'a> {
    pub fn parse(data: &'a [u8], max_name: usize, max_queries: u32) -> Result<Self, Malformed> {
        let mut reader = Reader(data);
        let name = reader.string()?;
        let count = reader.u32()?;
        if count > max_queries {
            return Err(Malformed::TooMany);
        }
        let queries = (0..count).map(|_| reader.string()).collect::<Result<Vec<_>, _>>()?;
        if !reader.0.is_empty() {
            return Err(Malformed::Framing);
        }
        let name = text(name, max_name)?;
        let queries = queries.into_iter().map(|query| text(query, max_name)).collect::<Result<_, _>>()?;
        Ok(Self { name, queries })
    }

    pub fn emit(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, self.name);
        data.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            put_string(&mut data, query);
        }
        data
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Framing)?;
        self.0 = tail;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(U16::read_from_bytes(self.take(2)?).map_err(|_| Malformed::Framing)?.get())
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(U32::read_from_bytes(self.take(4)?).map_err(|_| Malformed::Framing)?.get())
    }

    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u32()? as usize;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn option_headers_round_trip(option: u32, length: u32) {
            let header = OptionHeader { option: option.into(), length };
            prop_assert_eq!(OptionHeader::parse(&header.emit()), Some(header));
            prop_assert_eq!(u32::from(header.option), option);
        }

        #[test]
        fn info_requests_round_trip(name in "[^\0]{0,300}", wanted: Vec<u16>) {
            let request = InfoRequest { name: &name, wanted };
            let data = request.emit();
            prop_assert_eq!(InfoRequest::parse(&data, MAX_STRING), Ok(request));
        }

        #[test]
        fn meta_context_requests_round_trip(name in "[^\0]{0,99}", queries in prop::collection::vec("[^\0]{0,40}", 0..9)) {
            let request = MetaContextRequest { name: &name, queries: queries.iter().map(String::as_str).collect() };
            let data = request.emit();
            prop_assert_eq!(MetaContextRequest::parse(&data, MAX_STRING, 8), Ok(request));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(data: Vec<u8>, cut in 0usize..64) {
            let _ = InfoRequest::parse(&data, MAX_STRING);
            let _ = MetaContextRequest::parse(&data, MAX_STRING, 256);
            // A prefix of a valid request is never valid.
            let whole = MetaContextRequest { name: "disk", queries: vec!["base:allocation", "qemu:"] }.emit();
            let cut = cut.min(whole.len() - 1);
            prop_assert_eq!(MetaContextRequest::parse(&whole[..cut], MAX_STRING, 9), Err(Malformed::Framing));
        }
    }

    #[test]
    fn huge_counts_and_lengths_are_refused_without_allocating() {
        assert_eq!(InfoRequest::parse(&[0xff; 64], 4096), Err(Malformed::Framing));
        let mut data = vec![0, 0, 0, 0];
        data.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(MetaContextRequest::parse(&data, 4096, 256), Err(Malformed::TooMany));
    }

    #[test]
    fn names_are_text() {
        assert_eq!(text(b"a\0b", 4096), Err(Malformed::Text));
        assert_eq!(text(b"\xff", 4096), Err(Malformed::Text));
        assert_eq!(text(&[b'x'; 4097], usize::MAX), Err(Malformed::Text));
        assert_eq!(text(&[b'x'; 11], 10), Err(Malformed::Text));
        assert!(text(&[b'x'; 4096], 4096).is_ok());
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        assert_eq!(&greeting(), b"NBDMAGICIHAVEOPT\0\x03");
        let mut out = Vec::new();
        put_reply(&mut out, OptionType::Go, ReplyType::Ack, &[]);
        assert_eq!(out, [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(info_export(512, 0x3), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3]);
        assert_eq!(info_block_size(512, 4096, 1 << 25), [0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]);
        assert_eq!(ReplyType::ErrExtHeaderReqd as u32, 0x8000_000a);
    }
}
