//! Deleted disks that clones read from: what is kept of them, what is said of it, and how it goes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::support::{Account, MIB, Server, stderr_of_failure};

const READ_BY_THE_CLONE: &[u8] = b"what the snapshot holds and the clone reads";
const WRITTEN_AFTERWARDS: &[u8] = b"what was written after the snapshot";
const PIECE: usize = 64 << 10;

fn filled(with: &[u8]) -> Vec<u8> {
    with.iter().copied().cycle().take(PIECE).collect()
}

fn write(server: &Server, disk: &str, at: u64, text: &[u8]) {
    let mut client = Client::attach(server, disk).expect("attached");
    client.write(at, &filled(text)).expect("written");
    client.flush().expect("flushed");
}

/// `source` in plaintext, with a snapshot `s` of which `clone` is a clone, and more written since; then encryption on.
fn source_and_clone(account: &Account) -> Server {
    account.sealdisk(&["encryption", "off"]);
    account.create("source", 4 * MIB);
    let server = account.serve();
    write(&server, "source", 0, READ_BY_THE_CLONE);
    account.sealdisk(&["snapshot", "create", "source", "s"]);
    account.sealdisk(&["clone", "source@s", "clone"]);
    write(&server, "source", MIB, WRITTEN_AFTERWARDS);
    account.sealdisk(&["encryption", "on"]);
    server
}

fn wait_until_gone(account: &Account, text: &[u8]) {
    let started = Instant::now();
    while !account.files_with(text).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "it is still in {:?}", account.files_with(text));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The hidden disk, as it is named, and what `status` says of it.
fn hidden(account: &Account) -> (String, Value) {
    let status = account.json(&["status"]);
    let hidden = status["hidden"].as_array().expect("a list");
    assert_eq!(hidden.len(), 1, "{status}");
    (format!("@{}", hidden[0]["uuid"].as_str().expect("a UUID")), hidden[0].clone())
}

#[test]
fn of_a_deleted_source_only_what_its_clone_reads_stays_and_it_is_counted_and_named() {
    for served in [true, false] {
        let account = Account::new();
        let server = source_and_clone(&account);
        assert!(!account.files_with(WRITTEN_AFTERWARDS).is_empty(), "the search finds what is there");
        if served {
            account.sealdisk(&["delete", "source", "--yes"]);
            wait_until_gone(&account, WRITTEN_AFTERWARDS);
            assert!(server.terminate().success());
        } else {
            assert!(server.terminate().success());
            account.sealdisk(&["delete", "source", "--yes"]);
            assert_eq!(account.files_with(WRITTEN_AFTERWARDS), Vec::<PathBuf>::new());
        }
        let server = account.serve();
        let mut client = Client::attach(&server, "clone").expect("attached");
        assert_eq!(client.read(0, PIECE).expect("read"), filled(READ_BY_THE_CLONE));
        assert_eq!(client.read(MIB, PIECE).expect("read"), vec![0; PIECE]);

        // With the footer, which was written in plaintext too.
        let kept = PIECE as u64 + 512;
        let (name, status) = hidden(&account);
        assert_eq!((&status["name"], &status["stored_plain_bytes"]), (&"source".into(), &kept.into()), "{status}");
        assert_eq!((&status["plain_bytes"], &status["pending_scrub_bytes"]), (&kept.into(), &0.into()), "{status}");
        assert_eq!((&status["clones"][0]["name"], &status["clones"][0]["snapshot"]), (&"clone".into(), &"s".into()));
        // The clone has a footer of its own.
        assert_eq!(account.json(&["status"])["total"]["stored_plain_bytes"], kept + 512);
        let text = account.sealdisk(&["status"]);
        assert!(text.contains(&name) && text.contains("read by clone (s)"), "{text}");
        let narrow = text.lines().skip_while(|line| !line.starts_with("deleted, ")).take(4);
        assert!(narrow.clone().count() == 4 && narrow.clone().all(|line| line.chars().count() <= 80), "{text}");

        let show = account.json(&["show", &name]);
        assert_eq!((&show["hidden"], &show["layers"][0]["held_bytes"]), (&true.into(), &kept.into()), "{show}");
        let map = account.json(&["map", &name]);
        assert_eq!((&map[0]["state"], &map[0]["pages"]), (&"plain".into(), &(PIECE as u64 / 512).into()), "{map}");
        assert_eq!(account.json(&["map", &format!("{name}@s")]), map, "the one snapshot that is left");
        assert_eq!(account.json(&["audit", &name])["plaintext"]["written_off_bytes"], kept);
        let audit = account.json(&["audit", "clone"]);
        assert_eq!(audit["plaintext"]["inherited_bytes"], PIECE, "the clone inherits it: {audit}");
        assert_eq!(audit["inherited"][0]["hidden"], true);
        account.sealdisk(&["verify", &name]);
        account.sealdisk(&["scrub", &name, "--wait"]);
        assert!(!account.sealdisk(&["list"]).contains(&name));
        assert!(account.sealdisk(&["list", "--hidden"]).contains(&name));
        let refused = stderr_of_failure(account.command().args(["reencrypt", &name]));
        assert!(refused.contains("reencrypt clone --include-base"), "{refused}");
        // Its name is free, and `@` alone leads to it.
        account.create("source", MIB);
        assert_eq!(account.json(&["show", "source"])["size_bytes"], MIB);
        assert_eq!(account.json(&["show", &name])["size_bytes"], 4 * MIB);
        let refused = stderr_of_failure(account.command().args(["show", "@source"]));
        assert!(refused.contains("list --hidden"), "{refused}");
    }
}

