//! The sockets of a server as its start shows them: who may attach at each, and by which URI.

use std::fmt;

use serde::Serialize;

use super::uri;
use crate::serve::{Address, Audience, Listening, TlsUse};

/// A socket, for `serve --json`.
#[derive(Debug, Serialize)]
pub(super) struct ListenerReport {
    /// Path of a unix socket, or address and port.
    address: String,
    tls: TlsUse,
    clients: Audience,
    #[serde(skip)]
    at: Listening,
}

impl From<Listening> for ListenerReport {
    fn from(at: Listening) -> Self {
        Self { address: at.address.to_string(), tls: at.tls, clients: at.audience, at }
    }
}

impl ListenerReport {
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
        let Self { address, tls, clients, at } = self;
        match at.is_open() {
            false => tracing::info!(%address, %tls, "listening for {clients}"),
            true => tracing::warn!(%address, %tls, "listening for {clients}, whom nothing asks who they are"),
        }
    }
}

impl fmt::Display for ListenerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serving on {}\n  for {}", self.address, self.clients)?;
        if let (Address::Tcp(_), Some(uri)) = (&self.at.address, self.uri("NAME")) {
            if self.at.is_open() {
                f.write_str(": no client certificate is asked for")?;
            }
            let folder = if self.clients == Audience::Certificate { "?tls-certificates=FOLDER" } else { "" };
            write!(f, "\n  {uri}{folder}")?;
        }
        Ok(())
    }
}
