//! Reads that have to wait for the disk, and disks that fail: over a base image that is never cached.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sealdisk::base::{BaseImage, BaseRun, VisitRun};
use sealdisk::disk::Durability;
use sealdisk::nbd::Config;
use sealdisk::nbd::wire::transmission::{HeaderStyle, ReplyHeader, command, command_flag as cflag};
use sealdisk::serve::Limits;
use sealdisk::{Error, ErrorKind, Result};

use crate::fixture::{MIB, ServerFixture, Shelf};
use crate::raw::Client;
use crate::transmission::pattern;

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];
const SIZE: u64 = 8 * MIB;
const EIO: u32 = 5;

/// A base image whose content is a pattern.
#[derive(Debug)]
struct Base {
    content: Vec<u8>,
    /// Whether it answers without waiting.
    cached: bool,
    /// Bytes that cannot be read.
    bad: Range<u64>,
    /// While it is closed, reads of the first MiB wait.
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// Reads that wait.
    waiting: usize,
}

impl Base {
    fn new(cached: bool, bad: Range<u64>) -> Arc<Self> {
        let content = pattern(11, SIZE as usize);
        Arc::new(Self { content, cached, bad, gate: Mutex::default(), moved: Condvar::new() })
    }

    fn close(&self) {
        self.gate.lock().unwrap().closed = true;
    }

    fn open(&self) {
        self.gate.lock().unwrap().closed = false;
        self.moved.notify_all();
    }

    /// Waits until so many reads wait; gives how many do a while later.
    fn wait_for_reads(&self, waiting: usize) -> usize {
        drop(self.moved.wait_while(self.gate.lock().unwrap(), |gate| gate.waiting < waiting).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        self.gate.lock().unwrap().waiting
    }
}

impl BaseImage for Base {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        if offset < self.bad.end && self.bad.start < end {
            return Err(Error::new(ErrorKind::Io, "a bad sector"));
        }
        if offset < MIB {
            let mut gate = self.gate.lock().unwrap();
            gate.waiting += 1;
            self.moved.notify_all();
            gate = self.moved.wait_while(gate, |gate| gate.closed).unwrap();
            gate.waiting -= 1;
        }
        buf.copy_from_slice(&self.content[offset as usize..end as usize]);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        if !self.cached {
            return Ok(false);
        }
        self.read_at(offset, buf).map(|()| true)
    }

    fn runs(&self, _offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        visit(BaseRun::Data, len)
    }
}

fn fixture(base: &Arc<Base>, config: Config) -> ServerFixture {
    let shelf = Shelf::new();
    shelf.add_over("disk", SIZE, Some(Arc::clone(base) as Arc<dyn BaseImage>));
    ServerFixture::new(&shelf, config)
}

/// DF where there is such a flag.
fn whole(style: HeaderStyle) -> u16 {
    if style == HeaderStyle::Simple { 0 } else { cflag::DF }
}

#[test]
fn cold_reads_of_every_size_and_form_are_right() {
    let base = Base::new(false, 0..0);
    // Ordinary limits, and so little memory that every wait is done by the connection itself.
    for config in
        [Config::default(), Config::from(Limits { budget: MIB as usize, max_connections: 8, ..Limits::default() })]
    {
        let fixture = fixture(&base, config);
        for style in STYLES {
            let mut client = Client::attached(&fixture.socket, style);
            for (offset, len) in
                [(0, 1), (511, 4096), (4096, 65_536), (1000, 200_001), (MIB - 5, 3 << 20), (0, 8 << 20)]
            {
                for flags in [0, whole(style)] {
                    let read = client.try_read(offset, len, flags).unwrap();
                    assert!(read == base.content[offset as usize..][..len], "{style:?} {offset}+{len} {flags}");
                }
            }
        }
    }
}