#[test]
fn with_the_later_of_two_clones_goes_what_only_that_one_read() {
    let account = Account::new();
    let server = source_and_clone(&account);
    account.sealdisk(&["clone", "source", "later"]);
    account.sealdisk(&["delete", "source", "--yes"]);
    assert!(!account.files_with(WRITTEN_AFTERWARDS).is_empty(), "the later clone reads it");
    let mut later = Client::attach(&server, "later").expect("attached");
    assert_eq!(later.read(MIB, PIECE).expect("read"), filled(WRITTEN_AFTERWARDS));
    drop(later);
    account.sealdisk(&["delete", "later", "--yes"]);
    wait_until_gone(&account, WRITTEN_AFTERWARDS);
    let mut client = Client::attach(&server, "clone").expect("attached");
    assert_eq!(client.read(0, PIECE).expect("read"), filled(READ_BY_THE_CLONE));
}

#[test]
fn a_clone_that_is_reencrypted_with_what_it_inherits_is_detached_and_its_deleted_source_goes() {
    for deleted in [true, false] {
        let account = Account::new();
        let server = source_and_clone(&account);
        let mut client = Client::attach(&server, "clone").expect("attached");
        if deleted {
            account.sealdisk(&["delete", "source", "--yes"]);
        }
        account.sealdisk(&["snapshot", "create", "clone", "mine"]);
        let done = account.json(&["reencrypt", "clone", "--include-base"]);
        assert_eq!(done[0]["parent_detached"], false, "a snapshot reads through: {done}");
        account.sealdisk(&["snapshot", "delete", "clone", "mine"]);
        let done = account.json(&["reencrypt", "clone", "--include-base"]);
        assert_eq!((&done[0]["parent_detached"], &done[0]["remaining_bytes"]), (&true.into(), &0.into()), "{done}");
        assert_eq!(client.read(0, PIECE).expect("a client that stayed"), filled(READ_BY_THE_CLONE));
        let show = account.json(&["show", "clone"]);
        assert!(show["clone_of"].is_null() && show["inherited"] == serde_json::json!([]), "{show}");
        assert_eq!(show["plain_bytes"], 0);
        assert_eq!(account.json(&["status"])["hidden"], serde_json::json!([]));
        let left = account.files_with(READ_BY_THE_CLONE);
        assert_eq!(left.is_empty(), deleted, "{left:?}");
        if !deleted {
            // Nothing holds the snapshot any more.
            account.sealdisk(&["snapshot", "delete", "source", "s"]);
        }
        assert!(server.terminate().success());
        let server = account.serve();
        let mut client = Client::attach(&server, "clone").expect("attached");
        assert_eq!(client.read(0, PIECE).expect("read"), filled(READ_BY_THE_CLONE));
    }
}

#[test]
fn erasing_a_clone_says_what_can_still_be_read_and_its_deleted_source_can_be_erased_too() {
    let account = Account::new();
    account.create("source", MIB);
    let server = account.serve();
    write(&server, "source", 0, READ_BY_THE_CLONE);
    account.sealdisk(&["clone", "source", "clone"]);
    write(&server, "clone", MIB / 2, WRITTEN_AFTERWARDS);
    account.sealdisk(&["delete", "source", "--yes"]);
    let (name, _) = hidden(&account);
    let refused = stderr_of_failure(account.command().args(["key", "erase", &name, "--yes-erase", &name]));
    assert!(refused.contains("clone clone") && refused.contains("--include-base"), "{refused}");
    let mut client = Client::attach(&server, "clone").expect("nothing was done");
    assert_eq!(client.read(0, PIECE).expect("read"), filled(READ_BY_THE_CLONE));

    let said = account.sealdisk(&["key", "erase", "clone", "--yes-erase", "clone"]);
    assert!(said.contains("64 KiB under the keys of that disk, 0 B in plaintext"), "{said}");
    assert!(said.contains(&format!("{name} (deleted, was source)")), "{said}");
    assert!(said.contains(&format!("`sealdisk key erase {name}`")), "{said}");
    let said = account.json(&["key", "erase", &name, "--yes-erase", &name]);
    assert_eq!((&said["plain_bytes"], &said["inherited"]), (&0.into(), &serde_json::json!([])), "{said}");
    let keys = account.dir().join("disks").join(&name[1..]).join("keys");
    assert!(!keys.exists());
    drop(client);
    account.sealdisk(&["delete", "clone", "--yes"]);
    assert_eq!(std::fs::read_dir(account.dir().join("disks")).expect("the folder").count(), 0);
}
