//! The process as a whole: no core file, and no other process of the same user may look into its memory.
//!
//! Secret memory is kept out of core files by itself ([`SecretBytes`](crate::crypto::secret::SecretBytes)); what it
//! passes through on its way (registers, stacks, expanded schedules) is covered here.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::{Error, Result};

/// Makes this process undumpable and forbids core files, for good. The program's first step, before any key is read.
pub fn process() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Error::io("the process cannot be made undumpable", error.into()))?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| Error::io("core files cannot be forbidden", error.into()))
}
