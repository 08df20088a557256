//! Limits of a server, whatever it speaks. Every limit has a default that serves ordinary clients and bounds hostile
//! ones.

use std::time::Duration;

use super::buffers::RESERVED;
use crate::{Error, ErrorKind, Result};

/// Bytes are bytes, counts are counts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients attached at once; a further one is refused.
    pub max_connections: usize,
    /// Handshakes under way at once; the oldest makes room for a further one.
    pub max_handshakes: usize,
    /// How long a client may take for the handshake, TLS included; what the server takes does not count, and each
    /// option that was answered gives a hundredth back.
    pub handshake_timeout: Duration,
    /// Requests of one connection that wait for the disk; the next is not read before one has been answered.
    pub max_in_flight: usize,
    /// Bytes of buffers of all connections together. A connection holds a quarter at most, and 64 KiB of it are
    /// reserved for each of [`Limits::max_connections`].
    pub budget: usize,
    /// Threads that wait for the disk on behalf of all connections.
    pub workers: usize,
    /// How long a client may send nothing between two requests. `None`: for ever, as an idle guest does.
    pub idle_timeout: Option<Duration>,
    /// How long a client may stop in the middle of a request, or take no reply.
    pub stall_timeout: Duration,
    /// How long, once the server stops, attached clients are answered "shutting down" before they are cut off. Zero:
    /// they are cut off at once, after what they had sent is answered, and none is refused; a client that attaches
    /// again by itself and repeats what was not answered notices no more than a wait.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 100,
            max_handshakes: 128,
            handshake_timeout: Duration::from_secs(10),
            max_in_flight: 1024,
            budget: 96 << 20,
            workers: 64,
            idle_timeout: None,
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// Limits that contradict each other: [`ErrorKind::InvalidInput`].
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str, hint: &str| Err(Error::new(ErrorKind::InvalidInput, what).hint(hint));
        if [self.max_connections, self.max_handshakes, self.max_in_flight, self.workers].contains(&0) {
            return Err(none_allowed());
        }
        let times = [Some(self.handshake_timeout), Some(self.stall_timeout), self.idle_timeout];
        if times.iter().flatten().any(|time| *time < Duration::from_millis(1)) {
            return wrong("a time-out of the NBD server is 0", "every time-out is at least 1 ms");
        }
        if self.budget < 1 << 20 {
            return wrong("the buffer budget is under 1 MiB", "96 MiB serve 100 connections");
        }
        if self.max_connections.saturating_mul(RESERVED) > self.budget / 2 {
            return wrong(
                "the buffer budget is too small for that many connections",
                "each connection reserves 64 KiB, and half of the budget must stay free",
            );
        }
        Ok(())
    }
}

/// A limit under which nothing could be served.
pub(crate) fn none_allowed() -> Error {
    Error::new(ErrorKind::InvalidInput, "a limit of the NBD server is 0").hint("every limit is at least 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        Limits::default().check().unwrap();
    }

    #[test]
    fn contradictions_are_refused() {
        let base = Limits::default;
        for limits in [
            Limits { max_connections: 1000, ..base() },
            Limits { workers: 0, ..base() },
            Limits { idle_timeout: Some(Duration::ZERO), ..base() },
            Limits { budget: 512 << 10, max_connections: 1, ..base() },
        ] {
            assert_eq!(limits.check().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        Limits { max_connections: 1000, budget: 256 << 20, ..base() }.check().unwrap();
    }
}
