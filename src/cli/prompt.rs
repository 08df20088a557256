//! A secret typed at the controlling terminal: not shown, and read straight into secret memory.
//!
//! While the terminal is silent, signals that would end or stop this process are held back: the terminal gets its echo
//! back first, and then the signal does what it does. A process that goes on after a stop asks anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios};

use super::signals::{self, HeldBack};
use crate::crypto::secret::SecretBytes;
use crate::{Error, ErrorKind, Result};

/// What is typed in answer to `question`, without the end of the line. [`ErrorKind::WrongKey`] for more than `limit`
/// bytes.
pub(super) fn ask(question: &str, limit: usize) -> Result<SecretBytes> {
    let failed = |error: io::Error| {
        Error::io("no passphrase can be asked for", error).hint("without a terminal: --passphrase-fd N")
    };
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let mut signals = HeldBack::take()?;
    let mut typed = SecretBytes::zeroed(limit + 1)?;
    loop {
        let silent = Silent::start(&terminal, question).map_err(failed)?;
        let read = read_line(&terminal, &mut signals, typed.expose_mut());
        drop(silent);
        let _ = writeln!(&terminal);
        match read.map_err(failed)? {
            Read::Line(len) if len > limit => {
                return Err(Error::new(ErrorKind::WrongKey, format!("more than {limit} bytes were typed"))
                    .hint("a passphrase has a few words"));
            }
            Read::Line(len) => {
                typed.truncate(len);
                return Ok(typed);
            }
            // It may not return.
            Read::Signal(signal) => signals::act(signal),
        }
    }
}

enum Read {
    /// Bytes before the end of the line, or of the input.
    Line(usize),
    Signal(i32),
}

/// Reads until a line has ended, `buf` is full, or a signal has come.
fn read_line(terminal: &File, signals: &mut HeldBack, buf: &mut [u8]) -> io::Result<Read> {
    let mut len = 0;
    loop {
        let mut fds = [PollFd::new(terminal, PollFlags::IN), PollFd::new(signals.wakeup(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        let readable = !fds[0].revents().is_empty();
        if let Some(signal) = signals.came() {
            return Ok(Read::Signal(signal));
        }
        if !readable {
            continue;
        }
        let read = match rustix::io::read(terminal, &mut buf[len..]) {
            Err(Errno::INTR | Errno::AGAIN) => continue,
            read => read?,
        };
        let line_end = buf[len..len + read].iter().position(|&byte| byte == b'\n');
        len += line_end.unwrap_or(read);
        if read == 0 || line_end.is_some() || len == buf.len() {
            return Ok(Read::Line(len));
        }
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn start(mut terminal: &'a File, question: &str) -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut modes = before.clone();
        modes.local_modes &= !(LocalModes::ECHO | LocalModes::ECHONL);
        modes.local_modes |= LocalModes::ICANON | LocalModes::ISIG;
        // From the background this stops the process until it is brought to the foreground.
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &modes)?;
        let silent = Self { terminal, before };
        terminal.write_all(question.as_bytes())?;
        Ok(silent)
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // In the background the terminal is the shell's again, and has its modes.
        let in_front = rustix::termios::tcgetpgrp(self.terminal).is_ok_and(|group| group == rustix::process::getpgrp());
        if in_front {
            let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
        }
    }
}
