//! Names of page blobs, by the rules of Azure Blob Storage for containers and blobs.
//!
//! A name is data, never a path: the folder of a disk is named by its uuid. Every name has one canonical form,
//! `CONTAINER/BLOB`, and one form for people, which leaves out the default container where the result cannot be read
//! as anything else.

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobName {
    container: String,
    blob: String,
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
        let (container, blob) = text.split_once('/').unwrap_or((DEFAULT_CONTAINER, text));
        let fault = container_fault(container).or_else(|| blob_fault(blob)).or_else(|| {
            (text.len() + DEFAULT_CONTAINER.len() + 1 > NAME_BYTES)
                .then(|| format!("it has more than {NAME_BYTES} bytes in UTF-8"))
        });
        match fault {
            None => Ok(Self { container: container.to_owned(), blob: blob.to_owned() }),
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

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With a slash of its own the blob's first segment would be read as a container.
        if self.container == DEFAULT_CONTAINER && !self.blob.contains('/') {
            f.write_str(&self.blob)
        } else {
            write!(f, "{}/{}", self.container, self.blob)
        }
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
        name.canonical()
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
        assert_eq!(parse("vhds/disk1").to_string(), "disk1");
        assert_eq!(parse("images/disk1").to_string(), "images/disk1");
        assert_eq!(parse("vhds/a/b").to_string(), "vhds/a/b");
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
