//! The NBD front end: fixed newstyle, over unix sockets, TCP and TLS.
//!
//! A [`Server`] serves what [`Exports`](crate::serve::Exports) names. The handshake runs on tokio; a client that
//! reaches transmission gets a thread of its own.

pub mod client;
mod clock;
mod config;
mod connection;
mod context;
mod dispatch;
mod errno;
mod handshake;
mod input;
mod job;
mod local_attach;
mod output;
mod read;
mod receive;
mod request;
mod server;
mod session;
pub mod uri;
pub mod wire;
mod write;

pub use config::Config;
pub use context::{diff, encryption};
pub use local_attach::LocalAttach;
pub use server::Server;
