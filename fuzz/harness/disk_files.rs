//! Any bytes as a file of a disk, behind its checksum and MAC too: a golden disk with one file exchanged is opened
//! without keys, with them, and for writing, and looked at whole ([`super::examine`]).
//!
//! Input: one byte that chooses the disk, one of flags, and the rest. Flags: 1 checksums and MACs are made right
//! ([`super::seal`]); 4 checksums alone, by someone without the key; 2 the rest is the file, else it is a list of edits
//! of the golden one ([`super::edit`]); the four high bits choose among several files of one kind.

use std::sync::OnceLock;

use sealdisk::crypto::keyring::DiskKeys;

use super::edit::edit;
use super::examine::{DISKS, Format, examine, recent_files};
use super::golden::{ENDED, golden};

pub(crate) fn settings(data: &[u8]) {
    one_file(data, Some(Format::Settings));
}

pub(crate) fn keys(data: &[u8]) {
    one_file(data, Some(Format::Keys));
}

pub(crate) fn checkpoint(data: &[u8]) {
    one_file(data, Some(Format::Checkpoint));
}

pub(crate) fn log(data: &[u8]) {
    one_file(data, Some(Format::Log));
}

pub(crate) fn recent(data: &[u8]) {
    one_file(data, Some(Format::Recent));
}

/// Any file of the disk's directory.
pub(crate) fn folder(data: &[u8]) {
    one_file(data, None);
}

fn one_file(data: &[u8], format: Option<Format>) {
    let [choice, flags, rest @ ..] = data else { return };
    // Only the disk that did not end well has these.
    let disk = match format {
        Some(Format::Log | Format::Recent) => ENDED,
        _ => DISKS[usize::from(*choice) % DISKS.len()],
    };
    let dir = golden().disk(disk);
    // What is noted may be applied to a log that ends earlier than it did: then there is no one state to compare with.
    if format == Some(Format::Log) {
        recent_files(&dir).iter().for_each(|name| dir.take_away(name));
    }
    let files = dir.files();
    let of_format: Vec<_> = files.iter().filter(|(name, _)| format.is_none_or(|f| f == Format::of(name))).collect();
    let (name, good) = of_format[usize::from(flags >> 4) % of_format.len()];
    let mut bytes = if flags & 2 != 0 { rest.to_vec() } else { edit(good.clone(), rest) };
    let sealed = flags & 1 != 0;
    let format = Format::of(name);
    if sealed {
        format.seal(&mut bytes, &golden().keys(disk));
    } else if flags & 4 != 0 {
        format.seal(&mut bytes, other_keys());
    }
    dir.put(name, bytes);
    examine(disk, &dir, (!sealed).then_some(format));
}

/// Of another disk of another account.
fn other_keys() -> &'static DiskKeys {
    static KEYS: OnceLock<DiskKeys> = OnceLock::new();
    KEYS.get_or_init(|| DiskKeys::ephemeral().expect("random numbers"))
}
