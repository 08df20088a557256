//! The transmission phase, in all three styles of headers.

use sealdisk::disk::Durability;
use sealdisk::nbd::Config;
use sealdisk::nbd::wire::transmission::{HeaderStyle, ReplyHeader, Request, command, command_flag as cflag};

use crate::fixture::{Counting, MIB, ServerFixture, Shelf};
use crate::raw::Client;

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;

/// Bytes that differ from page to page and are nowhere zero for long.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((i ^ (i >> 9) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1).collect()
}

#[test]
fn what_is_written_is_read_at_any_alignment() {
    let (fixture, _disk) = ServerFixture::plain(4 * MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        for (offset, len) in
            [(0, 1), (511, 2), (512, 512), (1000, 5000), (4096, 4096), (65_537, 300_001), (4 * MIB - 3, 3)]
        {
            let data = pattern(offset ^ len as u64, len);
            client.write(offset, &data);
            assert_eq!(client.read(offset, len), data, "{style:?} {offset}+{len}");
        }
    }
}

#[test]
fn the_longest_requests_are_served() {
    let (fixture, _disk) = ServerFixture::plain(33 * MIB);
    let data = pattern(7, 32 << 20);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        client.write(12_345, &data);
        assert!(client.read(12_345, data.len()) == data, "{style:?}");
    }
}

#[test]
fn requests_over_the_maximum_are_refused_and_drained() {
    let (shelf, _disk) = Shelf::with_disk(4 * MIB);
    let fixture = ServerFixture::new(&shelf, Config { max_request: MIB as u32, ..Config::default() });
    for style in [HeaderStyle::Simple, HeaderStyle::Structured] {
        let mut client = Client::attached(&fixture.socket, style);
        assert_eq!(client.try_write(0, &vec![1; MIB as usize + 1], 0), EINVAL);
        assert_eq!(client.try_read(0, MIB as usize + 1, 0), Err(EOVERFLOW));
        assert_eq!(client.try_write(0, &vec![0; MIB as usize], 0), 0);
        assert_eq!(client.try_read(0, MIB as usize, 0).map(|data| data.len()), Ok(MIB as usize));
    }
    // With extended headers such a payload was never offered.
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Extended);
    client.request(command::WRITE, cflag::PAYLOAD_LEN, 0, MIB + 1, &[]);
    client.assert_ended();
}

#[test]
fn every_command_checks_its_range() {
    let (fixture, disk) = ServerFixture::plain(MIB);
    for style in STYLES {
        let contexts = if style == HeaderStyle::Simple { &[][..] } else { &["base:allocation"] };
        let mut client = Client::attached_with(&fixture.socket, style, contexts);
        let huge = if style == HeaderStyle::Extended { u64::MAX } else { u64::from(u32::MAX) };
        for (offset, length) in
            [(MIB, 1), (MIB - 1, 2), (u64::MAX, 1), (u64::MAX - 511, 512), (u64::MAX, huge), (1, huge)]
        {
            for (command, error) in [
                (command::TRIM, EINVAL),
                (command::CACHE, EINVAL),
                (command::WRITE_ZEROES, ENOSPC),
                (command::BLOCK_STATUS, EINVAL),
            ] {
                assert_eq!(client.try_request(command, 0, offset, length), error, "{command} {offset} {length}");
            }
            let read = if length > 32 << 20 { EOVERFLOW } else { EINVAL };
            assert_eq!(client.try_request(command::READ, 0, offset, length), read);
        }
        for offset in [MIB, MIB - 511, u64::MAX] {
            assert_eq!(client.try_write(offset, &[7; 512], 0), ENOSPC);
        }
        client.write(MIB - 512, &[7; 512]);
    }
    let mut last = [0; 512];
    disk.read(MIB - 512, &mut last).unwrap();
    assert_eq!(last, [7; 512]);
}

