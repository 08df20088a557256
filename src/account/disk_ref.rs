//! What names one disk of an account: its name, or its UUID.
//!
//! A disk that was deleted and that clones still read from has no name any more; its UUID is the one way to it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::name::BlobName;
use super::view_name::SnapshotName;
use crate::{Error, ErrorKind, Result};

/// `NAME` or `@UUID`. No name of a blob has an `@`, so there is one way to read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DiskRef {
    /// A disk that is not deleted.
    Name(BlobName),
    /// Any disk, a hidden one too.
    Uuid(Uuid),
}

impl FromStr for DiskRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(uuid) = text.strip_prefix('@') else { return Ok(Self::Name(text.parse()?)) };
        let parsed = Uuid::parse_str(uuid).ok().filter(|parsed| parsed.to_string() == uuid.to_ascii_lowercase());
        parsed.map(Self::Uuid).ok_or_else(|| {
            let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
            Error::new(ErrorKind::InvalidInput, format!("invalid UUID of a disk: \"{shown}\""))
                .hint("@ and the whole UUID with its hyphens, as `sealdisk list --hidden` shows it")
        })
    }
}

impl fmt::Display for DiskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Uuid(uuid) => write!(f, "@{uuid}"),
        }
    }
}

impl From<BlobName> for DiskRef {
    fn from(name: BlobName) -> Self {
        Self::Name(name)
    }
}

impl From<&BlobName> for DiskRef {
    fn from(name: &BlobName) -> Self {
        Self::Name(name.clone())
    }
}

impl TryFrom<String> for DiskRef {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DiskRef> for String {
    fn from(disk: DiskRef) -> Self {
        disk.to_string()
    }
}

/// A disk, or what a snapshot of it sees: `NAME[@SNAPSHOT]` or `@UUID[@SNAPSHOT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewRef {
    pub disk: DiskRef,
    pub snapshot: Option<SnapshotName>,
}

impl FromStr for ViewRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (uuid, rest) = if text.starts_with('@') { text.split_at(1) } else { ("", text) };
        match rest.split_once('@') {
            Some((disk, snapshot)) => {
                Ok(Self { disk: format!("{uuid}{disk}").parse()?, snapshot: Some(snapshot.parse()?) })
            }
            None => Ok(Self { disk: text.parse()?, snapshot: None }),
        }
    }
}

impl fmt::Display for ViewRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.disk),
            None => self.disk.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_uuid_cannot_be_taken_for_one_another() {
        let uuid = "9d2c0f5e-1c1e-4c5c-9d5e-1a2b3c4d5e6f";
        let by_uuid: DiskRef = format!("@{uuid}").parse().expect("a UUID");
        assert_eq!(by_uuid, DiskRef::Uuid(uuid.parse().expect("a UUID")));
        assert_eq!(format!("@{}", uuid.to_uppercase()).parse::<DiskRef>().expect("a UUID"), by_uuid);
        // A disk may have the text of a UUID as its name.
        assert_eq!(uuid.parse::<DiskRef>().expect("a name"), DiskRef::Name(uuid.parse().expect("a name")));
        for text in [uuid, &format!("@{uuid}"), "web/root.vhd"] {
            assert_eq!(text.parse::<DiskRef>().expect("a disk").to_string(), text);
        }
        let short = uuid.replace('-', "");
        for bad in ["@", "@disk1", "@@", &format!("@{short}"), &format!("@{{{uuid}}}"), &format!("@{uuid}@s"), "a@s"] {
            let error = bad.parse::<DiskRef>().expect_err(bad);
            assert_eq!((error.kind(), error.hint_text().is_some()), (ErrorKind::InvalidInput, true));
        }
        let snapshot = Some("s".parse().expect("a snapshot"));
        for (text, disk) in [(format!("@{uuid}@s"), by_uuid), ("web/a@s".into(), "web/a".parse().expect("a disk"))] {
            let view: ViewRef = text.parse().expect("a view");
            assert_eq!((&view.disk, &view.snapshot, view.to_string()), (&disk, &snapshot, text));
        }
        assert_eq!("a".parse::<ViewRef>().expect("a disk").snapshot, None);
        for bad in ["@", "a@", "@@s", "a@b@c", &format!("@{uuid}@"), &format!("@{uuid}@b@c")] {
            assert_eq!(bad.parse::<ViewRef>().expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }
}
