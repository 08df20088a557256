//! Names of snapshots, and of what can be read: a disk, or a disk as one of its snapshots sees it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::BlobName;
use crate::{Error, ErrorKind, Result};

/// Bytes of a snapshot's name.
const SNAPSHOT_BYTES: usize = 255;

/// A valid name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

impl SnapshotName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = if text.is_empty() {
            "it is empty"
        } else if text.len() > SNAPSHOT_BYTES {
            "it has more than 255 bytes"
        } else if text.contains(['/', '@']) {
            "it has a slash or an @"
        } else if text.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
            "it has a control character"
        } else {
            return Ok(Self(text.to_owned()));
        };
        let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
        Err(Error::new(ErrorKind::InvalidInput, format!("\"{shown}\" is no valid name of a snapshot: {fault}"))
            .hint("1 to 255 bytes without / and @, for example 2026-01-31 or before-upgrade"))
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.0
    }
}

/// `NAME` or `NAME@SNAPSHOT`. No name of a blob or a snapshot has an `@`, so there is one way to read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ViewName {
    pub disk: BlobName,
    pub snapshot: Option<SnapshotName>,
}

impl FromStr for ViewName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.rsplit_once('@') {
            Some((disk, snapshot)) => Ok(Self { disk: disk.parse()?, snapshot: Some(snapshot.parse()?) }),
            None => Ok(Self { disk: text.parse()?, snapshot: None }),
        }
    }
}

impl From<BlobName> for ViewName {
    fn from(disk: BlobName) -> Self {
        Self { disk, snapshot: None }
    }
}

impl fmt::Display for ViewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.disk),
            None => self.disk.fmt(f),
        }
    }
}

impl TryFrom<String> for ViewName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ViewName> for String {
    fn from(name: ViewName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_part_behind_the_at_is_the_snapshot() {
        let view: ViewName = "web/root.vhd@before upgrade".parse().expect("a view");
        assert_eq!(view.disk, "web/root.vhd".parse().expect("a name"));
        assert_eq!(view.snapshot.as_ref().map(SnapshotName::as_str), Some("before upgrade"));
        assert_eq!("a".parse::<ViewName>().expect("a disk").snapshot, None);
        for bad in ["@s", "a@", "a@b@c", "a@b/c", "a@b\n", &format!("a@{}", "x".repeat(256))] {
            let error = bad.parse::<ViewName>().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.hint_text().is_some() && !error.to_string().contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(text in "[a-z]{1,5}(@[ -~]{0,9})?") {
            if let Ok(view) = text.parse::<ViewName>() {
                prop_assert_eq!(view.to_string().parse::<ViewName>().expect("back"), view);
            }
        }
    }
}
