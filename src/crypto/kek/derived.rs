//! What of a KEK reaches the process that holds an account: keys derived from it for that account, never the KEK
//! itself. So a server can wrap account keys, and tell its owner by a proof, but it cannot open any other account under
//! the same KEK, nor this one under account keys to come.
//!
//! They travel to a server as a pipe, whose descriptor goes with the request: they are in no message, and in no buffer
//! that is not secret memory. The pipe holds the check value (16 bytes), the proof key (32), and for each account key
//! its id (16) and the key that wraps it (32).

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{Kek, KeyCheck, pipe};
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::crypto::wrap::{derive, derive_key, hmac};
use crate::{Error, ErrorKind, Result};

/// The keys are in the pipe before the descriptor is sent.
const DEADLINE: Duration = Duration::from_secs(5);
/// Account keys that one account has at once: the current one, a retiring one, a new one.
const MOST_KEYS: usize = 3;
const ID: usize = 16;
const CHECK: usize = size_of::<KeyCheck>();
const EACH: usize = ID + SecretKey::LEN;

/// A random number that is proven about once.
pub type Nonce = [u8; 32];

/// See the module documentation.
pub struct DerivedKeys {
    account: Uuid,
    check: KeyCheck,
    proof: ProofKey,
    wrapping: Vec<(Uuid, SecretKey)>,
}

impl Kek {
    /// The keys for `account` and its account keys `ids`.
    pub fn derive_for(&self, account: Uuid, ids: impl IntoIterator<Item = Uuid>) -> Result<DerivedKeys> {
        let mut check = KeyCheck::default();
        derive(&self.key, "kek-check", &[account.as_bytes()], &mut check);
        let proof = ProofKey(Arc::new(derive_key(&self.key, "kek-proof", &[account.as_bytes()])?));
        let wrapping =
            |id: Uuid| Ok((id, derive_key(&self.key, "account-key-wrap", &[account.as_bytes(), id.as_bytes()])?));
        Ok(DerivedKeys { account, check, proof, wrapping: ids.into_iter().map(wrapping).collect::<Result<_>>()? })
    }
}

impl DerivedKeys {
    #[must_use]
    pub fn account(&self) -> Uuid {
        self.account
    }

    /// Tells a KEK that does not fit from a wrapped key that is damaged.
    #[must_use]
    pub fn check(&self) -> &KeyCheck {
        &self.check
    }

    /// Whether the KEK is the one with the check value `check`; in constant time.
    #[must_use]
    pub fn fits(&self, check: &KeyCheck) -> bool {
        self.check.ct_eq(check).into()
    }

    /// What the KEK is proven by.
    #[must_use]
    pub fn proof(&self) -> ProofKey {
        self.proof.clone()
    }

    /// What wraps the account key `id`. [`ErrorKind::InUse`] where that was not derived: the account has got another
    /// since.
    pub(in crate::crypto) fn wrapping_key(&self, id: Uuid) -> Result<&SecretKey> {
        let found = self.wrapping.iter().find(|(known, _)| *known == id);
        found.map(|(_, key)| key).ok_or_else(|| {
            Error::new(ErrorKind::InUse, "the account has got another account key meanwhile")
                .hint("nothing was changed: ask again")
        })
    }

    /// A pipe that holds the keys, ready to be read once.
    pub fn hand_over(&self) -> Result<OwnedFd> {
        let fill = || -> io::Result<OwnedFd> {
            let (reader, mut writer) = io::pipe()?;
            writer.write_all(&self.check)?;
            writer.write_all(self.proof.0.expose())?;
            for (id, key) in &self.wrapping {
                writer.write_all(id.as_bytes())?;
                writer.write_all(key.expose())?;
            }
            Ok(reader.into())
        };
        fill().map_err(|error| Error::io("the derived keys cannot be handed over", error))
    }

    /// Takes the keys for `account` out of such a pipe. [`ErrorKind::InvalidInput`] for anything else.
    pub fn take_over(account: Uuid, fd: OwnedFd) -> Result<Self> {
        let most = CHECK + SecretKey::LEN + MOST_KEYS * EACH;
        let bytes = pipe::read_to_end(fd, most, Instant::now() + DEADLINE)?;
        let strange = || Error::new(ErrorKind::InvalidInput, "the keys handed over make no sense");
        let key = |bytes: &[u8]| SecretKey::try_from(SecretBytes::copy_of(bytes)?);
        let (check, rest) = bytes.expose().split_first_chunk().ok_or_else(strange)?;
        let (proof, rest) = rest.split_at_checked(SecretKey::LEN).ok_or_else(strange)?;
        let (each, []) = rest.as_chunks::<EACH>() else { return Err(strange()) };
        let wrapping = each.iter().map(|each| {
            let (id, wrapping) = each.split_first_chunk::<ID>().ok_or_else(strange)?;
            Ok((Uuid::from_bytes(*id), key(wrapping)?))
        });
        let wrapping = wrapping.collect::<Result<_>>()?;
        Ok(Self { account, check: *check, proof: ProofKey(Arc::new(key(proof)?)), wrapping })
    }
}

