//! What the crate takes from the system besides files: random numbers and the time of day.
//!
//! Keys, ids and times reach the disk from here and from nowhere else (`tests/tidy` sees to it for random numbers), so
//! that a run on the simulated disk can be repeated from its seed.
//!
//! In a product build the numbers are the kernel's, without a switch: the seeded source is in [`sim`](super::sim), a
//! module that is compiled under `--cfg sealdisk_sim` alone, which no feature and no dependent crate sets. A program
//! that was built with it refuses to start.

use uuid::Uuid;

use crate::Result;

pub use imp::seconds;

/// Fills `bytes` from the system's random number generator, fit for keys. [`ErrorKind::Io`](crate::ErrorKind::Io) when
/// there are no random numbers to be had.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    imp::fill(bytes)
}

/// A random UUID (version 4). Errors as [`fill`].
pub fn uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(not(sealdisk_sim))]
mod imp {
    use std::time::{SystemTime, UNIX_EPOCH};

    use crate::{Error, ErrorKind, Result};

    pub(super) fn fill(bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes).map_err(|error| Error::new(ErrorKind::Io, format!("no random numbers: {error}")))
    }

    /// Seconds since the epoch; 0 when the clock stands before it.
    #[must_use]
    pub fn seconds() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

#[cfg(sealdisk_sim)]
mod imp {
    use crate::Result;
    pub use crate::io::sim::seconds;

    pub(super) fn fill(bytes: &mut [u8]) -> Result<()> {
        crate::io::sim::fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_and_say_so() {
        let (one, other) = (uuid().unwrap(), uuid().unwrap());
        assert_ne!(one, other);
        for id in [one, other] {
            assert_eq!((id.get_version_num(), id.get_variant()), (4, uuid::Variant::RFC4122));
        }
    }

    #[cfg(not(sealdisk_sim))]
    #[test]
    fn every_byte_is_filled() {
        let mut seen = [0; 64];
        for _ in 0..32 {
            let mut bytes = [0; 64];
            fill(&mut bytes).unwrap();
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        assert!(seen.iter().all(|&byte| byte != 0));
        assert!(seconds() > 1_700_000_000);
    }
}
