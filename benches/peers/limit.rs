//! The limit: an NBD server that parses and answers, and neither stores nor encrypts anything.
//!
//! What a server could reach at best on a machine: one thread a connection, one large read a system call, every complete
//! request in it answered, the replies gathered into one write. Reads give zeros. For benchmarks only: it trusts its
//! client.
//!
//! usage: limit SOCKET BYTES

use std::env;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const REQUEST_BYTES: usize = 28;
const LARGEST_READ: usize = 32 << 20;
/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
const FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let [_, socket, bytes] = &arguments[..] else { return Err(io::Error::other("usage: limit SOCKET BYTES")) };
    let size: u64 = bytes.parse().map_err(io::Error::other)?;
    for client in UnixListener::bind(socket)?.incoming() {
        let client = client?;
        thread::spawn(move || {
            if let Err(error) = handshake(&client, size).and_then(|()| transmit(&client)) {
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

fn transmit(mut client: &UnixStream) -> io::Result<()> {
    let zeros = vec![0; LARGEST_READ];
    let mut buffer = vec![0; 1 << 20];
    let mut filled = 0;
    let mut replies: Vec<([u8; 16], usize)> = Vec::new();
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
            let length = u32::from_be_bytes(request[24..].try_into().expect("four bytes")) as usize;
            let mut head = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            head[8..].copy_from_slice(&request[8..16]);
            at += REQUEST_BYTES;
            match command {
                DISCONNECT => return Ok(()),
                READ => replies.push((head, length)),
                WRITE if length <= filled - at => {
                    at += length;
                    replies.push((head, 0));
                }
                WRITE => {
                    // The rest of the payload overwrites what is done with.
                    let mut rest = length - (filled - at);
                    (at, filled) = (0, 0);
                    send(client, &mut replies, &zeros)?;
                    while rest > 0 {
                        let limit = rest.min(buffer.len());
                        rest -= match client.read(&mut buffer[..limit])? {
                            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                            read => read,
                        };
                    }
                    replies.push((head, 0));
                }
                _ => replies.push((head, 0)),
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        send(client, &mut replies, &zeros)?;
    }
}

fn send(mut client: &UnixStream, replies: &mut Vec<([u8; 16], usize)>, zeros: &[u8]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = replies
        .iter()
        .flat_map(|(head, data)| [&head[..], &zeros[..*data]])
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
    Ok(())
}
