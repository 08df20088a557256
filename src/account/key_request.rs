//! What can be asked about the keys of an account, and about what is stored under them: a part of [`super::request`].

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit;
#[cfg(doc)]
use super::audit::AuditPiece;
use super::failure::Failure;
#[cfg(doc)]
use super::key_life::{KekRotated, KeysRestored, KeysRevoked};
use super::lock::Hold;
use super::name::BlobName;
#[cfg(doc)]
use super::reencrypt::Reencrypted;
use super::reencrypt::Sweep;
use super::registry::Registry;
use super::request::KeyNeed;
use crate::crypto::kek::{Kek, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// A request; its answer is named with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeyRequest {
    /// [`KekRotated`]; the new KEK travels as a pipe, see [`Kek::hand_over`]
    RotateKek { source: SourceRecord, account_key: bool },
    /// `Vec<String>`: the disks that have a new data key; all without a name
    RotateData { name: Option<BlobName> },
    /// [`KeysRevoked`]
    Revoke,
    /// [`KeysRestored`]; the KEK travels as a pipe
    Restore,
    /// `null`; without a name every key of the account
    Erase { name: Option<BlobName> },
    /// `null`; the file that is to hold the data key travels with the message
    Export { name: BlobName, layer: u32 },
    /// [`Reencrypted`]: one piece of a sweep, from page `page` on
    Reencrypt { name: BlobName, page: u64, sweep: Sweep },
    /// `null`; the server goes on with it
    ReencryptDetached { name: BlobName, sweep: Sweep },
    /// [`AuditPiece`] of a layer, from page `page` on
    Audit { name: BlobName, layer: u32, page: u64 },
}

impl From<KeyRequest> for super::request::Request {
    fn from(what: KeyRequest) -> Self {
        Self::Key { what }
    }
}

impl KeyRequest {
    pub(super) fn hold(&self) -> Hold {
        match self {
            Self::Audit { .. } => Hold::Shared,
            _ => Hold::Exclusive,
        }
    }

    pub(super) fn key_need(&self) -> KeyNeed {
        match self {
            // Erasing needs no key, restoring brings its own, and what is stored can be looked at without.
            Self::Erase { .. } | Self::Restore | Self::Audit { .. } => KeyNeed::Optional,
            _ => KeyNeed::Required,
        }
    }

    pub(super) fn perform(self, registry: &Registry, files: Vec<OwnedFd>) -> std::result::Result<Value, Failure> {
        let done = match self {
            Self::RotateKek { source, account_key } => {
                let kek = Kek::take_over(only(files)?)?;
                serde_json::to_value(registry.rotate_kek(&kek, source, account_key)?)
            }
            Self::RotateData { name } => serde_json::to_value(registry.rotate_data_keys(name.as_ref())?),
            Self::Revoke => serde_json::to_value(registry.revoke_keys()?),
            Self::Restore => {
                let kek = Kek::take_over(only(files)?)?;
                serde_json::to_value(registry.restore_keys(&kek)?)
            }
            Self::Erase { name } => {
                match name {
                    Some(name) => registry.erase_disk_keys(&name)?,
                    None => registry.erase_all_keys()?,
                }
                Ok(Value::Null)
            }
            Self::Export { name, layer } => {
                registry.reveal_key(&name, layer, only(files)?.into())?;
                Ok(Value::Null)
            }
            Self::Reencrypt { name, page, sweep } => serde_json::to_value(registry.reencrypt(&name, page, sweep)?),
            Self::ReencryptDetached { name, sweep } => {
                registry.reencrypt_detached(&name, sweep)?;
                Ok(Value::Null)
            }
            Self::Audit { name, layer, page } => serde_json::to_value(audit::piece(registry, &name, layer, page)?),
        };
        done.map_err(|error| Error::io("JSON failed", error.into()).into())
    }
}

/// The one descriptor that a request brings.
fn only(files: Vec<OwnedFd>) -> Result<OwnedFd> {
    let [file] = <[OwnedFd; 1]>::try_from(files)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "the request brings not just one descriptor"))?;
    Ok(file)
}
