//! Memory for secrets.
//!
//! Every secret lies in an anonymous mapping of its own: locked (not swapped), left out of core files, not inherited
//! by children, overwritten with zeros before it is given back. Where the system refuses to lock (RLIMIT_MEMLOCK),
//! [`memlock`](super::memlock) says what becomes of them. (Simulated keys, under `sealdisk_sim`, are
//! no secrets and lie in ordinary memory: a simulated crash opens a disk in less time than the kernel takes to map
//! one.)

use std::fmt;

#[cfg(not(sealdisk_sim))]
use memmap2::{Advice, MmapMut, MmapOptions};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

#[cfg(not(sealdisk_sim))]
use super::memlock;
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// Bytes that are never printed, compared in constant time and zeroized on drop.
pub struct SecretBytes {
    #[cfg(not(sealdisk_sim))]
    map: MmapMut,
    #[cfg(sealdisk_sim)]
    map: Vec<u8>,
    len: usize,
}

impl SecretBytes {
    /// `len` zero bytes.
    #[cfg(sealdisk_sim)]
    pub fn zeroed(len: usize) -> Result<Self> {
        Ok(Self { map: vec![0; len], len })
    }

    /// `len` zero bytes.
    #[cfg(not(sealdisk_sim))]
    pub fn zeroed(len: usize) -> Result<Self> {
        let map = MmapOptions::new()
            .len(len.max(1))
            .map_anon()
            .map_err(|source| Error::io("no memory for a secret", source))?;
        if let Err(error) = map.lock() {
            memlock::not_locked(&error)?;
        }
        // Neither can fail on a kernel that has anonymous mappings of this process; nothing depends on it.
        let _ = map.advise(Advice::DontDump);
        let _ = map.advise(Advice::DontFork);
        Ok(Self { map, len })
    }

    /// `len` bytes from the system's random number generator.
    pub fn random(len: usize) -> Result<Self> {
        let mut secret = Self::zeroed(len)?;
        system::fill(secret.expose_mut())?;
        Ok(secret)
    }

    /// A copy of `bytes`; the caller zeroizes its own.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut secret = Self::zeroed(bytes.len())?;
        secret.expose_mut().copy_from_slice(bytes);
        Ok(secret)
    }

    /// The bytes themselves, for the cipher that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.map[..self.len]
    }

    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets what lies behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.map[len..self.len].zeroize();
            self.len = len;
        }
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.map.zeroize();
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

/// A 256-bit key.
pub struct SecretKey(SecretBytes);

impl SecretKey {
    /// Bytes in a key.
    pub const LEN: usize = 32;

    /// A key from the system's random number generator.
    pub fn random() -> Result<Self> {
        SecretBytes::random(Self::LEN).map(Self)
    }

    /// A key of no secrecy.
    #[cfg(test)]
    pub(crate) fn filled(byte: u8) -> Self {
        let mut bytes = SecretBytes::zeroed(Self::LEN).unwrap();
        bytes.expose_mut().fill(byte);
        Self(bytes)
    }

    /// A key that `fill` writes in place.
    pub fn fill_with(fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        let mut bytes = SecretBytes::zeroed(Self::LEN)?;
        fill(bytes.expose_mut())?;
        Ok(Self(bytes))
    }

    /// The key itself, for the cipher that needs it.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        self.0.map.first_chunk().expect("the mapping holds a key")
    }
}

impl TryFrom<SecretBytes> for SecretKey {
    type Error = Error;

    /// [`ErrorKind::InvalidInput`] for anything but 32 bytes.
    fn try_from(bytes: SecretBytes) -> Result<Self> {
        if bytes.len() != Self::LEN {
            let what = format!("a key has {} bytes, this has {}", Self::LEN, bytes.len());
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        Ok(Self(bytes))
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose().ct_eq(other.0.expose()).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel says of a mapping of this process (proc(5), smaps).
    pub(in crate::crypto) struct Mapping(Vec<String>);

    impl Mapping {
        /// The one that `address` lies in.
        pub(in crate::crypto) fn of<T>(address: *const T) -> Self {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let holds = |line: &&str| {
                let (start, end) = line.split_once(' ')?.0.split_once('-')?;
                let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16));
                Some((start.ok()?..end.ok()?).contains(&(address as usize)))
            };
            let lines = smaps.lines().skip_while(|line| holds(line) != Some(true));
            let lines: Vec<_> = lines.map(str::to_owned).collect();
            let end = lines.iter().position(|line| line.starts_with("VmFlags:")).expect("the address is mapped");
            Self(lines[..=end].to_vec())
        }

        pub(in crate::crypto) fn has_flag(&self, flag: &str) -> bool {
            self.0.last().is_some_and(|flags| flags.split_whitespace().any(|found| found == flag))
        }

        /// By its flag, and in memory.
        pub(in crate::crypto) fn is_locked(&self) -> bool {
            let locked = self.0.iter().find_map(|line| line.strip_prefix("Locked:"));
            self.has_flag("lo") && locked.is_some_and(|size| size.trim() != "0 kB")
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = SecretBytes::copy_of(&[0xAB; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "SecretBytes(redacted)");
        let key = SecretKey::try_from(secret).unwrap();
        assert_eq!(format!("{key:?}"), "SecretKey(redacted)");
    }

    #[test]
    fn a_key_has_exactly_32_bytes() {
        for len in [0, 1, 31, 33, 64] {
            let error = SecretKey::try_from(SecretBytes::zeroed(len).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn truncation_forgets_the_tail() {
        let mut secret = SecretBytes::copy_of(b"keep and forget").unwrap();
        secret.truncate(4);
        assert_eq!(secret.expose(), b"keep");
        assert!(secret.map[4..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn random_keys_differ() {
        assert_ne!(SecretKey::random().unwrap(), SecretKey::random().unwrap());
    }

    /// The kernel itself says that the mapping is locked, and neither dumped nor inherited (`lo`, `dd`, `dc`).
    #[cfg(not(sealdisk_sim))]
    #[test]
    fn the_kernel_locks_secrets_and_keeps_them_out_of_core_files() {
        let secret = SecretBytes::copy_of(b"x").unwrap();
        let mapping = Mapping::of(secret.map.as_ptr());
        assert!(mapping.is_locked() && mapping.has_flag("dd") && mapping.has_flag("dc"));
    }
}
