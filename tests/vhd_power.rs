//! The power cut, and a call failing, at each step of what writes a VHD, on the simulated disk: what is left is the old
//! disk or the new one, or one command makes it so; and nothing is called done that is not durable.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(sealdisk_sim)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sealdisk::io::sim::{Fault, Faults, SimDisk, SimRng, Tear, direct};
use sealdisk::io::sink::Sink;
use sealdisk::io::{File, Open, replace, transfer};
use sealdisk::vhd::azure::{Cause, diagnose};
use sealdisk::vhd::repair::{apply, repair};
use sealdisk::vhd::resize::move_footer;
use sealdisk::vhd::write::{self, SparseWriter};
use sealdisk::vhd::{FOOTER, Footer, OpenOptions, check, open_sources};
use sealdisk::{Result, vhd};

#[path = "vhd/build.rs"]
#[allow(dead_code, reason = "only part of it is needed here")]
mod build;

use build::{Sparse, fixed, sector};

const SEEDS: u64 = 8;
const IMAGES: u64 = 6;
const FILE: &str = "x.vhd";

/// A change of the file.
type Change<'a> = &'a dyn Fn(&dyn File) -> Result<()>;

/// A disk with the file, durable, or empty without one.
fn with_file(seed: u64, content: &[u8]) -> (SimDisk, Arc<dyn File>) {
    let disk = SimDisk::new(seed);
    let file = disk.root().open(FILE, Open::New).unwrap();
    transfer::write_full(&*file, content, 0).unwrap();
    file.sync_data().and_then(|()| disk.root().sync()).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk) -> Vec<u8> {
    replace::read(&*disk.root(), FILE, 64 << 20).unwrap()
}

/// What power cuts at each call of `change` leave of a file that was `before`, each once, and what they leave after it.
fn cuts(before: &[u8], change: Change<'_>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut during, mut after) = (Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        direct(|| {
            let (disk, file) = with_file(seed, before);
            let images: Arc<Mutex<Vec<SimDisk>>> = Arc::default();
            let rng = Mutex::new(SimRng::new(seed));
            let cut = {
                let images = Arc::clone(&images);
                move |disk: &SimDisk| {
                    for n in 0..IMAGES {
                        let tear = if n % 2 == 0 { Tear::Sector } else { Tear::Block };
                        images.lock().unwrap().push(disk.power_cut(&mut rng.lock().unwrap(), tear));
                    }
                }
            };
            let cut = Arc::new(cut);
            disk.set_observer(Some(cut.clone()));
            change(&*file).unwrap();
            disk.set_observer(None);
            during.extend(images.lock().unwrap().drain(..).map(|image| content(&image)));
            cut(&disk);
            after.extend(images.lock().unwrap().drain(..).map(|image| content(&image)));
        });
    }
    for images in [&mut during, &mut after] {
        images.sort_unstable();
        images.dedup();
    }
    (during, after)
}

/// Has each call of `change` fail once. It must say so, or have made what it was to make, durably.
fn failures(before: &[u8], change: Change<'_>, made: &dyn Fn(&[u8]) -> bool) {
    for fault in [Fault::Eio, Fault::Enospc] {
        let mut fired = 0;
        for at in 1..1000 {
            let more = direct(|| {
                let (disk, file) = with_file(at, before);
                disk.set_faults(Faults { once: Some((disk.calls() + at, fault)), ..Faults::default() });
                let outcome = change(&*file);
                let image = disk.power_cut(&mut SimRng::new(at), Tear::Sector);
                assert!(outcome.is_err() || made(&content(&image)), "{fault:?} at call {at} was passed over");
                !disk.fired().is_empty()
            });
            if !more {
                break;
            }
            fired += 1;
        }
        assert!(fired > 1, "{fault:?}");
    }
}

/// What the file shows as a disk; `None`: it is none.
fn shown(file: &[u8]) -> Option<Vec<u8>> {
    let chain = open_sources(vec![Arc::new(file.to_vec())], false).ok()?;
    let mut shown = vec![0xAA; chain.size() as usize];
    chain.read(0, &mut shown, true).unwrap();
    Some(shown)
}

fn footer_of(file: &[u8]) -> Footer {
    Footer::parse(file.last_chunk::<FOOTER>().unwrap()).unwrap()
}

/// `file` in the file system, its zeros as holes.
fn put(path: &Path, file: &[u8]) {
    let out = fs::File::create(path).unwrap();
    out.set_len(file.len() as u64).unwrap();
    for (n, part) in file.chunks(4096).enumerate().filter(|(_, part)| part.iter().any(|&byte| byte != 0)) {
        out.write_all_at(part, n as u64 * 4096).unwrap();
    }
}

