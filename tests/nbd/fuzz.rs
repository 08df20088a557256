//! What the fuzz targets do, over their committed seeds and over a few random inputs.

use std::path::Path;

use proptest::prelude::*;

#[path = "../../fuzz/harness/nbd_handshake.rs"]
mod nbd_handshake;
#[path = "../../fuzz/harness/nbd_transmission.rs"]
mod nbd_transmission;

fn replay(target: &str, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        run(&std::fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn handshake_seeds() {
    replay("nbd_handshake", nbd_handshake::run);
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
}
