//! What can be asked about the life of a disk after it was made: the part of [`super::request`] for rolling back,
//! clones, differences and copies.

use std::os::fd::OwnedFd;

use rustix::net::{SocketType, sockopt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attachment::Use;
#[cfg(doc)]
use super::copies::{Copying, Reading};
#[cfg(doc)]
use super::diff::DiffPart;
use super::disk_ref::DiskRef;
use super::failure::Failure;
use super::lock::Hold;
use super::name::BlobName;
use super::registry::Registry;
#[cfg(doc)]
use super::report::DiskReport;
use super::request::{KeyNeed, show};
#[cfg(doc)]
use super::snapshots::RollbackReport;
use super::under_way::Ticket;
use super::view_name::{SnapshotName, ViewName};
use crate::{Error, ErrorKind};

/// A request; its answer is named with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LifeRequest {
    /// [`RollbackReport`]: what a rollback would drop
    RollbackPreview { name: BlobName, snapshot: SnapshotName },
    /// [`DiskReport`]; `drops`: the later snapshots that are known to be dropped
    Rollback { name: BlobName, snapshot: SnapshotName, drops: Vec<String> },
    /// Nothing: the metadata is as it should be
    Verify { name: DiskRef },
    /// [`DiffPart`] from page `start` on
    Diff { name: BlobName, from: SnapshotName, to: Option<SnapshotName>, start: u64 },
    /// [`DiskReport`]
    Clone { source: ViewName, name: BlobName },
    /// [`Reading`]; the socket over which it is read comes with the message
    Read { view: ViewName },
    /// [`Copying`]; the socket over which it is written comes with the message
    Copy { name: BlobName, size: u64, source: String },
    /// Nothing: the first `done` bytes are durable and noted, and the disk has the size that was asked for
    Copied { name: BlobName, done: u64, size: Option<u64> },
    /// [`DiskReport`] of a disk like any other
    FinishCopy { name: BlobName, size: Option<u64> },
}

impl From<LifeRequest> for super::request::Request {
    fn from(what: LifeRequest) -> Self {
        Self::Life { what }
    }
}

impl LifeRequest {
    pub(super) fn hold(&self) -> Hold {
        match self {
            Self::RollbackPreview { .. } | Self::Diff { .. } | Self::Verify { .. } | Self::Read { .. } => Hold::Shared,
            _ => Hold::Exclusive,
        }
    }

    pub(super) fn key_need(&self) -> KeyNeed {
        KeyNeed::Required
    }

    pub(super) fn perform(
        self,
        registry: &Registry,
        files: Vec<OwnedFd>,
        begun: Option<Ticket>,
    ) -> Result<Value, Failure> {
        let done = match self {
            Self::RollbackPreview { name, snapshot } => {
                serde_json::to_value(registry.rollback_report(&name, &snapshot)?)
            }
            Self::Rollback { name, snapshot, drops } => {
                registry.roll_back(&name, &snapshot, &drops)?;
                serde_json::to_value(show(registry, &name.into())?)
            }
            Self::Verify { name } => {
                serde_json::to_value(registry.attach_ref(&name, Use::Verb("verify"))?.admin().verify()?)
            }
            Self::Diff { name, from, to, start } => {
                serde_json::to_value(registry.diff(&name, &from, to.as_ref(), start)?)
            }
            Self::Clone { source, name } => {
                registry.clone_disk(&source, &name)?;
                serde_json::to_value(show(registry, &name.into())?)
            }
            Self::Read { view } => serde_json::to_value(registry.read_over(&view, socket(files)?, begun)?),
            Self::Copy { name, size, source } => {
                serde_json::to_value(registry.copy_over(&name, size, &source, socket(files)?)?)
            }
            Self::Copied { name, done, size } => serde_json::to_value(registry.mark_copied(&name, done, size)?),
            Self::FinishCopy { name, size } => {
                registry.finish_copy(&name, size)?;
                serde_json::to_value(show(registry, &name.into())?)
            }
        };
        done.map_err(|error| Error::io("JSON failed", error.into()).into())
    }
}

/// The one socket of a message.
fn socket(mut files: Vec<OwnedFd>) -> Result<OwnedFd, Error> {
    let is_stream = |file: &OwnedFd| sockopt::socket_type(file) == Ok(SocketType::STREAM);
    match (files.pop(), files.is_empty()) {
        (Some(file), true) if is_stream(&file) => Ok(file),
        _ => Err(Error::new(ErrorKind::InvalidInput, "the request needs one stream socket")),
    }
}
