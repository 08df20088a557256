//! The cipher against independent implementations: every backend of this machine, whole runs, both directions.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use aes::Aes256;
use aes::cipher::KeyInit;
use openssl::symm::{Cipher, Crypter, Mode};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sealdisk::PAGE;
use sealdisk::crypto::xts::{Backend, XtsKey};
use xts_mode::{Xts128, get_tweak_default};

/// Page numbers where a carry or a sign could go wrong.
const CORNERS: [u64; 6] = [0, 0xff - 3, u32::MAX as u64 - 3, i64::MAX as u64 - 3, u64::MAX - 200, 1 << 33];

/// Encrypts `plain` with every backend, compares with `want`, and decrypts again.
fn check(key: &[u8; 64], first_page: u64, plain: &[u8], want: &[u8]) {
    for backend in Backend::available() {
        let key = XtsKey::with_backend(key, backend).expect("a key with different halves");
        let mut stored = vec![0; plain.len()];
        key.encrypt(first_page, plain, &mut stored);
        assert!(stored == want, "{} encrypts {} bytes at page {first_page} otherwise", backend.name(), plain.len());
        key.decrypt_in_place(first_page, &mut stored);
        assert!(stored == plain, "{} decrypts {} bytes at page {first_page} otherwise", backend.name(), plain.len());
    }
}

fn random_runs(seed: u64) -> impl Iterator<Item = ([u8; 64], u64, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..300).map(move |case| {
        let key = rng.random();
        let first_page = CORNERS.get(case % 12).copied().unwrap_or_else(|| rng.random::<u64>() >> 8);
        let mut plain = vec![0; PAGE * rng.random_range(0..=140)];
        rng.fill(&mut plain[..]);
        (key, first_page, plain)
    })
}

/// One record of a CAVP file: key, data unit number, plaintext, ciphertext.
type Record = ([u8; 64], u64, Vec<u8>, Vec<u8>);

/// Reads a file of NIST's CAVP. Its sections of encryptions and decryptions hold the same fields.
fn records(text: &str) -> Vec<Record> {
    let records = text.split("COUNT = ").skip(1);
    let parse = |record: &str| {
        let field = |name: &str| {
            let line = record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.unwrap_or_else(|| panic!("no {name} in {record}"))
        };
        let bytes = |name| hex::decode(field(name)).expect("hexadecimal digits");
        let (plain, cipher) = (bytes("PT"), bytes("CT"));
        assert_eq!(plain.len() * 8, field("DataUnitLen").parse::<usize>().expect("a number"));
        assert_eq!(plain.len(), cipher.len());
        let number = field("DataUnitSeqNumber").parse().expect("a number");
        (bytes("Key").try_into().expect("64 bytes"), number, plain, cipher)
    };
    records.map(parse).collect()
}

#[test]
fn known_answers_of_ieee_1619() {
    let records = records(include_str!("vectors/ieee1619-xts-aes256.rsp"));
    assert_eq!(records.len(), 5);
    for (key, number, plain, cipher) in records {
        check(&key, number, &plain, &cipher);
    }
}

/// The data units of these vectors are shorter than a page. Without ciphertext stealing a block depends on its own
/// plaintext, its place and the unit's number alone, so each is the beginning of a page.
#[test]
fn known_answers_of_nist() {
    let records = records(include_str!("vectors/nist-xts-aes256.rsp"));
    assert_eq!(records.len(), 60);
    for (key, number, plain, cipher) in records {
        for backend in Backend::available() {
            let key = XtsKey::with_backend(&key, backend).expect("a key with different halves");
            let (mut page, mut stored) = ([0; PAGE], [0; PAGE]);
            page[..plain.len()].copy_from_slice(&plain);
            key.encrypt(number, &page, &mut stored);
            assert_eq!(stored[..cipher.len()], cipher, "{} encrypts unit {number}", backend.name());
            stored[cipher.len()..].fill(0);
            key.decrypt_in_place(number, &mut stored);
            assert_eq!(stored[..plain.len()], plain, "{} decrypts unit {number}", backend.name());
        }
    }
}

#[test]
fn equals_xts_mode() {
    for (key, first_page, plain) in random_runs(1) {
        let halves = [&key[..32], &key[32..]].map(|half| Aes256::new_from_slice(half).unwrap());
        let [data, tweak] = halves;
        let mut want = plain.clone();
        Xts128::new(data, tweak).encrypt_area(&mut want, PAGE, first_page.into(), get_tweak_default);
        check(&key, first_page, &plain, &want);
    }
}

#[test]
fn equals_openssl() {
    for (key, first_page, plain) in random_runs(2) {
        let mut want = vec![0; plain.len()];
        for (page, (plain, want)) in (first_page..).zip(plain.chunks(PAGE).zip(want.chunks_mut(PAGE))) {
            let iv = u128::from(page).to_le_bytes();
            let mut crypter = Crypter::new(Cipher::aes_256_xts(), Mode::Encrypt, &key, Some(&iv)).unwrap();
            assert_eq!(crypter.update(plain, want).unwrap(), PAGE);
        }
        check(&key, first_page, &plain, &want);
    }
}

/// A million runs: every length up to 20 pages with every alignment of source and destination to 64 bytes, now and then
/// a long one. Also checks that nothing beside the destination is written.
#[test]
fn fast_equals_portable() {
    const CASES: usize = 1_000_000;
    const MARGIN: usize = 64;
    const LONGEST: usize = 300 * PAGE;
    let Some(fast) = Backend::available().find(|backend| *backend != Backend::Portable) else {
        eprintln!("nothing to compare: this machine has only the portable backend");
        return;
    };
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut src = vec![0; LONGEST + 2 * MARGIN];
    rng.fill(&mut src[..]);
    let (mut dst, mut want) = (vec![0; LONGEST + 3 * MARGIN], vec![0; LONGEST]);
    let mut keys = None;
    for case in 0..CASES {
        let (fast, portable) = match &keys {
            Some(keys) if case % 1000 != 0 => keys,
            _ => {
                let key = rng.random();
                let of = |backend| XtsKey::with_backend(&key, backend).expect("a key with different halves");
                keys.insert((of(fast), of(Backend::Portable)))
            }
        };
        let len = PAGE * if case % 5000 == 0 { rng.random_range(21..=300) } else { case % 21 };
        let from = case / 21 % MARGIN;
        let to = MARGIN + case / 21 / MARGIN % MARGIN;
        let first_page = CORNERS.get(case % 32).copied().unwrap_or_else(|| rng.random::<u64>() >> 8);
        let src = &src[from..from + len];

        portable.encrypt(first_page, src, &mut want[..len]);
        let margins: [[u8; MARGIN]; 2] = [rng.random(), rng.random()];
        dst[to - MARGIN..to].copy_from_slice(&margins[0]);
        dst[to + len..][..MARGIN].copy_from_slice(&margins[1]);
        fast.encrypt(first_page, src, &mut dst[to..to + len]);
        assert!(dst[to..to + len] == want[..len], "case {case}: {len} bytes at page {first_page} encrypted");
        fast.decrypt_in_place(first_page, &mut dst[to..to + len]);
        assert!(dst[to..to + len] == *src, "case {case}: {len} bytes at page {first_page} decrypted");
        assert_eq!(dst[to - MARGIN..to], margins[0], "case {case}: before the destination");
        assert_eq!(dst[to + len..][..MARGIN], margins[1], "case {case}: behind the destination");
    }
}
