//! How clients come in at the listeners of a server, whatever it speaks.

use super::audience::TlsUse;
use super::tls::Tls;
use crate::{Error, ErrorKind, Result};

/// See the module documentation. The default: without TLS, and from this machine alone.
#[derive(Debug, Clone, Default)]
pub struct ListenerPolicy {
    /// Offers TLS.
    pub tls: Option<Tls>,
    /// Answers TCP clients nothing before TLS. Needs [`ListenerPolicy::tls`]; one that asks clients for certificates
    /// implies it. Unix sockets offer TLS and do not need it: the permissions of their file say who may connect.
    pub tls_required: bool,
    /// Accepts plaintext clients from other machines.
    pub insecure_tcp: bool,
    /// Accepts clients from other machines that show no certificate.
    pub insecure_anonymous_clients: bool,
}

impl ListenerPolicy {
    /// What TCP clients have of TLS.
    pub(crate) fn tcp_tls(&self) -> TlsUse {
        match &self.tls {
            None => TlsUse::Off,
            Some(_) if self.tls_required || self.asks_clients() => TlsUse::Required,
            Some(_) => TlsUse::Offered,
        }
    }

    /// What clients on unix sockets have of it.
    pub(crate) fn unix_tls(&self) -> TlsUse {
        if self.tls.is_some() { TlsUse::Offered } else { TlsUse::Off }
    }

    /// Whether TLS clients have to show a certificate.
    pub(crate) fn asks_clients(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::asks_clients)
    }

    /// Settings that contradict each other: [`ErrorKind::InvalidInput`].
    pub(crate) fn check(&self) -> Result<()> {
        if self.tls_required && self.tls.is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "TLS is required, but there is no certificate")
                .hint("name a certificate and its key"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_cannot_be_required_without_a_certificate() {
        ListenerPolicy::default().check().unwrap();
        let policy = ListenerPolicy { tls_required: true, ..ListenerPolicy::default() };
        assert_eq!(policy.check().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
