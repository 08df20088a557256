//! The process as a whole: no core file, and no other process of the same user may look into its memory.
//!
//! Secret memory is kept out of core files by itself ([`SecretBytes`](crate::crypto::secret::SecretBytes)); what it
//! passes through on its way (stacks, the heap of libraries) is covered here, twice: there is no core file, and one
//! that is forced (by root, with a debugger) is to have none of the process's own memory.

use std::io::Write;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::{Error, Result};

/// Makes this process undumpable and forbids core files, for good. The program's first step, before any key is read.
pub fn process() -> Result<()> {
    keep_memory_out_of_cores();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Error::io("the process cannot be made undumpable", error.into()))?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| Error::io("core files cannot be forbidden", error.into()))
}

/// Asks the kernel, and debuggers that heed it, to leave all mappings out of core files (core(5), coredump_filter). An
/// undumpable process may no longer ask. Best effort: a kernel without it has no core file to leave anything out of.
pub fn keep_memory_out_of_cores() {
    let filter = std::fs::File::options().write(true).open("/proc/self/coredump_filter");
    let _ = filter.and_then(|mut filter| filter.write_all(b"0"));
}
