//! An NBD server in the test itself, which says what a script tells it to: the truth, or something else.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealdisk::nbd::wire::handshake::{OptionHeader, OptionType, ReplyType, greeting, info_export, put_reply};
use sealdisk::nbd::wire::transmission::{
    Chunk, ChunkType, HeaderStyle, Request, command, flag, put_simple_reply, state,
};

use crate::fixture::{noise, text};
use crate::support::{Account, MIB};

pub(crate) const SIZE: u64 = 3 * MIB + 512;
/// The id of the one context.
pub(crate) const CONTEXT: u32 = 0x00c0_ffee;
const FLAGS: u16 = flag::HAS_FLAGS | flag::READ_ONLY;
/// No conversation is longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What the good server has.
pub(crate) fn content() -> Vec<u8> {
    let mut bytes = noise(77, SIZE as usize);
    bytes[MIB as usize..2 * MIB as usize].fill(0);
    bytes
}

/// What a server does with one connection. Its error ends the conversation.
pub(crate) type Script = Arc<dyn Fn(&mut Peer) -> io::Result<()> + Send + Sync>;

/// Listens on a unix socket and plays one script after the other, until the process ends.
pub(crate) struct Stage {
    socket: PathBuf,
    script: Arc<Mutex<Script>>,
}

impl Stage {
    pub(crate) fn new(account: &Account) -> Self {
        let socket = account.scratch("stage.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Arc::new(honest)));
        let played = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&played.lock().expect("a script"));
                std::thread::spawn(move || {
                    let limit = Some(TIMEOUT);
                    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).expect("time-outs");
                    // The client goes when it has heard enough.
                    let _ = script(&mut Peer { stream });
                });
            }
        });
        Self { socket, script }
    }

    pub(crate) fn play(&self, script: Script) {
        *self.script.lock().expect("a script") = script;
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///x?socket={}", text(&self.socket))
    }
}

/// Everything as it should be.
pub(crate) fn honest(peer: &mut Peer) -> io::Result<()> {
    let content = content();
    peer.attach(SIZE)?;
    loop {
        let request = peer.request()?;
        match request.command {
            command::DISC => return Ok(()),
            command::BLOCK_STATUS => {
                let hole = state::HOLE | state::ZERO;
                let map = [(0, MIB, 0), (MIB, 2 * MIB, hole), (2 * MIB, SIZE, 0)];
                let end = request.offset + request.length;
                let extents: Vec<_> = map
                    .iter()
                    .map(|&(from, to, flags)| (to.min(end).saturating_sub(from.max(request.offset)) as u32, flags))
                    .filter(|&(length, _)| length > 0)
                    .collect();
                peer.status(&request, CONTEXT, &extents)?;
            }
            _ => {
                let range = request.offset as usize..(request.offset + request.length) as usize;
                peer.data(&request, request.offset, &content[range], true)?;
            }
        }
    }
}

/// A connection, seen from the server.
pub(crate) struct Peer {
    stream: UnixStream,
}

impl Peer {
    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The same, a byte at a time, with a pause before each.
    pub(crate) fn drip(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        bytes.iter().try_for_each(|byte| {
            std::thread::sleep(pause);
            self.say(&[*byte])
        })
    }

