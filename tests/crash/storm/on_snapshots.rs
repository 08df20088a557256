//! The requests of an operator: snapshots, rollback, resize, key rotation and re-encryption, while clients go on.

use std::sync::atomic::Ordering;

use sealdisk::disk::{Disk, Swept};
use sealdisk::io::sim::SimRng;
use sealdisk::{ErrorKind, PAGE};

use super::{Mood, Ring};
use crate::check;

/// One of them, if no other is under way.
pub(super) fn request(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    if ring.lining.swap(true, Ordering::Relaxed) {
        return;
    }
    let what = match ring.mood {
        Mood::Switches => 11,
        Mood::Snapshots => [0, 0, 3, 5, 5][rng.index(5)],
        _ => rng.below(12),
    };
    match what {
        0..3 => snapshot(ring, disk),
        3..5 => look(ring, disk, rng),
        5 => erase(ring, disk, rng),
        6..8 => roll_back(ring, disk, rng),
        8 => resize(ring, disk, rng),
        9 => {
            if let Err(error) = disk.admin().rotate_key() {
                ring.refused("rotating the key", &error);
            }
        }
        _ => sweep(ring, disk, rng),
    }
    ring.lining.store(false, Ordering::Relaxed);
}

fn any_line(ring: &Ring, rng: &mut SimRng) -> Option<String> {
    let snapshots = ring.oracle().snapshots();
    (!snapshots.is_empty()).then(|| snapshots[rng.index(snapshots.len())].clone())
}

fn snapshot(ring: &Ring, disk: &Disk) {
    let _size_stays = ring.sized.read();
    let oracle = ring.oracle();
    let (name, begin) = oracle.draw();
    let answer = disk.admin().create_snapshot(&name);
    oracle.drawn(&name, begin, answer.is_ok());
    if let Err(error) = answer {
        ring.refused("a snapshot", &error);
    }
}

/// Reads a snapshot whole.
fn look(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    let Some(name) = any_line(ring, rng) else { return };
    let fired = ring.world.fired().len();
    match check::snapshot_content(disk, name) {
        _ if ring.is_over() => {}
        Ok(content) => ring.note(ring.oracle().check_snapshot(content)),
        Err(_) if ring.world.fired().len() > fired => {}
        Err(what) => ring.fail(what),
    }
}

fn erase(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    let Some(name) = any_line(ring, rng) else { return };
    let oracle = ring.oracle();
    oracle.erase(&name);
    match disk.admin().delete_snapshot(&name) {
        Ok(()) => oracle.erased(&name),
        Err(error) => ring.refused("deleting a snapshot", &error),
    }
}

/// Clients go on meanwhile where the size stays.
fn roll_back(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    let Some(name) = any_line(ring, rng) else { return };
    let oracle = ring.oracle();
    let resizes = !oracle.has_size_of_line(&name);
    let _size_stays = (!resizes).then(|| ring.sized.read());
    let _alone = resizes.then(|| ring.sized.write());
    let request = oracle.roll_back(&name);
    let answer = disk.admin().roll_back(&name);
    oracle.rolled_back(&name, request, answer.is_ok());
    if let Err(error) = answer {
        ring.refused("a rollback", &error);
    }
}

fn resize(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    let _alone = ring.sized.write();
    let oracle = ring.oracle();
    let pages = 1 + rng.index(ring.rig.most_pages);
    let request = oracle.resize(pages);
    let answer = disk.admin().resize((pages * PAGE) as u64);
    oracle.resized(pages, request, answer.is_ok());
    if let Err(error) = answer {
        ring.refused("a resize", &error);
    }
}

fn sweep(ring: &Ring, disk: &Disk, rng: &mut SimRng) {
    let _size_stays = ring.sized.read();
    let (oracle, base, mut page) = (ring.oracle(), rng.coin(), 0);
    for _ in 0..20 {
        oracle.sweeping(true);
        let answer = disk.admin().sweep(page, base);
        oracle.sweeping(false);
        match answer {
            _ if ring.is_over() => return,
            Ok(Swept::Next { page: next, .. }) => page = next,
            Ok(Swept::End) => return,
            Err(error) if error.kind() == ErrorKind::InUse => return,
            Err(error) => return ring.refused("a sweep", &error),
        }
    }
}
