//! The sockets of a server as its start shows them: who may attach at each, and by which URI.

use std::fmt;

use serde::Serialize;

use super::uri;
use crate::account::admission::Admission;
use crate::serve::{Address, Audience, Listening, TlsUse};

/// A socket, for `serve --json`.
#[derive(Debug, Serialize)]
pub(super) struct ListenerReport {
    /// Path of a unix socket, or address and port.
    address: String,
    tls: TlsUse,
    clients: Audience,
    /// Whether clients of which nothing is known have something there.
    #[serde(skip)]
    is_open: bool,
    #[serde(skip)]
    at: Listening,
}

impl ListenerReport {
    /// `admission`: what decides who of the clients that the listener lets in has what. The kernel tells the user of a
    /// client on a unix socket.
    pub(super) fn new(at: Listening, admission: &Admission) -> Self {
        let users_known = !matches!(at.address, Address::Tcp(_)) && admission.names_every_client();
        let is_open = at.is_open() && !users_known;
        Self { address: at.address.to_string(), tls: at.tls, clients: at.audience, is_open, at }
    }

    /// Where a client finds the export `name`; `None`: no URI leads there.
    pub(super) fn uri(&self, name: &str) -> Option<String> {
        match &self.at.address {
            Address::Unix(path) => Some(uri::unix(name, path)),
            Address::Abstract => None,
            Address::Tcp(addr) => Some(match self.tls {
                TlsUse::Required => uri::tls(name, *addr, self.at.host.as_deref()),
                TlsUse::Off | TlsUse::Offered => uri::tcp(name, *addr),
            }),
        }
    }

    /// A line of the log.
    pub(super) fn log(&self) {
        let Self { address, tls, clients, is_open, .. } = self;
        match is_open {
            false => tracing::info!(%address, %tls, "listening for {clients}"),
            true => tracing::warn!(%address, %tls, "listening for {clients}, whom nothing asks who they are"),
        }
    }
}

impl fmt::Display for ListenerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serving on {}\n  for {}", self.address, self.clients)?;
        if let (Address::Tcp(_), Some(uri)) = (&self.at.address, self.uri("NAME")) {
            if self.is_open {
                f.write_str(": no client certificate is asked for")?;
            }
            let folder = if self.clients == Audience::Certificate { "?tls-certificates=FOLDER" } else { "" };
            write!(f, "\n  {uri}{folder}")?;
        }
        Ok(())
    }
}
