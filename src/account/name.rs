//! Names of page blobs, by the rules of Azure Blob Storage for containers and blobs.
//!
//! A name is data, never a path: the folder of a disk is named by its uuid. `disk1` and `vhds/disk1` name the same blob
//! and compare as equal; a disk is shown by the one that it was made with.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The container of a name that gives none.
pub const DEFAULT_CONTAINER: &str = "vhds";
/// Container names: 3 to 63 characters (Azure, "Naming and referencing containers, blobs, and metadata").
const CONTAINER_CHARS: std::ops::RangeInclusive<usize> = 3..=63;
/// Blob names: at most 1,024 characters, at most 254 path segments.
const BLOB_CHARS: usize = 1024;
const BLOB_SEGMENTS: usize = 254;
/// An NBD string has at most 4,096 bytes (NBD protocol, "Values"), and a blob is exported under its name.
const NAME_BYTES: usize = 4096;

/// A valid name of a page blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobName {
    container: String,
    blob: String,
    /// Given without a container; says nothing about what is named.
    short: bool,
}

impl BlobName {
    /// `CONTAINER/BLOB`.
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}/{}", self.container, self.blob)
    }

    #[must_use]
    pub fn container(&self) -> &str {
        &self.container
    }

    #[must_use]
    pub fn blob(&self) -> &str {
        &self.blob
    }
}

impl FromStr for BlobName {
    type Err = Error;

    /// `BLOB`, in the default container, or `CONTAINER/BLOB`; a blob name may have further slashes.
    fn from_str(text: &str) -> Result<Self> {
        let (container, blob, short) = match text.split_once('/') {
            Some((container, blob)) => (container, blob, false),
            None => (DEFAULT_CONTAINER, text, true),
        };
        let fault = container_fault(container).or_else(|| blob_fault(blob)).or_else(|| {
            (text.len() + DEFAULT_CONTAINER.len() + 1 > NAME_BYTES)
                .then(|| format!("it has more than {NAME_BYTES} bytes in UTF-8"))
        });
        match fault {
            None => Ok(Self { container: container.to_owned(), blob: blob.to_owned(), short }),
            Some(fault) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("\"{}\" is no valid name: {fault}", shown(text)))
                    .hint("a name is BLOB or CONTAINER/BLOB, for example disk1 or vhds/disk1"))
            }
        }
    }
}

/// What of a refused name is safe to print on one line.
fn shown(text: &str) -> String {
    let escaped: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() { format!("{escaped}...") } else { escaped }
}

fn container_fault(container: &str) -> Option<String> {
    if container == "$root" {
        return None;
    }
    let fault = if !CONTAINER_CHARS.contains(&container.chars().count()) {
        "has 3 to 63 characters"
    } else if !container.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        "has only lower-case letters, digits and hyphens"
    } else if container.starts_with('-') || container.ends_with('-') || container.contains("--") {
        "has every hyphen between two letters or digits"
    } else {
        return None;
    };
    Some(format!("a container name {fault}"))
}

fn blob_fault(blob: &str) -> Option<String> {
    let fault = if blob.is_empty() {
        "is not empty"
    } else if blob.chars().count() > BLOB_CHARS {
        "has at most 1,024 characters"
    } else if blob.contains('@') {
        "has no @, which is kept for snapshots"
    } else if blob.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        "has no control characters"
    } else if blob.contains('\\') {
        "has no backslash"
    } else if blob.split('/').count() > BLOB_SEGMENTS {
        "has at most 254 segments"
    } else if blob.ends_with('/') {
        "does not end in a slash"
    } else if blob.split('/').any(|segment| segment.ends_with('.')) {
        "has no segment that ends in a dot"
    } else {
        return None;
    };
    Some(format!("a blob name {fault}"))
}

impl PartialEq for BlobName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for BlobName {}

impl PartialOrd for BlobName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BlobName {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.container, &self.blob).cmp(&(&other.container, &other.blob))
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.short { f.write_str(&self.blob) } else { write!(f, "{}/{}", self.container, self.blob) }
    }
}

impl TryFrom<String> for BlobName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BlobName> for String {
    fn from(name: BlobName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> BlobName {
        text.parse().expect(text)
    }

    #[test]
    fn the_default_container_is_optional() {
        assert_eq!(parse("disk1"), parse("vhds/disk1"));
        assert_eq!(parse("disk1").canonical(), "vhds/disk1");
        assert_eq!(parse("disk1").to_string(), "disk1");
        assert_eq!(parse("vhds/disk1").to_string(), "vhds/disk1");
        assert_eq!(parse("vhds/a/b").blob(), "a/b");
        assert_ne!(parse("images/disk1"), parse("disk1"));
        assert_eq!(parse("$root/x").container(), "$root");
        assert_eq!(parse("vhds/Größe 1.vhd").blob(), "Größe 1.vhd");
    }

    #[test]
    fn each_rule_is_named() {
        let cases = [
            ("", "not empty"),
            ("ab/x", "3 to 63"),
            (&format!("{}/x", "a".repeat(64)), "3 to 63"),
            ("Vhds/x", "lower-case"),
            ("a_b/x", "lower-case"),
            ("-ab/x", "hyphen"),
            ("ab-/x", "hyphen"),
            ("a--b/x", "hyphen"),
            ("vhds/", "not empty"),
            ("vhds/a/", "slash"),
            ("a.", "dot"),
            ("vhds/../x", "dot"),
            ("a@b", "@"),
            ("a\nb", "control"),
            ("a\\b", "backslash"),
            (&"x".repeat(1025), "1,024"),
            (&format!("vhds/{}x", "a/".repeat(254)), "254"),
            (&"\u{10348}".repeat(1024), "4096 bytes"),
        ];
        for (text, rule) in cases {
            let error = text.parse::<BlobName>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let line = error.to_string();
            assert!(line.contains(rule), "{text:?}: {line}");
            assert!(!line.contains('\n') && line.len() < 400, "{line}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_read_back(text in "([a-z0-9]{3,8}/)?[ -~]{1,12}(/[a-zä]{1,3})?") {
            if let Ok(name) = text.parse::<BlobName>() {
                prop_assert_eq!(&parse(&name.to_string()), &name);
                prop_assert_eq!(&parse(&name.canonical()), &name);
            }
        }
    }
}
