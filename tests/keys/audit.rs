//! What `audit` says of a disk, against what was done to it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::client::Client;
use crate::support::{Account, MIB, run, stderr_of_failure};

/// Bytes in plaintext, encrypted and left behind are counted where they are, with the reasons.
#[test]
fn bytes_are_reported_by_layer_key_and_reason() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[1; 64 * 512]).expect("encrypted");
    account.sealdisk(&["encryption", "off"]);
    client.write(64 * 512, &[2; 32 * 512]).expect("in plaintext");
    client.flush().expect("flushed");
    account.sealdisk(&["snapshot", "create", "disk", "monday"]);
    account.sealdisk(&["encryption", "on"]);
    client.write(64 * 512, &[3; 8 * 512]).expect("over plaintext that a snapshot holds");
    client.flush().expect("flushed");

    let report = account.json(&["audit", "disk"]);
    let layers = report["layers"].as_array().expect("layers");
    let column = |name: &str| layers.iter().map(|layer| layer[name].clone()).collect::<Vec<_>>();
    // The first layer has the footer page too.
    assert_eq!(column("state"), ["encrypted", "plain", "encrypted"]);
    assert_eq!(column("held_pages"), [65, 32, 8]);
    assert_eq!(column("live_bytes"), [65 * 512, 24 * 512, 8 * 512]);
    for name in ["missing_bytes", "clear_bytes", "left_bytes"] {
        assert_eq!(column(name), [0, 0, 0], "{name}");
    }
    assert!(layers[0]["key"] != layers[2]["key"] && layers[1]["key"].is_null());
    let plain = &report["plaintext"];
    assert_eq!((&plain["written_off_bytes"], &plain["snapshot_bytes"]), (&(24 * 512).into(), &(8 * 512).into()));
    assert_eq!((&report["authenticated"], &report["kek_version"]), (&true.into(), &1.into()));
    let text = account.sealdisk(&["audit", "disk"]);
    assert!(text.contains("written while encryption was off"), "{text}");

    // The same without a server, and without the key: but then it says so.
    assert!(server.terminate().success());
    let again = account.json(&["audit", "disk"]);
    for (before, after) in layers.iter().zip(again["layers"].as_array().expect("layers")) {
        // What was written since the last note is not counted over a restart.
        let mut before = before.clone();
        assert!(before["sealed_blocks"].take().as_u64() >= after["sealed_blocks"].as_u64());
        before["sealed_blocks"] = after["sealed_blocks"].clone();
        assert_eq!(&before, after);
    }
    let mut locked = account.command();
    let locked = run(locked.args(["audit", "disk", "--json", "--key-command", "false"]));
    let locked: serde_json::Value = serde_json::from_slice(&locked.stdout).expect("JSON");
    assert_eq!(locked["authenticated"], false);
}

/// Pages of the base image, and plaintext that was overwritten and still lies there: a server that is killed at once
/// has not scrubbed it.
#[test]
fn plaintext_in_the_base_and_what_waits_to_be_scrubbed_have_their_own_lines() {
    let account = Account::new();
    let image = account.scratch("base.img");
    std::fs::write(&image, [7; MIB as usize]).expect("a base image");
    account.create_over("disk", &image);
    account.sealdisk(&["encryption", "off"]);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[2; 32 * 512]).expect("in plaintext");
    client.flush().expect("flushed");
    account.sealdisk(&["encryption", "on"]);
    client.write(0, &[3; 8 * 512]).expect("over a part of it, encrypted");
    server.kill();

    let audit = || {
        let report = account.json(&["audit", "disk"]);
        let causes = ["base_bytes", "written_off_bytes", "snapshot_bytes", "pending_scrub_bytes"];
        causes.map(|cause| report["plaintext"][cause].as_u64().expect("bytes"))
    };
    assert_eq!(audit(), [MIB - 32 * 512, 24 * 512, 0, 8 * 512]);
    let text = account.sealdisk(&["audit", "disk"]);
    let line = |why: &str| text.lines().find(|line| line.contains(why)).unwrap_or_else(|| panic!("{why}: {text}"));
    assert!(line("in the base image").ends_with(" 1008 KiB"), "{text}");
    assert!(line("not scrubbed yet").ends_with(" 4 KiB"), "{text}");

    account.sealdisk(&["scrub", "disk", "--wait"]);
    assert_eq!(audit(), [MIB - 32 * 512, 24 * 512, 0, 0]);
    account.sealdisk(&["reencrypt", "disk", "--include-base"]);
    assert_eq!(audit(), [0; 4]);
}

/// A layer that does not store what it is said to: a hole, and plaintext where ciphertext belongs.
#[test]
fn what_is_not_stored_as_it_is_said_to_be_is_found() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[1; 64 * 512]).expect("encrypted");
    client.flush().expect("flushed");
    assert!(server.terminate().success());
    account.sealdisk(&["audit", "disk"]);

    let uuid = account.json(&["show", "disk"])["uuid"].as_str().expect("a uuid").to_owned();
    let layer = account.dir().join("disks").join(uuid).join("layers/00000001.xts");
    let file = OpenOptions::new().write(true).open(layer).expect("the layer");
    file.write_all_at(&[0; 3 * 512], 10 * 512).expect("a hole");
    file.write_all_at(&b"in the open, word after word. ".repeat(40)[..2 * 512], 20 * 512).expect("plaintext");
    file.write_all_at(&[9; 512], 100 * 512).expect("what nothing accounts for");
    let refused = stderr_of_failure(account.command().args(["audit", "disk"]));
    assert!(refused.contains("2.5 KiB are not stored as they are said to be"), "{refused}");
    let output = run(account.command().args(["audit", "disk", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    let layer = &report["audit"]["layers"][0];
    let found = ["missing_bytes", "clear_bytes", "left_bytes"].map(|name| layer[name].clone());
    assert_eq!(found, [3 * 512, 2 * 512, 512]);
}

/// Layers that hold nothing any more are removed at any time, also between the moment when a verb hears of them and the
/// one when it reads them.
#[test]
fn a_layer_that_goes_while_a_served_disk_is_looked_at_is_no_alarm() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    std::thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            for round in 0..30u8 {
                account.sealdisk(&["key", "rotate-data", "disk"]);
                client.write(0, &[round; MIB as usize]).expect("written");
                client.flush().expect("flushed");
            }
        });
        let mut looks = 0;
        while !rotating.is_finished() || looks < 5 {
            account.sealdisk(&["audit", "disk"]);
            account.sealdisk(&["verify", "disk"]);
            looks += 1;
        }
    });
    let report = account.json(&["audit", "disk"]);
    assert_eq!(report["plaintext"]["pending_scrub_bytes"], 0);
}
