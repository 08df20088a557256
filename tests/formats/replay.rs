//! What the fuzz targets of on-disk formats do, over their committed seeds and over a few random inputs.

use std::path::Path;

use proptest::prelude::*;
use sealdisk::disk::Access;
use uuid::Uuid;

use crate::golden::{ENDED, golden};
use crate::plan::DISKS;
use crate::stored::{account_settings, audit_log, disk_files, disk_records};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 10] = [
    ("account_settings", account_settings::run),
    ("audit_log", audit_log::run),
    ("disk_batches", disk_records::batches),
    ("disk_checkpoint", disk_files::checkpoint),
    ("disk_folder", disk_files::folder),
    ("disk_keys", disk_files::keys),
    ("disk_log", disk_files::log),
    ("disk_page_sets", disk_records::page_sets),
    ("disk_recent", disk_files::recent),
    ("disk_settings", disk_files::settings),
];

/// Inputs from which the fuzzer finds the rest: `SEALDISK_WRITE_SEEDS=1` makes them files of `fuzz/seeds`.
fn generated() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const SEALED: u8 = 1;
    const WHOLE: u8 = 2;
    let file = |uuid: Uuid, name: &str| golden().disk(uuid).files()[name].clone();
    let whole = |disk: u8, flags: u8, bytes: Vec<u8>| [&[disk, WHOLE | flags], &bytes[..]].concat();
    // Offset u16, what (5 writes), length, bytes.
    let edited = |disk: u8, flags: u8, edits: &[&[u8]]| [&[disk, flags], &edits.concat()[..]].concat();
    // A set of the pages 0 and 2, in the portable Roaring form without runs; one whole part; one with runs.
    let sparse = [1, 0, 0, 0, 2, 20, 0, 0, 0, 0x3A, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 0, 0, 2, 0];
    let full = [1, 0, 0, 0, 1];
    let runs = [1, 0, 0, 0, 2, 15, 0, 0, 0, 0x3B, 0x30, 0, 0, 1, 0, 0, 3, 0, 1, 0, 4, 0, 3, 0];
    let set = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes(), bytes].concat();
    let mut seeds = vec![
        ("account_settings", "golden", vec![0]),
        ("account_settings", "whole", [&[WHOLE], &golden().account.files()["account.toml"][..]].concat()),
        ("account_settings", "resealed", [&[WHOLE | SEALED], &golden().account.files()["account.toml"][..]].concat()),
        ("audit_log", "golden", vec![0]),
        ("audit_log", "cut", [&[0][..], &[100, 0, 0x80, 0]].concat()),
        ("audit_log", "changed", [&[0][..], &[10, 0, 5, 1, b'9']].concat()),
        ("audit_log", "a-line", [&[1][..], b"{\"n\":1}\n"].concat()),
        ("disk_batches", "extents", vec![0, 3, 2, 2, 1, 1, 30, 1, 6, 2, 15, 2, 3, 1, 5, 1]),
        ("disk_batches", "lines", vec![7, 9, 6, 40, 41, 0, 1, b'x', 15, 9, 9, 12, 6, 10, 33, 0, 15, 13, 3]),
        ("disk_batches", "huge", vec![10, 254, 37, 0, 15, 0, 254, 36, 254, 36, 6, 1, 7, 9, 6, 254, 50, 41, 0, 0, 15]),
        ("disk_page_sets", "of-one-layer", [set(&sparse), set(&runs)].concat()),
        ("disk_page_sets", "held-and-zero", [set(&sparse), set(&sparse)].concat()),
        ("disk_page_sets", "whole-part", [set(&full), vec![0; 2], set(&full)].concat()),
        ("disk_page_sets", "of-two-layers", [set(&sparse), vec![0; 4], set(&runs), set(&sparse), vec![0; 2]].concat()),
        ("disk_recent", "golden", vec![4, 0]),
        ("disk_recent", "sealed-pages", edited(4, SEALED, &[&[0, 16, 5, 2, 9, 0]])),
        ("disk_recent", "torn-record", edited(4, 0, &[&[64, 16, 5, 1, 0xFF]])),
        ("disk_recent", "checked", whole(4, 0, looked_at())),
        ("disk_recent", "sealed-checks", whole(4, SEALED, looked_at())),
        ("disk_log", "golden", vec![4, 0x10]),
        ("disk_log", "cut", edited(4, 0x10, &[&[0, 32, 0, 0]])),
        ("disk_log", "moved-extent", edited(4, 4, &[&[80, 16, 5, 1, 30]])),
        ("disk_log", "hole", edited(4, 0, &[&[0, 32, 1, 128]])),
        ("disk_log", "sealed-extent", edited(4, SEALED, &[&[80, 16, 5, 1, 30]])),
        ("disk_folder", "layer", edited(2, 0x40, &[&[0, 0, 5, 2, 1, 2]])),
        ("disk_folder", "layer-cut", edited(2, 0x40, &[&[0, 2, 0, 0]])),
        ("disk_folder", "log", vec![4, 0xA0]),
        ("disk_keys", "golden", vec![1, 0]),
        ("disk_keys", "one-copy", edited(2, 0, &[&[0, 16, 1, 16]])),
        ("disk_keys", "copies-of-two-layers", edited(2, SEALED, &[&[4, 20, 5, 1, 0]])),
        ("disk_keys", "sealed-layer", edited(2, SEALED, &[&[4, 16, 5, 1, 3]])),
    ];
    for (number, (uuid, disk)) in (0u8..).zip(DISKS) {
        let checkpoint = file(uuid, "checkpoint.2");
        let name = &disk["vhds/".len()..];
        seeds.push(("disk_settings", name, whole(number, SEALED, file(uuid, "disk.toml"))));
        seeds.push(("disk_checkpoint", name, whole(number, SEALED, checkpoint)));
    }
    seeds.push(("disk_settings", "unsealed", whole(2, 0, file(DISKS[2].0, "disk.toml"))));
    seeds.push(("disk_checkpoint", "under-another-key", edited(2, 4, &[&[140, 0, 5, 1, 1]])));
    seeds.push(("disk_checkpoint", "unsealed", whole(2, 0, file(DISKS[2].0, "checkpoint.2"))));
    seeds
}

