//! Every planted fault is found. A suite that finds nothing in a right core and nothing in a wrong one proves nothing.

use std::time::Duration;

use sealdisk::io::sim::Mutant;

use crate::campaign::{Finding, Until, search};
use crate::storm;

/// For one mutant, before it counts as not found.
const PATIENCE: Duration = Duration::from_secs(12);

/// Looks for one mutant.
fn hunt(mutant: Mutant) -> Option<Finding> {
    search(0, Until::Elapsed(PATIENCE), Some(mutant), storm::run).0
}

/// Looks for all of them and says with which seed each was found.
pub(crate) fn hunt_all() {
    let only = std::env::var("SEALDISK_CRASH_MUTANT").ok();
    let wanted = |mutant: &&Mutant| only.as_ref().is_none_or(|only| format!("{mutant:?}") == *only);
    let mut alive = Vec::new();
    for mutant in Mutant::ALL.iter().filter(wanted) {
        match hunt(*mutant) {
            Some((seed, what)) => {
                let what: String = what.chars().take(110).collect();
                eprintln!("{mutant:?}: seed {seed}: {what}");
            }
            None => alive.push(mutant),
        }
    }
    assert!(alive.is_empty(), "not found: {alive:?}");
}