impl fmt::Debug for DerivedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKeys(redacted)")
    }
}

/// Proves to the server of an account that a verb has its KEK; opens nothing. Cheap to clone; the last clone to go
/// zeroizes it.
#[derive(Clone)]
pub struct ProofKey(Arc<SecretKey>);

impl ProofKey {
    /// The proof for `request`, about the number that the server gave.
    #[must_use]
    pub fn prove(&self, nonce: &Nonce, request: &[u8]) -> [u8; 32] {
        hmac(&self.0, &[nonce, request])
    }

    /// Constant-time check of [`ProofKey::prove`].
    #[must_use]
    pub fn verify(&self, nonce: &Nonce, request: &[u8], proof: &[u8; 32]) -> bool {
        self.prove(nonce, request).ct_eq(proof).into()
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(byte: u8) -> Kek {
        Kek::new(SecretKey::filled(byte))
    }

    /// HKDF-SHA256 by Python's `cryptography`.
    #[test]
    fn the_check_value_tells_keks_and_accounts_apart() {
        let account = Uuid::from_bytes([0x11; 16]);
        let derived = |byte, account| kek(byte).derive_for(account, []).unwrap();
        assert_eq!(hex::encode(derived(0x55, account).check()), "1f902a8fa46bb4a6d4b78bc83f6a5894");
        assert!(derived(0x55, account).fits(derived(0x55, account).check()));
        assert!(!derived(0x55, Uuid::nil()).fits(derived(0x55, account).check()));
        assert!(!derived(0x56, account).fits(derived(0x55, account).check()));
    }

    #[test]
    fn the_keys_arrive_once_and_the_kek_does_not() {
        let (account, ids) = (Uuid::new_v4(), [Uuid::new_v4(), Uuid::new_v4()]);
        let derived = kek(7).derive_for(account, ids).unwrap();
        let fd = derived.hand_over().unwrap();
        let again = fd.try_clone().unwrap();
        let arrived = DerivedKeys::take_over(account, fd).unwrap();
        assert!(arrived.fits(derived.check()));
        assert_eq!(arrived.proof().prove(&[1; 32], b"x"), derived.proof().prove(&[1; 32], b"x"));
        for id in ids {
            assert_eq!(arrived.wrapping_key(id).unwrap(), derived.wrapping_key(id).unwrap());
        }
        assert_eq!(arrived.wrapping_key(Uuid::nil()).unwrap_err().kind(), ErrorKind::InUse);
        assert_eq!(DerivedKeys::take_over(account, again).unwrap_err().kind(), ErrorKind::InvalidInput);

        let bytes = pipe::read_to_end(derived.hand_over().unwrap(), 1000, Instant::now() + DEADLINE).unwrap();
        assert!(!bytes.expose().windows(8).any(|bytes| bytes == [7; 8]));
    }

    #[test]
    fn what_is_no_such_keys_is_refused() {
        for content in [&[7; 31][..], &[7; 47], &[7; 49], &[7; 48 + 4 * EACH], &[]] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(content).unwrap();
            drop(writer);
            DerivedKeys::take_over(Uuid::nil(), reader.into()).unwrap_err();
        }
    }

    #[test]
    fn a_proof_holds_for_its_nonce_its_request_its_account_and_its_kek() {
        let account = Uuid::new_v4();
        let of = |byte, account| kek(byte).derive_for(account, []).unwrap().proof();
        let proof = of(1, account).prove(&[5; 32], b"request");
        assert!(of(1, account).verify(&[5; 32], b"request", &proof));
        // HKDF-SHA256 and HMAC-SHA256 by Python's `hmac`.
        let fixed = of(0x55, Uuid::from_bytes([0x11; 16])).prove(&[5; 32], b"request");
        assert_eq!(hex::encode(fixed), "12ffd3fbb3deba2890d322798786dc74254ad1027aa20cee8607825aeb0eb20b");
        assert!(!of(1, account).verify(&[6; 32], b"request", &proof));
        assert!(!of(1, account).verify(&[5; 32], b"another", &proof));
        assert!(!of(1, Uuid::nil()).verify(&[5; 32], b"request", &proof));
        assert!(!of(2, account).verify(&[5; 32], b"request", &proof));
    }

    #[test]
    fn debug_shows_no_key() {
        let derived = kek(0xAB).derive_for(Uuid::nil(), [Uuid::nil()]).unwrap();
        assert_eq!(format!("{derived:?} {:?}", derived.proof()), "DerivedKeys(redacted) ProofKey(redacted)");
    }
}
