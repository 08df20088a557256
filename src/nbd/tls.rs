//! TLS of the server: certificates from PEM files, by rustls.
//!
//! 1.3 is what every current client negotiates; 1.2 stays on because the protocol obliges a server with TLS to speak
//! it, and rustls knows only its forward-secret AEAD suites.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::{Error, ErrorKind, Result};

/// PEM files that make up the server's identity, and whom it trusts.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate chain, its own first.
    pub certificate: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// Authorities that sign client certificates: a client without one is turned away. `None`: clients are not asked.
    pub client_ca: Option<PathBuf>,
}

/// A ready TLS configuration. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    asks_clients: bool,
}

impl Tls {
    /// Reads the files. [`ErrorKind::InvalidInput`] for content that is no certificate or key, or does not fit together.
    pub fn load(files: &TlsFiles) -> Result<Self> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|e| unusable("no private key in PEM form", &files.key, e))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| unusable("TLS is not available", &files.certificate, e))?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|e| unusable("not a certificate authority", path, e))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|e| unusable("not usable", path, e))?)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|e| unusable("certificate and key do not fit together", &files.certificate, e))?;
        Ok(Self { config: Arc::new(config), asks_clients: files.client_ca.is_some() })
    }

    /// Whether a client has to show a certificate.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.asks_clients
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(redacted)")
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let chain = read().map_err(|e| unusable("no certificate in PEM form", path, e))?;
    if chain.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "no certificate in PEM form").at_path(path));
    }
    Ok(chain)
}

fn unusable(what: &str, path: &Path, cause: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{what}: {cause}")).at_path(path)
}