#[test]
fn growing_leaves_the_old_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vhd");
    let (old, new) = (64 << 10, 3 << 20);
    let (before, _) = fixed(old, 1, 9);
    let change = |file: &dyn File| move_footer(file, &footer_of(&before), new as u64);
    let (during, after) = cuts(&before, &change);
    let [whole] = &after[..] else { panic!("what is acknowledged is durable") };
    let is_new = |shown: &[u8]| {
        // The page of the old footer may not have been zeroed yet.
        shown.len() == new
            && shown[..old as usize] == before[..old as usize]
            && shown[old as usize + 512..].iter().all(|&byte| byte == 0)
    };
    assert!(is_new(&shown(whole).unwrap()) && whole[old as usize..][..512] == [0; 512]);
    let (mut olds, mut news, mut neither) = (0, 0, 0);
    for file in &during {
        match shown(file) {
            Some(shown) if shown == before[..old as usize] => olds += 1,
            Some(shown) => {
                assert!(is_new(&shown));
                news += 1;
            }
            // The file has its new length, and the sector at its end did not arrive: the old footer is found.
            None => {
                put(&path, file);
                let problems = diagnose(&path).unwrap();
                assert_eq!(problems[0].cause, Cause::DataAfterFooter, "{problems:?}");
                assert_eq!(problems[0].fix, format!("truncate -s {} {}", before.len(), path.display()));
                assert!(file[..before.len()] == before);
                neither += 1;
            }
        }
    }
    println!("{olds} old, {news} new, {neither} to be cut back");
    assert!(olds > 0 && news > 0 && neither > 0);
    failures(&before, &change, &|file| shown(file).is_some_and(|shown| is_new(&shown)));
}

#[test]
fn shrinking_leaves_the_old_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vhd");
    let (old, new) = (64 << 10, 20 << 10);
    let (before, _) = fixed(old, 1, 9);
    let change = |file: &dyn File| move_footer(file, &footer_of(&before), new as u64);
    let (during, after) = cuts(&before, &change);
    assert!(after.len() == 1 && shown(&after[0]).unwrap() == before[..new]);
    let (mut olds, mut news, mut neither) = (0, 0, 0);
    for file in &during {
        assert!(file[..new] == before[..new]);
        // What was to go may be there or not, in any part.
        match shown(file).map(|shown| shown.len()) {
            Some(len) if len == new => news += 1,
            Some(len) => {
                assert_eq!(len as u64, old);
                olds += 1;
            }
            None => {
                put(&path, file);
                let problems = diagnose(&path).unwrap();
                assert_eq!(problems[0].cause, Cause::DataAfterFooter, "{problems:?}");
                assert_eq!(problems[0].fix, format!("truncate -s {} {}", new + FOOTER, path.display()));
                neither += 1;
            }
        }
    }
    println!("{olds} old, {news} new, {neither} to be cut");
    assert!(olds > 0 && news > 0 && neither > 0);
    failures(&before, &change, &|file| shown(file).is_some_and(|shown| shown == before[..new]));
}

#[test]
fn what_a_cut_repair_leaves_can_be_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vhd");
    let spec = Sparse { size: 64 << 10, block: 16 << 10, ..Sparse::default() };
    let sound = spec.build();
    let end = sound.len() - 512;
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = sound.clone();
        change(&mut file);
        file
    };
    for (name, before) in [
        ("footer cut off", sound[..end].to_vec()),
        ("footer damaged", damaged(&|f| f[end + 50] ^= 0xFF)),
        ("copy damaged", damaged(&|f| f[50] ^= 0xFF)),
        ("last byte missing", damaged(&|f| f.truncate(end + 511))),
        (
            "footer and header checksum",
            damaged(&|f| {
                f[end + 64] ^= 1;
                f[512 + 36] ^= 0xFF;
            }),
        ),
        (
            "copy and header checksum",
            damaged(&|f| {
                f[64] ^= 1;
                f[512 + 36] ^= 0xFF;
            }),
        ),
    ] {
        fs::write(&path, &before).unwrap();
        let repairs = repair(&path, true).unwrap();
        let change = |file: &dyn File| apply(file, &repairs);
        let (during, after) = cuts(&before, &change);
        assert!(after == [sound.clone()], "{name}");
        for file in &during {
            fs::write(&path, file).unwrap();
            repair(&path, false).unwrap_or_else(|error| panic!("{name}: {error}"));
            let report = check::check(&path, &OpenOptions::default(), &mut |_, _| {}).unwrap();
            assert!(report.faults.is_empty(), "{name}: {:?}", report.faults);
            assert!(shown(&fs::read(&path).unwrap()) == shown(&sound), "{name}");
        }
        failures(&before, &change, &|file| file == sound);
    }
}

/// New files get their name when the writer has returned. From then on they are whole, whatever happens.
#[test]
fn what_a_writer_has_finished_is_durable() {
    let parent = write::Parent {
        unique_id: uuid::Uuid::from_u128(5),
        modified: 1 << 30,
        relative: "p.vhd".into(),
        absolute: "/vm/p.vhd".into(),
    };
    let size = 40 << 10;
    let sparse = |file: &dyn File, parent: Option<&write::Parent>| {
        let mut writer =
            SparseWriter::new(Sink::empty(file), size, 8 << 10, uuid::Uuid::from_u128(6), 1 << 30, parent)?;
        let block: Vec<u8> = (0..16).flat_map(|n| sector(3, n)).collect();
        for index in [4, 0, 2] {
            writer.put(index, &block)?;
        }
        writer.finish()
    };
    let fixed = |file: &dyn File| write::fixed(Sink::empty(file), size, uuid::Uuid::from_u128(6), 1 << 30);
    let dynamic = |file: &dyn File| sparse(file, None);
    let child = |file: &dyn File| sparse(file, Some(&parent));
    for change in [&fixed as Change<'_>, &dynamic, &child] {
        let (_, after) = cuts(&[], change);
        let [whole] = &after[..] else { panic!("what is finished is durable") };
        let meta = vhd::Metadata::read(whole, false, 1 << 31).unwrap();
        assert!(meta.footer().size() == size && meta.notices().is_empty());
        failures(&[], change, &|file| file == &whole[..]);
    }
}
