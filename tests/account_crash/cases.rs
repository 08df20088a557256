//! The verbs, each with the account that it finds, and what can be asked after it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use sealdisk::account::failure::Failure;
use sealdisk::account::key_life::Depth;
use sealdisk::account::key_request::KeyRequest;
use sealdisk::account::life_request::LifeRequest;
use sealdisk::account::name::BlobName;
use sealdisk::account::reencrypt::Sweep;
use sealdisk::account::registry::Registry;
use sealdisk::account::report::Switch;
use sealdisk::account::request::Request;
use sealdisk::base::{self, OpenOptions, PassedImage};
use sealdisk::disk::{Durability, Kind};
use sealdisk::io::sim::{RawFile, SimDisk, SimRng, Tear};
use sealdisk::io::system;
use uuid::Uuid;

use sealdisk::{PAGE, Result as SealdiskResult};

use crate::rig;
use crate::seen::Seen;

/// Bytes of disk `a`.
const SIZE: u64 = 16 * PAGE as u64;
/// What a copy says of its source.
pub(crate) const SOURCE: &str = "the source";

pub(crate) type Done = Result<(), Failure>;
type Verb = fn(&Registry) -> Done;
/// Whether an account may be seen so, besides as it was before and as it is after.
type Between = fn(&Seen, &Seen, &Seen) -> bool;
/// Looks at what lies on a disk on which the verb was answered.
type Raw = fn(&SimDisk) -> Result<(), String>;

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) area: &'static str,
    pub(crate) name: &'static str,
    /// Makes of the prepared account the one that the verb finds.
    pub(crate) before: Verb,
    pub(crate) verb: Verb,
    /// What somebody may ask for who sees that it is done.
    pub(crate) then: Verb,
    pub(crate) between: Between,
    /// The disks that it makes unreadable.
    pub(crate) loses: &'static [&'static str],
    pub(crate) after: Raw,
    /// Looks at what lies on a disk that was seen as it is after the verb, answered or not, and closed since.
    pub(crate) durable: Raw,
}

pub(crate) const AREAS: [&str; 5] = ["disks", "snapshots", "clones", "copies", "keys"];

fn case(area: &'static str, name: &'static str, before: Verb, verb: Verb, then: Verb) -> Case {
    Case {
        area,
        name,
        before,
        verb,
        then,
        between: |_, _, _| false,
        loses: &[],
        after: |_| Ok(()),
        durable: |_| Ok(()),
    }
}

pub(crate) fn blob(name: &str) -> BlobName {
    name.parse().unwrap()
}

pub(crate) fn ask(registry: &Registry, request: impl Into<Request>) -> Done {
    request.into().perform(registry, Vec::new(), None).map(drop)
}

pub(crate) fn write(registry: &Registry, name: &str, pages: Range<u64>, filled: u8) -> Done {
    let disk = registry.disk(&blob(name))?;
    for page in pages {
        disk.write(page * PAGE as u64, &[filled; PAGE], Durability::Volatile)?;
    }
    Ok(disk.flush()?)
}

pub(crate) fn create(registry: &Registry, name: &str, size: u64) -> Done {
    ask(registry, Request::Create { name: blob(name), size: Some(size), base: None })
}

pub(crate) fn delete(registry: &Registry, name: &str) -> Done {
    ask(registry, Request::Delete { name: blob(name) })
}

pub(crate) fn rename(registry: &Registry, name: &str, to: &str) -> Done {
    ask(registry, Request::Rename { name: blob(name), to: blob(to) })
}

pub(crate) fn resize(registry: &Registry, name: &str, size: u64) -> Done {
    ask(registry, Request::Resize { name: blob(name), size, shrink: true })
}

pub(crate) fn clone(registry: &Registry, source: &str, name: &str) -> Done {
    ask(registry, LifeRequest::Clone { source: source.parse().unwrap(), name: blob(name) })
}

pub(crate) fn snapshot(registry: &Registry, name: &str, snapshot: &str) -> Done {
    ask(registry, Request::SnapshotCreate { name: blob(name), snapshot: snapshot.parse().unwrap() })
}

