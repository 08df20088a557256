//! Any bytes as a handshake: every reply belongs to an option that was sent, in order, and fits together; the server
//! ends the conversation when the client does.

use std::io::{Read, Write};
use std::net::Shutdown;

use sealdisk::nbd::wire::handshake::{OptionHeader, greeting};

#[path = "nbd_served.rs"]
mod nbd_served;

const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const ACK: u32 = 1;
const GO: u32 = 7;

/// `data`: what the client sends, from its flags on.
pub(crate) fn run(data: &[u8]) {
    let mut stream = nbd_served::served().connect();
    // The server may have ended the conversation before all is sent.
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server does not end");
    }
    let Some(mut replies) = said.strip_prefix(&greeting()) else {
        // Cut off by a reset, which takes with it what was not read yet.
        return;
    };
    let mut options = sent(data);
    while let Some((header, rest)) = replies.split_first_chunk::<20>() {
        let field = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let Some(option) = options.first().copied() else { return };
        if option == 1 || header[..8] != REPLY_MAGIC.to_be_bytes() {
            // The answer to EXPORT_NAME has no header, and what follows it are replies of the transmission phase.
            assert_eq!(option, 1, "what is no option reply answers EXPORT_NAME");
            return;
        }
        let (kind, length) = (field(12), field(16) as usize);
        assert_eq!(field(8), option, "replies come in order");
        assert!(rest.len() >= length, "a reply is all there");
        replies = &rest[length..];
        if kind == ACK || kind >> 31 == 1 {
            options.remove(0);
        }
        if kind == ACK && option == GO {
            return;
        }
    }
    assert!(replies.len() < 20 && (replies.is_empty() || options.first() == Some(&1)));
}

/// The options in what was sent, in order.
fn sent(data: &[u8]) -> Vec<u32> {
    let mut options = Vec::new();
    let mut left = data.get(4..).unwrap_or_default();
    while let Some((header, rest)) = left.split_first_chunk::<{ OptionHeader::LEN }>() {
        let Some(header) = OptionHeader::parse(header) else { break };
        options.push(header.option.into());
        left = rest.get(header.length as usize..).unwrap_or_default();
    }
    options
}