/// What was noted on the golden disk that nobody closed, with what an opening that was killed then added to it.
fn looked_at() -> Vec<u8> {
    let dir = golden().disk(ENDED);
    golden().open(ENDED, &dir, Access::ReadOnly).expect("the golden disk");
    dir.files()["recent.1"].clone()
}

#[test]
fn seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    if std::env::var_os("SEALDISK_WRITE_SEEDS").is_some() {
        for (target, name, input) in generated() {
            std::fs::create_dir_all(root.join(target)).unwrap();
            std::fs::write(root.join(target).join(name), input).unwrap();
        }
    }
    for (name, target) in TARGETS {
        let folder = root.join(name);
        let mut count = 0;
        for seed in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            target(&std::fs::read(seed.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}

/// A little of what the fuzzer does, in every run. `SEALDISK_FUZZ_CASES` makes it more.
fn random(target: Target, input: impl Strategy<Value = Vec<u8>>) {
    let cases = std::env::var("SEALDISK_FUZZ_CASES").map_or(50, |cases| cases.parse().unwrap());
    let settings = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(settings, |(data in input)| target(&data));
}

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..len)
}

/// Offset, what, length and bytes of an edit, mostly where something is described.
fn an_edit() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![3 => 0u16..160, 2 => 4096u16..4400, 1 => 8192u16..8400, 1 => any::<u16>()];
    let byte = prop_oneof![Just(0u8), Just(1), Just(0x7F), Just(0xFF), any::<u8>()];
    (offset, any::<bool>(), 0u8..8, prop::collection::vec(byte, 0..10)).prop_map(|(offset, from_end, what, bytes)| {
        let [low, high] = offset.to_le_bytes();
        let what = what | if from_end { 0x80 } else { 0 };
        [&[low, high, what, bytes.len() as u8], &bytes[..]].concat()
    })
}

/// Not at all, wholly, or by someone without the key.
fn sealed_how() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0u8), Just(1), Just(4)]
}

/// A golden file with a few edits, sealed or not.
fn an_edited_file() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 0u8..16, sealed_how(), prop::collection::vec(an_edit(), 0..4))
        .prop_map(|(disk, which, sealed, edits)| [&[disk, which << 4 | sealed], &edits.concat()[..]].concat())
}

#[test]
fn random_files_of_a_disk() {
    for target in [disk_files::settings, disk_files::keys, disk_files::checkpoint, disk_files::log, disk_files::recent]
    {
        random(target, an_edited_file());
        random(
            target,
            (any::<u8>(), 0u8..4, bytes(6000)).prop_map(|(disk, flags, b)| [&[disk, flags], &b[..]].concat()),
        );
    }
    random(disk_files::folder, an_edited_file());
}

#[test]
fn random_records() {
    random(disk_records::batches, bytes(300));
    random(disk_records::page_sets, bytes(300));
}

#[test]
fn random_account_settings() {
    let edited = (any::<bool>(), prop::collection::vec(an_edit(), 0..4))
        .prop_map(|(sealed, edits)| [&[u8::from(sealed)], &edits.concat()[..]].concat());
    random(account_settings::run, edited);
    random(account_settings::run, (0u8..4, bytes(600)).prop_map(|(flags, b)| [&[flags], &b[..]].concat()));
}

#[test]
fn random_audit_logs() {
    random(
        audit_log::run,
        prop::collection::vec(an_edit(), 0..3).prop_map(|edits| [&[0], &edits.concat()[..]].concat()),
    );
    random(audit_log::run, bytes(600).prop_map(|b| [&[1], &b[..]].concat()));
}
