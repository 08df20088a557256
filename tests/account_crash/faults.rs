//! Each call of each verb fails once: it says so clearly, nothing is lost, and it can be asked for again.

use sealdisk::account::failure::Failure;
use sealdisk::account::registry::Registry;
use sealdisk::io::sim::{Call, Fault, Faults, SimDisk, SimRng};

use crate::cases::{self, Case, Done};
use crate::ends::{Frame, prepared, told};
use crate::rig;
use crate::seen::{Seen, look};

/// Answers how many calls failed.
pub(crate) fn every_call(case: &Case) -> Result<u64, String> {
    rig::alone(5, || {
        let mut failed = 0;
        for fault in [Fault::Eio, Fault::Enospc] {
            let mut rng = SimRng::new(5);
            let prepared = prepared(case, 5)?;
            let frame = Frame::of(case, &prepared, &mut rng)?;
            for at in 1.. {
                let disk = rig::copy(&prepared, &mut rng);
                let context = |what| format!("{fault:?} at call {at}, {:?}: {what}", disk.fired());
                if !fail_once(case, &frame, &disk, at, fault, &mut rng).map_err(context)? {
                    break;
                }
                failed += 1;
                if disk.fired()[0].call == Call::SyncDir {
                    go_on_with_others(case, &rig::copy(&prepared, &mut rng), at, fault, &mut rng).map_err(context)?;
                }
            }
        }
        Ok(failed)
    })
}

/// Whether there was such a call.
fn fail_once(
    case: &Case,
    frame: &Frame,
    disk: &SimDisk,
    at: u64,
    fault: Fault,
    rng: &mut SimRng,
) -> Result<bool, String> {
    let registry = rig::open(disk).map_err(|error| error.to_string())?;
    let done = verb_with_a_fault(case, &registry, disk, at, fault);
    let fired = !disk.fired().is_empty();
    if let Err(failure) = &done {
        if !fired {
            return Err(format!("fails where nothing should: {}", failure.message));
        }
        check_told(failure)?;
    }
    let answered = done.is_ok();
    for _ in 0..2 {
        let end = rig::any_end(disk, rng);
        frame.check(case, &look(&end)?, answered)?;
    }
    if done.is_err() {
        // In the same process it may succeed, and then that holds; or it is refused.
        match (case.verb)(&registry) {
            Ok(()) => frame.check(case, &look(&rig::any_end(disk, rng))?, true)?,
            Err(failure) => check_told(&failure)?,
        }
        let end = rig::any_end(disk, rng);
        drop(registry);
        ask_again(case, frame, &end)?;
    }
    Ok(fired)
}

fn verb_with_a_fault(case: &Case, registry: &Registry, disk: &SimDisk, at: u64, fault: Fault) -> Done {
    disk.set_faults(Faults { once: Some((disk.calls() + at, fault)), ..Faults::default() });
    let done = (case.verb)(registry);
    disk.set_faults(Faults::default());
    done
}

/// What a failed sync left in doubt is not built upon by another verb of the same process: it is refused, or it holds.
fn go_on_with_others(case: &Case, disk: &SimDisk, at: u64, fault: Fault, rng: &mut SimRng) -> Result<(), String> {
    let registry = rig::open(disk).map_err(|error| error.to_string())?;
    if verb_with_a_fault(case, &registry, disk, at, fault).is_ok() {
        return Ok(());
    }
    let mut made = Vec::new();
    for name in ["a", "b", "c", "d"] {
        match cases::create(&registry, name, 512) {
            Ok(()) => made.push(name),
            Err(failure) => check_told(&failure)?,
        }
    }
    // Another disk than that of the failure is served on.
    let is_hit = registry.disk(&cases::blob("z")).is_ok_and(|disk| disk.admin().is_poisoned());
    if registry.locked().is_none() && !is_hit {
        told("writing to another disk", cases::write(&registry, "z", 0..4, 9))?;
    }
    let ends: Vec<_> = (0..6).map(|_| rig::any_end(disk, rng)).collect();
    drop(registry);
    for end in ends {
        let seen = look(&end)?;
        let is_there = |name: &&str| seen.disks.get(*name).is_some_and(|disk| disk.is_ok() || seen.is_revoked());
        if let Some(name) = made.iter().find(|name| !is_there(name)) {
            return Err(format!("{name} was made after that, and is lost"));
        }
    }
    Ok(())
}

