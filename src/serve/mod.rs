//! What every front end needs, whatever it speaks: exports, listeners and TLS, limits, and clients that are counted,
//! logged and served by threads of their own.
//!
//! Nothing here knows a protocol of disks, nor the account: a front end brings the one, and [`Exports`] leads to the
//! other.
//!
//! | file | its noun |
//! |---|---|
//! | `exports`, `attach` | what is served; the way in for the program's own verbs |
//! | `listen`, `listener_policy`, `audience` | sockets, how clients come in there, and who that is |
//! | `tls`, `certificate`, `trust_file`, `identity` | who proves what |
//! | `accept`, `clients`, `places`, `turned_away` | clients that arrive, are let in, make room, and are sent away |
//! | `limits`, `buffers`, `workers`, `busy_poll`, `channel` | what serving a client takes |
//! | `counters`, `client_log`, `log_limiter`, `server_stats` | what is told of it |
//! | `http` | HTTP, for the front ends that speak it |

pub(crate) mod accept;
pub(crate) mod attach;
pub(crate) mod audience;
pub(crate) mod buffers;
pub(crate) mod busy_poll;
pub(crate) mod certificate;
pub(crate) mod channel;
pub(crate) mod client_log;
pub(crate) mod clients;
pub(crate) mod counters;
pub(crate) mod exports;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod listen;
pub(crate) mod listener_policy;
pub(crate) mod log_limiter;
pub(crate) mod places;
pub(crate) mod server_stats;
pub(crate) mod tls;
pub(crate) mod trust_file;
pub(crate) mod turned_away;
pub(crate) mod workers;

pub use attach::{Attach, AttachTerms};
pub use audience::{Address, Audience, Listening, TlsUse};
pub use certificate::{Due, Validity};
pub use counters::{BUCKETS, Command, CommandCounts, Counts, RequestError, bucket_bound};
pub use exports::{Export, ExportInfo, Exports, ServedDisk};
pub use identity::Identity;
pub use limits::Limits;
pub use listen::SocketAccess;
pub use listener_policy::ListenerPolicy;
pub use server_stats::{Attached, Stats, StatsSample};
pub use tls::{Material, Part, Term, Tls, TlsFiles};
pub use turned_away::Reason;