#[test]
fn a_flush_with_nothing_to_make_durable_is_answered_without_a_thread() {
    let (shelf, disk) = Shelf::with_disk(MIB);
    disk.write(0, &[1; 4096], Durability::Fua).unwrap();
    let mut stats = None;
    let fixture = ServerFixture::with_server(&shelf, Config::default(), |server| stats = Some(server.stats()));
    let threads = || stats.as_ref().unwrap().read().disk_threads;
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
    assert_eq!(threads(), 0);
    client.write(0, &pattern(1, 4096));
    assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
    assert_eq!(threads(), 1, "what is to be made durable is waited for elsewhere");
    let before = std::time::Instant::now();
    while threads() > 0 {
        assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
        assert!(before.elapsed() < std::time::Duration::from_secs(60), "flushes keep the thread");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn requests_of_no_byte_do_nothing() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    for style in STYLES {
        let mut client = Client::attached_with(
            &fixture.socket,
            style,
            if style == HeaderStyle::Simple { &[] } else { &["base:allocation"] },
        );
        for offset in [0, 100, MIB] {
            for command in [command::TRIM, command::WRITE_ZEROES, command::CACHE, command::READ] {
                assert_eq!(client.try_request(command, 0, offset, 0), 0, "{style:?} {command}");
            }
            assert_eq!(client.try_request(command::BLOCK_STATUS, 0, offset, 0), EINVAL);
        }
        if style != HeaderStyle::Extended {
            assert_eq!(client.try_write(0, &[], 0), 0);
        }
    }
}

/// As QEMU 9 and 10 write, against the letter of the protocol.
#[test]
fn an_extended_write_needs_no_flag_for_its_payload() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Extended);
    for flags in [0, cflag::FUA, cflag::FUA | cflag::PAYLOAD_LEN] {
        let data = [7 + flags as u8; 512];
        let cookie = client.request(command::WRITE, flags, 512, 512, &data);
        assert_eq!(client.outcome(cookie), 0, "flags {flags:#x}");
        let cookie = client.request(command::READ, 0, 512, 512, &[]);
        assert_eq!(client.read_reply(cookie, 512, 512).unwrap().0, data);
    }
}

#[test]
fn flags_are_taken_only_where_they_belong() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        let all = [command::READ, command::FLUSH, command::TRIM, command::CACHE, command::WRITE_ZEROES];
        for bit in 0..16u16 {
            for command in all {
                let length = if command == command::FLUSH { 0 } else { 512 };
                let allowed = match 1 << bit {
                    cflag::FUA => true,
                    cflag::NO_HOLE | cflag::FAST_ZERO => command == command::WRITE_ZEROES,
                    cflag::DF => command == command::READ && style != HeaderStyle::Simple,
                    _ => false,
                };
                let cookie = client.request(command, 1 << bit, 0, length, &[]);
                if style == HeaderStyle::Extended && 1 << bit == cflag::PAYLOAD_LEN && length > 0 {
                    client.send(&[0; 512]);
                }
                let error = match command {
                    command::READ => client.read_reply(cookie, 0, 512).err().unwrap_or(0),
                    _ => client.outcome(cookie),
                };
                assert_eq!(error, if allowed { 0 } else { EINVAL }, "{style:?} command {command} bit {bit}");
            }
            if style != HeaderStyle::Extended {
                let error = if 1 << bit == cflag::FUA { 0 } else { EINVAL };
                assert_eq!(client.try_write(0, &[1; 512], 1 << bit), error, "write with bit {bit}");
            }
        }
    }
}

#[test]
fn unknown_commands_are_invalid_and_the_connection_goes_on() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        for command in [8, 9, 255, u16::MAX] {
            assert_eq!(client.try_request(command, 0, 0, 512), EINVAL);
        }
        assert_eq!(client.try_request(command::BLOCK_STATUS, 0, 0, 512), EINVAL, "no context was selected");
        assert_eq!(client.try_request(command::FLUSH, 0, 0, 1), EINVAL);
        assert_eq!(client.try_request(command::FLUSH, 0, 1, 0), EINVAL);
        assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
    }
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let (shelf, disk) = Shelf::with_disk(MIB);
    disk.write(0, b"as it was", Durability::Volatile).unwrap();
    shelf.put("disk", &disk, true);
    let fixture = ServerFixture::new(&shelf, Config::default());
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        for len in [512, 100_000, 1 << 20] {
            assert_eq!(client.try_write(0, &vec![9; len], 0), EPERM);
        }
        assert_eq!(client.try_request(command::TRIM, 0, 0, 512), EPERM);
        assert_eq!(client.try_request(command::WRITE_ZEROES, 0, 0, 512), EPERM);
        assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
        assert_eq!(client.try_request(command::CACHE, 0, 0, 512), 0);
        assert_eq!(client.read(0, 9), b"as it was");
    }
}

#[test]
fn a_read_only_server_serves_every_export_read_only() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config { read_only: true, ..Config::default() });
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    assert_eq!(client.try_write(0, &[1], 0), EPERM);
}

