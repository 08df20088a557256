//! What decides whom a server lets in: its certificates. They are read at the start, and again when the server is told that
//! they were renewed: whole or not at all, so that a half-written file keeps nobody out and lets nobody in.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use crate::Result;
use crate::nbd::{Due, Tls};

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Admission {
    tls: Option<Tls>,
    reloads: AtomicU64,
    failed: AtomicBool,
}

impl Admission {
    #[must_use]
    pub fn new(tls: Option<Tls>) -> Self {
        Self { tls, ..Self::default() }
    }

    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The files that are read again.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.tls.iter().flat_map(Tls::files).map(Path::to_owned).collect()
    }

    /// Reads all files again, and tells the log what came of it. Clients that are attached stay; the next to attach meet
    /// what was read, or what was in force before when any of it cannot be used.
    pub fn reload(&self) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        let read = self.read_again();
        self.failed.store(read.is_err(), Ordering::Relaxed);
        match read {
            Ok(()) if self.files().is_empty() => tracing::info!("there are no certificates to read again"),
            Ok(()) => {
                tracing::info!("read again, and in force for clients that attach from now on");
                self.tell_terms();
            }
            Err(error) => {
                let hint = error.hint_text().unwrap_or("mend it, and send SIGHUP again");
                tracing::error!(%error, hint, "cannot be read again: what was in force stays in force");
            }
        }
    }

    fn read_again(&self) -> Result<()> {
        let material = self.tls.as_ref().map(Tls::read_again).transpose()?;
        // From here on nothing fails.
        if let Some((tls, material)) = self.tls.as_ref().zip(material) {
            tls.replace(material);
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
