//! The keys of a disk: taken back, erased, counted, and left for those of another account key.

use uuid::Uuid;

use super::tests::{TestDisk, read};
use super::*;
use crate::crypto::keyring::{AccountKey, KeyRing};

const MIB: u64 = 1 << 20;
#[test]
fn revoked_keys_stop_everything_until_they_come_back() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[5; 512], Durability::Volatile).unwrap();
    disk.admin().suspend();
    assert_eq!(disk.read(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::Revoked);
    disk.admin().forget_keys();
    assert_eq!(disk.admin().final_flush().unwrap_err().kind(), ErrorKind::Revoked);
    assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::Revoked);
    disk.admin().resume(place.keys.clone()).unwrap();
    assert_eq!(read(&disk, 0, 512), vec![5; 512]);
    disk.flush().unwrap();
    drop(disk);
    assert_eq!(read(&place.open(true), 0, 512), vec![5; 512]);
}

/// While it is being written to; afterwards the new account key alone opens it, and nothing is under the old one.
#[test]
fn going_over_to_another_account_key_leaves_nothing_under_the_old_one() {
    let (old, new) = (AccountKey::generate(Uuid::nil()).unwrap(), AccountKey::generate(Uuid::nil()).unwrap());
    let uuid = Uuid::new_v4();
    let keys = |current: &AccountKey, retiring: Option<&AccountKey>| {
        KeyRing::new(current.clone(), retiring.cloned()).disk_keys(uuid).unwrap()
    };
    let mut place = TestDisk::of(uuid, keys(&old, None), MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[1; 4096], Durability::Fua).unwrap();
    disk.admin().set_encryption(false);
    disk.write(4096, &[2; 512], Durability::Volatile).unwrap();
    disk.admin().set_encryption(true);
    disk.write(8192, &[3; 512], Durability::Volatile).unwrap();
    disk.admin().rekey(keys(&new, Some(&old))).unwrap();
    disk.write(16384, &[4; 512], Durability::Fua).unwrap();
    drop(disk);

    // Killed rather than closed: log and checkpoint are read as well.
    place.keys = keys(&old, None);
    assert_eq!(place.try_open(Access::ReadOnly, true).unwrap_err().kind(), ErrorKind::Corrupt);
    place.keys = keys(&new, None);
    let disk = place.open(true);
    assert_eq!(read(&disk, 0, 4096), vec![1; 4096]);
    for (offset, byte) in [(4096, 2), (8192, 3), (16384, 4)] {
        assert_eq!(read(&disk, offset, 512), vec![byte; 512]);
    }
    disk.close().unwrap();
}

/// Again and again, with nothing written in between, and after an attempt that was given up half-way.
#[test]
fn going_over_can_be_repeated() {
    let account_keys: Vec<AccountKey> = (0..4).map(|_| AccountKey::generate(Uuid::nil()).unwrap()).collect();
    let uuid = Uuid::new_v4();
    let keys = |current: usize, retiring: Option<usize>| {
        let retiring = retiring.map(|retiring| account_keys[retiring].clone());
        KeyRing::new(account_keys[current].clone(), retiring).disk_keys(uuid).unwrap()
    };
    let mut place = TestDisk::of(uuid, keys(0, None), MIB, 0, true);
    for next in 1..4 {
        place.keys = keys(next, Some(next - 1));
        let disk = place.open(true);
        for _ in 0..next {
            disk.admin().rekey(place.keys.clone()).unwrap();
        }
        disk.close().unwrap();
        place.keys = keys(next, None);
        drop(place.open(true));
    }
}

#[test]
fn erased_data_keys_are_gone_from_where_they_lay_and_the_disk_says_so() {
    let place = TestDisk::new(MIB, 0, true);
    let linked = place.folder.path().join("linked");
    std::fs::hard_link(place.folder.path().join("keys"), &linked).unwrap();
    assert!(std::fs::read(&linked).unwrap().iter().any(|&byte| byte != 0));
    for _ in 0..2 {
        erase_keys(&*place.dir()).unwrap();
    }
    assert!(std::fs::read(&linked).unwrap().iter().all(|&byte| byte == 0));
    let error = place.try_open(Access::ReadWrite, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.hint_text().unwrap().contains("erased"));
}

/// Noted by upkeep once 8 GiB have gone by, and known to the next opening.
#[test]
fn what_is_encrypted_under_a_key_is_counted() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    let encrypted_pages = |disk: &Disk| disk.admin().layers()[0].sealed_blocks;
    let before = encrypted_pages(&disk);
    for _ in 0..10 {
        disk.write(0, &[1; 8192], Durability::Volatile).unwrap();
    }
    assert_eq!(encrypted_pages(&disk) - before, 10 * 8192 / 16, "over the same pages too");
    disk.admin().maintain().unwrap();
    assert_eq!(disk.admin().settings().layers[0].encrypted_pages, 0, "not worth a sync yet");
    disk.core.stack.state().entries[0].layer.count_encrypted(1 << 24);
    disk.admin().maintain().unwrap();
    let noted = encrypted_pages(&disk);
    assert_eq!(disk.admin().settings().layers[0].encrypted_pages * 32, noted);
    disk.write(0, &[1; 512], Durability::Fua).unwrap();
    drop(disk);
    assert_eq!(encrypted_pages(&place.open(true)), noted);
}
