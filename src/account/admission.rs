//! What decides whom a server lets in, and to which disks: certificates and access rules. They are read at the start,
//! and again when the server is told that they were renewed: whole or not at all, so that a half-written file keeps
//! nobody out and lets nobody in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use super::access::{Access, Right};
use super::access_file::AccessFile;
use super::name::BlobName;
use crate::Result;
use crate::serve::{Attached, Due, Identity, Tls};

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Admission {
    tls: Option<Tls>,
    access: Option<AccessFile>,
    reloads: AtomicU64,
    failed: AtomicBool,
}

impl Admission {
    #[must_use]
    pub fn new(tls: Option<Tls>, access: Option<AccessFile>) -> Self {
        Self { tls, access, ..Self::default() }
    }

    /// The rules in force now.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules(self.access.as_ref().map(AccessFile::rules))
    }

    /// The file with the access rules.
    #[must_use]
    pub fn access(&self) -> Option<&Path> {
        self.access.as_ref().map(AccessFile::path)
    }

    /// Whether there are access rules, and [each says who its clients are](Access::names_every_client).
    #[must_use]
    pub fn names_every_client(&self) -> bool {
        self.access.as_ref().is_some_and(|access| access.rules().names_every_client())
    }

    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The files that are read again.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.tls.iter().flat_map(Tls::files).chain(self.access()).map(Path::to_owned).collect()
    }

    /// Reads all files again, and tells the log what came of it. Clients that are attached stay; the next to attach
    /// meet what was read, or what was in force before when any of it cannot be used.
    pub fn reload(&self) -> Result<()> {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        let read = self.read_again();
        self.failed.store(read.is_err(), Ordering::Relaxed);
        match &read {
            Ok(()) if self.files().is_empty() => tracing::info!("there are no certificates or rules to read again"),
            Ok(()) => {
                tracing::info!("read again, and in force for clients that attach from now on");
                self.tell_terms();
            }
            Err(error) => {
                let hint = error.hint_text().unwrap_or("mend it, and send SIGHUP again");
                tracing::error!(%error, hint, "cannot be read again: what was in force stays in force");
            }
        }
        read
    }

    fn read_again(&self) -> Result<()> {
        let material = self.tls.as_ref().map(Tls::read_again).transpose()?;
        let rules = self.access.as_ref().map(AccessFile::read_again).transpose()?;
        // From here on nothing fails.
        if let Some((tls, material)) = self.tls.as_ref().zip(material) {
            tls.replace(material);
        }
        if let Some((access, rules)) = self.access.as_ref().zip(rules) {
            access.replace(rules);
        }
        Ok(())
    }

    /// Times it was told to read its files again, and whether that failed the last time.
    #[must_use]
    pub fn reloads(&self) -> (u64, bool) {
        (self.reloads.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Warns of certificates that do not count, or not for long.
    pub fn tell_terms(&self) {
        let now = SystemTime::now();
        for term in self.tls.iter().flat_map(Tls::terms) {
            let (path, part) = (term.path.display(), term.part.name());
            let days = term.validity.left(now).div_euclid(24 * 3600);
            match term.validity.due(now) {
                None => {}
                Some(Due::Expired) => tracing::warn!(%path, part, days, "has expired"),
                Some(Due::NotYetValid) => tracing::warn!(%path, part, "is not valid yet"),
                Some(Due::Soon) => tracing::warn!(%path, part, days, "expires soon"),
            }
        }
    }
}

/// The access rules of a moment. Without a file there are none, and whoever passes a listener may have everything.
#[derive(Debug, Clone)]
pub struct Rules(Option<Arc<Access>>);

impl Rules {
    /// What `client` may do with `disk`; `None`: it is not to learn that there is one.
    #[must_use]
    pub fn right(&self, client: &Identity, disk: &BlobName) -> Option<Right> {
        match &self.0 {
            None => Some(Right::ReadWrite),
            Some(access) => access.right(client, disk),
        }
    }

    /// Whether an attached client has more than it would get now. It keeps that until it leaves.
    #[must_use]
    pub fn exceeds(&self, client: &Attached) -> bool {
        let name = client.export.rsplit_once('@').map_or(client.export.as_str(), |(name, _)| name);
        let Ok(name) = name.parse() else { return false };
        match self.right(&client.identity, &name) {
            None => true,
            Some(Right::Read) => !client.read_only,
            Some(Right::ReadWrite) => false,
        }
    }
}
