//! Every planted fault is found. A suite that finds nothing in a right core and nothing in a wrong one proves nothing.

use std::time::Duration;

use sealdisk::io::sim::Mutant;

use crate::campaign::{Until, one, search};
use crate::solo::Step;
use crate::{damage, exhaustive, storm};

/// For one mutant in the storm, before it is looked for otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// Seeds that find the rare ones in the core as it is: tried first. A change of the core moves them; then they are
/// looked for anew, with more patience (`SEALDISK_CRASH_PATIENCE`, in seconds).
const KNOWN: &[(Mutant, u64)] = &[
    (Mutant::CheckpointBeforeItsBorder, 1183),
    (Mutant::DirtyAfterPublished, 942),
    (Mutant::FailedWriteLeavesClean, 595),
    (Mutant::LayerRemovedEarly, 620),
    (Mutant::PendingLineNotLookedAt, 1300),
    (Mutant::ReadWithoutLock, 2878),
    (Mutant::RolledBackToUnsealed, 558),
];

/// Looks for one mutant and says what has shown it.
fn hunt(mutant: Mutant) -> Option<String> {
    let told = |(seed, what): (u64, String)| {
        let what: String = what.lines().next().unwrap_or_default().chars().take(100).collect();
        format!("seed {seed}: {what}")
    };
    match mutant {
        Mutant::DamageIsTheEnd => return damage::search(Some(mutant)).err(),
        // A snapshot, a smaller disk and a rollback in a row: three steps of many.
        Mutant::LineWithoutItsLimit | Mutant::ShrinkKeepsBase => {
            return (2..=3).find_map(|len| exhaustive::search(len, Some(mutant)));
        }
        // A clean close with something dead, and what is dead written again.
        Mutant::DeadThoughWrittenAgain => {
            let steps = [Step::Write(0), Step::Flush, Step::Zero(0), Step::Reopen, Step::WriteFua(0)];
            return exhaustive::repeat(&steps, mutant);
        }
        _ => {}
    }
    let known = KNOWN
        .iter()
        .filter(|(of, _)| *of == mutant)
        .find_map(|(_, seed)| search(*seed, Until::Seeds(1), Some(mutant), storm::run).0);
    let patience = std::env::var("SEALDISK_CRASH_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    let patience = patience.map_or(PATIENCE, Duration::from_secs);
    let (seed, what) = known.or_else(|| search(0, Until::Elapsed(patience), Some(mutant), storm::run).0)?;
    if let Err(what) = one(seed, storm::run) {
        panic!("seed {seed} fails without a mutant: {what}");
    }
    Some(told((seed, what)))
}

/// Those that [`hunt`] has a search of their own for.
pub(crate) fn hunt_directed() {
    hunt_each(&[Mutant::DamageIsTheEnd, Mutant::LineWithoutItsLimit, Mutant::DeadThoughWrittenAgain]);
}

/// Looks for all of them and says how each was found.
pub(crate) fn hunt_all() {
    let only = std::env::var("SEALDISK_CRASH_MUTANTS").ok();
    let wanted = |mutant: &&Mutant| only.as_ref().is_none_or(|only| only.contains(&format!("{mutant:?}")));
    hunt_each(&Mutant::ALL.iter().copied().filter(|mutant| wanted(&mutant)).collect::<Vec<_>>());
}

fn hunt_each(mutants: &[Mutant]) {
    let mut alive = Vec::new();
    for mutant in mutants {
        match hunt(*mutant) {
            Some(how) => eprintln!("{mutant:?}: {how}"),
            None => {
                eprintln!("{mutant:?}: not found");
                alive.push(mutant);
            }
        }
    }
    assert!(alive.is_empty(), "not found: {alive:?}");
}
