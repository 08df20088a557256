//! `--passphrase`: a passphrase, asked for without echo or read from a descriptor, stretched by argon2id (RFC 9106,
//! version 0x13). Salt and costs are kept in account.toml; the passphrase and what it gives are not.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

use super::{Kek, KekSource, SourceRecord, fd};
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// Bytes of a passphrase at most.
const LIMIT: usize = 1024;

/// Characters of a new passphrase at least (NIST SP 800-63B, section 5.1.1.2).
const SHORTEST: usize = 8;

/// KiB that stretching may take: as much as the first recommended option of RFC 9106 takes.
const MOST_MEMORY_KIB: u32 = 2 << 20;

/// KiB that stretching may fill, all passes together: about three seconds on one core.
const MOST_WORK_KIB: u64 = 4 << 20;

/// How a passphrase is stretched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    #[serde(with = "hex")]
    salt: [u8; 16],
    /// KiB.
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Stretch {
    /// A fresh salt and the second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.
    pub fn recommended() -> Result<Self> {
        let mut salt = [0; 16];
        system::fill(&mut salt)?;
        Ok(Self { salt, memory_kib: 64 * 1024, passes: 3, lanes: 4 })
    }

    /// The costs come from a file whose MAC cannot be checked before the key is known: memory, and memory times passes,
    /// which is time, are bounded, so that a tampered file costs seconds and no machine.
    fn params(&self) -> Result<Params> {
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        let bounded = self.memory_kib <= MOST_MEMORY_KIB && work <= MOST_WORK_KIB && self.lanes <= 64;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(SecretKey::LEN)).ok();
        params.filter(|_| bounded).ok_or_else(|| {
            let Self { memory_kib, passes, lanes, .. } = self;
            let what = format!("no costs of argon2id: {memory_kib} KiB, {passes} passes, {lanes} lanes");
            Error::new(ErrorKind::Corrupt, what)
        })
    }

    fn stretch(&self, passphrase: &SecretBytes) -> Result<Kek> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params()?);
        let key = SecretKey::fill_with(|out| {
            argon2
                .hash_password_into(passphrase.expose(), &self.salt, out)
                .map_err(|error| Error::new(ErrorKind::Io, format!("the passphrase cannot be stretched: {error}")))
        })?;
        Ok(Kek::new(key))
    }
}

/// Asks the user the question and gives what was typed, without the end of the line. [`ErrorKind::WrongKey`] for more
/// than the given number of bytes.
pub type Ask = fn(&str, usize) -> Result<SecretBytes>;

/// Where a passphrase is read.
#[derive(Debug, Clone, Copy)]
pub enum Prompt {
    /// Asked for on the controlling terminal, without echo.
    Terminal(Ask),
    /// To the end of a descriptor; one line break at the end is not part of it.
    Fd(u32),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Passphrase {
    prompt: Prompt,
    stretch: Stretch,
    new: bool,
}

impl Passphrase {
    /// The passphrase of an account that has one.
    #[must_use]
    pub fn known(prompt: Prompt, stretch: Stretch) -> Self {
        Self { prompt, stretch, new: false }
    }

    /// A new passphrase: asked for twice, and refused when it is short.
    #[must_use]
    pub fn new(prompt: Prompt, stretch: Stretch) -> Self {
        Self { prompt, stretch, new: true }
    }

    fn ask(&self) -> Result<SecretBytes> {
        match self.prompt {
            Prompt::Fd(fd) => {
                let mut passphrase = fd::read(fd, LIMIT).map_err(|error| error.at_path(fd::path(fd)))?;
                let line = passphrase.expose();
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let len = line.strip_suffix(b"\r").unwrap_or(line).len();
                passphrase.truncate(len);
                Ok(passphrase)
            }
            Prompt::Terminal(ask) if self.new => {
                let first = ask("New passphrase: ", LIMIT)?;
                if ask("The same again: ", LIMIT)?.expose() != first.expose() {
                    return Err(Error::new(ErrorKind::InvalidInput, "the two passphrases differ")
                        .hint("nothing was changed: try again"));
                }
                Ok(first)
            }
            Prompt::Terminal(ask) => ask("Passphrase: ", LIMIT),
        }
    }
}

impl KekSource for Passphrase {
    fn obtain(&self) -> Result<Kek> {
        let passphrase = self.ask()?;
        if passphrase.is_empty() {
            return Err(Error::new(ErrorKind::WrongKey, "the passphrase is empty")
                .hint("type it, or write it to the descriptor of --passphrase-fd"));
        }
        let characters = String::from_utf8_lossy(passphrase.expose()).chars().count();
        if self.new && characters < SHORTEST {
            let what = format!("the passphrase is shorter than {SHORTEST} characters");
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("take several words"));
        }
        self.stretch.stretch(&passphrase)
    }

