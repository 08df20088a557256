//! Rotation while a disk is written to.

use std::fs;
use std::path::Path;

use crate::client::Client;
use crate::support::{Account, MIB, program, stderr_of_failure, stdout_of};

/// A load that checks what it reads, of a few seconds.
fn load(uri: &str, folder: &Path, name: &str, offset: u64) -> std::process::Command {
    let mut fio = program("timeout");
    fio.current_dir(folder).args([
        "--kill-after=5",
        "100",
        "fio",
        "--ioengine=nbd",
        "--rw=randrw",
        "--bsrange=512-64k",
    ]);
    fio.args([
        "--blockalign=512",
        "--iodepth=8",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randseed=11",
    ]);
    fio.args([&format!("--name={name}"), &format!("--uri={uri}"), "--size=16M", "--rate=3m", "--fsync=64"]);
    fio.arg(format!("--offset={offset}"));
    fio
}

#[test]
fn every_level_of_keys_changes_under_load() {
    let account = Account::new();
    account.create("disk", 32 * MIB);
    account.create("idle", MIB);
    let key_of = |settings: &str| settings.split("wrapped = ").nth(1).expect("a wrapped key").to_owned();
    let settings = || fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    let first_key = settings().split("path = \"").nth(1).expect("a path").split('"').next().expect("a path").to_owned();
    let old_settings = settings();
    let server = account.serve();
    let (uri, folder) = (server.uri("disk"), account.scratch(""));
    let loads: Vec<_> = [("low", 0), ("high", 16 * MIB)]
        .map(|(name, offset)| {
            let (uri, folder) = (uri.clone(), folder.clone());
            std::thread::spawn(move || stdout_of(&mut load(&uri, &folder, name, offset)))
        })
        .into();

    let mut versions = 1;
    while loads.iter().any(|load| !load.is_finished()) {
        let plain = account.json(&["key", "rotate-kek"]);
        let deep = account.json(&["key", "rotate-kek", "--account-key"]);
        account.sealdisk(&["key", "rotate-data", "--all"]);
        assert_eq!(plain["account_key_replaced"], false);
        assert_eq!(deep["account_key_replaced"], true);
        assert_ne!(plain["account_key"], deep["account_key"]);
        versions += 2;
        assert_eq!(deep["kek_version"], versions);
    }
    for load in loads {
        load.join().expect("the load finds what it wrote");
    }
    assert!(versions > 2, "the keys changed during the load");
    assert_ne!(key_of(&settings()), key_of(&old_settings));
    assert!(server.terminate().success());

    // The newest key opens it unasked, the first one not at all.
    account.sealdisk(&["scrub", "disk", "--wait"]);
    let refused = stderr_of_failure(account.command().args(["scrub", "disk", "--wait", "--key-file", &first_key]));
    assert!(refused.contains("not the one of this account"), "{refused}");

    // Somebody with the first key and a copy of the first account.toml reads nothing any more.
    fs::write(account.dir().join("account.toml"), old_settings).expect("an old copy put back");
    let refused = stderr_of_failure(account.command().args(["scrub", "disk", "--wait"]));
    assert!(refused.contains("fails its MAC"), "{refused}");
}

#[test]
fn from_one_kind_of_source_to_another() {
    let account = Account::new();
    account.create("disk", MIB);
    let kek = account.scratch("kek");
    fs::write(&kek, hex::encode([5; 32])).expect("a key");
    let by_command = format!("cat {}", kek.display());
    account.sealdisk(&["key", "rotate-kek", "--key-command", &by_command]);
    account.sealdisk(&["scrub", "disk", "--wait"]);
    let status = account.json(&["status"]);
    assert!(status["key_source"].as_str().is_some_and(|source| source.contains("cat ")), "{status}");

    // The same key again, from where it comes already, is no rotation.
    let refused = stderr_of_failure(account.command().args(["key", "rotate-kek", "--key-command", &by_command]));
    assert!(refused.contains("gives the key in use: nothing to change"), "{refused}");

    fs::remove_file(&kek).expect("the key is gone");
    let refused = stderr_of_failure(account.command().args(["scrub", "disk", "--wait"]));
    assert!(refused.contains("gave no key"), "{refused}");
}

