//! A verb is stopped at each of its calls, and so is the recovery that follows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sealdisk::io::sim::{SimDisk, SimRng};

use crate::cases::{self, Case, Done};
use crate::rig;
use crate::seen::{Seen, live, look};

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Short,
    Long,
}

impl Depth {
    /// Ends at each call of the verb.
    fn images(self) -> usize {
        if self == Self::Short { 2 } else { 6 }
    }

    /// Ends in the recovery from each of those.
    fn again(self) -> u64 {
        if self == Self::Short { 1 } else { 12 }
    }
}

/// A disk that a verb was stopped on.
struct Image {
    disk: SimDisk,
    /// Number of the call, for people.
    call: u64,
    answered: bool,
}

pub(crate) fn told(what: &str, done: Done) -> Result<(), String> {
    done.map_err(|failure| format!("{what}: {}", failure.message))
}

/// The account that the verb finds, at rest.
pub(crate) fn prepared(case: &Case, seed: u64) -> Result<SimDisk, String> {
    let disk = rig::make(seed);
    let registry = rig::open(&disk).map_err(|error| error.to_string())?;
    told("preparing", cases::prepare(&registry))?;
    told("preparing the case", (case.before)(&registry))?;
    registry.close().map_err(|error| error.to_string())?;
    drop(registry);
    Ok(rig::copy(&disk, &mut SimRng::new(seed)))
}

/// What the case may look like.
pub(crate) struct Frame {
    pub(crate) before: Seen,
    pub(crate) after: Seen,
}

impl Frame {
    /// Does the verb where nothing fails.
    pub(crate) fn of(case: &Case, prepared: &SimDisk, rng: &mut SimRng) -> Result<Self, String> {
        let before = look(&rig::copy(prepared, rng))?;
        let done = rig::copy(prepared, rng);
        let registry = rig::open(&done).map_err(|error| error.to_string())?;
        told("the verb", (case.verb)(&registry))?;
        let killed = rig::copy(&done, rng);
        let after = live(&done, &registry)?;
        cases::no_key_is_freed(&done)?;
        let later = look(&killed)?;
        if later != after {
            return Err(format!("done, it leaves {}", later.against(&after)));
        }
        let lost = |(name, disk): &(&String, &_)| Result::is_err(*disk) && !case.loses.contains(&name.as_str());
        if let Some((name, disk)) = after.disks.iter().find(lost).filter(|_| !after.is_revoked()) {
            return Err(format!("done, it leaves {name} as {disk:?}"));
        }
        Ok(Self { before, after })
    }

    pub(crate) fn check(&self, case: &Case, seen: &Seen, answered: bool) -> Result<(), String> {
        if *seen == self.after {
            return Ok(());
        }
        if answered {
            return Err(format!("was answered, and is seen as {}", seen.against(&self.after)));
        }
        if *seen == self.before || (case.between)(&self.before, &self.after, seen) {
            return Ok(());
        }
        let (before, after) = (seen.against(&self.before), seen.against(&self.after));
        Err(format!("half-done: against before: {before}; against after: {after}"))
    }
}

/// Does the verb where nothing fails, with what comes before it and a look at what it leaves.
pub(crate) fn undisturbed(case: &Case, seed: u64) -> Result<(), String> {
    rig::alone(seed, || Frame::of(case, &prepared(case, seed)?, &mut SimRng::new(seed)).map(drop))
}

/// Answers how many ends were looked at.
pub(crate) fn run(case: &Case, seed: u64, depth: Depth) -> Result<u64, String> {
    rig::alone(seed, || {
        let mut rng = SimRng::new(seed);
        let prepared = prepared(case, seed)?;
        let frame = Frame::of(case, &prepared, &mut rng)?;
        let mut ends = 0;
        let images = stop_everywhere(case, &prepared, &mut rng, depth.images())?;
        for image in images {
            let context = |what| format!("stopped at call {}{}: {what}", image.call, answered(&image));
            ends += examine(case, &frame, &image, &mut rng, depth).map_err(context)?;
        }
        Ok(ends)
    })
}

fn answered(image: &Image) -> &'static str {
    if image.answered { " (answered)" } else { "" }
}

