//! A KEK handed from the process that asked for it to the one that serves the account: as a pipe, whose descriptor
//! travels with the request. So the key is in no message, and in no buffer that is not secret memory.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::{Kek, pipe};
use crate::crypto::secret::SecretKey;
use crate::{Error, Result};

/// The key is in the pipe before the descriptor is sent.
const DEADLINE: Duration = Duration::from_secs(5);

impl Kek {
    /// A pipe that holds the key, ready to be read once.
    pub fn hand_over(&self) -> Result<OwnedFd> {
        let fill = || -> io::Result<OwnedFd> {
            let (reader, mut writer) = io::pipe()?;
            writer.write_all(self.expose())?;
            Ok(reader.into())
        };
        fill().map_err(|error| Error::io("the key cannot be handed over", error))
    }

    /// Takes the key out of such a pipe.
    pub fn take_over(fd: OwnedFd) -> Result<Self> {
        let key = pipe::read_to_end(fd, SecretKey::LEN, Instant::now() + DEADLINE)?;
        Ok(Self::new(key.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_key_arrives_once() {
        let kek = Kek::new(SecretKey::filled(7));
        let fd = kek.hand_over().unwrap();
        let again = fd.try_clone().unwrap();
        assert_eq!(Kek::take_over(fd).unwrap(), kek);
        assert_eq!(Kek::take_over(again).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for content in [&[7; 31][..], &[7; 33], &[]] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(content).unwrap();
            drop(writer);
            Kek::take_over(reader.into()).unwrap_err();
        }
    }
}
