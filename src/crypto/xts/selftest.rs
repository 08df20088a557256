//! Known answers, checked at program start: a cipher that computes something else would store what no one can read.

use sha2::{Digest, Sha256};

use super::{Backend, XtsKey};
use crate::{Error, ErrorKind, PAGE, Result};

/// The key of IEEE 1619 vectors 10 to 14: digits of e and of pi.
const KEY: [u8; 64] = [
    0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74, 0x71, 0x35, 0x26, 0x62, 0x49, 0x77,
    0x57, 0x24, 0x70, 0x93, 0x69, 0x99, 0x59, 0x57, 0x49, 0x66, 0x96, 0x76, 0x27, 0x31, 0x41, 0x59, 0x26, 0x53, 0x58,
    0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95, 0x02, 0x88, 0x41, 0x97, 0x16, 0x93, 0x99, 0x37, 0x51,
    0x05, 0x82, 0x09, 0x74, 0x94, 0x45, 0x92,
];

struct Answer {
    first_page: u64,
    pages: usize,
    /// Of the ciphertext of [`plaintext`].
    sha256: &'static str,
}

const ANSWERS: [Answer; 2] = [
    // IEEE 1619 vector 10.
    Answer { first_page: 0xff, pages: 1, sha256: "e97e974fa393af794f7a4684395814cf820de60a01eaec677d87b452e316b364" },
    // A run that goes through every path of a backend and past a 32-bit page number. Computed with OpenSSL.
    Answer {
        first_page: 0xffff_fff8,
        pages: 21,
        sha256: "76714c9bf18364ae2a0185000282c793428afb21e6c6d1fdb8015b0dccfe2df7",
    },
];

/// On page 0 the plaintext of the IEEE vectors, bytes counting up; each later page in an order of its own.
fn plaintext(pages: usize) -> Vec<u8> {
    (0..pages * PAGE).map(|i| (i ^ (i / PAGE)) as u8).collect()
}

/// Checks known answers, both directions, on every backend that this machine has. Takes microseconds.
///
/// # Errors
/// [`ErrorKind::Unsupported`] on any difference: the program must not start.
pub fn self_test() -> Result<()> {
    Backend::available().try_for_each(|backend| check(backend, &KEY))
}

fn check(backend: Backend, key: &[u8; 64]) -> Result<()> {
    let key = XtsKey::with_backend(key, backend)?;
    for answer in &ANSWERS {
        let plain = plaintext(answer.pages);
        let mut data = vec![0; plain.len()];
        key.encrypt(answer.first_page, &plain, &mut data);
        let encrypts = hex::encode(Sha256::digest(&data)) == answer.sha256;
        key.decrypt_in_place(answer.first_page, &mut data);
        if !encrypts || data != plain {
            let what = format!("AES-256-XTS computes wrong results (backend {})", backend.name());
            return Err(Error::new(ErrorKind::Unsupported, what)
                .hint("the processor, the virtual machine or this build is faulty: do not store data with it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_here() {
        self_test().unwrap();
    }

    #[test]
    fn any_other_key_fails() {
        for backend in Backend::available() {
            for bit in [0, 300] {
                let mut key = KEY;
                key[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(check(backend, &key).unwrap_err().kind(), ErrorKind::Unsupported);
            }
        }
    }
}