#[test]
fn trim_and_write_zeroes_read_back_as_zeros() {
    let (fixture, disk) = ServerFixture::plain(4 * MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    for flags in [0, cflag::NO_HOLE, cflag::FUA, cflag::NO_HOLE | cflag::FUA, cflag::FAST_ZERO] {
        for command in [command::WRITE_ZEROES, command::TRIM] {
            if command == command::TRIM && flags & !cflag::FUA != 0 {
                continue;
            }
            for (offset, length) in [(0, 4 * MIB), (300, 5000), (512, 1024), (77, 100)] {
                client.write(0, &pattern(1, 16_384));
                assert_eq!(client.try_request(command, flags, offset, length), 0);
                let mut expected = pattern(1, 16_384);
                let end = (offset + length).min(16_384) as usize;
                expected[offset as usize..end].fill(0);
                assert_eq!(client.read(0, 16_384), expected, "{command} {flags} {offset}+{length}");
            }
        }
    }
    // NO_HOLE stores real zeros, the others give back what was stored.
    assert_eq!(client.try_request(command::WRITE_ZEROES, cflag::NO_HOLE, 0, MIB), 0);
    assert_eq!(disk.admin().usage().unwrap().encrypted, MIB + 512);
    assert_eq!(client.try_request(command::TRIM, 0, 0, 4 * MIB), 0);
    assert_eq!(disk.admin().usage().unwrap().encrypted, 512);
}

#[test]
fn fast_zero_fails_fast_where_zeros_would_be_written() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    client.write(0, b"kept");
    let both = cflag::FAST_ZERO | cflag::NO_HOLE;
    assert_eq!(client.try_request(command::WRITE_ZEROES, both, 0, MIB), ENOTSUP);
    assert_eq!(client.read(0, 4), b"kept");
    assert_eq!(client.try_request(command::WRITE_ZEROES, cflag::FAST_ZERO, 0, MIB), 0);
}

#[test]
fn fua_and_flush_are_answered_after_the_disk() {
    let (fixture, disk) = ServerFixture::plain(MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        assert_eq!(client.try_write(0, &pattern(3, 4096), cflag::FUA), 0);
        assert_eq!(client.try_write(4096, &pattern(4, 500_000), cflag::FUA), 0);
        assert_eq!(client.try_request(command::FLUSH, cflag::FUA, 0, 0), 0);
        assert_eq!(client.try_read(0, 512, cflag::FUA).map(|data| data.len()), Ok(512));
    }
    let mut read = vec![0; 500_000];
    disk.read(4096, &mut read).unwrap();
    assert!(read == pattern(4, 500_000));
}

#[test]
fn holes_are_sent_as_holes() {
    let shelf = Shelf::new();
    let disk = shelf.add("disk", 4 * MIB, Some(Counting(MIB)));
    disk.write(2 * MIB, &pattern(5, 4096), Durability::Volatile).unwrap();
    disk.write_zeros(3 * MIB, 4096, Durability::Volatile).unwrap();
    let fixture = ServerFixture::new(&shelf, Config::default());
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut client = Client::attached(&fixture.socket, style);
        let mut chunks = |offset, len: usize, flags| {
            let cookie = client.request(command::READ, flags, offset, len as u64, &[]);
            client.read_reply(cookie, offset, len).unwrap()
        };
        let (data, kinds) = chunks(0, 4 << 20, 0);
        // The base up to its hole, the hole, the base after it; a hole, the page written, a hole, zeros stored, a hole.
        assert!(kinds.iter().filter(|kind| **kind == 2).count() == 5, "{kinds:?}");
        let base = Counting(MIB);
        let mut expected: Vec<u8> = (0..4 * MIB).map(|at| if at < MIB { base.byte(at) } else { 0 }).collect();
        expected[2 << 20..][..4096].copy_from_slice(&pattern(5, 4096));
        assert!(data == expected);
        assert_eq!(chunks(MIB, 512, 0), (vec![0; 512], vec![2]));
        assert_eq!(chunks(MIB + 100, 3000, 0), (vec![0; 3000], vec![2]));
        assert_eq!(
            chunks(3 * MIB, 4096, 0),
            (vec![0; 4096], vec![2]),
            "zeros that are stored are a hole to the client"
        );
        // One content chunk, whatever it covers.
        for len in [4096, 65_536, 1 << 20, 4 << 20] {
            let (data, kinds) = chunks(0, len, cflag::DF);
            assert_eq!(kinds.iter().filter(|kind| **kind != 0).collect::<Vec<_>>(), [&1], "{len}");
            assert!(data == expected[..len]);
        }
    }
}

