//! Settings of the NBD server: how clients come in, its limits, and those of the protocol.

use crate::serve::limits::{Limits, none_allowed};
use crate::serve::listener_policy::ListenerPolicy;
use crate::{Error, ErrorKind, Result};

/// Settings of a [`Server`](super::Server). Bytes are bytes, counts are counts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Every export is read-only, whatever the registry says.
    pub read_only: bool,
    pub listeners: ListenerPolicy,
    pub limits: Limits,

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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            read_only: false,
            listeners: ListenerPolicy::default(),
            limits: Limits::default(),
            max_options: 65_536,
            max_option_bytes: 64 << 10,
            max_name: 4096,
            max_queries: 256,
            max_request: 32 << 20,
        }
    }
}

impl From<Limits> for Config {
    /// The defaults, within these limits.
    fn from(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}

impl Config {
    /// Settings that contradict each other: [`ErrorKind::InvalidInput`].
    pub(super) fn check(&self) -> Result<()> {
        self.listeners.check()?;
        if self.max_options == 0 {
            return Err(none_allowed());
        }
        if !(4096..=1 << 30).contains(&self.max_request) {
            return Err(Error::new(ErrorKind::InvalidInput, "the largest request is under 4 KiB or over 1 GiB")
                .hint("clients expect 1 to 32 MiB"));
        }
        self.limits.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        Config::default().check().unwrap();
        let base = Config::default;
        for config in [
            Config { listeners: ListenerPolicy { tls_required: true, ..ListenerPolicy::default() }, ..base() },
            Config { max_request: 512, ..base() },
            Config { max_request: u32::MAX, ..base() },
            Config { max_options: 0, ..base() },
            Limits { workers: 0, ..Limits::default() }.into(),
        ] {
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
