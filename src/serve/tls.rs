//! TLS of the server: certificates from PEM files, by rustls.
//!
//! 1.3 is what every current client negotiates; 1.2 stays on because the protocol obliges a server with TLS to speak
//! it, and rustls knows only its forward-secret AEAD suites.
//!
//! The files can be read again while the server runs. What is read is either all good and takes effect for the next
//! handshake, or changes nothing.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::certificate::{self, Validity};
use super::trust_file::{self, Kind};
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
    /// Lists of client certificates that their authorities took back, one at least for each authority.
    pub crl: Option<PathBuf>,
}

/// A TLS configuration that can be replaced. Clones share it.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    in_force: Arc<RwLock<Material>>,
}

/// What the files held when they were read.
#[derive(Clone)]
pub struct Material {
    config: Arc<ServerConfig>,
    /// The server's own certificate.
    own: Option<CertificateDer<'static>>,
    terms: Vec<Term>,
}

/// How long a file counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub part: Part,
    pub path: PathBuf,
    /// The shortest of what is in the file; of authorities the longest, as an old one may stay beside its successor.
    pub validity: Validity,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Certificate,
    ClientCa,
    Crl,
}

impl Part {
    /// As metrics and the log call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::ClientCa => "client_ca",
            Self::Crl => "crl",
        }
    }
}

impl Tls {
    /// Reads the files. [`ErrorKind::InvalidInput`] for content that is no certificate or key, or does not fit
    /// together, and for a key that others can read.
    pub fn load(files: TlsFiles) -> Result<Self> {
        let material = read(&files)?;
        Ok(Self { files: Arc::new(files), in_force: Arc::new(RwLock::new(material)) })
    }

    /// Reads the files again, as they are now. Nothing is in force of it before [`Tls::replace`].
    pub fn read_again(&self) -> Result<Material> {
        read(&self.files)
    }

    /// Handshakes that begin now use `material`.
    pub fn replace(&self, material: Material) {
        *self.in_force.write() = material;
    }

    /// Whether a client has to show a certificate.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// The host by which clients reach this server at `address`, as its certificate says.
    #[must_use]
    pub fn host_for(&self, address: IpAddr) -> Option<String> {
        self.in_force.read().host_for(address)
    }

    /// How long what is in force counts.
    #[must_use]
    pub fn terms(&self) -> Vec<Term> {
        self.in_force.read().terms.clone()
    }

    /// All files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let TlsFiles { certificate, key, client_ca, crl } = &*self.files;
        [Some(certificate), Some(key), client_ca.as_ref(), crl.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.in_force.read().config)
    }
}

impl Material {
    fn host_for(&self, address: IpAddr) -> Option<String> {
        certificate::host_for(self.own.as_ref()?, address)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("terms", &self.terms).finish_non_exhaustive()
    }
}

fn read(files: &TlsFiles) -> Result<Material> {
    let mut terms = Vec::new();
    let chain = certificates(&files.certificate)?;
    terms.extend(term(Part::Certificate, &files.certificate, chain.iter().map(validity).reduce(both)));
    let key = private_key(&files.key)?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| unusable("TLS is not available", &files.certificate, e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let authorities = certificates(path)?;
            terms.extend(term(Part::ClientCa, path, authorities.iter().map(validity).reduce(longest)));
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority).map_err(|e| unusable("not a certificate authority", path, e))?;
            }
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if let Some(path) = &files.crl {
                let lists = revocations(path)?;
                let validity = lists.iter().map(|list| Validity::of_crl(list)).reduce(both);
                terms.extend(term(Part::Crl, path, validity));
                verifier = verifier.with_crls(lists);
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|e| unusable("not usable", path, e))?)
        }
    };
    let own = chain.first().cloned();
    let config = builder
        .with_single_cert(chain, key)
        .map_err(|e| unusable("certificate and key do not fit together", &files.certificate, e))?;
    Ok(Material { config: Arc::new(config), own, terms })
}

fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    Validity::of_certificate(certificate)
}

fn both(one: Option<Validity>, other: Option<Validity>) -> Option<Validity> {
    one.zip(other).map(|(one, other)| one.and(other)).or(one).or(other)
}

fn longest(one: Option<Validity>, other: Option<Validity>) -> Option<Validity> {
    one.into_iter().chain(other).max_by_key(|validity| validity.until)
}

fn term(part: Part, path: &Path, validity: Option<Option<Validity>>) -> Option<Term> {
    Some(Term { part, path: path.to_owned(), validity: validity.flatten()? })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = trust_file::read(path, Kind::Public)?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<std::result::Result<Vec<_>, _>>();
    let chain = read.map_err(|e| unusable("no certificate in PEM form", path, e))?;
    if chain.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "no certificate in PEM form").at_path(path));
    }
    Ok(chain)
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let text = trust_file::read(path, Kind::Public)?;
    let read = CertificateRevocationListDer::pem_slice_iter(&text).collect::<std::result::Result<Vec<_>, _>>();
    let lists = read.map_err(|e| unusable("no revocation list in PEM form", path, e))?;
    if lists.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "no revocation list in PEM form")
            .at_path(path)
            .hint("openssl crl -inform DER -in LIST -out LIST.pem"));
    }
    Ok(lists)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = trust_file::read(path, Kind::Secret)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| {
        let has = |label: &[u8]| text.windows(label.len()).any(|window| window == label);
        // PKCS #8 (RFC 5958), and the older form of OpenSSL's own.
        if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
            return Error::new(ErrorKind::InvalidInput, "the private key needs a passphrase, which a server cannot be asked")
                .at_path(path)
                .hint("openssl pkey -in KEY -out PLAIN takes it off; systemd keeps a plain key encrypted (LoadCredentialEncrypted=)");
        }
        unusable("no private key in PEM form", path, e)
    })
}

fn unusable(what: &str, path: &Path, cause: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{what}: {cause}")).at_path(path)
}
