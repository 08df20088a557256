//! Every fault planted in the account is found.

use std::time::Instant;

use sealdisk::io::sim::{Mutant, plant};

use crate::cases::{Case, all};
use crate::{ends, faults};

/// The case that shows a mutant, in the order of its steps.
fn case_for(mutant: Mutant) -> &'static str {
    match mutant {
        Mutant::CopyNotFlushed => "a copy ends",
        Mutant::DeletionNotSynced | Mutant::RemovedBeforeItsName => "delete a",
        Mutant::DiskNamesNotSettled | Mutant::DoubtForgotten | Mutant::FileSystemNotSettled => "rename a to b",
        Mutant::KeysLeftLying => "delete a",
        Mutant::OnlyNewestKept => "delete a, of which b and c are clones at two points",
        Mutant::OrphanStays => "clone a b",
        Mutant::ParentGoneBeforeDetached => "reencrypt b with what it reads of the deleted a",
        Mutant::RekeyKeepsTop => "key rotate-kek --account-key",
        Mutant::ReplacedNotSynced => "key restore",
        Mutant::SourceNotKept => "delete a, which b is a clone of",
        Mutant::SwitchNotStored => "encryption off",
        Mutant::TrimForgotten | Mutant::TrimmedInSight => "delete a, of which b is a clone as it was before",
        _ => "create b",
    }
}

fn hunt(mutant: Mutant) -> Option<String> {
    let case = all().into_iter().find(|case| case.name == case_for(mutant)).expect("there is such a case");
    let test = |case: &Case| match mutant {
        Mutant::LockEmptied => faults::full_at_every_call(),
        Mutant::UnknownIsNoClone => faults::every_call_of_opening(),
        Mutant::DoubtForgotten => faults::every_call(case),
        // Which end shows it is for the rng to say.
        _ => (1..20).try_fold(0, |ends, seed| Ok(ends + ends::run(case, seed, ends::Depth::Short)?)),
    };
    plant(Some(mutant));
    let found = test(&case).err().map(|what| format!("{}: {what}", case.name));
    plant(None);
    found
}

/// Looks for all of them and says how each was found. Without one, the other tests say that nothing is.
pub(crate) fn hunt_all() {
    let mut alive = Vec::new();
    let only = std::env::var("SEALDISK_CRASH_MUTANTS").ok();
    let wanted = |mutant: &&Mutant| only.as_ref().is_none_or(|only| only.contains(&format!("{mutant:?}")));
    for mutant in Mutant::ACCOUNT.iter().filter(wanted) {
        let start = Instant::now();
        let found = hunt(*mutant);
        let seconds = start.elapsed().as_secs_f64();
        match found {
            Some(how) => eprintln!("{mutant:?} ({seconds:.1} s): {}", how.chars().take(160).collect::<String>()),
            None => alive.push(mutant),
        }
    }
    assert!(alive.is_empty(), "not found: {alive:?}");
}
