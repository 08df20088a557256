//! What an opening tells, and what it leaves to be told to whoever changes the disk next.

use sealdisk::ErrorKind;
use sealdisk::disk::Access;
use sealdisk::io::sim::{Call, Dice, Fault, Faults, direct};

use crate::check;
use crate::rig::Rig;
use crate::solo::{Solo, Step};

fn do_all(solo: &mut Solo, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        solo.step(*step)?.map_err(|error| format!("{step:?}: {error:?}"))?;
    }
    Ok(())
}

/// A layer whose write-back failed, and a process that was killed before it could hear of that: the next opening refuses
/// where the kernel still tells it, the one after that succeeds, and what was flushed is there.
pub(crate) fn told_once() {
    let refused = (0..16).filter(|seed| direct(|| kill_untold(*seed)).unwrap_or_else(|what| panic!("{seed}: {what}")));
    let refused = refused.count();
    assert!((1..16).contains(&refused), "the kernel told it {refused} times of 16");
}

/// Whether opening refused.
fn kill_untold(seed: u64) -> Result<bool, String> {
    let rig = Rig::sized(6, 4, Some(2));
    let mut solo = Solo::new(&rig, seed, false);
    do_all(&mut solo, &[Step::Write(0), Step::Flush])?;
    solo.world.set_faults(Faults { random: vec![(Call::Write, Fault::WriteBack, 100_000)], ..Faults::default() });
    do_all(&mut solo, &[Step::Write(0)])?;
    let left = solo.world.kill(&mut Dice::new(seed));
    let untold = left.untold_errors();

    let first = rig.open(&left, false, Access::ReadWrite);
    match (&first, untold) {
        (Ok(_), 0) => {}
        (Err(error), 1) if error.kind() == ErrorKind::Io => {}
        (other, untold) => return Err(format!("with {untold} errors untold: {:?}", other.as_ref().err())),
    }
    let refused = first.is_err();
    let disk = first.or_else(|_| rig.open(&left, false, Access::ReadWrite));
    let disk = disk.map_err(|error| format!("opening after it was told: {error:?}"))?;
    solo.oracle.check_ended(&check::content(&left, &disk)?, false)?;
    Ok(refused)
}