    fn hear(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Says nothing more, and waits until the client has gone.
    pub(crate) fn fall_silent(&mut self) -> io::Result<()> {
        self.stream.read_to_end(&mut Vec::new()).map(drop)
    }

    pub(crate) fn greet(&mut self) -> io::Result<()> {
        self.say(&greeting())?;
        self.hear(4).map(drop)
    }

    /// The next option; its data is not looked at.
    pub(crate) fn option(&mut self) -> io::Result<OptionType> {
        let header = self.hear(OptionHeader::LEN)?;
        let header = header.first_chunk().and_then(OptionHeader::parse).expect("our client sends options");
        self.hear(header.length as usize)?;
        Ok(header.option)
    }

    pub(crate) fn reply(&mut self, option: OptionType, kind: ReplyType, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_reply(&mut bytes, option, kind, &[data]);
        self.say(&bytes)
    }

    /// Greets, and answers options as it should until `option` comes, which is left to the caller.
    pub(crate) fn until(&mut self, option: OptionType, size: u64) -> io::Result<()> {
        self.greet()?;
        loop {
            let came = self.option()?;
            if came == option {
                return Ok(());
            }
            self.answer(came, size)?;
        }
    }

    pub(crate) fn answer(&mut self, option: OptionType, size: u64) -> io::Result<()> {
        match option {
            OptionType::SetMetaContext => {
                self.reply(option, ReplyType::MetaContext, &context(CONTEXT, "base:allocation"))?;
            }
            OptionType::Go => self.reply(option, ReplyType::Info, &info_export(size, FLAGS))?,
            _ => {}
        }
        self.reply(option, ReplyType::Ack, &[])
    }

    /// The whole handshake as it should be.
    pub(crate) fn attach(&mut self, size: u64) -> io::Result<()> {
        self.until(OptionType::Go, size)?;
        self.answer(OptionType::Go, size)
    }

    pub(crate) fn request(&mut self) -> io::Result<Request> {
        let header = self.hear(HeaderStyle::Structured.request_len())?;
        Ok(Request::parse(HeaderStyle::Structured, &header).expect("our client sends requests"))
    }

    pub(crate) fn chunk(&mut self, kind: ChunkType, cookie: u64, done: bool, payload: &[u8]) -> io::Result<()> {
        let mut header = [0; 32];
        let chunk = Chunk { kind, cookie, request_offset: 0, length: payload.len() as u64, done };
        let len = chunk.put(HeaderStyle::Structured, &mut header);
        self.say(&[&header[..len], payload].concat())
    }

    /// The header of a chunk with any length and type.
    pub(crate) fn chunk_header(&mut self, kind: u16, cookie: u64, done: bool, length: u32) -> io::Result<()> {
        self.say(&chunk_header(kind, cookie, done, length))
    }

    pub(crate) fn data(&mut self, request: &Request, at: u64, bytes: &[u8], done: bool) -> io::Result<()> {
        self.chunk(ChunkType::OffsetData, request.cookie, done, &[&at.to_be_bytes()[..], bytes].concat())
    }

    pub(crate) fn hole(&mut self, request: &Request, at: u64, len: u32, done: bool) -> io::Result<()> {
        let payload = [&at.to_be_bytes()[..], &len.to_be_bytes()].concat();
        self.chunk(ChunkType::OffsetHole, request.cookie, done, &payload)
    }

    pub(crate) fn status(&mut self, request: &Request, id: u32, extents: &[(u32, u32)]) -> io::Result<()> {
        self.chunk(ChunkType::BlockStatus, request.cookie, true, &status(id, extents))
    }

    pub(crate) fn simple(&mut self, cookie: u64, error: u32, data: &[u8]) -> io::Result<()> {
        let mut reply = [0; 16];
        put_simple_reply(&mut reply, cookie, error);
        self.say(&[&reply[..], data].concat())
    }

    /// Answers the block status that comes first, that everything is data, and gives the first read.
    pub(crate) fn first_read(&mut self) -> io::Result<Request> {
        self.attach(SIZE)?;
        loop {
            let request = self.request()?;
            if request.command == command::READ {
                return Ok(request);
            }
            self.status(&request, CONTEXT, &[(request.length as u32, 0)])?;
        }
    }
}

pub(crate) fn context(id: u32, name: &str) -> Vec<u8> {
    [&id.to_be_bytes()[..], name.as_bytes()].concat()
}

pub(crate) fn status(id: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let words = extents.iter().flat_map(|&(length, flags)| [length, flags]);
    std::iter::once(id).chain(words).flat_map(u32::to_be_bytes).collect()
}

pub(crate) fn chunk_header(kind: u16, cookie: u64, done: bool, length: u32) -> Vec<u8> {
    let mut header = [0; 32];
    let chunk = Chunk { kind: ChunkType::None, cookie, request_offset: 0, length: length.into(), done };
    let len = chunk.put(HeaderStyle::Structured, &mut header);
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[..len].to_vec()
}
