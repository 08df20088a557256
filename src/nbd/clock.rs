//! The time that a client may take for its handshake.
//!
//! Only waiting for the client counts: until it has sent what it is sending, or taken its answer. What the server does
//! in between, as opening a disk, is not the client's. Each option that was answered gives a little of the time back,
//! so that a client which lists thousands of exports over a slow network is served, and one that trickles bytes is not.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

/// An answered option gives back one part in so many of the whole time.
const BACK: u32 = 100;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Clock {
    whole: Duration,
    left: Duration,
}

impl Clock {
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, left: whole }
    }

    /// Waits for the client. [`io::ErrorKind::TimedOut`] once all of its time is used.
    pub(super) async fn wait<T>(&mut self, client: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let began = Instant::now();
        let Ok(done) = tokio::time::timeout(self.left, client).await else {
            let what = format!("the handshake took longer than {} s", self.whole.as_secs_f64());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        };
        self.left = self.left.saturating_sub(began.elapsed());
        done
    }

    /// An option was answered.
    pub(super) fn answered(&mut self) {
        self.left = (self.left + self.whole / BACK).min(self.whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn what_is_used_is_gone_and_answers_give_a_little_back() {
        run(async {
            let mut clock = Clock::new(Duration::from_millis(200));
            clock.answered();
            assert_eq!(clock.left, clock.whole, "never more than the whole");
            clock
                .wait(async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(())
                })
                .await
                .unwrap();
            let left = clock.left;
            assert!(left <= Duration::from_millis(150));
            clock.answered();
            assert_eq!(clock.left, left + Duration::from_millis(2));
            let error = clock.wait(std::future::pending::<io::Result<()>>()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
