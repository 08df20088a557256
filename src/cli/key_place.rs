//! Where the key-encryption key of an account lies, and what to do about it, for its owner: `init` and `rotate-kek` end
//! with that.

use std::fmt::{self, Display};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use crate::crypto::kek::SourceRecord;

/// Where a key lies, as far as this machine shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KeyPlace {
    /// In the open, in a file of the file system that the account lies on.
    SameFileSystem,
    /// In the open, in a file of another file system.
    AnotherFileSystem,
    /// With the source that gives it: a command, a credential, a descriptor.
    Elsewhere,
    /// In nobody's file: it is made of a passphrase.
    Passphrase,
}

impl KeyPlace {
    pub(super) fn of(source: &SourceRecord, account: &Path) -> Self {
        match source {
            SourceRecord::File { path } => {
                let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
                match device(path) == device(account) {
                    true => Self::SameFileSystem,
                    false => Self::AnotherFileSystem,
                }
            }
            SourceRecord::Fd | SourceRecord::Credential { .. } | SourceRecord::Command { .. } => Self::Elsewhere,
            SourceRecord::Passphrase(_) => Self::Passphrase,
        }
    }
}

impl Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameFileSystem => f.write_str(
                "The key lies in the open on the same file system as the account: whoever takes
that disk, or all of a backup of it, has both. To keep them apart, one of these:
  sealdisk key rotate-kek --passphrase               typed at every opening
  sealdisk key rotate-kek --key-credential NAME      sealed by systemd to a TPM
  sealdisk key rotate-kek --key-file /media/STICK/K  on a stick that you pull out
Keep a copy of this file away from this machine: without the key the disks are
lost, as there is no other way in.",
            ),
            Self::AnotherFileSystem => f.write_str(
                "The key lies in the open in a file: whoever takes it and the account has both.
Keep a copy of this file away from this machine: without the key the disks are
lost, as there is no other way in.",
            ),
            Self::Elsewhere => f.write_str(
                "Keep a copy of the key away from this machine, or be sure that its source does:
without the key the disks are lost, as there is no other way in.",
            ),
            Self::Passphrase => f.write_str(
                "Keep the passphrase in writing, away from this machine: without it the disks
are lost, as there is no other way in.",
            ),
        }
    }
}
