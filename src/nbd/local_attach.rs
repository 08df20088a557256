//! A way to a disk for the program's own verbs: NBD over a socket that both sides already have.
//!
//! There is no handshake: the terms are settled beside the connection. It is in transmission from its first byte, with
//! extended headers and `base:allocation`.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Config;
use super::context::Contexts;
use super::server::Hub;
use super::session::Session;
use super::wire::transmission::HeaderStyle;
use crate::serve::counters::Counts;
use crate::serve::server_stats::{Attached, Stats};
use crate::serve::{Attach, AttachTerms, Export, ExportInfo, Exports, Identity};
use crate::{Error, ErrorKind, Result};

/// The metadata context of every such connection.
pub(super) const CONTEXT: &str = "base:allocation";

/// Leads to the connections of a server.
#[derive(Clone)]
pub struct LocalAttach {
    hub: Arc<Hub>,
}

impl LocalAttach {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// A server of its own that listens nowhere.
    #[must_use]
    pub fn alone() -> Self {
        let config = Arc::new(Config::default());
        let stats = Stats::new(&config.limits);
        Self::new(Arc::new(Hub::new(Arc::new(NoExports), config, stats)))
    }
}

impl Attach for LocalAttach {
    fn admit(&self, socket: OwnedFd, export: Export, kept: Box<dyn Send>) -> Result<AttachTerms> {
        let (contexts, named) = Contexts::selected(&[CONTEXT], &[])
            .map_err(|_| Error::new(ErrorKind::Unsupported, "base:allocation is no context of this server"))?;
        let context = named.first().map_or(0, |(context, _)| context.id());
        let session =
            Session { client: Arc::default(), export, size: u64::MAX, style: HeaderStyle::Extended, contexts };
        let most = self.hub.admit(session, socket, kept)?;
        Ok(AttachTerms { most, context })
    }

    fn forget(&self, from_now_on: bool) {
        self.hub.stats.buffers.forget(from_now_on);
    }

    fn clients(&self) -> Vec<(Attached, Counts)> {
        self.hub.stats.clients()
    }
}

impl fmt::Debug for LocalAttach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAttach").finish_non_exhaustive()
    }
}

/// What a server shows that listens nowhere.
struct NoExports;

impl Exports for NoExports {
    fn list(&self, _: &Identity, _: Option<&str>, _: usize) -> Vec<ExportInfo> {
        Vec::new()
    }

    fn open(&self, _: &Identity, name: &str) -> Result<Export> {
        Err(Error::new(ErrorKind::NotFound, format!("there is no export \"{name}\"")))
    }
}
