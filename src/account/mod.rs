//! The account directory: its lock, settings and disks, and the ways to reach it.
//!
//! ```text
//! ACCOUNT/
//!   account.toml      the encryption setting and the wrapped keys        settings
//!   lock              who may change the account now                     lock
//!   control.sock      how verbs reach the server that holds it           control
//!   disks/UUID/       a disk; its name is in its disk.toml               registry, life
//! ```
//!
//! A verb opens a [`session`], which takes the lock or finds the server that has it, and puts a [`request`] to it.

pub mod access;
pub mod access_file;
pub mod acts;
pub mod admission;
mod alone;
pub mod attachment;
pub mod audit;
pub mod audit_log;
mod bases;
mod challenge;
mod clones;
pub mod control;
pub mod copies;
pub mod diff;
pub mod disk_ref;
mod entry;
pub mod exports;
pub mod failure;
mod folder;
mod glob;
pub mod health;
mod hidden;
mod inspection;
pub mod key_life;
pub mod key_request;
mod keys;
pub(crate) mod life;
pub mod life_request;
mod links;
pub mod lock;
mod maintenance;
pub mod make;
pub mod name;
pub mod owner;
pub mod reencrypt;
pub mod refused;
pub mod registry;
pub mod report;
pub mod request;
pub mod session;
pub mod settings;
mod snapshot_image;
pub mod snapshots;
mod under_way;
pub mod view_name;
pub mod watch;
