//! The wish that this process end, told by a signal: once, to end in order; again, [`SENT_TWICE`] later or more, to end
//! at once. And signals that are [held back](HeldBack) for a moment, so that something can be put in order first.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{flag, low_level};

use crate::{Error, Result};

/// Some send a signal to a process and then to its group, as timeout(1) does: what comes so soon after the first is the
/// same wish again.
const SENT_TWICE: Duration = Duration::from_millis(500);

/// Signals that no longer end the process by themselves.
#[derive(Debug)]
pub(super) struct EndSignals(Signals);

/// The thread that hears them.
#[derive(Debug)]
pub(super) struct Hearing {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl EndSignals {
    /// From now on `signals` are kept until they are [heard](EndSignals::hear).
    pub(super) fn take(signals: &[i32]) -> Result<Self> {
        let taken = Signals::new(signals).map(Self).map_err(|e| Error::io("cannot wait for signals", e))?;
        if let Some(by_default) = BY_DEFAULT.get() {
            by_default.store(false, Ordering::SeqCst);
        }
        Ok(taken)
    }

    /// Those that `aside` takes mean something else than the end. Of the others the first is told to `asked`. One that
    /// means at once ends the process with the status that `status` gives for it.
    pub(super) fn hear(
        self,
        mut aside: impl FnMut(i32) -> bool + Send + 'static,
        asked: impl FnOnce(i32) + Send + 'static,
        status: impl Fn(i32) -> i32 + Send + 'static,
    ) -> Result<Hearing> {
        let Self(mut signals) = self;
        let handle = signals.handle();
        let hear = move || {
            let mut wish = Wish(None);
            let mut asked = Some(asked);
            for signal in signals.forever() {
                if aside(signal) {
                    continue;
                }
                match wish.heard(Instant::now()) {
                    Meaning::InOrder => asked.take().into_iter().for_each(|asked| asked(signal)),
                    Meaning::SameAgain => {}
                    Meaning::AtOnce => low_level::exit(status(signal)),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(hear);
        Ok(Hearing { handle, thread: thread.map_err(|e| Error::io("cannot start a thread", e))? })
    }
}

impl Hearing {
    /// Hears no more.
    pub(super) fn end(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}

/// Signals that end or stop a process that a terminal waits for.
const HELD_BACK: [i32; 5] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP];

/// Whether the signals that were once held back do what they do by default. A handler, once installed, stays: so it
/// does that, until [`EndSignals`] are taken.
static BY_DEFAULT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// While this lives, the signals that would end or stop this process are only noted.
#[derive(Debug)]
pub(super) struct HeldBack {
    wakeup: UnixStream,
    last: Arc<AtomicUsize>,
    actions: Vec<SigId>,
}

impl HeldBack {
    /// Holds them back, but those that the process ignores.
    pub(super) fn take() -> Result<Self> {
        Self::try_take().map_err(|error| Error::io("cannot hold signals back", error))
    }

    fn try_take() -> io::Result<Self> {
        let (wakeup, ring) = UnixStream::pair()?;
        wakeup.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let mut held = Self { wakeup, last: Arc::default(), actions: Vec::new() };
        let first = BY_DEFAULT.get().is_none();
        let by_default = Arc::clone(BY_DEFAULT.get_or_init(Arc::default));
        by_default.store(false, Ordering::SeqCst);
        let ignored = ignored();
        for signal in HELD_BACK.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
            held.actions.push(flag::register_usize(signal, Arc::clone(&held.last), signal as usize)?);
            held.actions.push(low_level::pipe::register(signal, ring.try_clone()?)?);
            if first {
                flag::register_conditional_default(signal, Arc::clone(&by_default))?;
            }
        }
        Ok(held)
    }

    /// Readable when one has come.
    #[must_use]
    pub(super) fn wakeup(&self) -> &UnixStream {
        &self.wakeup
    }

    /// The last one that has come, once.
    pub(super) fn came(&mut self) -> Option<i32> {
        while io::Read::read(&mut self.wakeup, &mut [0; 16]).is_ok_and(|read| read > 0) {}
        match self.last.swap(0, Ordering::SeqCst) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        for action in self.actions.drain(..) {
            low_level::unregister(action);
        }
        if let Some(by_default) = BY_DEFAULT.get() {
            by_default.store(true, Ordering::SeqCst);
        }
        // One that came at the last moment is not lost.
        if let Some(signal) = self.came() {
            act(signal);
        }
    }
}

/// Does what `signal` does to a process that has no handler for it: returns after a stop, and else not.
pub(super) fn act(signal: i32) {
    let _ = low_level::emulate_default_handler(signal);
}

/// The signals that this process ignores, a bit each, as proc(5) tells them; none where it does not.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// When it was told first.
struct Wish(Option<Instant>);

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    InOrder,
    SameAgain,
    AtOnce,
}

impl Wish {
    fn heard(&mut self, now: Instant) -> Meaning {
        match self.0 {
            None => {
                self.0 = Some(now);
                Meaning::InOrder
            }
            Some(first) if now.duration_since(first) < SENT_TWICE => Meaning::SameAgain,
            Some(_) => Meaning::AtOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_signal_means_at_once() {
        let (mut wish, first) = (Wish(None), Instant::now());
        assert_eq!(wish.heard(first), Meaning::InOrder);
        assert_eq!(wish.heard(first), Meaning::SameAgain);
        assert_eq!(wish.heard(first + SENT_TWICE / 2), Meaning::SameAgain);
        assert_eq!(wish.heard(first + SENT_TWICE), Meaning::AtOnce);
    }
}
