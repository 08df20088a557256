//! Random verbs over several disks, with their clones, against a model: stopped at random calls, and gone on with from
//! what was recovered.

use std::sync::{Arc, Mutex};

use sealdisk::PAGE;
use sealdisk::account::failure::Failure;
use sealdisk::account::key_request::KeyRequest;
use sealdisk::account::registry::Registry;
use sealdisk::account::report::Switch;
use sealdisk::account::request::Request;
use sealdisk::disk::Durability;
use sealdisk::io::sim::{Fault, Faults, SimDisk, SimRng};

use crate::cases::{self, Done, blob};
use crate::model::{Model, Op};
use crate::rig;
use crate::seen::look;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SNAPSHOTS: [&str; 3] = ["s", "t", "u"];
const MOST_PAGES: usize = 12;
/// Crashes that are gone on from.
const LIVES: u32 = 4;

/// What the account may be now: one model, or while something is asked for that before and that after.
type Candidates = Arc<Mutex<Vec<Model>>>;

struct End {
    disk: SimDisk,
    candidates: Vec<Model>,
    call: u64,
    /// Only the process ended, and all that was answered is there.
    exact: bool,
}

/// What to go on with.
struct Start {
    disk: SimDisk,
    model: Model,
    /// All that was answered is durable.
    at_rest: bool,
}

/// One seed; answers how many ends were looked at.
pub(crate) fn run(seed: u64) -> Result<u64, String> {
    rig::alone(seed, || {
        let mut rng = SimRng::new(seed);
        let mut start = Start { disk: rig::make(seed), model: Model::new(), at_rest: true };
        let mut looked_at = 0;
        for life in 0..LIVES {
            let mut done = Vec::new();
            let context = |done: &[Op], what: String| format!("life {life}, {done:?}: {what}");
            let mut ends = live(&start, &mut rng, &mut done).map_err(|what| context(&done, what))?;
            let torn = start.disk.was_harmed();
            looked_at += ends.len() as u64;
            let last = ends.pop();
            for end in ends.into_iter().chain(last) {
                let call = end.call;
                start = check(end, torn, &mut rng)
                    .map_err(|what| context(&done, format!("at call {call} ({:?}): {what}", start.disk.fired())))?;
            }
        }
        Ok(looked_at)
    })
}