/// As many reads wait for the disk as there are threads for it, and as one connection may have in flight; the others
/// wait for their turn, and all are answered.
#[test]
fn only_so_many_reads_wait_for_the_disk_at_once() {
    let base = Base::new(false, 0..0);
    let threads = |workers| Config::from(Limits { workers, ..Limits::default() });
    for (config, clients, reads, waiting) in [
        (threads(3), 5, 1, 3),
        (threads(3), 1, 3, 3),
        (threads(3), 1, 4, 3),
        (Config::default(), 8, 8, 64),
        (Config::default(), 7, 10, 64),
        (Config::from(Limits { max_in_flight: 2, ..Limits::default() }), 1, 2, 2),
        (Config::from(Limits { max_in_flight: 2, ..Limits::default() }), 1, 7, 2),
        (Config::from(Limits { max_in_flight: 2, ..Limits::default() }), 3, 7, 6),
    ] {
        let fixture = fixture(&base, config);
        let mut clients: Vec<_> =
            (0..clients).map(|_| Client::attached(&fixture.socket, HeaderStyle::Simple)).collect();
        base.close();
        let mut asked = Vec::new();
        for client in &mut clients {
            asked.push((0..reads).map(|n| client.request(command::READ, 0, n * 4096, 512, &[])).collect::<Vec<_>>());
        }
        let settled = base.wait_for_reads(waiting);
        base.open();
        assert_eq!(settled, waiting);
        for (client, mut asked) in clients.iter_mut().zip(asked) {
            while !asked.is_empty() {
                let ReplyHeader::Simple { error: 0, cookie } = client.reply(512).header else { panic!("an error") };
                asked.swap_remove(asked.iter().position(|other| *other == cookie).unwrap());
            }
        }
    }
}

#[test]
fn a_slow_request_holds_up_no_quick_one() {
    let base = Base::new(false, 0..0);
    let fixture = fixture(&base, Config::default());
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        let quick = pattern(4, 4096);
        client.write(2 * MIB, &quick);
        base.close();
        // Small, and as long as half of what is behind the gate, in pieces and in one block.
        let slow: Vec<_> = [(0, 4096, 0), (0, 524_288, 0), (4096, 524_288, whole(style))]
            .map(|(offset, len, flags)| (client.request(command::READ, flags, offset, len as u64, &[]), offset, len))
            .into();
        for _ in 0..50 {
            assert!(client.read(2 * MIB, 4096) == quick, "{style:?}");
            client.write(2 * MIB, &quick);
        }
        base.open();
        let mut waiting: std::collections::HashMap<_, _> =
            slow.into_iter().map(|(cookie, offset, len)| (cookie, (offset, vec![0u8; len], 0))).collect();
        // Their chunks come mixed.
        while !waiting.is_empty() {
            let longest = waiting.values().map(|(_, data, _)| data.len()).max().unwrap();
            if style == HeaderStyle::Simple {
                let header = client.receive(16);
                let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
                let (offset, data, _) = waiting.remove(&cookie).unwrap();
                assert_eq!(header[4..8], [0; 4]);
                assert!(client.receive(data.len()) == base.content[offset as usize..][..data.len()]);
                continue;
            }
            let reply = client.reply(longest);
            let ReplyHeader::Chunk { kind, cookie, done, .. } = reply.header else { panic!("{:?}", reply.header) };
            let (offset, data, covered) = waiting.get_mut(&cookie).unwrap();
            if kind == 1 {
                let at = (u64::from_be_bytes(reply.payload[..8].try_into().unwrap()) - *offset) as usize;
                data[at..at + reply.payload.len() - 8].copy_from_slice(&reply.payload[8..]);
                *covered += reply.payload.len() - 8;
            }
            if done {
                let (offset, data, covered) = waiting.remove(&cookie).unwrap();
                assert_eq!(covered, data.len());
                assert!(data == base.content[offset as usize..][..data.len()], "{style:?}");
            }
        }
    }
}

