//! What lies on disk: the golden account of every format version, which must stay readable and, while the version
//! stays, be written again byte for byte; and the fuzz targets of every parser over their seeds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../cli/client.rs"]
mod client;
#[path = "../../fuzz/harness/stored.rs"]
mod stored;
#[path = "../support/mod.rs"]
mod support;

mod fixtures;
mod plan;
mod program;
mod replay;

use stored::{golden, look, memory_dir, seal};
