//! Metrics of a running server, for Prometheus and whatever reads its format (OpenMetrics text 1.0).
//!
//! | file | its noun |
//! |---|---|
//! | `sample` | one look at everything |
//! | `families` | the names, and what they mean: `docs/operate.md` has the same list |
//! | `process` | memory, descriptors, time of the process |
//! | `health` | whether the server is fit to serve |
//! | `endpoint` | its routes, and how long a look serves; the server under them is `serve::http` |
//!
//! Whoever scrapes is not trusted with the server's time: a look waits for no disk, is taken by one thread that does
//! nothing else, and is shared by all who ask within a while.

mod endpoint;
mod families;
mod health;
mod process;
mod sample;

pub use endpoint::MetricsServer;
pub use sample::Observed;