pub(crate) fn drop_snapshot(registry: &Registry, name: &str, snapshot: &str) -> Done {
    ask(registry, Request::SnapshotDelete { name: blob(name), snapshot: snapshot.parse().unwrap() })
}

pub(crate) fn roll_back(registry: &Registry, name: &str, snapshot: &str, drops: &[&str]) -> Done {
    let drops = drops.iter().map(ToString::to_string).collect();
    ask(registry, LifeRequest::Rollback { name: blob(name), snapshot: snapshot.parse().unwrap(), drops })
}

pub(crate) fn switch(registry: &Registry, set: Switch) -> Done {
    ask(registry, Request::Encryption { set: Some(set) })
}

pub(crate) fn sweep(registry: &Registry, name: &str, include_base: bool) -> Done {
    let (mut page, sweep) = (Some(0), Sweep { include_base, rate: None });
    while let Some(next) = page {
        page = registry.reencrypt(&blob(name).into(), next, sweep)?.next;
    }
    Ok(())
}

/// Goes over to KEK 2, by a change of this depth.
fn rotate_kek(registry: &Registry, depth: fn(Uuid) -> Depth) -> Done {
    let id = system::uuid()?;
    let kek = registry.derive(&rig::kek(2), Some(id))?;
    Ok(registry.rotate_kek(&kek, rig::source(2), depth(id)).map(drop)?)
}

/// As `key rotate-kek --compromised` does, in one go or going on.
fn replace_all(registry: &Registry) -> Done {
    rotate_kek(registry, |id| Depth::Compromised { id })?;
    for name in ["a", "z"] {
        sweep(registry, name, false)?;
    }
    ask(registry, KeyRequest::EndReencryption)
}

/// What was stored under data keys that the former account key unwraps is gone, or will be with the snapshots that see
/// it; and what is written now comes under a key that it did not unwrap.
fn a_write_makes_a_layer(disk: &SimDisk) -> Result<(), String> {
    let said = |error: sealdisk::Error| error.to_string();
    let registry = rig::open(disk).map_err(said)?;
    for name in ["a", "z"] {
        let newest = |registry: &Registry| {
            let layers = registry.disk(&blob(name)).map_err(said)?.admin().layers();
            Ok::<u32, String>(layers.iter().map(|layer| layer.id).max().unwrap_or_default())
        };
        let before = newest(&registry)?;
        write(&registry, name, 0..1, 8).map_err(|failure| failure.message)?;
        if newest(&registry)? == before {
            return Err(format!("{name} is written to under the data key of layer {before}, which was there before"));
        }
    }
    Ok(())
}

/// Nothing is left of the first layers, neither pages nor keys.
fn all_is_under_new_keys(disk: &SimDisk) -> Result<(), String> {
    let file = |name: &str| name.rsplit('/').next().and_then(|name| name.split('.').next()?.parse::<u32>().ok());
    let stored = |file: &&RawFile| file.path.contains("/layers/") && !file.sectors.is_empty();
    let layers: Vec<_> = disk.raw_files().iter().filter(stored).filter_map(|found| file(&found.path)).collect();
    if layers.is_empty() || layers.contains(&1) {
        return Err(format!("layers {layers:?} hold something"));
    }
    all_is_encrypted(disk)
}

fn restore(registry: &Registry) -> Done {
    Ok(registry.restore_keys(&registry.derive(&rig::kek(1), None)?).map(drop)?)
}

/// One of two images with pages of 4, 5, 6 and 7, in real files: bases lie outside of the account.
fn image(name: &str) -> SealdiskResult<PassedImage> {
    static MADE: Once = Once::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("account_crash");
    MADE.call_once(|| {
        let content: Vec<u8> = (4..8).flat_map(|byte| [byte; PAGE]).collect();
        std::fs::create_dir_all(&folder).expect("a folder");
        for name in ["base", "other"] {
            std::fs::write(folder.join(name), &content).expect("an image");
        }
    });
    let (image, record) = base::open(&folder.join(name), &OpenOptions::default())?;
    Ok(PassedImage { image, record, passed_fds: Vec::new() })
}

fn over_image(registry: &Registry) -> Done {
    Ok(registry.create(&blob("b"), Some(6 * PAGE as u64), Some(image("base")?)).map(drop)?)
}

