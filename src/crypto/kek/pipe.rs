//! Reading a secret from a descriptor: into secret memory, with a limit and a deadline.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::crypto::secret::SecretBytes;
use crate::{Error, ErrorKind, Result};

/// Reads to the end. [`ErrorKind::WrongKey`] for more than `limit` bytes, [`ErrorKind::Io`] at the deadline.
pub(super) fn read_to_end(fd: impl AsFd, limit: usize, deadline: Instant) -> Result<SecretBytes> {
    let mut content = SecretBytes::zeroed(limit + 1)?;
    let mut len = 0;
    loop {
        wait(&fd, deadline)?;
        match rustix::io::read(&fd, &mut content.expose_mut()[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(Error::io("cannot be read", error.into())),
        }
        if len > limit {
            return Err(Error::new(ErrorKind::WrongKey, format!("gives more than {limit} bytes, which is too much"))
                .hint("it is to give one secret and nothing else"));
        }
    }
    content.truncate(len);
    Ok(content)
}

fn wait(fd: impl AsFd, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out());
        }
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => {}
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("cannot be waited for", error.into())),
        }
    }
}

pub(super) fn timed_out() -> Error {
    Error::io("gave no key", std::io::ErrorKind::TimedOut.into())
}

fn timespec(duration: Duration) -> Timespec {
    let tv_sec = duration.as_secs().try_into().unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn reads_all_pieces() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            for piece in [b"one ", b"two "] {
                writer.write_all(piece).unwrap();
                std::thread::yield_now();
            }
        });
        assert_eq!(read_to_end(reader, 8, soon()).unwrap().expose(), b"one two ");
        writing.join().unwrap();
    }

    #[test]
    fn refuses_more_than_the_limit() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"nine byte").unwrap();
        assert_eq!(read_to_end(reader, 8, soon()).unwrap_err().kind(), ErrorKind::WrongKey);
    }

    #[test]
    fn gives_up_at_the_deadline() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(read_to_end(reader, 8, deadline).unwrap_err().kind(), ErrorKind::Io);
        assert!(Instant::now() >= deadline);
    }
}