#[test]
fn replies_carry_their_cookies_in_any_order() {
    let (fixture, _disk) = ServerFixture::plain(16 * MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        let mut open = std::collections::HashSet::new();
        let mut bytes = Vec::new();
        for i in 0..600u64 {
            let payload = if style == HeaderStyle::Extended { cflag::PAYLOAD_LEN } else { 0 };
            let (command, flags, length) = match i % 5 {
                0 => (command::FLUSH, 0, 0),
                1 => (command::WRITE, cflag::FUA | payload, 4096),
                2 => (command::WRITE, payload, 8192),
                3 => (command::TRIM, 0, 65_536),
                _ => (command::WRITE_ZEROES, cflag::FUA, 512),
            };
            let cookie = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let offset = if command == command::FLUSH { 0 } else { i * 8192 };
            open.insert(cookie);
            bytes.extend(Request { flags, command, cookie, offset, length }.emit(style));
            if command == command::WRITE {
                bytes.extend(vec![i as u8; length as usize]);
            }
        }
        client.send(&bytes);
        while !open.is_empty() {
            match client.reply(0).header {
                ReplyHeader::Simple { error: 0, cookie } | ReplyHeader::Chunk { kind: 0, cookie, .. } => {
                    assert!(open.remove(&cookie), "each request is answered once");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn the_same_cookie_may_be_used_twice_at_once() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    let request = Request { flags: 0, command: command::FLUSH, cookie: 5, offset: 0, length: 0 };
    client.send(&[request.emit(HeaderStyle::Simple), request.emit(HeaderStyle::Simple)].concat());
    assert_eq!((client.outcome(5), client.outcome(5)), (0, 0));
}

#[test]
fn disconnect_waits_for_what_is_in_flight() {
    let (fixture, disk) = ServerFixture::plain(8 * MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        let payload = if style == HeaderStyle::Extended { cflag::PAYLOAD_LEN } else { 0 };
        let data = pattern(9, 1 << 20);
        for i in 0..4 {
            client.request(command::WRITE, cflag::FUA | payload, i << 20, 1 << 20, &data);
        }
        client.request(command::DISC, 0, 0, 0, &[]);
        for _ in 0..4 {
            assert!(matches!(
                client.reply(0).header,
                ReplyHeader::Simple { error: 0, .. } | ReplyHeader::Chunk { kind: 0, .. }
            ));
        }
        client.assert_ended();
        let mut read = vec![0; 1 << 20];
        disk.read(3 << 20, &mut read).unwrap();
        assert!(read == data);
    }
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        client.write(0, b"before");
        client.send(&[0x66; 64]);
        client.assert_ended();
    }
    // Headers of the other style are no requests either.
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Extended);
    client.style = HeaderStyle::Structured;
    client.request(command::READ, 0, 0, 512, &[0; 8]);
    client.assert_ended();
}

#[test]
fn flush_covers_the_writes_of_other_connections() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut one = Client::attached(&fixture.socket, HeaderStyle::Simple);
    let mut other = Client::attached(&fixture.socket, HeaderStyle::Structured);
    for i in 0..20u8 {
        one.write(0, &[i; 4096]);
        assert_eq!(other.try_request(command::FLUSH, 0, 0, 0), 0);
        assert_eq!(other.read(0, 4096), [i; 4096], "a write that was answered is seen everywhere");
    }
}

#[test]
fn a_disk_that_fails_fails_the_request_only() {
    let (fixture, disk) = ServerFixture::plain(MIB);
    Client::attached(&fixture.socket, HeaderStyle::Simple).write(0, b"before");
    disk.admin().suspend();
    for style in STYLES {
        let mut client = Client::attached(&fixture.socket, style);
        for len in [512, 300_000, 1 << 20] {
            assert_eq!(client.try_read(0, len, 0), Err(EIO));
            assert_eq!(client.try_write(0, &vec![1; len], 0), EIO);
        }
        assert_eq!(client.try_request(command::TRIM, 0, 0, 512), EIO);
        assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), EIO);
        assert_eq!(client.try_request(command::READ, 0, MIB, 1), EINVAL, "what is wrong with a request comes first");
    }
}
