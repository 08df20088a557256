//! What must hold of a disk whose files may be anything: nothing panics; what is refused is refused as damage; what
//! opens is the same after it was changed, closed and opened again; and where MACs were left alone, it shows what the
//! disk really held, at its end or at an earlier durable moment, never anything else.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Durability};
use sealdisk::{Error, ErrorKind};
use uuid::Uuid;

use super::golden::{CLONE, ENDED, MIXED, PLAIN, SEALED, golden};
use super::look::{Seen, View, look};
use super::memory_dir::MemoryDir;
use super::seal;

pub(crate) const DISKS: [Uuid; 5] = [PLAIN, SEALED, MIXED, CLONE, ENDED];
pub(crate) const BLOCK: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Settings,
    Keys,
    Checkpoint,
    Log,
    Recent,
    /// Content: no MAC covers it.
    Layer,
    /// Space held ready.
    Space,
}

impl Format {
    pub(crate) fn of(file: &str) -> Self {
        match file {
            "disk.toml" => Self::Settings,
            "keys" => Self::Keys,
            "log.next" | "reserve" | "disk.toml.new" => Self::Space,
            _ if file.starts_with("layers/") => Self::Layer,
            _ if file.starts_with("checkpoint.") => Self::Checkpoint,
            _ if file.starts_with("recent.") => Self::Recent,
            _ => Self::Log,
        }
    }

    pub(crate) fn seal(self, file: &mut Vec<u8>, keys: &DiskKeys) {
        match self {
            Self::Settings => seal::settings(file, keys),
            Self::Keys => seal::keys(file),
            Self::Checkpoint => seal::checkpoint(file, keys),
            Self::Log => seal::log(file, keys),
            Self::Recent => seal::recent(file, keys),
            Self::Layer | Self::Space => {}
        }
    }
}

/// `changed`: the format of the file that was changed, where its MAC was left alone.
pub(crate) fn examine(disk: Uuid, dir: &MemoryDir, changed: Option<Format>) {
    if let Ok(keyless) = golden().open_with(&dir.copy(), None, Access::ReadOnly) {
        look(&keyless).map_err(check_refusal).ok();
    }
    match golden().open(disk, &dir.copy(), Access::ReadOnly).and_then(|disk| look(&disk)) {
        Err(error) => check_refusal(error),
        Ok(seen) => {
            check_content(&seen);
            match changed {
                Some(Format::Layer) | None => {}
                Some(Format::Recent) => check_pages(disk, &seen),
                Some(Format::Log) if !recent_files(dir).is_empty() => check_pages(disk, &seen),
                Some(Format::Log) => assert!(states(disk).durable.contains(&seen), "not a state that the disk was in"),
                Some(_) => assert!(seen == states(disk).all, "not what the disk held"),
            }
        }
    }
    change_and_open_again(disk, dir);
}

/// What is served is served the same after it was changed, closed and opened again.
fn change_and_open_again(disk: Uuid, dir: &MemoryDir) {
    let opened = match golden().open(disk, dir, Access::ReadWrite) {
        Err(error) => return check_refusal(error),
        Ok(opened) => opened,
    };
    let change = || {
        opened.write(0, &[0x5A; 512], Durability::Volatile)?;
        opened.zero(1024, 512, Durability::Fua)?;
        opened.admin().scrub()?;
        let seen = look(&opened)?;
        opened.admin().verify()?;
        opened.close()?;
        Ok(seen)
    };
    let before = match change() {
        Err(error) => return check_refusal(error),
        Ok(before) => before,
    };
    drop(opened);
    let after = golden().open(disk, dir, Access::ReadOnly).and_then(|disk| look(&disk)).expect("it was closed well");
    assert!(after == before, "something else after closing and opening");
}

/// What hostile files may be refused for. `NoSpace` and `Io`: sizes that no file system has.
fn check_refusal(error: Error) {
    let allowed = [
        ErrorKind::Corrupt,
        ErrorKind::Unsupported,
        ErrorKind::BaseChanged,
        ErrorKind::LimitExceeded,
        ErrorKind::NoSpace,
        ErrorKind::Io,
        ErrorKind::Poisoned,
        ErrorKind::OutOfRange,
    ];
    assert!(allowed.contains(&error.kind()), "{error:?}");
}

fn check_content(seen: &Seen) {
    let views = std::iter::once(&seen.live).chain(seen.snapshots.iter().map(|(_, view)| view));
    for failed in views.flat_map(|view| &view.content).filter_map(|content| content.as_ref().err()) {
        assert!(matches!(failed, ErrorKind::Io | ErrorKind::Corrupt | ErrorKind::NotFound), "{failed:?}");
    }
}

/// What a golden disk may be found to hold.
struct States {
    /// All that was answered.
    all: Seen,
    /// After each batch of the last log, with nothing but what is durable.
    durable: Vec<Seen>,
}

fn states(disk: Uuid) -> &'static States {
    static STATES: [OnceLock<States>; DISKS.len()] = [const { OnceLock::new() }; DISKS.len()];
    let index = DISKS.iter().position(|known| *known == disk).expect("a golden disk");
    STATES[index].get_or_init(|| {
        let see = |dir: &MemoryDir| {
            let opened = golden().open(disk, dir, Access::ReadOnly).expect("a golden disk");
            look(&opened).expect("a golden disk")
        };
        let dir = golden().disk(disk);
        let all = see(&dir);
        recent_files(&dir).iter().for_each(|name| dir.take_away(name));
        let mut durable = vec![see(&dir)];
        let files = dir.files();
        let last = files.iter().rfind(|(name, _)| Format::of(name) == Format::Log);
        for end in last.iter().flat_map(|(_, log)| (0..log.len()).step_by(BLOCK)) {
            let (name, log) = last.expect("there is one");
            let mut cut = log.clone();
            cut[end..].fill(0);
            dir.put(name, cut);
            durable.push(see(&dir));
        }
        States { all, durable }
    })
}

/// Every page is as it was at some time.
fn check_pages(disk: Uuid, seen: &Seen) {
    let states = states(disk);
    let known: Vec<&Seen> = std::iter::once(&states.all).chain(&states.durable).collect();
    assert!(known.iter().any(|known| known.snapshots == seen.snapshots), "other snapshots");
    assert!(known.iter().any(|known| known.live.size == seen.live.size), "another size");
    for (number, page) in seen.live.bytes().chunks(512).enumerate() {
        let once: BTreeSet<&[u8]> = known.iter().filter_map(|known| page_of(&known.live, number)).collect();
        assert!(once.contains(page), "page {number} was never that");
    }
}

fn page_of(view: &View, number: usize) -> Option<&[u8]> {
    view.bytes().chunks(512).nth(number)
}

pub(crate) fn recent_files(dir: &MemoryDir) -> Vec<String> {
    dir.files().into_keys().filter(|name| Format::of(name) == Format::Recent).collect()
}
