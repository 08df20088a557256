//! The cipher against independent implementations: every backend of this machine, whole runs, both directions.

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