fn stop_everywhere(case: &Case, prepared: &SimDisk, rng: &mut SimRng, count: usize) -> Result<Vec<Image>, String> {
    let disk = rig::copy(prepared, rng);
    let images = Arc::new(Mutex::new(Vec::new()));
    let is_answered = Arc::new(AtomicBool::new(false));
    let stop = {
        let (images, is_answered, rng) = (Arc::clone(&images), Arc::clone(&is_answered), Mutex::new(rng.fork()));
        move |disk: &SimDisk| {
            let (mut rng, mut images) = (rng.lock().unwrap(), images.lock().unwrap());
            let (call, answered) = (disk.calls() + 1, is_answered.load(Ordering::Relaxed));
            images.extend((0..count).map(|_| Image { disk: rig::any_end(disk, &mut rng), call, answered }));
        }
    };
    let done = rig::observed(&disk, stop, || {
        let registry = rig::open(&disk).map_err(|error| error.to_string())?;
        told("the verb", (case.verb)(&registry))?;
        is_answered.store(true, Ordering::Relaxed);
        registry.close().map_err(|error| error.to_string())
    });
    done?;
    let mut images = std::mem::take(&mut *images.lock().unwrap());
    let call = disk.calls() + 1;
    images.extend((0..4).map(|_| Image { disk: rig::any_end(&disk, rng), call, answered: true }));
    Ok(images)
}

fn examine(case: &Case, frame: &Frame, image: &Image, rng: &mut SimRng, depth: Depth) -> Result<u64, String> {
    let mut ends = 1;
    if image.answered {
        (case.after)(&rig::copy(&image.disk, rng))?;
    }
    let first = rig::copy(&image.disk, rng);
    let seen = look(&first)?;
    frame.check(case, &seen, image.answered)?;
    cases::no_key_is_freed(&first)?;
    if seen == frame.after {
        (case.durable)(&first)?;
    }
    let calls = first.calls();
    let later = look(&rig::any_end(&first, rng))?;
    if later != seen && !(case.between)(&frame.before, &frame.after, &later) {
        return Err(format!("after it was looked at, a second crash leaves {}", later.against(&seen)));
    }
    for _ in 0..depth.again() {
        let at = 1 + rng.below(calls);
        let again = recover_and_stop(&image.disk, at, rng);
        let context = |what| format!("and then at call {at} of the recovery: {what}");
        frame.check(case, &look(&again).map_err(context)?, image.answered).map_err(context)?;
        ends += 1;
    }
    go_on(case, frame, image, &seen, rng)?;
    Ok(ends)
}

/// The end of a recovery at its call `at`.
fn recover_and_stop(image: &SimDisk, at: u64, rng: &mut SimRng) -> SimDisk {
    let disk = rig::copy(image, rng);
    let stopped = Arc::new(Mutex::new(None));
    let (count, fork) = (AtomicU64::new(0), Mutex::new(rng.fork()));
    let stop = {
        let stopped = Arc::clone(&stopped);
        move |disk: &SimDisk| {
            if count.fetch_add(1, Ordering::Relaxed) + 1 == at {
                *stopped.lock().unwrap() = Some(rig::any_end(disk, &mut fork.lock().unwrap()));
            }
        }
    };
    // Whether it can be looked at was asked before.
    let _ = rig::observed(&disk, stop, || look(&disk));
    stopped.lock().unwrap().take().unwrap_or(disk)
}

/// What was not done is asked for again; where it was done, something that builds on it. The answer holds.
fn go_on(case: &Case, frame: &Frame, image: &Image, seen: &Seen, rng: &mut SimRng) -> Result<(), String> {
    let disk = rig::copy(&image.disk, rng);
    let registry = rig::open(&disk).map_err(|error| error.to_string())?;
    // Keys that are overwritten look erased before that is durable: only the answer tells.
    let done = *seen == frame.after && (image.answered || case.loses.is_empty());
    if done {
        told("what follows", (case.then)(&registry))?;
    } else {
        told("asked for again", (case.verb)(&registry))?;
    }
    // Before anybody looks: looking makes things durable.
    let end = rig::any_end(&disk, rng);
    let now = live(&disk, &registry)?;
    if !done && now != frame.after {
        return Err(format!("asked for again it leaves {}", now.against(&frame.after)));
    }
    drop(registry);
    let later = look(&end)?;
    // What an erasure overwrote that was not answered may be back; to read the disk it is not enough.
    let is_kept = later == now || (!image.answered && later.but_why_lost(case.loses) == now.but_why_lost(case.loses));
    if !is_kept {
        return Err(format!("what was asked for next and answered is lost: {}", later.against(&now)));
    }
    Ok(())
}
