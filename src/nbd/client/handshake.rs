//! The client's side of the handshake: fixed newstyle, structured replies and `base:allocation` where the server has
//! them.
//!
//! Every step ends: an option has so many replies at the most, each of so many bytes, and only its end is progress.

use super::super::local_attach::CONTEXT;
use super::super::uri::BY_PIPE;
use super::super::wire::handshake::{
    self, InfoRequest, InfoType, MetaContextRequest, OptionHeader, OptionType, ReplyType, flag as handshake_flag,
};
use super::super::wire::transmission::{HeaderStyle, flag};
use super::PART;
use super::transport::{Transport, long, word, words};
use crate::{Error, ErrorKind, PAGE, Result};

/// Replies to one option. To the longest of ours, GO, a server has a handful to say.
const MOST_REPLIES: usize = 64;
/// Data of one reply. The longest that the protocol knows is a text of 4,096 bytes.
const MOST_DATA: u64 = 64 << 10;
/// The largest export there can be: offsets are signed in many programs, and the protocol keeps to that.
const MOST_SIZE: u64 = i64::MAX as u64;

/// What both sides go on with.
pub(super) struct Agreed {
    pub(super) style: HeaderStyle,
    /// The id of `base:allocation`, where the server has it.
    pub(super) context: Option<u32>,
    pub(super) size: u64,
    /// Bytes to ask for in one request.
    pub(super) most: usize,
}

/// Hears the type and the data of a reply that does not end its option.
type Hear<'a> = &'a mut dyn FnMut(&Transport, u32, &[u8]) -> Result<()>;

/// How an option ended.
enum End {
    Ack,
    /// The type of the error, and the server's own words.
    Refused(u32, String),
}

