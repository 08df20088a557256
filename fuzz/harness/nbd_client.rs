//! Any bytes as what an NBD server says: the client ends, and takes for content of a byte only what was said of that
//! byte.

use std::io::{self, Cursor, Read, Write};
use std::time::Duration;

use sealdisk::base::Content;
use sealdisk::nbd::client::{Client, WaitBudget};
use sealdisk::nbd::wire::handshake::{OptionType, ReplyType, greeting, info_block_size, info_export, put_reply};
use sealdisk::nbd::wire::transmission::{ChunkType, ReplyHeader, flag};

/// Bytes of the export in a conversation whose handshake is given.
pub(crate) const SIZE: u64 = 64 << 10;
/// Bytes of one request there.
pub(crate) const MOST: u32 = 4096;
pub(crate) const CONTEXT: u32 = 1;
/// Bytes of one read: several requests.
const READ: u64 = 16 << 10;

/// Says what it was given, and then no more. What it is told it does not keep.
pub(crate) struct Said(pub(crate) Cursor<Vec<u8>>);

impl Read for Said {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Said {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn attach(said: Vec<u8>) -> sealdisk::Result<Client> {
    Client::over(Said(Cursor::new(said)), "x", WaitBudget::new(Duration::from_secs(20), || Ok(())))
}

/// `data`: a byte of settings, and what the server says: all of it, or what follows a handshake.
pub(crate) fn run(data: &[u8]) {
    let Some((settings, said)) = data.split_first() else { return };
    let before = match settings % 4 {
        0 => Vec::new(),
        1 => handshake(false, false),
        2 => handshake(true, false),
        _ => handshake(true, true),
    };
    let Ok(mut client) = attach([&before, said].concat()) else { return };
    if client.size() > SIZE {
        return;
    }
    let chunked = settings % 4 > 1;
    let mut at = 0;
    let mut buf = vec![0; READ as usize];
    while let Ok(Some(from)) = client.next_data(at) {
        assert!((at..client.size()).contains(&from), "data lies ahead and inside");
        let len = READ.min(client.size() - from);
        let buf = &mut buf[..len as usize];
        if client.read_at(from, buf).is_err() {
            return;
        }
        if chunked {
            check(said, from, buf);
        }
        at = from + len;
    }
}

/// What a good server says up to the transmission phase.
pub(crate) fn handshake(structured: bool, contexts: bool) -> Vec<u8> {
    let mut said = greeting().to_vec();
    let structured_reply = if structured { ReplyType::Ack } else { ReplyType::ErrUnsup };
    put_reply(&mut said, OptionType::StructuredReply, structured_reply, &[]);
    if structured {
        if contexts {
            let context = [&CONTEXT.to_be_bytes()[..], b"base:allocation"];
            put_reply(&mut said, OptionType::SetMetaContext, ReplyType::MetaContext, &context);
        }
        put_reply(&mut said, OptionType::SetMetaContext, ReplyType::Ack, &[]);
    }
    put_reply(&mut said, OptionType::Go, ReplyType::Info, &[&info_export(SIZE, flag::HAS_FLAGS)]);
    put_reply(&mut said, OptionType::Go, ReplyType::Info, &[&info_block_size(1, 4096, MOST)]);
    put_reply(&mut said, OptionType::Go, ReplyType::Ack, &[]);
    said
}

/// Every byte that was read is one that a chunk told of its place, as far as the chunks can be followed.
fn check(mut said: &[u8], from: u64, read: &[u8]) {
    let mut told = vec![false; read.len()];
    while let Some((ReplyHeader::Chunk { kind, length, .. }, header)) = ReplyHeader::parse(said) {
        let Some((payload, rest)) = said[header..].split_at_checked(length as usize) else { break };
        said = rest;
        let Some((place, bytes)) = payload.split_first_chunk::<8>() else { continue };
        let zeros;
        let bytes = match (kind, bytes.first_chunk::<4>()) {
            (kind, _) if kind == ChunkType::OffsetData as u16 => bytes,
            (kind, Some(length)) if kind == ChunkType::OffsetHole as u16 => {
                zeros = vec![0; u32::from_be_bytes(*length).min(MOST) as usize];
                &zeros
            }
            _ => continue,
        };
        for (n, byte) in (0..).zip(bytes) {
            let at = u64::from_be_bytes(*place).checked_add(n).and_then(|at| at.checked_sub(from));
            if let Some(at) = at.filter(|&at| at < read.len() as u64) {
                told[at as usize] |= read[at as usize] == *byte;
            }
        }
    }
    assert!(told.iter().all(|&told| told), "content that nobody told");
}
