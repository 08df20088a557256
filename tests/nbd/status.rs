//! Block status and the metadata contexts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sealdisk::disk::Durability;
use sealdisk::nbd::wire::handshake::OptionType;
use sealdisk::nbd::wire::transmission::{HeaderStyle, command, command_flag as cflag};
use sealdisk::nbd::{Config, diff, encryption};

use crate::fixture::{Counting, MIB, ServerFixture, Shelf};
use crate::raw::Client;

const ALL: [&str; 3] = ["base:allocation", "qemu:allocation-depth", "sealdisk:encryption"];
const HOLE_ZERO: u64 = 3;

/// Over a base of 1 MiB with a hole from 256 to 512 KiB: an encrypted MiB, a plain one, a trimmed one, nothing.
fn layered() -> ServerFixture {
    let shelf = Shelf::new();
    let disk = shelf.add("disk", 5 * MIB, Some(Counting(MIB)));
    let data = vec![1; MIB as usize];
    disk.write(MIB, &data, Durability::Volatile).unwrap();
    disk.write(3 * MIB, &data, Durability::Volatile).unwrap();
    disk.admin().set_encryption(false);
    disk.write(2 * MIB, &data, Durability::Volatile).unwrap();
    disk.zero(3 * MIB, MIB, Durability::Volatile).unwrap();
    ServerFixture::new(&shelf, Config::default())
}

#[test]
fn every_context_tells_its_side_of_the_same_runs() {
    let fixture = layered();
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut client = Client::attached_with(&fixture.socket, style, &ALL);
        let status = client.status(0, 5 * MIB, 0).unwrap();
        let quarter = MIB / 4;
        let allocation =
            vec![(quarter, 0), (quarter, HOLE_ZERO), (5 * quarter + quarter + 4 * quarter, 0), (2 * MIB, HOLE_ZERO)];
        assert_eq!(status[0], (1, allocation));
        assert_eq!(status[1], (2, vec![(MIB, 0), (MIB, 2), (2 * MIB, 1), (MIB, 0)]));
        let [zero, encrypted, plain, base] =
            [encryption::ZERO, encryption::ENCRYPTED, encryption::PLAIN, encryption::BASE].map(u64::from);
        let stored = vec![(MIB, base), (MIB, encrypted), (MIB, plain), (2 * MIB, zero)];
        assert_eq!(status[2], (3, stored));
    }
}

#[test]
fn only_selected_contexts_answer() {
    let fixture = layered();
    let mut client = Client::attached_with(&fixture.socket, HeaderStyle::Structured, &["sealdisk:encryption"]);
    let status = client.status(MIB, 100, 0).unwrap();
    assert_eq!(status, [(3, vec![(100, u64::from(encryption::ENCRYPTED))])]);
}

#[test]
fn an_answer_is_never_longer_than_the_question() {
    let fixture = layered();
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut client = Client::attached_with(&fixture.socket, style, &ALL);
        for (offset, length) in [(0, 1), (MIB - 1, 2), (1_000_001, 2_000_003), (5 * MIB - 1, 1), (0, 5 * MIB)] {
            for (_, extents) in client.status(offset, length, 0).unwrap() {
                assert_eq!(extents.iter().map(|(length, _)| length).sum::<u64>(), length);
                assert!(extents.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ");
            }
            for (_, extents) in client.status(offset, length, cflag::REQ_ONE).unwrap() {
                assert!(extents.len() == 1 && extents[0].0 <= length);
            }
        }
    }
}

