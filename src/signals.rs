//! The wish that this process end, told by a signal: once, to end in order; again, [`SENT_TWICE`] later or more, to end at
//! once.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level;

use crate::{Error, Result};

/// Some send a signal to a process and then to its group, as timeout(1) does: what comes so soon after the first is the same
/// wish again.
const SENT_TWICE: Duration = Duration::from_millis(500);

/// Signals that no longer end the process by themselves.
#[derive(Debug)]
pub struct EndSignals(Signals);

/// The thread that hears them.
#[derive(Debug)]
pub struct Hearing {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl EndSignals {
    /// From now on `signals` are kept until they are [heard](EndSignals::hear).
    pub fn take(signals: &[i32]) -> Result<Self> {
        Signals::new(signals).map(Self).map_err(|e| Error::io("cannot wait for signals", e))
    }

    /// The first is told to `asked`. One that means at once ends the process with the status that `status` gives for it.
    pub fn hear(
        self,
        asked: impl FnOnce(i32) + Send + 'static,
        status: impl Fn(i32) -> i32 + Send + 'static,
    ) -> Result<Hearing> {
        let Self(mut signals) = self;
        let handle = signals.handle();
        let hear = move || {
            let mut wish = Wish(None);
            let mut asked = Some(asked);
            for signal in signals.forever() {
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
    pub fn end(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
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
