//! Planted faults: ways in which the core could be wrong, switched on one at a time, so that the crash tests can show
//! that they find each of them. A spot in the core asks `crate::mutant!(Name)`, which is `false` in a product build.

use std::cell::Cell;

/// One rule of the core, left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A flush answers before the data is synced.
    FlushWithoutDataSync,
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plants a mutant for this thread, or takes it away.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this one is planted.
#[must_use]
pub fn mutant(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