#[test]
fn long_disks_are_described_at_both_sides_of_32_bits() {
    const TIB: u64 = 1 << 40;
    let (shelf, disk) = Shelf::with_disk(8 * TIB);
    let fixture = ServerFixture::new(&shelf, Config::default());
    let most = u64::from(u32::MAX);
    let mut client = Client::attached_with(&fixture.socket, HeaderStyle::Structured, &["base:allocation"]);
    assert_eq!(client.status(0, most, 0).unwrap()[0].1, [(most, HOLE_ZERO)]);
    assert_eq!(client.status(5 * TIB + 1, most - 1, cflag::REQ_ONE).unwrap()[0].1, [(most - 1, HOLE_ZERO)]);
    let mut client = Client::attached_with(&fixture.socket, HeaderStyle::Extended, &["base:allocation"]);
    assert_eq!(client.status(0, 8 * TIB, 0).unwrap()[0].1, [(8 * TIB, HOLE_ZERO)]);
    disk.write(6 * TIB, &[1; 512], Durability::Volatile).unwrap();
    let parts = [(6 * TIB, HOLE_ZERO), (512, 0), (2 * TIB - 512, HOLE_ZERO)];
    assert_eq!(client.status(0, 8 * TIB, 0).unwrap()[0].1, parts);
    assert_eq!(client.status(0, 8 * TIB + 1, 0), Err(22));
    // Changes of such lengths too, in no time.
    for command in [command::TRIM, command::WRITE_ZEROES, command::CACHE] {
        assert_eq!(client.try_request(command, 0, 0, 8 * TIB), 0);
    }
    assert_eq!(client.status(0, 8 * TIB, 0).unwrap()[0].1, [(8 * TIB, HOLE_ZERO)]);
}

/// Zeroing costs what is there, not how long the range is: the same pages are cleared by a request for them alone and
/// by one for the whole disk. What is left for the length is a look at the top of the map, some 50 us a TiB.
#[test]
fn zeroing_takes_no_time_for_its_length() {
    const SIZE: u64 = 8 << 40;
    let (shelf, _disk) = Shelf::with_disk(SIZE);
    let fixture = ServerFixture::new(&shelf, Config::default());
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Extended);
    for command in [command::TRIM, command::WRITE_ZEROES] {
        let mut least = |length| {
            let run = |_| {
                client.write(0, &[1; 65_536]);
                let start = Instant::now();
                assert_eq!(client.try_request(command, 0, 0, length), 0);
                start.elapsed()
            };
            (0..9).map(run).min().unwrap()
        };
        let took = [65_536, 1 << 30, 1 << 40, 1 << 42, SIZE].map(&mut least);
        println!("command {command}: 64 KiB, 1 GiB, 1 TiB, 4 TiB, 8 TiB in {took:?}");
        assert!(took.iter().all(|time| *time < took[0] * 5 + Duration::from_millis(20)), "command {command}: {took:?}");
        assert_eq!(client.read(0, 512), [0; 512]);
    }
}

#[test]
fn fragmented_ranges_are_described_bit_by_bit() {
    let (shelf, disk) = Shelf::with_disk(8 * MIB);
    for page in 0..8192u64 {
        disk.write(page * 1024, &[1; 512], Durability::Volatile).unwrap();
    }
    let fixture = ServerFixture::new(&shelf, Config::default());
    for (style, contexts) in [(HeaderStyle::Structured, &ALL[..1]), (HeaderStyle::Extended, &ALL[..])] {
        let mut client = Client::attached_with(&fixture.socket, style, contexts);
        let (mut at, mut seen) = (0, 0);
        while at < 8 * MIB {
            let extents = &client.status(at, 8 * MIB - at, 0).unwrap()[0].1;
            assert!(
                extents
                    .iter()
                    .zip(seen..)
                    .all(|((length, status), n)| *length == 512 && (*status == 0) == (n % 2 == 0))
            );
            at += extents.iter().map(|(length, _)| length).sum::<u64>();
            seen += extents.len();
        }
        assert_eq!(seen, 16_384);
    }
}

