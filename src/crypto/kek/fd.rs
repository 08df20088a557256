//! `--key-fd`: a descriptor that the caller left open: a pipe, a file, a memfd.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Kek, KekSource, SourceRecord, decode, pipe};
use crate::crypto::secret::SecretBytes;
use crate::{Error, ErrorKind, Result};

/// A writer that never closes its end is given up.
const DEADLINE: Duration = Duration::from_secs(60);

/// See the module documentation.
#[derive(Debug)]
pub struct KeyFd {
    fd: u32,
}

impl KeyFd {
    #[must_use]
    pub fn new(fd: u32) -> Self {
        Self { fd }
    }
}

impl KekSource for KeyFd {
    fn obtain(&self) -> Result<Kek> {
        read(self.fd, decode::LIMIT).and_then(decode::decode).map_err(|error| error.at_path(path(self.fd)))
    }

    fn record(&self) -> SourceRecord {
        SourceRecord::Fd
    }
}

pub(super) fn path(fd: u32) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}

/// Reads the descriptor to its end, a regular file from its start. A number from the command line cannot be made a
/// descriptor of ours in safe code; opening its /proc entry gives one on the same pipe or file.
pub(super) fn read(fd: u32, limit: usize) -> Result<SecretBytes> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(path(fd), flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => Error::new(ErrorKind::InvalidInput, format!("descriptor {fd} is not open"))
            .hint(format!("in a shell: sealdisk ... {fd}< FILE")),
        Errno::NXIO => {
            Error::new(ErrorKind::InvalidInput, format!("descriptor {fd} is a socket")).hint("give a pipe or a file")
        }
        error => Error::io(format!("descriptor {fd} cannot be opened"), error.into())
            .hint("give one that is open for reading"),
    })?;
    pipe::read_to_end(opened, limit, Instant::now() + DEADLINE).map_err(|error| match error.is_timed_out() {
        true => error.hint("whoever writes the key has to close its end"),
        false => error,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    fn number(fd: &impl AsRawFd) -> u32 {
        fd.as_raw_fd().try_into().unwrap()
    }

    #[test]
    fn a_pipe_whose_writer_is_gone_gives_its_key() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[7; 32]).unwrap();
        drop(writer);
        assert_eq!(KeyFd::new(number(&reader)).obtain().unwrap().expose(), &[7; 32]);
    }

    #[test]
    fn a_file_is_read_from_its_start() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(hex::encode([9; 32]).as_bytes()).unwrap();
        for _ in 0..2 {
            assert_eq!(KeyFd::new(number(&file)).obtain().unwrap().expose(), &[9; 32]);
        }
    }

    #[test]
    fn closed_descriptors_and_sockets_are_refused() {
        assert_eq!(KeyFd::new(u32::MAX).obtain().unwrap_err().kind(), ErrorKind::InvalidInput);
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(KeyFd::new(number(&socket)).obtain().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
