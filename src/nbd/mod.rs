//! The NBD front end: fixed newstyle, over unix sockets, TCP and TLS.
//!
//! A [`Server`] serves what [`Exports`] names. The handshake runs on tokio; a client that reaches transmission gets a
//! thread of its own.

use std::sync::Arc;

use crate::Result;
use crate::disk::Disk;

mod audience;
mod buffers;
mod busy_poll;
mod certificate;
mod channel;
pub mod client;
mod client_log;
mod clock;
mod config;
mod connection;
mod context;
mod counters;
mod dispatch;
mod errno;
mod handshake;
mod identity;
mod input;
mod job;
mod limits;
pub(crate) mod listen;
mod listener_policy;
mod local_attach;
mod log_limiter;
mod output;
mod read;
mod receive;
mod request;
mod server;
mod server_stats;
mod session;
mod tls;
pub(crate) mod trust_file;
mod turned_away;
pub mod uri;
pub mod wire;
mod workers;
mod write;

pub use audience::{Address, Audience, Listening, TlsUse};
pub use certificate::{Due, Validity};
pub use config::Config;
pub use context::{diff, encryption};
pub use counters::{BUCKETS, Command, CommandCounts, Counts, RequestError, bucket_bound};
pub use identity::Identity;
pub use limits::Limits;
pub use listen::SocketAccess;
pub use listener_policy::ListenerPolicy;
pub use local_attach::{AttachTerms, LocalAttach};
pub use server::Server;
pub use server_stats::{Attached, Stats, StatsSample};
pub use tls::{Material, Part, Term, Tls, TlsFiles};
pub use turned_away::Reason;

/// An export as LIST and INFO show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    pub name: String,
    pub description: String,
}

/// What is served: disks by export name. Exports may come and go while serving.
pub trait Exports: Send + Sync {
    /// The first `most` exports after the one named `after`, or of all; fewer at the end. Of those that come and go
    /// meanwhile some may be left out.
    /// `client` hears only of what it may have.
    fn list(&self, client: &Identity, after: Option<&str>, most: usize) -> Vec<ExportInfo>;
    /// The disk of an export. The empty name is the default export: the only one, if there is just one. What `client`
    /// may not have is not there.
    fn open(&self, client: &Identity, name: &str) -> Result<Export>;
}

/// An export as a client attaches it.
#[derive(Debug, Clone)]
pub struct Export {
    /// The full name, also when the client asked for the default.
    pub name: String,
    pub description: String,
    pub disk: Arc<Disk>,
    pub read_only: bool,
}
