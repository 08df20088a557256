//! The limit: an NBD server that parses and answers, and neither encrypts nor, without a file, stores anything.
//!
//! What a server could reach at best on a machine: one thread a connection, one large read a system call, every
//! complete request in it answered, the replies gathered into one write. Reads give zeros. With a file each request is
//! also one read or write of that file, as little as any server must do that stores in files. For benchmarks only: it
//! trusts its client.
//!
//! usage: limit SOCKET BYTES [FILE]

use std::env;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const REQUEST_BYTES: usize = 28;
const LARGEST_READ: usize = 32 << 20;
/// Bytes of a long request that are moved between file and client at once: few enough to stay in the processor's cache.
const PIECE: usize = 64 << 10;
/// Bytes read from the file for replies that are sent together.
const GATHERED: usize = 256 << 10;
/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
const FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let (socket, bytes, file) = match &arguments[..] {
        [_, socket, bytes] => (socket, bytes, None),
        [_, socket, bytes, file] => (socket, bytes, Some(file)),
        _ => return Err(io::Error::other("usage: limit SOCKET BYTES [FILE]")),
    };
    let size: u64 = bytes.parse().map_err(io::Error::other)?;
    let file = file.map(|path| File::options().read(true).write(true).create_new(true).open(path)).transpose()?;
    file.as_ref().map(|file| file.set_len(size)).transpose()?;
    let file = Arc::new(file);
    for client in UnixListener::bind(socket)?.incoming() {
        let (client, file) = (client?, Arc::clone(&file));
        thread::spawn(move || {
            let serve = |()| match &*file {
                None => transmit(&client, &mut Nothing(vec![0; LARGEST_READ])),
                Some(file) => transmit(&client, &mut Stored { file, data: vec![0; GATHERED], used: 0 }),
            };
            if let Err(error) = handshake(&client, size).and_then(serve) {
                eprintln!("limit: {error}");
            }
        });
    }
    Ok(())
}

/// Fixed newstyle; EXPORT_NAME, INFO and GO are answered, everything else is unsupported.
fn handshake(mut client: &UnixStream, size: u64) -> io::Result<()> {
    client.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
    client.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        client.read_exact(&mut header)?;
        let option = u32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
        let length = u32::from_be_bytes(header[12..].try_into().expect("four bytes"));
        io::copy(&mut client.take(length.into()), &mut io::sink())?;
        let export = [&size.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
        match option {
            1 => return client.write_all(&export),
            6 | 7 => {
                client.write_all(&reply(option, 3, &[&[0, 0], &export[..]].concat()))?;
                client.write_all(&reply(option, 1, &[]))?;
                if option == 7 {
                    return Ok(());
                }
            }
            _ => client.write_all(&reply(option, 0x8000_0001, &[]))?,
        }
    }
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// Where data comes from and goes to.
trait Store {
    /// Room for `length` bytes more of replies; otherwise what there is must be sent first.
    fn fits(&self, length: usize) -> bool;
    /// Where the data for a reply lies in [`Store::data`].
    fn read(&mut self, offset: u64, length: usize) -> io::Result<usize>;
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
    fn data(&self) -> &[u8];
    /// All replies were sent.
    fn sent(&mut self);
}

/// Gives zeros, takes anything.
struct Nothing(Vec<u8>);

impl Store for Nothing {
    fn fits(&self, _: usize) -> bool {
        true
    }
    fn read(&mut self, _: u64, _: usize) -> io::Result<usize> {
        Ok(0)
    }
    fn write(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn data(&self) -> &[u8] {
        &self.0
    }
    fn sent(&mut self) {}
}

/// A file, and what was read from it for replies that are not sent yet.
struct Stored<'a> {
    file: &'a File,
    data: Vec<u8>,
    used: usize,
}

impl Store for Stored<'_> {
    fn fits(&self, length: usize) -> bool {
        self.used + length <= self.data.len()
    }
    fn read(&mut self, offset: u64, length: usize) -> io::Result<usize> {
        let at = self.used;
        self.used += length;
        self.file.read_exact_at(&mut self.data[at..at + length], offset)?;
        Ok(at)
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn data(&self) -> &[u8] {
        &self.data
    }
    fn sent(&mut self) {
        self.used = 0;
    }
}

/// A reply: its header, and the place and length of its data.
type Reply = ([u8; 16], usize, usize);

fn transmit(mut client: &UnixStream, store: &mut impl Store) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut filled = 0;
    let mut replies: Vec<Reply> = Vec::new();
    loop {
        let read = client.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut at = 0;
        while filled - at >= REQUEST_BYTES {
            let request = &buffer[at..at + REQUEST_BYTES];
            let command = u16::from_be_bytes(request[6..8].try_into().expect("two bytes"));
            let mut offset = u64::from_be_bytes(request[16..24].try_into().expect("eight bytes"));
            let length = u32::from_be_bytes(request[24..].try_into().expect("four bytes")) as usize;
            let mut head = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            head[8..].copy_from_slice(&request[8..16]);
            at += REQUEST_BYTES;
            match command {
                DISCONNECT => return Ok(()),
                READ => {
                    if !store.fits(length) {
                        send(client, &mut replies, store)?;
                    }
                    if store.fits(length) {
                        replies.push((head, store.read(offset, length)?, length));
                        continue;
                    }
                    client.write_all(&head)?;
                    for done in (0..length).step_by(PIECE) {
                        let piece = PIECE.min(length - done);
                        let from = store.read(offset + done as u64, piece)?;
                        client.write_all(&store.data()[from..from + piece])?;
                        store.sent();
                    }
                }
                WRITE if length <= filled - at => {
                    store.write(offset, &buffer[at..at + length])?;
                    at += length;
                    replies.push((head, 0, 0));
                }
                WRITE => {
                    // The rest of the payload overwrites what is done with.
                    buffer.copy_within(at..filled, 0);
                    let (mut there, mut rest) = (filled - at, length);
                    (at, filled) = (0, 0);
                    send(client, &mut replies, store)?;
                    while rest > 0 {
                        let piece = there.max(rest.min(PIECE));
                        client.read_exact(&mut buffer[there..piece])?;
                        store.write(offset, &buffer[..piece])?;
                        (offset, rest, there) = (offset + piece as u64, rest - piece, 0);
                    }
                    replies.push((head, 0, 0));
                }
                FLUSH => {
                    store.flush()?;
                    replies.push((head, 0, 0));
                }
                _ => replies.push((head, 0, 0)),
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        send(client, &mut replies, store)?;
    }
}

fn send(mut client: &UnixStream, replies: &mut Vec<Reply>, store: &mut impl Store) -> io::Result<()> {
    let data = store.data();
    let mut slices: Vec<IoSlice<'_>> = replies
        .iter()
        .flat_map(|(head, from, length)| [&head[..], &data[*from..from + length]])
        .filter(|part| !part.is_empty())
        .map(IoSlice::new)
        .collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let batch = left.len().min(1024); // IOV_MAX
        let written = client.write_vectored(&left[..batch])?;
        IoSlice::advance_slices(&mut left, written);
    }
    replies.clear();
    store.sent();
    Ok(())
}