    fn record(&self) -> SourceRecord {
        SourceRecord::Passphrase(self.stretch.clone())
    }

    fn is_typed(&self) -> bool {
        matches!(self.prompt, Prompt::Terminal(_))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    /// The smallest costs there are.
    fn cheap() -> Stretch {
        Stretch { salt: [2; 16], memory_kib: 32, passes: 3, lanes: 4 }
    }

    fn obtain(content: &[u8], make: fn(Prompt, Stretch) -> Passphrase) -> Result<Kek> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        make(Prompt::Fd(file.as_raw_fd().try_into().unwrap()), cheap()).obtain()
    }

    /// RFC 9106, section 5.3.
    #[test]
    fn the_library_matches_rfc_9106() {
        let mut params = argon2::ParamsBuilder::new();
        params.m_cost(32).t_cost(3).p_cost(4).data(argon2::AssociatedData::new(&[4; 12]).unwrap());
        let params = params.build().unwrap();
        let argon2 = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut tag = [0; 32];
        argon2.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
        assert_eq!(hex::encode(tag), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
    }

    /// Computed with OpenSSL through Python's `cryptography`.
    #[test]
    fn stretching_matches_an_independent_implementation() {
        let kek = cheap().stretch(&SecretBytes::copy_of(b"correct horse").unwrap()).unwrap();
        assert_eq!(hex::encode(kek.expose()), "3758677872ff6cf8b116671ce5d7a2f3eb5a2b91c76a87b2538ed67f13b3b4da");
    }

    #[test]
    fn one_line_break_is_not_part_of_it() {
        let plain = obtain(b"correct horse", Passphrase::known).unwrap();
        for line in [&b"correct horse\n"[..], b"correct horse\r\n"] {
            assert_eq!(obtain(line, Passphrase::known).unwrap(), plain);
        }
        for other in [&b"correct horse\n\n"[..], b"correct horse ", b" correct horse"] {
            assert_ne!(obtain(other, Passphrase::known).unwrap(), plain);
        }
    }

    #[test]
    fn empty_ones_and_short_new_ones_are_refused() {
        assert_eq!(obtain(b"\n", Passphrase::known).unwrap_err().kind(), ErrorKind::WrongKey);
        assert_eq!(obtain(b"seven77", Passphrase::new).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(obtain("äöüäöüä".as_bytes(), Passphrase::new).unwrap_err().kind(), ErrorKind::InvalidInput);
        obtain(b"seven77", Passphrase::known).unwrap();
        obtain(b"eight888", Passphrase::new).unwrap();
    }

    #[test]
    fn the_salt_is_fresh_and_counts() {
        let (one, two) = (Stretch::recommended().unwrap(), Stretch::recommended().unwrap());
        assert_ne!(one.salt, two.salt);
        let passphrase = SecretBytes::copy_of(b"correct horse").unwrap();
        let salted = Stretch { salt: [3; 16], ..cheap() };
        assert_ne!(cheap().stretch(&passphrase).unwrap(), salted.stretch(&passphrase).unwrap());
    }

    #[test]
    fn costs_out_of_bounds_are_refused() {
        for stretch in [
            Stretch { memory_kib: u32::MAX, ..cheap() },
            Stretch { memory_kib: 1, ..cheap() },
            Stretch { passes: u32::MAX, ..cheap() },
            Stretch { memory_kib: (2 << 20) + 1, passes: 1, ..cheap() },
            Stretch { memory_kib: 1 << 20, passes: 5, ..cheap() },
            Stretch { passes: 0, ..cheap() },
            Stretch { lanes: 0, ..cheap() },
            Stretch { lanes: 65, memory_kib: 1024, ..cheap() },
        ] {
            let passphrase = SecretBytes::copy_of(b"correct horse").unwrap();
            assert_eq!(stretch.stretch(&passphrase).unwrap_err().kind(), ErrorKind::Corrupt, "{stretch:?}");
        }
    }
}