/// The first pages of a copy.
fn copy(registry: &Registry, size: u64, pages: Range<u64>) -> Done {
    let begun = registry.begin_copy(&blob("b"), size, SOURCE)?;
    for page in pages {
        begun.disk.write(page * PAGE as u64, &[page as u8 + 1; PAGE], Durability::Volatile)?;
    }
    Ok(())
}

fn mark(registry: &Registry, pages: u64, size: Option<u64>) -> Done {
    let done = pages * PAGE as u64;
    ask(registry, LifeRequest::Copied { name: blob("b"), done, size })
}

fn finish(registry: &Registry, size: Option<u64>) -> Done {
    ask(registry, LifeRequest::FinishCopy { name: blob("b"), size })
}

/// Every case begins with this: `a` has pages of both kinds and a snapshot `s`; `z` is a bystander.
pub(crate) fn prepare(registry: &Registry) -> Done {
    create(registry, "a", SIZE)?;
    write(registry, "a", 0..4, 1)?;
    snapshot(registry, "a", "s")?;
    switch(registry, Switch::Off)?;
    write(registry, "a", 2..6, 2)?;
    switch(registry, Switch::On)?;
    write(registry, "a", 5..7, 3)?;
    create(registry, "z", 4 * PAGE as u64)?;
    write(registry, "z", 0..4, 9)
}

fn nothing(_: &Registry) -> Done {
    Ok(())
}

fn disks() -> Vec<Case> {
    vec![
        case("disks", "create b", nothing, |r| create(r, "b", SIZE), |r| write(r, "b", 0..1, 7)),
        case("disks", "create b over an image", nothing, over_image, |r| write(r, "b", 0..1, 7)),
        case("disks", "rename a to b", nothing, |r| rename(r, "a", "b"), |r| create(r, "a", SIZE)),
        case("disks", "delete a", nothing, |r| delete(r, "a"), |r| create(r, "a", SIZE)),
        case(
            "disks",
            "rebase b",
            over_image,
            |r| Ok(r.rebase(&blob("b"), image("other")?, false)?),
            |r| write(r, "b", 0..1, 7),
        ),
    ]
}

fn snapshots() -> Vec<Case> {
    let two_more: Verb = |r| {
        snapshot(r, "a", "t")?;
        write(r, "a", 0..2, 4)?;
        snapshot(r, "a", "u")?;
        write(r, "a", 1..3, 5)
    };
    vec![
        case("snapshots", "snapshot create a t", nothing, |r| snapshot(r, "a", "t"), |r| write(r, "a", 0..9, 7)),
        case("snapshots", "snapshot delete a s", nothing, |r| drop_snapshot(r, "a", "s"), |r| snapshot(r, "a", "s")),
        case("snapshots", "snapshot delete a t", two_more, |r| drop_snapshot(r, "a", "t"), |r| snapshot(r, "a", "t")),
        case("snapshots", "rollback a s", nothing, |r| roll_back(r, "a", "s", &[]), |r| write(r, "a", 3..8, 7)),
        case(
            "snapshots",
            "rollback a s over t and u",
            two_more,
            |r| roll_back(r, "a", "s", &["t", "u"]),
            |r| snapshot(r, "a", "t"),
        ),
        case("snapshots", "resize a up", nothing, |r| resize(r, "a", 2 * SIZE), |r| write(r, "a", 20..21, 7)),
        case("snapshots", "resize a down", nothing, |r| resize(r, "a", SIZE / 4), |r| resize(r, "a", SIZE)),
    ]
}

