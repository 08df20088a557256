//! The bytes of the protocol, without any I/O: what a message looks like, both ways.
//!
//! Source: `doc/proto.md` of the NetworkBlockDevice project, and its branch `extension-ext-header` for extended
//! headers. All integers are big-endian. A cookie is opaque: it goes back as it came.

pub mod handshake;
pub mod transmission;

use zerocopy::byteorder::big_endian::{U16, U32, U64};

/// Bytes of a string at most ("Conventions").
pub const MAX_STRING: usize = 4096;
