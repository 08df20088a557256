//! Snapshots, rollback, resize and re-encryption, by hand and against a model.

use rand::{RngExt, SeedableRng};

use super::tests::{TestDisk, base_page, read};
use super::*;

const MIB: u64 = 1 << 20;

fn sweep_all(disk: &Disk, include_base: bool) {
    let mut page = 0;
    while let Swept::Next { page: next, .. } = disk.admin().sweep(page, include_base).unwrap() {
        page = next;
    }
}

#[test]
fn a_snapshot_keeps_what_it_saw() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[1; 4096], Durability::Volatile).unwrap();
    disk.admin().create_snapshot("one").unwrap();
    assert_eq!(disk.admin().create_snapshot("one").unwrap_err().kind(), ErrorKind::AlreadyExists);
    disk.write(0, &[2; 512], Durability::Volatile).unwrap();
    let one = disk.at_snapshot("one").unwrap();
    assert!(one.read_only());
    assert_eq!(one.write(0, &[0; 512], Durability::Volatile).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!((read(&one, 0, 1024), read(&disk, 0, 512)), (vec![1; 1024], vec![2; 512]));
    assert_eq!(place.layer_files(), ["00000001.xts", "00000002.xts"]);
    disk.admin().scrub().unwrap();
    assert_eq!(read(&one, 0, 512), vec![1; 512], "what a snapshot sees is not punched");
    disk.admin().delete_snapshot("one").unwrap();
    assert_eq!(one.read(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::NotFound);
    // Else a copy of it would take what died with it for zeros.
    assert_eq!(one.runs(0, 4096, 8).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.admin().usage().unwrap().pending_scrub, Some(512));
    disk.admin().scrub().unwrap();
    assert_eq!(disk.admin().usage().unwrap().pending_scrub, Some(0));
    assert_eq!(read(&disk, 0, 1024), [vec![2; 512], vec![1; 512]].concat());
}

#[test]
fn shrinking_and_growing_never_shows_old_content() {
    let place = TestDisk::new(MIB, MIB, true);
    let disk = place.open(true);
    disk.write(MIB - 4096, &[9; 4096], Durability::Volatile).unwrap();
    disk.admin().resize(MIB / 2).unwrap();
    assert_eq!(disk.read(MIB / 2, &mut [0; 512]).unwrap_err().kind(), ErrorKind::OutOfRange);
    disk.admin().resize(2 * MIB).unwrap();
    drop(disk);
    let disk = place.open(true);
    assert_eq!(disk.size(), 2 * MIB);
    assert_eq!(read(&disk, MIB / 2 - 512, 512), base_page(MIB / 1024 - 1));
    assert!(read(&disk, MIB / 2, MIB as usize * 3 / 2).iter().all(|&byte| byte == 0));
    let runs = disk.runs(0, disk.blob_size(), 10).unwrap();
    assert_eq!(runs.last().map(|run| (run.start, run.pages, run.state)), Some((4096, 1, PageState::Encrypted)));
}

/// As when a resize comes between the check of a range and the change: what was the content of the page is cut off.
#[test]
fn nothing_changes_the_footer_page_of_a_disk_that_shrank() {
    // The footer page ends a block of 4 KiB, which `try_write` wants whole.
    const SIZE: u64 = MIB / 2 + 3584;
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.admin().resize(SIZE).unwrap();
    let footer = read_blob(&disk, SIZE);
    assert!(footer.starts_with(b"conectix"));
    let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange);
    refused(disk.core.write(SIZE, &[1; 512], Durability::Volatile));
    refused(disk.core.try_write(MIB / 2, &[1; 4096]).map(drop));
    refused(disk.core.zero(SIZE / 512..SIZE / 512 + 1, Durability::Volatile));
    assert_eq!(read_blob(&disk, SIZE), footer);
}

#[test]
fn a_closed_disk_is_not_begun_anew() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[1; 512], Durability::Volatile).unwrap();
    disk.close().unwrap();
    let files = place.dir().list().unwrap();
    let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Shutdown);
    refused(disk.admin().create_snapshot("late").map(drop));
    refused(disk.admin().delete_snapshot("late"));
    refused(disk.admin().resize(2 * MIB));
    refused(disk.admin().detach_base().map(drop));
    assert_eq!(place.dir().list().unwrap(), files, "the clean mark stands");
}

#[test]
fn any_range_is_read_ahead_to_its_end() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    for page in (0..MIB / 512).step_by(2) {
        disk.write(page * 512, &[1; 512], Durability::Volatile).unwrap();
    }
    for (offset, len) in [(0, MIB), (0, 0), (MIB, 0), (100, 1), (MIB - 1, 1), (513, MIB - 600)] {
        disk.cache(offset, len).unwrap();
    }
    assert_eq!(disk.cache(1, MIB).unwrap_err().kind(), ErrorKind::OutOfRange);
    disk.admin().create_snapshot("one").unwrap();
    let one = disk.at_snapshot("one").unwrap();
    one.cache(0, MIB).unwrap();
    disk.admin().delete_snapshot("one").unwrap();
    assert_eq!(one.cache(0, MIB).unwrap_err().kind(), ErrorKind::NotFound);
}