fn clones() -> Vec<Case> {
    let of_snapshot: Verb = |r| {
        clone(r, "a@s", "b")?;
        write(r, "b", 1..2, 6)
    };
    let of_disk: Verb = |r| {
        clone(r, "a", "b")?;
        write(r, "b", 1..2, 6)
    };
    let orphaned: Verb = |r| {
        clone(r, "a", "b")?;
        write(r, "b", 1..2, 6)?;
        delete(r, "a")
    };
    let generations: Verb = |r| {
        clone(r, "a", "b")?;
        clone(r, "b", "c")?;
        write(r, "c", 1..2, 6)?;
        delete(r, "a")?;
        delete(r, "b")
    };
    // `a` has plaintext that was written after `s`, and more that was written after `t`.
    let two_points: Verb = |r| {
        clone(r, "a@s", "b")?;
        snapshot(r, "a", "t")?;
        snapshot(r, "a", "u")?;
        switch(r, Switch::Off)?;
        write(r, "a", 8..10, 5)?;
        switch(r, Switch::On)?;
        clone(r, "a@t", "c")
    };
    let deleted: Verb = |r| {
        clone(r, "a@s", "b")?;
        clone(r, "a", "c")?;
        delete(r, "a")
    };
    let plain_deleted: Verb = |r| {
        clone(r, "a", "b")?;
        write(r, "b", 1..2, 6)?;
        delete(r, "a")
    };
    let detach: Verb = |r| sweep(r, "b", true);
    let both: Verb = |r| {
        write(r, "a", 0..16, 7)?;
        write(r, "b", 3..5, 8)
    };
    vec![
        case("clones", "clone a@s b", nothing, |r| clone(r, "a@s", "b"), both),
        case("clones", "clone a b", nothing, |r| clone(r, "a", "b"), both),
        case("clones", "delete b, a clone of a@s", of_snapshot, |r| delete(r, "b"), |r| drop_snapshot(r, "a", "s")),
        case("clones", "delete b, a clone of a", of_disk, |r| delete(r, "b"), |r| clone(r, "a", "b")),
        case("clones", "delete a, which b is a clone of", of_disk, |r| delete(r, "a"), |r| create(r, "a", SIZE)),
        case("clones", "rename a, which b is a clone of", of_disk, |r| rename(r, "a", "c"), |r| create(r, "a", SIZE)),
        case(
            "clones",
            "delete b, the last to read the deleted a",
            orphaned,
            |r| delete(r, "b"),
            |r| create(r, "a", SIZE),
        ),
        Case {
            durable: only_encrypted,
            ..case(
                "clones",
                "delete a, of which b is a clone as it was before",
                |r| clone(r, "a@s", "b"),
                |r| delete(r, "a"),
                |r| write(r, "b", 0..9, 7),
            )
        },
        Case {
            durable: |disk| plaintext(disk, &[2]),
            ..case(
                "clones",
                "delete a, of which b and c are clones at two points",
                two_points,
                |r| delete(r, "a"),
                |r| write(r, "b", 0..9, 7),
            )
        },
        Case {
            durable: only_encrypted,
            ..case(
                "clones",
                "delete c, the later of two clones of the deleted a",
                deleted,
                |r| delete(r, "c"),
                |r| write(r, "b", 0..9, 7),
            )
        },
        Case {
            durable: only_encrypted,
            ..case("clones", "reencrypt b with what it reads of the deleted a", plain_deleted, detach, |r| {
                write(r, "b", 0..9, 7)
            })
        },
        case("clones", "reencrypt b with what it reads of a", of_disk, detach, |r| clone(r, "a", "c")),
        case("clones", "delete c, the last of three", generations, |r| delete(r, "c"), |r| create(r, "b", SIZE)),
    ]
}

fn copies() -> Vec<Case> {
    let begun: Verb = |r| {
        copy(r, SIZE, 0..4)?;
        mark(r, 4, None)
    };
    vec![
        case("copies", "a copy begins", nothing, |r| copy(r, SIZE, 0..0), |r| delete(r, "b")),
        Case {
            // Between the two notes there are the first pages.
            between: |_, _, seen| seen.is_fully_readable(),
            ..case(
                "copies",
                "a copy goes on",
                begun,
                |r| {
                    copy(r, SIZE, 4..8)?;
                    mark(r, 8, None)
                },
                |r| finish(r, None),
            )
        },
        Case {
            between: |_, _, seen| seen.is_fully_readable(),
            ..case("copies", "a copy needs a larger disk", begun, |r| mark(r, 4, Some(2 * SIZE)), |r| finish(r, None))
        },
        case(
            "copies",
            "a copy ends",
            begun,
            |r| {
                copy(r, SIZE, 4..16)?;
                finish(r, None)
            },
            |r| write(r, "b", 0..1, 7),
        ),
        Case {
            // Smaller, and not yet ended.
            between: |_, _, seen| seen.is_fully_readable(),
            ..case("copies", "a copy ends smaller", begun, |r| finish(r, Some(SIZE / 4)), |r| resize(r, "b", SIZE))
        },
        case("copies", "delete a copy that has begun", begun, |r| delete(r, "b"), |r| create(r, "b", SIZE)),
    ]
}

