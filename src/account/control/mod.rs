//! The control socket: how a verb reaches the server that holds its account.
//!
//! Requests and answers are those of [`super::request`], one JSON document each in a [`frame`]. The client opens what
//! the user named, with the user's rights, and passes descriptors; the server opens no path that comes in a message.
//! Each side asks the kernel who the other one is before it sends anything: clients of the server's own user and root
//! may ask, and who answers must be the account's owner or root.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;

pub mod client;
pub mod frame;
pub mod server;

/// Bytes of the largest request. Names and a base image's record: a few KiB; a chain of 128 files, some more.
const REQUEST_BYTES: usize = 256 << 10;
/// Bytes of the largest answer: a part of a map, or the list of a hundred thousand disks.
const ANSWER_BYTES: usize = 64 << 20;

/// What the server sends back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Done(Value),
    Failed(Failure),
}
