//! What SIGHUP means to a server. A terminal that goes away sends it to what runs in it, and means the end; people and
//! programs send it to a daemon, and mean that it should read its configuration again. The sender does not tell: a
//! shell passes its terminal's signal on as its own. So the terminal is asked whether it is gone.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

/// The bit of SIGHUP in the masks of `/proc`.
const HANGUP: u64 = 1;

/// The controlling terminal that a process had at its start.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    /// Open, so that it can be asked. `None`: there is none, or the process was told to outlive it.
    open: Option<OwnedFd>,
}

impl Terminal {
    /// That of this process. To be called before SIGHUP is handled and files are out of reach. A process that was
    /// started to ignore SIGHUP (nohup(1)) counts as having none.
    #[must_use]
    pub(super) fn of_this_process() -> Self {
        if is_hangup_ignored() {
            return Self::default();
        }
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Self { open: rustix::fs::open("/dev/tty", flags, Mode::empty()).ok() }
    }

    /// Whether it was there and is gone.
    #[must_use]
    pub(super) fn is_gone(&self) -> bool {
        let Some(terminal) = &self.open else { return false };
        let mut asked = [PollFd::new(terminal, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
    }
}

fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & HANGUP != 0)
}
