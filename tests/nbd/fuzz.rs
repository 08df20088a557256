//! What the fuzz targets do, over their committed seeds and over a few random inputs.

use std::path::Path;

use proptest::prelude::*;
use sealdisk::base::Content;
use sealdisk::nbd::wire::transmission::{Chunk, ChunkType, HeaderStyle};

#[path = "../../fuzz/harness/access_rules.rs"]
mod access_rules;
#[path = "../../fuzz/harness/nbd_client.rs"]
mod nbd_client;
#[path = "../../fuzz/harness/nbd_handshake.rs"]
mod nbd_handshake;
#[path = "../../fuzz/harness/nbd_transmission.rs"]
mod nbd_transmission;

use nbd_client::MOST;

fn replay(target: &str, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        run(&std::fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

/// Edited in one place each, so that much of what is tried is still TOML.
#[test]
fn access_rules_seeds_and_edits_of_them() {
    replay("access_rules", access_rules::run);
    let seed = include_bytes!("../../fuzz/seeds/access_rules/kinds");
    for at in 0..seed.len() {
        for byte in b"\"[]=*?@\n\0x1\x80" {
            let mut edited = seed.to_vec();
            edited[at] = *byte;
            access_rules::run(&edited);
        }
        access_rules::run(&seed[..at]);
    }
}

#[test]
fn handshake_seeds() {
    replay("nbd_handshake", nbd_handshake::run);
}

#[test]
fn client_seeds() {
    replay("nbd_client", nbd_client::run);
}

/// The model holds for the disk of the process, so that its inputs go one after another.
#[test]
fn transmission_seeds_and_random_requests() {
    replay("nbd_transmission", nbd_transmission::run);
    let settings = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(settings, |(data in prop::collection::vec(any::<u8>(), 0..600))| nbd_transmission::run(&data));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Options of random kinds with random data behind client flags that are mostly good.
    #[test]
    fn random_handshakes(
        flags in prop_oneof![9 => Just(3u32), 1 => any::<u32>()],
        options in prop::collection::vec((0u32..14, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        rest: Vec<u8>,
    ) {
        let mut data = flags.to_be_bytes().to_vec();
        for (option, body) in options {
            let header = sealdisk::nbd::wire::handshake::OptionHeader { option: option.into(), length: body.len() as u32 };
            data.extend(header.emit());
            data.extend(body);
        }
        data.extend(rest);
        nbd_handshake::run(&data);
    }
    /// Whatever a server says, in chunks of random kinds or at random.
    #[test]
    fn random_servers(settings: u8, chunks in prop::collection::vec(any_chunk(), 0..30), rest: Vec<u8>) {
        let said = chunks.into_iter().flatten().chain(rest);
        nbd_client::run(&std::iter::once(settings).chain(said).collect::<Vec<_>>());
    }

    /// A good server may answer in chunks of any size and order, holes among them: the client reads what it has.
    /// Without one of them, or with one of them twice, it does not.
    #[test]
    fn good_servers(
        content in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 4..20),
        cuts in prop::collection::vec((0..MOST, any::<prop::sample::Index>()), 0..40),
        order in any::<prop::sample::Index>(),
        (spoilt, twice) in (any::<prop::sample::Index>(), any::<bool>()),
    ) {
        // Two requests, as many as fit what is read here: each byte of `content` is a run of 512.
        let content: Vec<u8> = content.iter().flat_map(|&byte| [byte; 512]).collect();
        let parts: Vec<_> = content.chunks(MOST as usize).collect();
        let mut chunks = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let mut cut: Vec<usize> = cuts.iter().filter(|(_, of)| of.index(parts.len()) == n).map(|&(at, _)| at as usize).collect();
            cut.extend([0, part.len()]);
            cut.retain(|&at| at <= part.len());
            cut.sort_unstable();
            cut.dedup();
            for run in cut.windows(2) {
                let (at, bytes) = ((n * MOST as usize + run[0]) as u64, &part[run[0]..run[1]]);
                let cookie = n as u64 + 1;
                chunks.push(if bytes.iter().all(|&byte| byte == 0) {
                    let payload = [&at.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes()].concat();
                    (cookie, chunk(ChunkType::OffsetHole, cookie, false, &payload))
                } else {
                    (cookie, chunk(ChunkType::OffsetData, cookie, false, &[&at.to_be_bytes()[..], bytes].concat()))
                });
            }
        }
        let middle = order.index(chunks.len());
        chunks.rotate_left(middle);
        let said = |chunks: &[(u64, Vec<u8>)]| {
            let mut said = nbd_client::handshake(true, false);
            chunks.iter().for_each(|(_, chunk)| said.extend_from_slice(chunk));
            (1..=parts.len() as u64).for_each(|cookie| said.extend(chunk(ChunkType::None, cookie, true, &[])));
            said
        };
        let read = |said: Vec<u8>| {
            let mut buf = vec![0xaa; content.len()];
            nbd_client::attach(said).and_then(|mut client| client.read_at(0, &mut buf)).map(|()| buf)
        };
        prop_assert!(read(said(&chunks)).expect("a good server") == content);
        let spoilt = spoilt.index(chunks.len());
        if twice {
            let again = chunks[spoilt].clone();
            chunks.push(again);
        } else {
            chunks.remove(spoilt);
        }
        read(said(&chunks)).expect_err("a byte twice, or never");
    }
}

fn chunk(kind: ChunkType, cookie: u64, done: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 32];
    let chunk = Chunk { kind, cookie, request_offset: 0, length: payload.len() as u64, done };
    let len = chunk.put(HeaderStyle::Structured, &mut header);
    [&header[..len], payload].concat()
}

fn any_chunk() -> impl Strategy<Value = Vec<u8>> {
    let kinds = [
        ChunkType::None,
        ChunkType::OffsetData,
        ChunkType::OffsetHole,
        ChunkType::BlockStatus,
        ChunkType::Error,
        ChunkType::ErrorOffset,
    ];
    let payload = prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..40);
    (prop::sample::select(kinds.to_vec()), 1u64..8, any::<bool>(), payload)
        .prop_map(|(kind, cookie, done, payload)| chunk(kind, cookie, done, &payload))
}
