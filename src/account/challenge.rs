//! The proof that a verb has the KEK: it answers a challenge, a random number that the registry gives out once, with a
//! MAC over that number and its request. The key of the MAC is derived from the KEK
//! ([`ProofKey`](crate::crypto::kek::ProofKey)), and kept beside the account keys for as long as they are.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::registry::Registry;
use crate::crypto::kek::Nonce;
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// Challenges that may wait for their proof: the oldest goes for the next.
const WAITING: usize = 64;

/// Those that were given out and not answered yet.
#[derive(Debug, Default)]
pub(super) struct Challenges(Mutex<VecDeque<Nonce>>);

impl Registry {
    /// A number that is good for one [proof](Registry::check_proof).
    pub fn challenge(&self) -> Result<Nonce> {
        let mut nonce = Nonce::default();
        system::fill(&mut nonce)?;
        let mut waiting = self.shared.challenges.0.lock();
        waiting.truncate(WAITING - 1);
        waiting.push_front(nonce);
        Ok(nonce)
    }

    /// [`ErrorKind::WrongKey`] unless `proof` is made for `request` and the challenge `nonce` by the KEK that opened
    /// the account; a challenge counts once, whatever comes of it.
    pub fn check_proof(&self, nonce: &Nonce, request: &[u8], proof: &[u8; 32]) -> Result<()> {
        let was_given = {
            let mut waiting = self.shared.challenges.0.lock();
            let at = waiting.iter().position(|given| given == nonce);
            at.and_then(|at| waiting.remove(at)).is_some()
        };
        if !was_given {
            return Err(
                Error::new(ErrorKind::WrongKey, "the proof of the key-encryption key comes too late").hint("ask again")
            );
        }
        if !self.shared.require_keys()?.is_proven(|key| key.verify(nonce, request, proof)) {
            return Err(Error::new(ErrorKind::WrongKey, "the key-encryption key of the account is not proven")
                .hint("name the key that opens the account now: --old-key-file, --key-file"));
        }
        Ok(())
    }
}