/// Attaches `export`.
pub(super) fn attach(transport: &mut Transport, export: &str) -> Result<Agreed> {
    let greeting: [u8; 18] = transport.receive()?;
    let ours = handshake::greeting();
    if greeting[..8] != ours[..8] {
        return Err(transport.broken("no NBD greeting"));
    }
    let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
    if greeting[8..16] != ours[8..16] || flags & handshake_flag::FIXED_NEWSTYLE == 0 {
        let what = format!("{} is too old: it speaks no fixed newstyle", transport.peer());
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let both = flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    transport.send(&u32::from(both).to_be_bytes())?;
    transport.step();
    let (mut style, mut context) = (HeaderStyle::Simple, None);
    if let End::Ack =
        option(transport, OptionType::StructuredReply, &[], &mut |transport, _, _| Err(unasked(transport)))?
    {
        style = HeaderStyle::Structured;
        context = ask_context(transport, export)?;
    }
    go(transport, export, style, context)
}

/// The id of `base:allocation`, where the server has it.
fn ask_context(transport: &mut Transport, export: &str) -> Result<Option<u32>> {
    let query = MetaContextRequest { name: export, queries: vec![CONTEXT] }.emit();
    let mut id = None;
    let end = option(transport, OptionType::SetMetaContext, &query, &mut |transport, kind, data| {
        if kind != ReplyType::MetaContext as u32 || data.get(4..) != Some(CONTEXT.as_bytes()) || id.is_some() {
            return Err(unasked(transport));
        }
        id = word(data, 0);
        Ok(())
    })?;
    Ok(if let End::Ack = end { id } else { None })
}

fn go(transport: &mut Transport, export: &str, style: HeaderStyle, context: Option<u32>) -> Result<Agreed> {
    let data = InfoRequest { name: export, wanted: vec![InfoType::BlockSize as u16] }.emit();
    let (mut found, mut most) = (None, PART);
    let end = option(transport, OptionType::Go, &data, &mut |transport, kind, data| {
        let number = data.first_chunk().map(|kind| u16::from_be_bytes(*kind));
        let (true, Some(number)) = (kind == ReplyType::Info as u32, number) else { return Err(unasked(transport)) };
        if number == InfoType::Export as u16 {
            let flags = data.get(10..12).and_then(|flags| flags.try_into().ok()).map(u16::from_be_bytes);
            let (12, Some(size), Some(flags), None) = (data.len(), long(data, 2), flags, found) else {
                return Err(transport.broken("no size of the export, or more than one"));
            };
            found = Some((size, flags));
        } else if number == InfoType::BlockSize as u16 {
            most = largest(data).ok_or_else(|| transport.broken("block sizes that cannot be"))?;
        }
        Ok(())
    })?;
    if let End::Refused(kind, message) = end {
        return Err(refused(transport, export, kind, &message));
    }
    let Some((size, flags)) = found else { return Err(transport.broken("an export without a size")) };
    if size > MOST_SIZE {
        return Err(transport.broken(format_args!("an export of {size} bytes")));
    }
    if flags & flag::HAS_FLAGS == 0 {
        return Err(transport.broken("no transmission flags"));
    }
    Ok(Agreed { style, context, size, most })
}

/// The bytes to ask for in one request, by the data of NBD_INFO_BLOCK_SIZE.
fn largest(data: &[u8]) -> Option<usize> {
    let (least, most) = (word(data, 2)? as usize, word(data, 10)? as usize);
    // Least: a power of two up to 64 KiB. Most: a multiple of it, or all there is ("Block size constraints").
    let fits = data.len() == 14 && least.is_power_of_two() && least <= 64 << 10 && most >= least.max(PAGE);
    fits.then(|| most.min(PART) / least.max(PAGE) * least.max(PAGE))
}

/// Sends an option, and hears what comes before its end.
fn option(transport: &mut Transport, option: OptionType, data: &[u8], recv_reply: Hear<'_>) -> Result<End> {
    transport.send(&OptionHeader { option, length: data.len() as u32 }.emit())?;
    transport.send(data)?;
    let mut model = Vec::new();
    handshake::put_reply(&mut model, option, ReplyType::Ack, &[]);
    for _ in 0..MOST_REPLIES {
        let header: [u8; 20] = transport.receive()?;
        if header[..12] != model[..12] {
            return Err(transport.broken("no reply to the option"));
        }
        let (kind, length) = (word(&header, 12).unwrap_or_default(), word(&header, 16).unwrap_or_default());
        let data = transport.receive_vec(u64::from(length), MOST_DATA, "an option reply")?;
        if kind == ReplyType::ErrTlsReqd as u32 {
            let what = format!("{} wants TLS, which is not spoken here", transport.peer());
            return Err(Error::new(ErrorKind::Unsupported, what).hint(BY_PIPE));
        }
        if kind == ReplyType::Ack as u32 || kind >> 31 == 1 {
            transport.step();
            return Ok(if kind >> 31 == 1 { End::Refused(kind, words(&data)) } else { End::Ack });
        }
        recv_reply(transport, kind, &data)?;
    }
    Err(transport.broken("replies to an option without end"))
}

fn unasked(transport: &Transport) -> Error {
    transport.broken("an option reply that was not asked for")
}

fn refused(transport: &Transport, export: &str, kind: u32, message: &str) -> Error {
    let is = |reply: ReplyType| kind == reply as u32;
    let kind = match () {
        () if is(ReplyType::ErrUnsup) || is(ReplyType::ErrBlockSizeReqd) => ErrorKind::Unsupported,
        () if is(ReplyType::ErrShutdown) => ErrorKind::Shutdown,
        () if is(ReplyType::ErrUnknown) => ErrorKind::NotFound,
        () => ErrorKind::Io,
    };
    let why = if message.is_empty() { String::new() } else { format!(": {message}") };
    Error::new(kind, format!("{} does not give the export \"{export}\"{why}", transport.peer()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_settle_the_size_of_requests() {
        for (least, most, expected) in [
            (1, u32::MAX, Some(PART)),
            (512, 65_536, Some(65_536)),
            (4096, 1 << 25, Some(PART)),
            (1, 70_000, Some(69_632)),
            (65_536, 65_536, Some(65_536)),
            (0, 65_536, None),
            (3, 65_536, None),
            (1 << 17, 1 << 20, None),
            (1, 0, None),
            (1, 511, None),
            (4096, 512, None),
        ] {
            assert_eq!(largest(&handshake::info_block_size(least, 4096, most)), expected, "{least} {most}");
        }
        assert_eq!(largest(&[0; 13]), None);
        assert_eq!(largest(&[]), None);
    }
}
