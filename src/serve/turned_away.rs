//! Clients that the server turned away before they were attached: the one place that counts them and tells the log.
//!
//! The client itself is told little, often no more than that the connection ends. So each of them leaves a line at the
//! default level, with the peer and the cause, at a bounded rate for all clients together.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::log_limiter::Limiter;

/// Lines of the log at once, and then in a second.
const LINES: (u32, f64) = (20, 1.0);
/// Characters of a cause: it may repeat what the client sent.
const MOST: usize = 512;

/// Why a client was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The TLS handshake failed: a certificate that is refused or missing, or bytes that are not TLS.
    Tls,
    /// A client without TLS where it is required.
    TlsRequired,
    /// It asked for an export that is not there.
    UnknownExport,
    /// It asked for a disk that cannot be opened.
    NotOpened,
    /// As many clients are attached as may be.
    Connections,
    /// It made room for a newer one: as many handshakes were under way as may be.
    Handshakes,
    /// It sent more options than it may.
    Options,
    TimedOut,
    /// It broke the protocol.
    Protocol,
}

impl Reason {
    pub const ALL: [Self; 9] = [
        Self::Tls,
        Self::TlsRequired,
        Self::UnknownExport,
        Self::NotOpened,
        Self::Connections,
        Self::Handshakes,
        Self::Options,
        Self::TimedOut,
        Self::Protocol,
    ];

    /// As logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::TlsRequired => "tls_required",
            Self::UnknownExport => "unknown_export",
            Self::NotOpened => "not_opened",
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Options => "options",
            Self::TimedOut => "timed_out",
            Self::Protocol => "protocol",
        }
    }
}

/// How a handshake ended without a client.
#[derive(Debug)]
pub(crate) enum HandshakeEnd {
    /// The client left, in order or not.
    Left,
    TurnedAway(Reason, String),
}

impl HandshakeEnd {
    pub(crate) fn away(reason: Reason, why: impl Into<String>) -> Self {
        Self::TurnedAway(reason, why.into())
    }
}

impl From<io::Error> for HandshakeEnd {
    /// What goes wrong with the connection itself is the client's leaving.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TurnedAway(Reason::TimedOut, error.to_string()),
            _ => Self::Left,
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Turnings {
    counts: [AtomicU64; Reason::ALL.len()],
    lines: Mutex<Limiter>,
}

impl Turnings {
    pub(crate) fn new(now: Instant) -> Self {
        Self { counts: Default::default(), lines: Mutex::new(Limiter::new(LINES.0, LINES.1, now)) }
    }

    /// Counts a client, and tells the log. `false`: there were too many lines already.
    pub(crate) fn note(&self, peer: &str, reason: Reason, why: impl Display) -> bool {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let Some(suppressed) = self.lines.lock().allow(Instant::now()) else { return false };
        if suppressed > 0 {
            tracing::warn!(suppressed, "lines about clients that were turned away were left out");
        }
        let error: String = why.to_string().chars().take(MOST).collect();
        tracing::warn!(%peer, reason = reason.name(), %error, "turned away");
        true
    }

    /// By reason, in the order of [`Reason::ALL`].
    pub(crate) fn counts(&self) -> [u64; Reason::ALL.len()] {
        std::array::from_fn(|index| self.counts[index].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_few_are_logged() {
        let turnings = Turnings::new(Instant::now());
        let told = (0..100).filter(|_| turnings.note("peer", Reason::Options, "too many")).count();
        assert!((20..30).contains(&told), "{told}");
        assert!(turnings.note("peer", Reason::Tls, "none") || told >= 20);
        let counts = turnings.counts();
        assert_eq!((counts[Reason::Options as usize], counts[Reason::Tls as usize]), (100, 1));
        assert!(Reason::ALL.iter().enumerate().all(|(index, reason)| *reason as usize == index));
    }
}
