//! The disks of an account as a front end serves them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::name::BlobName;
use super::registry::{Registry, no_disk};
use crate::nbd::{Export, ExportInfo, Exports};
use crate::{Error, ErrorKind, Result};

/// What one server shows of an account. Disks that are made or deleted while it runs come and go with it.
#[derive(Debug)]
pub struct Served {
    pub registry: Arc<Registry>,
    /// Only these; `None`: all.
    pub only: Option<BTreeSet<BlobName>>,
    pub read_only: bool,
}

impl Served {
    /// The first `most` of the disks after `after`, or of all.
    fn names(&self, after: Option<&BlobName>, most: usize) -> Vec<BlobName> {
        self.registry.names_after(after, most, |name| self.shows(name))
    }

    fn shows(&self, name: &BlobName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
    }
}

impl Served {
    /// The default export.
    fn only(&self) -> Result<BlobName> {
        match &self.names(None, 2)[..] {
            [only] => Ok(only.clone()),
            _ => Err(Error::new(ErrorKind::NotFound, "there is no default export: not just one disk is served")),
        }
    }
}

impl Exports for Served {
    /// Snapshots are not among them: finding them would open every disk.
    fn list(&self, after: Option<&str>, most: usize) -> Vec<ExportInfo> {
        let after = after.and_then(|name| name.parse().ok());
        self.names(after.as_ref(), most).iter().map(info).collect()
    }

    /// `NAME@SNAPSHOT` is the disk as the snapshot sees it, read-only.
    fn open(&self, name: &str) -> Result<Export> {
        let (name, snapshot) = match name.rsplit_once('@') {
            Some((name, snapshot)) => (name, Some(snapshot)),
            None => (name, None),
        };
        let name = match name {
            "" => self.only()?,
            name => name.parse()?,
        };
        if !self.shows(&name) {
            return Err(no_disk(&name));
        }
        let disk = self.registry.disk(&name)?;
        // As it was made, whichever form the client used.
        let ExportInfo { name: made, description } = info(&disk.settings().name.parse()?);
        Ok(match snapshot {
            None => {
                let read_only = self.read_only || disk.read_only();
                Export { name: made, description, disk, read_only }
            }
            Some(snapshot) => Export {
                name: format!("{made}@{snapshot}"),
                description: format!("{description}, snapshot {snapshot}"),
                disk: self.registry.attach_snapshot(&name, snapshot)?,
                read_only: true,
            },
        })
    }
}

fn info(name: &BlobName) -> ExportInfo {
    ExportInfo { name: name.to_string(), description: format!("page blob {}", name.canonical()) }
}