/// Each wrapped data key that lies there is of a layer that is there: those of removed layers were overwritten.
fn no_key_is_left(disk: &SimDisk) -> Result<(), String> {
    /// Sectors before the first slot of a file of keys.
    const HEADER: usize = 8;
    let mut stored = BTreeSet::new();
    for file in disk.raw_files() {
        let [_, uuid, "keys"] = file.path.split('/').collect::<Vec<_>>()[..] else { continue };
        let layer = |sector: &[u8; 512]| u32::from_le_bytes([sector[4], sector[5], sector[6], sector[7]]);
        let slots = file.sectors.iter().filter(|(index, _)| *index >= HEADER);
        stored.extend(slots.map(|(_, sector)| (uuid.to_owned(), layer(sector))));
    }
    let registry = rig::open(disk).map_err(|error| error.to_string())?;
    let mut known = BTreeSet::new();
    for (name, uuid) in registry.names() {
        let layers = registry.disk(&name).map_err(|error| error.to_string())?.admin().layers().into_iter();
        let sealed = layers.filter(|layer| layer.kind == Kind::Xts);
        known.extend(sealed.map(|layer| (uuid.to_string(), layer.id)));
    }
    if stored == known { Ok(()) } else { Err(format!("keys of {stored:?} lie there, layers are {known:?}")) }
}

/// No page in plaintext lies there, and no key of a layer that is gone.
fn all_is_encrypted(disk: &SimDisk) -> Result<(), String> {
    let plain = |file: &RawFile| file.path.ends_with(".plain") && !file.sectors.is_empty();
    match disk.raw_files().into_iter().find(plain) {
        Some(file) => Err(format!("it was answered that all is encrypted, and there is {}", file.path)),
        None => no_key_is_left(disk),
    }
}

/// The layers in plaintext hold these fillings and nothing else, and will after a power cut.
fn plaintext(disk: &SimDisk, expected: &[u8]) -> Result<(), String> {
    for disk in [disk.clone(), disk.power_cut(&mut SimRng::new(1), Tear::Sector)] {
        let files = disk.raw_files().into_iter().filter(|file| file.path.ends_with(".plain"));
        let found: BTreeSet<u8> = files.flat_map(|file| file.sectors).map(|(_, sector)| sector[0]).collect();
        if found != expected.iter().copied().collect() {
            return Err(format!("in plaintext there is {found:?} and not {expected:?}"));
        }
    }
    Ok(())
}

fn only_encrypted(disk: &SimDisk) -> Result<(), String> {
    plaintext(disk, &[])
}

/// No file that has lost its name had wrapped data keys in it.
pub(crate) fn no_key_is_freed(disk: &SimDisk) -> Result<(), String> {
    let is_key = |file: &RawFile| file.sectors.iter().any(|(_, sector)| sector.starts_with(b"SLOT"));
    match disk.freed_files().iter().filter(|file| is_key(file)).count() {
        0 => Ok(()),
        left => Err(format!("wrapped data keys are left in {left} files without a name")),
    }
}

/// The wrapped keys of one of the two disks are gone.
fn one_has_no_keys(disk: &SimDisk) -> Result<(), String> {
    match disk.raw_files().iter().filter(|file| file.path.ends_with("/keys")).count() {
        1 => Ok(()),
        left => Err(format!("{left} files of wrapped keys lie there")),
    }
}

/// No wrapped key is left anywhere.
fn none_has_keys(disk: &SimDisk) -> Result<(), String> {
    let text = |file: &RawFile| file.sectors.iter().flat_map(|(_, sector)| sector.to_vec()).collect::<Vec<u8>>();
    for file in disk.raw_files() {
        let opens = String::from_utf8_lossy(&text(&file)).contains("[[account_key]]");
        if file.path.ends_with("/keys") || (file.path.starts_with("account.toml") && opens) {
            return Err(format!("{} is left", file.path));
        }
    }
    Ok(())
}

