//! What can be asked about the keys of an account, and about what is stored under them: a part of [`super::request`].

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit;
#[cfg(doc)]
use super::audit::AuditPiece;
use super::audit_log;
#[cfg(doc)]
use super::audit_log::check::LogChecked;
use super::disk_ref::DiskRef;
use super::failure::Failure;
use super::key_life::Depth;
#[cfg(doc)]
use super::key_life::{KekRotated, KeysErased, KeysRestored, KeysRevoked, ReencryptionEnded};
use super::lock::Hold;
use super::name::BlobName;
#[cfg(doc)]
use super::reencrypt::Reencrypted;
use super::reencrypt::Sweep;
use super::registry::Registry;
use super::request::KeyNeed;
use super::under_way::Ticket;
use crate::crypto::kek::{DerivedKeys, Nonce, ProofKey, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// A request; its answer is named with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeyRequest {
    /// A number to prove the KEK about, in hex
    Challenge,
    /// As [`ProvenRequest`] says
    Proven(Proven),
    /// `Vec<String>`: the disks that have a new data key; all without a name
    RotateData { name: Option<BlobName> },
    /// [`KeysRevoked`]
    Revoke,
    /// [`KeysRestored`]; what is derived of the KEK travels as a pipe, see [`DerivedKeys::hand_over`]
    Restore,
    /// [`KeysErased`] of a disk; `null` without a name: every key of the account
    Erase { name: Option<DiskRef> },
    /// [`Reencrypted`]: one piece of a sweep, from page `page` on
    Reencrypt { name: DiskRef, page: u64, sweep: Sweep },
    /// `null`; the server goes on with it
    ReencryptDetached { name: DiskRef, sweep: Sweep },
    /// [`ReencryptionEnded`]: everything was gone through
    EndReencryption,
    /// [`AuditPiece`] of a layer, from page `page` on
    Audit { name: DiskRef, layer: u32, page: u64 },
    /// [`LogChecked`]; the file of the audit log travels with the message
    CheckLog,
}

/// What is done only for a verb that has the KEK, also where a server holds the account open: to reach the server is
/// not enough to lock its owner out, or to carry a key away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ProvenRequest {
    /// [`KekRotated`]; what is derived of the new KEK travels as a pipe
    RotateKek { source: SourceRecord, depth: Depth },
    /// `null`; the file that is to hold the data key travels with the message
    Export { name: BlobName, layer: u32 },
}

/// A request with the proof of the KEK for just this request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    #[serde(with = "hex")]
    nonce: Nonce,
    #[serde(with = "hex")]
    proof: [u8; 32],
    pub(super) what: ProvenRequest,
}

impl Proven {
    /// `challenge` is the answer to [`KeyRequest::Challenge`].
    pub fn new(what: ProvenRequest, challenge: &str, key: &ProofKey) -> Result<Self> {
        let mut nonce = Nonce::default();
        hex::decode_to_slice(challenge, &mut nonce)
            .map_err(|error| Error::new(ErrorKind::Io, format!("the server's challenge makes no sense: {error}")))?;
        Ok(Self { nonce, proof: key.prove(&nonce, &what.bytes()?), what })
    }
}

impl ProvenRequest {
    /// What the proof is made over: JSON with the fields in one order.
    fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::io("JSON failed", error.into()))
    }

    fn perform(self, registry: &Registry, files: Vec<OwnedFd>) -> std::result::Result<Value, Failure> {
        match self {
            Self::RotateKek { source, depth } => {
                let kek = DerivedKeys::take_over(registry.id(), only(files)?)?;
                json(registry.rotate_kek(&kek, source, depth)?)
            }
            Self::Export { name, layer } => {
                registry.reveal_key(&name, layer, only(files)?.into())?;
                Ok(Value::Null)
            }
        }
    }
}

impl From<KeyRequest> for super::request::Request {
    fn from(what: KeyRequest) -> Self {
        Self::Key { what }
    }
}

impl KeyRequest {
    pub(super) fn hold(&self) -> Hold {
        match self {
            Self::Audit { .. } | Self::Challenge | Self::CheckLog => Hold::Shared,
            _ => Hold::Exclusive,
        }
    }

    pub(super) fn key_need(&self) -> KeyNeed {
        match self {
            // Erasing needs no key, restoring brings its own, and what is stored can be looked at without.
            Self::Erase { .. } | Self::Restore | Self::Audit { .. } | Self::Challenge => KeyNeed::Optional,
            _ => KeyNeed::Required,
        }
    }

    pub(super) fn perform(
        self,
        registry: &Registry,
        files: Vec<OwnedFd>,
        begun: Option<Ticket>,
    ) -> std::result::Result<Value, Failure> {
        match self {
            Self::CheckLog => {
                let file = std::fs::File::from(only(files)?);
                audit_log::check::check_regular(&file)?;
                json(audit_log::check::check(file, registry.id(), &registry.audit_keys()?)?)
            }
            Self::Challenge => json(hex::encode(registry.challenge()?)),
            Self::Proven(Proven { nonce, proof, what }) => {
                registry.check_proof(&nonce, &what.bytes()?, &proof)?;
                what.perform(registry, files)
            }
            Self::RotateData { name } => json(registry.rotate_data_keys(name.as_ref())?),
            Self::Revoke => json(registry.revoke_keys()?),
            Self::Restore => json(registry.restore_keys(&DerivedKeys::take_over(registry.id(), only(files)?)?)?),
            Self::Erase { name: Some(name) } => json(registry.erase_disk_keys(&name)?),
            Self::Erase { name: None } => json(registry.erase_all_keys()?),
            Self::Reencrypt { name, page, sweep } => json(registry.reencrypt(&name, page, sweep)?),
            Self::ReencryptDetached { name, sweep } => {
                registry.reencrypt_detached(&name, sweep, begun)?;
                Ok(Value::Null)
            }
            Self::EndReencryption => json(registry.end_reencryption()?),
            Self::Audit { name, layer, page } => json(audit::piece(registry, &name, layer, page)?),
        }
    }
}

fn json(answer: impl Serialize) -> std::result::Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|error| Error::io("JSON failed", error.into()).into())
}

/// The one descriptor that a request brings.
fn only(files: Vec<OwnedFd>) -> Result<OwnedFd> {
    let [file] = <[OwnedFd; 1]>::try_from(files)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "the request brings not just one descriptor"))?;
    Ok(file)
}
