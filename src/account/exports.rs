//! The disks of an account as a front end serves them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::access::Right;
use super::admission::Admission;
use super::attachment::Use;
use super::disk_ref::DiskRef;
use super::name::BlobName;
use super::registry::{Registry, no_disk};
use crate::serve::{Export, ExportInfo, Exports, Identity};
use crate::{Error, ErrorKind, Result};

/// What one server shows of an account. Disks that are made or deleted while it runs come and go with it.
#[derive(Debug)]
pub struct Served {
    pub registry: Arc<Registry>,
    /// Only these; `None`: all.
    pub only: Option<BTreeSet<BlobName>>,
    pub read_only: bool,
    /// Who may have what of it.
    pub admission: Arc<Admission>,
}

impl Served {
    /// The first `most` of the disks that a client `may` have, after `after`, or of all.
    pub fn names(&self, may: impl Fn(&BlobName) -> bool, after: Option<&BlobName>, most: usize) -> Vec<BlobName> {
        self.registry.names_after(after, most, |name| self.shows(name) && may(name))
    }

    fn shows(&self, name: &BlobName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
    }
}

impl Served {
    /// The default export.
    fn only(&self, client: &Identity) -> Result<BlobName> {
        let rules = self.admission.rules();
        match &self.names(|name| rules.right(client, name).is_some(), None, 2)[..] {
            [only] => Ok(only.clone()),
            _ => Err(Error::new(ErrorKind::NotFound, "there is no default export: not just one disk is served")),
        }
    }
}

impl Exports for Served {
    /// Snapshots are not among them: finding them would open every disk.
    fn list(&self, client: &Identity, after: Option<&str>, most: usize) -> Vec<ExportInfo> {
        let (after, rules) = (after.and_then(|name| name.parse().ok()), self.admission.rules());
        self.names(|name| rules.right(client, name).is_some(), after.as_ref(), most).iter().map(info).collect()
    }

    /// `NAME@SNAPSHOT` is the disk as the snapshot sees it, read-only.
    fn open(&self, client: &Identity, name: &str) -> Result<Export> {
        let (name, snapshot) = match name.rsplit_once('@') {
            Some((name, snapshot)) => (name, Some(snapshot)),
            None => (name, None),
        };
        let name = match name {
            "" => self.only(client)?,
            name => name.parse()?,
        };
        if !self.shows(&name) {
            return Err(no_disk(&name));
        }
        // Before anything of the disk is looked at: that takes time, and would tell that it is there.
        let Some(right) = self.admission.rules().right(client, &name) else {
            return Err(if self.registry.has(&name) { hidden(&name) } else { no_disk(&name) });
        };
        let held = Use::Client(client.to_string());
        let disk = match snapshot {
            None => self.registry.attach(&name, held)?,
            Some(snapshot) => self.registry.attach_snapshot(&DiskRef::from(&name), snapshot, held)?,
        };
        // As it was made, whichever form the client used.
        let ExportInfo { name: made, description } = info(&disk.admin().settings().name.parse()?);
        Ok(match snapshot {
            None => {
                let read_only = self.read_only || right == Right::Read || disk.read_only();
                Export { name: made, description, disk: disk.into(), read_only }
            }
            Some(snapshot) => Export {
                name: format!("{made}@{snapshot}"),
                description: format!("{description}, snapshot {snapshot}"),
                disk: disk.into(),
                read_only: true,
            },
        })
    }
}

/// For the client the same as [`no_disk`]; the log says why.
fn hidden(name: &BlobName) -> Error {
    let why = io::Error::new(io::ErrorKind::NotFound, "the access rules do not give it to this client");
    Error::io(no_disk(name).what(), why)
}

fn info(name: &BlobName) -> ExportInfo {
    ExportInfo { name: name.to_string(), description: format!("page blob {}", name.canonical()) }
}