/// One line, with a kind that fits.
fn check_told(failure: &Failure) -> Result<(), String> {
    let known =
        ["Io", "NoSpace", "Poisoned", "AlreadyExists", "NotFound", "InUse", "Corrupt", "InvalidInput", "Revoked"];
    if failure.message.is_empty() || failure.message.contains('\n') || !known.contains(&&*failure.kind) {
        return Err(format!("says {}: {:?}", failure.kind, failure.message));
    }
    Ok(())
}

/// After a restart, what was not done can be.
fn ask_again(case: &Case, frame: &Frame, end: &SimDisk) -> Result<(), String> {
    let seen = look(end)?;
    frame.check(case, &seen, false)?;
    if seen == frame.after {
        return Ok(());
    }
    let registry = rig::open(end).map_err(|error| error.to_string())?;
    told("asked for again after a restart", (case.verb)(&registry))?;
    drop(registry);
    frame.check(case, &look(end)?, true)
}

/// An account with clones of all kinds, of which one call fails when it is opened: what cannot be read then is not
/// taken for gone, whatever is asked for next.
pub(crate) fn every_call_of_opening() -> Result<u64, String> {
    let before: fn(&Registry) -> Done = |r| {
        cases::clone(r, "a@s", "b")?;
        cases::clone(r, "z", "y")?;
        cases::write(r, "y", 1..2, 6)?;
        cases::delete(r, "z")
    };
    let case = Case { before, ..cases::all().swap_remove(0) };
    let asked: [fn(&Registry) -> Done; 3] =
        [|_| Ok(()), |r| cases::delete(r, "a"), |r| cases::drop_snapshot(r, "a", "s")];
    rig::alone(6, || {
        let mut failed = 0;
        for (fault, ask) in [Fault::Eio, Fault::Enospc].into_iter().flat_map(|fault| asked.map(|ask| (fault, ask))) {
            let prepared = prepared(&case, 6)?;
            let mut rng = SimRng::new(6);
            let before = look(&rig::copy(&prepared, &mut rng))?;
            for at in 1.. {
                let disk = rig::copy(&prepared, &mut rng);
                disk.set_faults(Faults { once: Some((at, fault)), ..Faults::default() });
                let opened = rig::open(&disk);
                disk.set_faults(Faults::default());
                if disk.fired().is_empty() {
                    break;
                }
                failed += 1;
                let context = |what| format!("{fault:?} at call {at}, {:?}: {what}", disk.fired());
                if let Ok(registry) = opened {
                    // Refused or not.
                    let _ = ask(&registry);
                }
                let seen = look(&rig::any_end(&disk, &mut rng)).map_err(context)?;
                check_clones(&before, &seen).map_err(context)?;
            }
        }
        Ok(failed)
    })
}

fn check_clones(before: &Seen, seen: &Seen) -> Result<(), String> {
    for name in ["b", "y"] {
        let pages =
            |seen: &Seen| seen.disks.get(name).and_then(|disk| disk.as_ref().ok()).map(|disk| disk.pages.clone());
        if pages(seen).is_none() || pages(seen) != pages(before) {
            return Err(format!("the clone {name} is lost: {}", seen.against(before)));
        }
    }
    Ok(())
}

/// Verbs that a full file system does not stop.
const WITHOUT_SPACE: [&str; 6] = [
    "rename a to b",
    "delete a",
    "delete a, which b is a clone of",
    "delete b, a clone of a@s",
    "snapshot delete a s",
    "scrub",
];

/// The account was closed, and then the file system is full at every call: it opens, these verbs are done, it is closed
/// and opens again.
pub(crate) fn full_at_every_call() -> Result<u64, String> {
    let mut tried = 0;
    for case in cases::all().iter().filter(|case| WITHOUT_SPACE.contains(&case.name)) {
        rig::alone(7, || full(case)).map_err(|what| format!("{}: {what}", case.name))?;
        tried += 1;
    }
    Ok(tried)
}

fn full(case: &Case) -> Result<(), String> {
    let mut rng = SimRng::new(7);
    let prepared = prepared(case, 7)?;
    let frame = Frame::of(case, &prepared, &mut rng)?;
    let disk = rig::copy(&prepared, &mut rng);
    disk.set_capacity(Some(0));
    let registry = rig::open(&disk).map_err(|error| format!("opening: {error}"))?;
    told("the verb", (case.verb)(&registry))?;
    registry.close().map_err(|error| format!("closing: {error}"))?;
    drop(registry);
    rig::open(&disk).map_err(|error| format!("opening again: {error}"))?.close().map_err(|error| error.to_string())?;
    disk.set_capacity(None);
    frame.check(case, &look(&rig::copy(&disk, &mut rng))?, true)
}
