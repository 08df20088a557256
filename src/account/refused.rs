//! Acts that a verb refuses itself: what it asks before the act (a preview, the present size, the key-encryption key)
//! says no already, and so the act is never asked for. It leaves a failed line all the same
//! ([`Request::Refused`](super::request::Request::Refused)).

use serde::{Deserialize, Serialize};

use super::acts::Act;
use super::name::BlobName;
use super::view_name::SnapshotName;

/// The act that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Refused {
    RotateKek,
    RestoreKeys,
    ExportKey { name: BlobName, layer: u32 },
    Rollback { name: BlobName, snapshot: SnapshotName },
    Resize { name: BlobName, size: u64 },
    Rebase { name: BlobName },
}

impl Refused {
    pub(super) fn act(&self) -> Act {
        match self {
            Self::RotateKek => Act::new("key rotate-kek", ""),
            Self::RestoreKeys => Act::new("key restore", ""),
            Self::ExportKey { name, layer } => {
                Act::new("key export", name).with(format!("the data key of layer {layer}"))
            }
            Self::Rollback { name, snapshot } => Act::new("snapshot rollback", format!("{name}@{snapshot}")),
            Self::Resize { name, size } => Act::new("resize", name).with(format!("{size} bytes")),
            Self::Rebase { name } => Act::new("rebase", name),
        }
    }
}