#[test]
fn a_stopping_server_waits_for_slow_requests() {
    let base = Base::new(false, 0..0);
    let mut fixture =
        fixture(&base, Config::from(Limits { shutdown_grace: std::time::Duration::ZERO, ..Limits::default() }));
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    base.close();
    let cookie = client.request(command::READ, 0, 0, 4096, &[]);
    // Answered behind it, so that the slow one has begun.
    client.write(2 * MIB, &[1; 512]);
    fixture.stop();
    let opener = std::thread::spawn({
        let base = Arc::clone(&base);
        move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            base.open();
        }
    });
    assert!(client.read_reply(cookie, 0, 4096).unwrap().0 == base.content[..4096]);
    client.assert_ended();
    fixture.join();
    opener.join().unwrap();
}

#[test]
fn bad_sectors_fail_the_reads_that_meet_them() {
    for cached in [false, true] {
        let base = Base::new(cached, 5 * MIB..5 * MIB + 512);
        let fixture = fixture(&base, Config::default());
        for style in STYLES {
            let mut client = Client::attached(&fixture.socket, style);
            for (offset, len) in [(5 * MIB, 512), (5 * MIB - 4096, 65_536), (4 * MIB, 4 << 20)] {
                // Cached, a long simple reply has begun when the error comes: see below.
                if !(cached && style == HeaderStyle::Simple && len > 1 << 20) {
                    for flags in [0, whole(style)] {
                        assert_eq!(client.try_read(offset, len, flags), Err(EIO), "{style:?} {offset}+{len} {flags}");
                    }
                }
                assert!(client.read(3 * MIB, 4096) == base.content[3 << 20..][..4096], "the connection goes on");
            }
        }
    }
}

#[test]
fn a_simple_reply_that_cannot_be_completed_ends_the_connection() {
    let base = Base::new(true, 5 * MIB..5 * MIB + 512);
    let fixture = fixture(&base, Config::default());
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    client.request(command::READ, 0, 4 * MIB, 4 * MIB, &[]);
    let header = client.receive(16);
    assert_eq!(header[4..8], [0; 4]);
    // Up to the piece with the error; then nothing more.
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(rest.len() < 4 << 20 && rest == base.content[4 << 20..][..rest.len()]);
}

#[test]
fn errors_of_reads_name_the_place() {
    let base = Base::new(false, 5 * MIB..5 * MIB + 512);
    let fixture = fixture(&base, Config::default());
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    let cookie = client.request(command::READ, 0, 5 * MIB, 512, &[]);
    let reply = client.reply(0);
    let kind = 0x8002;
    assert!(
        matches!(reply.header, ReplyHeader::Chunk { kind: k, cookie: c, done: true, .. } if (k, c) == (kind, cookie))
    );
    let (message, offset) = reply.payload[6..].split_at(reply.payload.len() - 14);
    assert_eq!((message, offset), (&b"a bad sector"[..], &(5 * MIB).to_be_bytes()[..]));
}

#[test]
fn unaligned_writes_over_a_cold_base_are_done() {
    let base = Base::new(false, 0..0);
    let fixture = fixture(&base, Config::default());
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        for (offset, len) in [(1, 5), (600, 70_000), (MIB + 1, 1 << 20)] {
            let data = pattern(offset, len);
            client.write(offset, &data);
            assert_eq!(client.try_write(offset + 4 * MIB, &data, cflag::FUA), 0);
            for at in [offset, offset + 4 * MIB] {
                assert!(client.read(at, len) == data, "{style:?} {at}+{len}");
            }
        }
        assert_eq!(client.read(0, 1), base.content[..1]);
    }
}

#[test]
fn a_closed_disk_answers_that_it_is_closed() {
    let (fixture, disk) = ServerFixture::plain(MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    disk.write(0, b"last", Durability::Volatile).unwrap();
    disk.close().unwrap();
    for error in [
        client.try_write(0, b"x", 0),
        client.try_write(0, &vec![1; 500_000], 0),
        client.try_request(command::TRIM, 0, 0, 512),
    ] {
        assert_eq!(error, 108);
    }
}