fn keys() -> Vec<Case> {
    let off: Verb = |r| switch(r, Switch::Off);
    let revoke: Verb = |r| ask(r, KeyRequest::Revoke);
    let all_before_or_lost: Between = |before, _, seen| {
        before.disks.iter().all(|(name, disk)| seen.disks.get(name).is_some_and(|seen| seen == disk || seen.is_err()))
    };
    let readable_or_not: Between = |before, after, seen| {
        let others = |of: &Seen| {
            let mut of = of.clone();
            of.disks.remove("a");
            of
        };
        others(seen) == others(before) && others(before) == others(after)
    };
    vec![
        case("keys", "encryption off", nothing, off, |r| write(r, "a", 9..10, 7)),
        case("keys", "encryption on", off, |r| switch(r, Switch::On), |r| write(r, "a", 9..10, 7)),
        Case {
            after: no_key_is_left,
            ..case(
                "keys",
                "scrub",
                |r| {
                    write(r, "a", 0..9, 7)?;
                    roll_back(r, "a", "s", &[])
                },
                |r| ask(r, Request::Scrub { name: blob("a").into(), wait: true, unaccounted: true }),
                nothing,
            )
        },
        case(
            "keys",
            "key rotate-data --all",
            nothing,
            |r| ask(r, KeyRequest::RotateData { name: None }),
            |r| write(r, "a", 0..9, 7),
        ),
        Case {
            after: all_is_encrypted,
            ..case(
                "keys",
                "reencrypt a",
                |r| drop_snapshot(r, "a", "s"),
                |r| sweep(r, "a", false),
                |r| sweep(r, "a", true),
            )
        },
        case("keys", "key rotate-kek", nothing, |r| rotate_kek(r, |_| Depth::Kek), |r| write(r, "a", 0..9, 7)),
        Case {
            after: a_write_makes_a_layer,
            ..case(
                "keys",
                "key rotate-kek --account-key",
                nothing,
                |r| rotate_kek(r, |id| Depth::AccountKey { id }),
                |r| write(r, "a", 0..9, 7),
            )
        },
        Case {
            // Under the new KEK, and not yet re-encrypted.
            between: |before, after, seen| seen.kek == after.kek && seen.disks == before.disks,
            after: all_is_under_new_keys,
            ..case(
                "keys",
                "key rotate-kek --compromised",
                |r| drop_snapshot(r, "a", "s"),
                replace_all,
                |r| write(r, "a", 0..9, 7),
            )
        },
        case("keys", "key revoke", nothing, revoke, restore),
        case(
            "keys",
            "key revoke while disks are open",
            nothing,
            |r| {
                for name in ["a", "z"] {
                    // Asked for again they may be revoked already.
                    let _ = r.disk(&blob(name));
                }
                ask(r, KeyRequest::Revoke)
            },
            restore,
        ),
        case("keys", "key restore", revoke, restore, |r| write(r, "a", 0..9, 7)),
        Case {
            between: |_, _, seen| seen.is_revoked(),
            ..case(
                "keys",
                "key revoke and key restore while disks are open",
                nothing,
                |r| {
                    for name in ["a", "z"] {
                        // Asked for again they may be revoked already.
                        let _ = r.disk(&blob(name));
                    }
                    ask(r, KeyRequest::Revoke)?;
                    restore(r)
                },
                nothing,
            )
        },
        Case {
            between: readable_or_not,
            loses: &["a"],
            after: one_has_no_keys,
            ..case(
                "keys",
                "key erase a",
                nothing,
                |r| ask(r, KeyRequest::Erase { name: Some(blob("a").into()) }),
                |r| delete(r, "a"),
            )
        },
        Case {
            between: all_before_or_lost,
            loses: &["a", "z"],
            after: none_has_keys,
            ..case(
                "keys",
                "key erase --account",
                nothing,
                |r| ask(r, KeyRequest::Erase { name: None }),
                |r| delete(r, "a"),
            )
        },
    ]
}

pub(crate) fn all() -> Vec<Case> {
    [disks(), snapshots(), clones(), copies(), keys()].concat()
}