#[test]
fn changes_since_a_snapshot_are_told_as_far_as_there_is_room() {
    let (shelf, disk) = Shelf::with_disk(8 << 40);
    disk.admin().create_snapshot("a").unwrap();
    for page in 0..4096u64 {
        disk.write(MIB + page * 1024, &[1; 512], Durability::Volatile).unwrap();
    }
    disk.zero(6 << 40, MIB, Durability::Volatile).unwrap();
    disk.write(7 << 40, &[1; 512], Durability::Volatile).unwrap();
    disk.zero(7 << 40, 512, Durability::Volatile).unwrap();
    let fixture = ServerFixture::new(&shelf, Config::default());
    let contexts = ["base:allocation", "sealdisk:diff:a"];
    let mut client = Client::attached_with(&fixture.socket, HeaderStyle::Extended, &contexts);
    let (mut at, mut told) = (0, Vec::new());
    while at < 8 << 40 {
        let status = client.status(at, (8 << 40) - at, 0).unwrap();
        assert_eq!(status[1].0, 4);
        for &(length, flags) in &status[1].1 {
            if flags != 0 {
                told.push((at, length, flags));
            }
            at += length;
        }
    }
    let changed = u64::from(diff::CHANGED);
    let mut expected: Vec<_> = (0..4096).map(|page| (MIB + page * 1024, 512, changed)).collect();
    // Zeros over what was never there change nothing.
    expected.push((7 << 40, 512, changed | u64::from(diff::CLEARED)));
    assert_eq!(told, expected);
    assert_eq!(client.status(MIB + 100, 1000, cflag::REQ_ONE).unwrap()[1].1, [(412, changed)]);
    disk.admin().delete_snapshot("a").unwrap();
    assert_eq!(client.status(0, MIB, 0), Err(5));
}

/// A copy that is under way takes what it is told is a hole for zeros.
#[test]
fn nothing_is_a_hole_where_reading_is_refused() {
    let (shelf, disk) = Shelf::with_disk(4 * MIB);
    disk.write(0, &vec![1; MIB as usize], Durability::Volatile).unwrap();
    disk.admin().create_snapshot("a").unwrap();
    disk.zero(0, MIB, Durability::Volatile).unwrap();
    shelf.put("old", &Arc::new(disk.at_snapshot("a").unwrap()), true);
    let fixture = ServerFixture::new(&shelf, Config::default());
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut client = Client::greeted(&fixture.socket);
        client.negotiate(style);
        client.meta_context(OptionType::SetMetaContext, "old", &["base:allocation"]);
        client.go("old");
        if style == HeaderStyle::Structured {
            assert_eq!(client.read(0, MIB as usize), vec![1; MIB as usize]);
            assert_eq!(client.status(0, 4 * MIB, 0).unwrap()[0].1, [(MIB, 0), (3 * MIB, HOLE_ZERO)]);
            disk.admin().delete_snapshot("a").unwrap();
        }
        assert_eq!(client.try_read(0, MIB as usize, 0), Err(5));
        assert_eq!(client.status(0, 4 * MIB, 0), Err(5));
    }
    let mut client = Client::greeted(&fixture.socket);
    client.negotiate(HeaderStyle::Structured);
    client.meta_context(OptionType::SetMetaContext, "disk", &["base:allocation"]);
    client.go("disk");
    assert_eq!(client.read(MIB, MIB as usize), vec![0; MIB as usize]);
    disk.admin().suspend();
    assert_eq!(client.try_read(MIB, MIB as usize, 0), Err(5));
    assert_eq!(client.status(MIB, MIB, 0), Err(5));
}

#[test]
fn a_payload_selects_contexts_for_one_request() {
    let fixture = layered();
    let mut client = Client::attached_with(&fixture.socket, HeaderStyle::Extended, &ALL);
    let mut ask = |length: u64, ids: &[u32], tail: &[u8]| {
        let mut payload = length.to_be_bytes().to_vec();
        payload.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
        payload.extend_from_slice(tail);
        let (flags, bytes) = (cflag::PAYLOAD_LEN, payload.len() as u64);
        let cookie = client.request(command::BLOCK_STATUS, flags, MIB, bytes, &payload);
        client.status_reply(cookie).map(|contexts| contexts.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    };
    assert_eq!(ask(MIB, &[3], &[]), Ok(vec![3]));
    assert_eq!(ask(MIB, &[2, 1], &[]), Ok(vec![1, 2]));
    for (length, ids, tail) in [
        (MIB, &[1, 1][..], &[][..]),
        (MIB, &[4], &[]),
        (MIB, &[], &[]),
        (MIB, &[1], &[0]),
        (5 * MIB, &[1], &[]),
        (u64::MAX, &[1], &[]),
        (0, &[1], &[]),
    ] {
        assert_eq!(ask(length, ids, tail), Err(22), "{length} {ids:?} {tail:?}");
    }
    assert_eq!(ask(MIB, &[1; 5000], &[]), Err(22), "a long payload is drained");
    assert_eq!(ask(512, &[1], &[]), Ok(vec![1]));
}