/// However far it came: the account opens, unasked, with the key that account.toml names, and the next rotation
/// finishes what was begun.
#[test]
fn a_server_killed_in_a_rotation_leaves_an_account_that_opens() {
    let account = Account::new();
    for name in ["a", "b", "c"] {
        account.create(name, MIB);
    }
    for after in [0, 2, 5, 10, 20, 40] {
        let server = account.serve();
        let mut rotation = account.command();
        rotation.args(["key", "rotate-kek", "--account-key"]);
        rotation.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut rotation = rotation.spawn().expect("the program starts");
        std::thread::sleep(std::time::Duration::from_millis(after));
        server.kill();
        rotation.wait().expect("the program ends");
        for name in ["a", "b", "c"] {
            account.sealdisk(&["scrub", name, "--wait"]);
        }
    }
    account.sealdisk(&["key", "rotate-kek", "--account-key"]);
    let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    assert_eq!(settings.matches("[[account_key]]").count(), 1, "{settings}");
}

/// (key, pages, current) of a disk, as `status` counts them.
fn pages_per_key(account: &Account, name: &str) -> Vec<(String, u64, bool)> {
    let status = account.json(&["status"]);
    let disks = status["disks"].as_array().expect("disks");
    let disk = disks.iter().find(|disk| disk["name"] == name).expect("the disk");
    let keys = disk["keys"].as_array().expect("keys");
    let bytes: u64 = keys.iter().map(|key| key["bytes"].as_u64().expect("bytes")).sum();
    assert_eq!(disk["encrypted_bytes"], bytes, "what is encrypted is under one of these: {disk}");
    let one = |key: &serde_json::Value| {
        let pages = key["pages"].as_u64().expect("pages");
        assert_eq!(key["bytes"], pages * 512);
        (key["key"].as_str().expect("an id").to_owned(), pages, key["current"] == true)
    };
    keys.iter().map(one).collect()
}

/// Against what was written when; served, not served, and below a clone.
#[test]
fn status_counts_pages_per_key() {
    let account = Account::new();
    account.create("disk", MIB);
    let uuid = account.json(&["show", "disk"])["uuid"].as_str().expect("a uuid").to_owned();
    let key = |layer: u32| format!("{uuid}/{layer}");
    // The footer page is under the first key.
    assert_eq!(pages_per_key(&account, "disk"), [(key(1), 1, true)]);

    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[1; 64 * 512]).expect("under the first key");
    assert_eq!(pages_per_key(&account, "disk"), [(key(1), 65, true)]);
    account.sealdisk(&["key", "rotate-data", "disk"]);
    client.write(60 * 512, &[2; 8 * 512]).expect("four of these pages, and four new ones");
    let both = [(key(1), 61, false), (key(2), 8, true)];
    assert_eq!(pages_per_key(&account, "disk"), both);
    let text = account.sealdisk(&["status"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(lines.contains(&vec!["disk", &key(1), "61", "30.5", "KiB"]), "{text}");
    assert!(lines.contains(&vec!["disk", &key(2), "8", "4", "KiB", "current"]), "{text}");

    // A clone reads them where they are, and adds its own.
    account.sealdisk(&["clone", "disk", "clone"]);
    let of_clone = pages_per_key(&account, "clone");
    let theirs: Vec<_> = of_clone.iter().filter(|(id, ..)| id.starts_with(&uuid)).map(|key| key.1).collect();
    assert_eq!(theirs, [60, 8], "the clone has a footer of its own: {of_clone:?}");

    account.sealdisk(&["encryption", "off"]);
    client.write(0, &[3; 4 * 512]).expect("in plaintext");
    client.flush().expect("flushed");
    let less = [(key(1), 57, false), (key(2), 8, false)];
    assert_eq!(pages_per_key(&account, "disk"), less);
    assert!(server.terminate().success());
    assert_eq!(pages_per_key(&account, "disk"), less);

    account.sealdisk(&["delete", "clone", "--yes"]);
    account.sealdisk(&["encryption", "on"]);
    account.sealdisk(&["reencrypt", "disk"]);
    let done = pages_per_key(&account, "disk");
    assert_eq!(done.iter().map(|key| key.1).collect::<Vec<_>>(), [69], "one key is left: {done:?}");
}