/// A page that may be the footer.
fn read_blob(disk: &Disk, offset: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    disk.core.read(None, offset, &mut page).unwrap();
    page
}

#[test]
fn re_encryption_brings_everything_under_the_current_key() {
    let place = TestDisk::new(MIB, MIB / 2, false);
    let disk = place.open(false);
    disk.write(8192, &[3; 4096], Durability::Volatile).unwrap();
    assert_eq!(disk.admin().sweep(0, false).unwrap_err().kind(), ErrorKind::InUse);
    disk.admin().set_encryption(true);
    assert_eq!(disk.admin().sweep_remaining(false), 4096 + 512);
    sweep_all(&disk, false);
    assert_eq!(disk.admin().sweep_remaining(false), 0);
    let usage = disk.admin().usage().unwrap();
    assert_eq!((usage.plain, usage.encrypted), (0, 4096 + 512));
    assert!(!disk.admin().detach_base().unwrap(), "the base is read still");
    sweep_all(&disk, true);
    assert!(disk.admin().detach_base().unwrap());
    disk.admin().rotate_key().unwrap();
    disk.write(0, &[4; 512], Durability::Volatile).unwrap();
    sweep_all(&disk, false);
    disk.admin().scrub().unwrap();
    assert_eq!(place.layer_files().len(), 1, "{:?}", place.layer_files());
    assert_eq!(read(&disk, 8192, 4096), vec![3; 4096]);
    assert_eq!(read(&disk, 512, 512), base_page(1));
    assert_eq!(disk.admin().settings().base, None);
}

/// Random lives against plain vectors, with an unclean end now and then.
#[test]
fn lives_agree_with_a_model() {
    for seed in 0..60u64 {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let pages = 64u64;
        let place = TestDisk::new(pages * 512, 32 * 512, seed % 2 == 0);
        let mut encryption = seed % 2 == 0;
        let mut disk = place.open(encryption);
        let mut model: Vec<u8> = (0..32).flat_map(base_page).chain(vec![0; 32 * 512]).collect();
        let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
        for step in 0..150u32 {
            let size = model.len() as u64;
            let at = rng.random_range(0..size);
            let len = rng.random_range(0..=(size - at).min(6000));
            let span = at as usize..(at + len) as usize;
            match rng.random_range(0..24) {
                0..8 => {
                    let data: Vec<u8> = (0..len).map(|_| rng.random_range(1..=255)).collect();
                    let durability = if rng.random() { Durability::Fua } else { Durability::Volatile };
                    disk.write(at, &data, durability).unwrap();
                    model[span].copy_from_slice(&data);
                }
                8..11 => {
                    disk.zero(at, len, Durability::Volatile).unwrap();
                    model[span].fill(0);
                }
                11 => disk.flush().unwrap(),
                12 => {
                    encryption = !encryption;
                    disk.admin().set_encryption(encryption);
                }
                13 => drop(disk.admin().maintain().unwrap()),
                14 => {
                    let name = format!("s{step}");
                    disk.admin().create_snapshot(&name).unwrap();
                    snapshots.push((name, model.clone()));
                }
                15 if !snapshots.is_empty() => {
                    let (name, _) = snapshots.remove(rng.random_range(0..snapshots.len()));
                    disk.admin().delete_snapshot(&name).unwrap();
                }
                16 if !snapshots.is_empty() && rng.random_range(0..3) == 0 => {
                    let index = rng.random_range(0..snapshots.len());
                    disk.admin().roll_back(&snapshots[index].0).unwrap();
                    model = snapshots[index].1.clone();
                    snapshots.truncate(index + 1);
                }
                17 if rng.random() => {
                    let new = rng.random_range(1..=pages * 2) as usize * 512;
                    disk.admin().resize(new as u64).unwrap();
                    model.resize(new, 0);
                }
                18 => disk.admin().scrub().unwrap(),
                19 => disk.admin().rotate_key().unwrap(),
                20 if encryption => sweep_all(&disk, rng.random()),
                21 => {
                    disk.close().unwrap();
                    drop(disk);
                    disk = place.open(encryption);
                }
                22 => {
                    // The process dies: what the page cache has survives.
                    drop(disk);
                    disk = place.open(encryption);
                }
                _ => assert!(read(&disk, at, len as usize) == model[span]),
            }
            assert_eq!(disk.size(), model.len() as u64, "seed {seed} step {step}");
            assert!(read(&disk, 0, model.len()) == model, "seed {seed} step {step}");
        }
        for (name, content) in &snapshots {
            assert!(read(&disk.at_snapshot(name).unwrap(), 0, content.len()) == *content, "seed {seed} {name}");
        }
        disk.admin().scrub().unwrap();
        let usage = disk.admin().usage().unwrap();
        assert_eq!(usage.base + usage.plain + usage.encrypted + usage.zero, disk.blob_size());
        assert_eq!(usage.pending_scrub, Some(0), "seed {seed}");
    }
}