/// Recovers, perhaps after a crash in the recovery, and answers what to go on with.
fn check(end: End, torn: bool, rng: &mut SimRng) -> Result<Start, String> {
    let twice = rng.one_in(3);
    let disk = rig::copy(&end.disk, rng);
    let disk = if twice { stop_in_recovery(&disk, rng) } else { disk };
    let seen = look(&disk)?;
    let exact = end.exact && !twice && !torn;
    let fitting: Vec<_> = end.candidates.iter().map(|model| model.settled(&seen, exact, torn)).collect();
    let Some(fits) = fitting.iter().position(Result::is_ok) else {
        return Err(fitting.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n or: "));
    };
    let later = look(&rig::any_end(&disk, rng)).map_err(|what| format!("a second time: {what}"))?;
    if later != seen {
        return Err(format!("after it was looked at, a crash leaves {}", later.against(&seen)));
    }
    if exact && rng.coin() {
        // Nobody has looked yet.
        let model = end.candidates[fits].witnessed(&seen);
        return Ok(Start { disk: end.disk, model, at_rest: false });
    }
    let model = end.candidates[fits].settled(&seen, exact, torn)?;
    Ok(Start { disk, model, at_rest: true })
}

fn stop_in_recovery(disk: &SimDisk, rng: &mut SimRng) -> SimDisk {
    let stopped = Arc::new(Mutex::new(None));
    let (at, collect, fork) = (1 + rng.below(120), Arc::clone(&stopped), Mutex::new(rng.fork()));
    let stop = move |disk: &SimDisk| {
        if disk.calls() + 1 == at {
            *collect.lock().unwrap() = Some(rig::any_end(disk, &mut fork.lock().unwrap()));
        }
    };
    let tried = rig::copy(disk, rng);
    // Whether it can be looked at is asked afterwards.
    let _ = rig::observed(&tried, stop, || look(&tried));
    let stopped = stopped.lock().unwrap().take();
    stopped.unwrap_or(tried)
}

/// Opens the account and asks for one thing after the other. Answers some of the ends on the way, the last of them at
/// the end.
fn live(start: &Start, rng: &mut SimRng, done: &mut Vec<Op>) -> Result<Vec<End>, String> {
    let Start { disk, model, at_rest } = start;
    let at_rest = *at_rest;
    let candidates: Candidates = Arc::new(Mutex::new(vec![model.clone()]));
    let ends = Arc::new(Mutex::new(Vec::new()));
    let stop = {
        let (candidates, ends, rng) = (Arc::clone(&candidates), Arc::clone(&ends), Mutex::new(rng.fork()));
        move |disk: &SimDisk| {
            let mut rng = rng.lock().unwrap();
            if rng.one_in(90) {
                let candidates = candidates.lock().unwrap().clone();
                ends.lock().unwrap().push(end(disk, candidates, at_rest, &mut rng));
            }
        }
    };
    if rng.one_in(3) {
        let fault = [Fault::Eio, Fault::Enospc][rng.index(2)];
        disk.set_faults(Faults { once: Some((disk.calls() + 1 + rng.below(1500), fault)), ..Faults::default() });
    }
    rig::observed(disk, stop, || ask_one_after_the_other(start, &candidates, rng, done))?;
    let mut ends = std::mem::take(&mut *ends.lock().unwrap());
    ends.push(end(disk, candidates.lock().unwrap().clone(), at_rest, rng));
    Ok(ends)
}

fn end(disk: &SimDisk, candidates: Vec<Model>, at_rest: bool, rng: &mut SimRng) -> End {
    let killed = rng.one_in(3);
    let image = if killed { disk.kill(rng) } else { rig::power_cut(disk, rng) };
    End { disk: image, candidates, call: disk.calls() + 1, exact: killed && at_rest }
}

fn ask_one_after_the_other(
    start: &Start,
    candidates: &Candidates,
    rng: &mut SimRng,
    done: &mut Vec<Op>,
) -> Result<(), String> {
    let Start { disk, model, at_rest } = start;
    let is_harmed = || !disk.fired().is_empty();
    let mut registry = match rig::open(disk) {
        Err(_) if is_harmed() => return Ok(()),
        opened => opened.map_err(|error| format!("does not open: {error}"))?,
    };
    if !registry.damaged().is_empty() && is_harmed() {
        return Ok(());
    }
    let mut model = model.clone();
    for number in 0..8 + rng.below(24) {
        let op = choose(&model, *at_rest, rng, (number % 250) as u8 + 1);
        done.push(op.clone());
        let after = model.after(&op);
        // Also what is refused may be half-way to it: nothing of it may be seen.
        *candidates.lock().unwrap() =
            std::iter::once(model.clone()).chain(after.clone().map(|after| after.asked(&op))).collect();
        let fired = disk.fired().len();
        let answer = if matches!(op, Op::Reopen { .. }) {
            let closed = registry.close().map_err(Failure::from);
            drop(registry);
            match closed.and_then(|()| Ok(rig::open(disk)?)) {
                // As at the begin: the name of a disk that could not be read looks free.
                Ok(opened) if !opened.damaged().is_empty() && is_harmed() => return Ok(()),
                Ok(opened) => {
                    registry = opened;
                    Ok(())
                }
                Err(_) if is_harmed() => return Ok(()),
                Err(failure) => return Err(format!("does not open again: {}", failure.message)),
            }
        } else {
            ask(&registry, &op, &model)
        };
        match (answer, after) {
            (Ok(()), Some(after)) => {
                model = after;
                *candidates.lock().unwrap() = vec![model.clone()];
            }
            (Err(_), None) => *candidates.lock().unwrap() = vec![model.clone()],
            // Whatever else it did: what it was asked for is done or not. The end comes here.
            (Err(_), Some(_)) if is_harmed() => return Ok(()),
            (Err(failure), Some(_)) => return Err(format!("fails where nothing should: {}", failure.message)),
            (Ok(()), None) => return Err("succeeds and should be refused".to_owned()),
        }
        if disk.fired().len() > fired && rng.coin() {
            return Ok(());
        }
    }
    Ok(())
}

fn choose(model: &Model, at_rest: bool, rng: &mut SimRng, filled: u8) -> Op {
    let (name, to) = (NAMES[rng.index(NAMES.len())], NAMES[rng.index(NAMES.len())]);
    let snapshot = SNAPSHOTS[rng.index(SNAPSHOTS.len())];
    let Some(size) = model.pages(name) else {
        return Op::Create { name, pages: 1 + rng.index(MOST_PAGES) };
    };
    match rng.index(24) {
        0..5 => {
            let first = rng.index(size);
            Op::Write { name, first, pages: 1 + rng.index(size - first), filled }
        }
        5..7 => Op::Flush { name },
        7..10 => Op::Snapshot { name, snapshot },
        10 => Op::DropSnapshot { name, snapshot },
        11 => Op::RollBack { name, snapshot },
        12..14 => Op::Clone { name, snapshot: None, to },
        14 => Op::Clone { name, snapshot: Some(snapshot), to },
        15..17 => Op::Delete { name },
        17 => Op::Rename { name, to },
        18 => Op::Resize { name, pages: 1 + rng.index(MOST_PAGES) },
        19 => Op::Switch,
        20 => Op::RotateData { name },
        21 => [Op::Scrub { name }, Op::Reencrypt { name }][rng.index(2)].clone(),
        22 => Op::Maintain { name },
        _ => Op::Reopen { all: at_rest },
    }
}

fn ask(registry: &Registry, op: &Op, model: &Model) -> Done {
    let bytes = |pages: usize| (pages * PAGE) as u64;
    match *op {
        Op::Create { name, pages } => cases::create(registry, name, bytes(pages)),
        Op::Write { name, first, pages, filled } => {
            let data = vec![filled; pages * PAGE];
            Ok(registry.disk(&blob(name))?.write(bytes(first), &data, Durability::Volatile)?)
        }
        Op::Flush { name } => Ok(registry.disk(&blob(name))?.flush()?),
        Op::Snapshot { name, snapshot } => cases::snapshot(registry, name, snapshot),
        Op::DropSnapshot { name, snapshot } => cases::drop_snapshot(registry, name, snapshot),
        Op::RollBack { name, snapshot } => {
            // The names of those for clones are not known here, and they must not go.
            cases::roll_back(registry, name, snapshot, &model.snapshots_after(name, snapshot))
        }
        Op::Clone { name, snapshot: None, to } => cases::clone(registry, name, to),
        Op::Clone { name, snapshot: Some(snapshot), to } => cases::clone(registry, &format!("{name}@{snapshot}"), to),
        Op::Delete { name } => cases::delete(registry, name),
        Op::Rename { name, to } => cases::rename(registry, name, to),
        Op::Resize { name, pages } => cases::resize(registry, name, bytes(pages)),
        Op::Switch => cases::switch(registry, if model.encryption { Switch::Off } else { Switch::On }),
        Op::RotateData { name } => cases::ask(registry, KeyRequest::RotateData { name: Some(blob(name)) }),
        Op::Scrub { name } => {
            cases::ask(registry, Request::Scrub { name: blob(name).into(), wait: true, unaccounted: true })
        }
        Op::Maintain { name } => Ok(registry.disk(&blob(name))?.admin().maintain().map(drop)?),
        Op::Reencrypt { name } => cases::sweep(registry, name, true),
        Op::Reopen { .. } => Ok(()),
    }
}
