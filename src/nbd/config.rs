//! Limits and policy of the server. Every limit has a default that serves ordinary clients and bounds hostile ones.

use std::time::Duration;

use super::handshake::Security;
use super::tls::Tls;
use crate::{Error, ErrorKind, Result};

/// Bytes a connection may use without asking the [budget](Config::budget): its receive and its send buffer.
pub(super) const RESERVED: usize = 64 << 10;

/// Settings of a [`Server`](super::Server). Bytes are bytes, counts are counts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Every export is read-only, whatever the registry says.
    pub read_only: bool,
    /// Offers TLS.
    pub tls: Option<Tls>,
    /// Answers TCP clients nothing before STARTTLS. Needs [`Config::tls`]; one that asks clients for certificates
    /// implies it. Unix sockets are told of TLS and do not need it: the permissions of their file say who may connect.
    pub tls_required: bool,
    /// Lets [`Server::listen_tcp`](super::Server::listen_tcp) accept plaintext clients from other machines.
    pub insecure_tcp: bool,
    /// Lets it accept clients from other machines that show no certificate.
    pub insecure_anonymous_clients: bool,

    /// Clients in transmission at once; a further one is refused at GO.
    pub max_connections: usize,
    /// Handshakes under way at once; the oldest makes room for a further one.
    pub max_handshakes: usize,
    /// How long a client may take for the handshake, TLS included; what the server takes does not count, and each
    /// option that was answered gives a hundredth back.
    pub handshake_timeout: Duration,
    /// Options in one handshake: some for each export, where a client lists them all.
    pub max_options: usize,
    /// Bytes of data of one option; longer data is skipped and refused.
    pub max_option_bytes: u32,
    /// Bytes of an export name or a metadata query. The protocol allows no more than 4,096.
    pub max_name: usize,
    /// Queries in one metadata context option.
    pub max_queries: u32,

    /// Bytes of one read or write, advertised as the maximum payload.
    pub max_request: u32,
    /// Requests of one connection that wait for the disk; the next is not read before one has been answered.
    pub max_in_flight: usize,
    /// Bytes of buffers of all connections together. A connection holds a quarter at most, and 64 KiB of it are
    /// reserved for each of [`Config::max_connections`].
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

impl Default for Config {
    fn default() -> Self {
        Self {
            read_only: false,
            tls: None,
            tls_required: false,
            insecure_tcp: false,
            insecure_anonymous_clients: false,
            max_connections: 100,
            max_handshakes: 128,
            handshake_timeout: Duration::from_secs(10),
            max_options: 65_536,
            max_option_bytes: 64 << 10,
            max_name: 4096,
            max_queries: 256,
            max_request: 32 << 20,
            max_in_flight: 1024,
            budget: 96 << 20,
            workers: 64,
            idle_timeout: None,
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_millis(500),
        }
    }
}

impl Config {
    /// What TCP clients have of TLS.
    pub(super) fn tcp_security(&self) -> Security {
        match &self.tls {
            None => Security::None,
            Some(tls) if self.tls_required || tls.asks_clients() => Security::Required,
            Some(_) => Security::Offered,
        }
    }

    /// What clients on unix sockets have of it.
    pub(super) fn unix_security(&self) -> Security {
        if self.tls.is_some() { Security::Offered } else { Security::None }
    }

    /// Settings that contradict each other: [`ErrorKind::InvalidInput`].
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str, hint: &str| Err(Error::new(ErrorKind::InvalidInput, what).hint(hint));
        if self.tls_required && self.tls.is_none() {
            return wrong("TLS is required, but there is no certificate", "name a certificate and its key");
        }
        if [self.max_connections, self.max_handshakes, self.max_in_flight, self.workers, self.max_options].contains(&0)
        {
            return wrong("a limit of the NBD server is 0", "every limit is at least 1");
        }
        if !(4096..=1 << 30).contains(&self.max_request) {
            return wrong("the largest request is under 4 KiB or over 1 GiB", "clients expect 1 to 32 MiB");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        Config::default().check().unwrap();
    }

    #[test]
    fn contradictions_are_refused() {
        let base = Config::default;
        for config in [
            Config { tls_required: true, ..base() },
            Config { max_connections: 1000, ..base() },
            Config { workers: 0, ..base() },
            Config { max_request: 512, ..base() },
            Config { max_request: u32::MAX, ..base() },
            Config { idle_timeout: Some(Duration::ZERO), ..base() },
            Config { budget: 512 << 10, max_connections: 1, ..base() },
        ] {
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        Config { max_connections: 1000, budget: 256 << 20, ..base() }.check().unwrap();
    }
}
