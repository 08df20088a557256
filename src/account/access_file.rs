//! The file with the rules of who may have what, as it was read last.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::access::Access;
use crate::serve::trust_file::{self, Kind};
use crate::{Error, ErrorKind, Result};

/// See the module documentation.
#[derive(Debug)]
pub struct AccessFile {
    path: PathBuf,
    /// Of [`Access::parse`]. Looked up once: a confined server cannot.
    nobody: Option<u32>,
    in_force: RwLock<Arc<Access>>,
}

impl AccessFile {
    pub fn load(path: &Path) -> Result<Self> {
        let nobody = unknown_users();
        let access = read(path, nobody)?;
        if nobody.is_some() && access.names_users() {
            tracing::warn!(
                path = %path.display(),
                "rules by uid fit only users that this user namespace has (PrivateUsers= in a unit)"
            );
        }
        Ok(Self { path: path.to_owned(), nobody, in_force: RwLock::new(Arc::new(access)) })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<Access> {
        Arc::clone(&self.in_force.read())
    }

    /// Reads the file again, as it is now. Nothing is in force of it before [`AccessFile::replace`].
    pub fn read_again(&self) -> Result<Access> {
        read(&self.path, self.nobody)
    }

    pub fn replace(&self, access: Access) {
        *self.in_force.write() = Arc::new(access);
    }
}

fn read(path: &Path, nobody: Option<u32>) -> Result<Access> {
    let text = trust_file::read(path, Kind::Public)?;
    let text = std::str::from_utf8(&text)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "the access rules are not UTF-8").at_path(path))?;
    Access::parse(text, nobody).map_err(|error| error.at_path(path))
}

/// The id by which the kernel calls users who have none in this process's user namespace; `None`: every user has one.
fn unknown_users() -> Option<u32> {
    /// How many ids there are: the first namespace has them all.
    const ALL: &str = "4294967295";
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_whitespace().eq(["0", "0", ALL]) {
        return None;
    }
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    Some(overflow.and_then(|uid| uid.trim().parse().ok()).unwrap_or(65534))
}
