//! Somebody has the key-encryption key and a copy of the account as it was: what they read of what is written from then
//! on, and what is left to read for them once all is re-encrypted.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::secrets::{self, AccountKeys};
use crate::support::{Account, MIB, program, stderr_of_failure, stdout_of};

/// A verb on the copy, with the old key.
fn on_copy(account: &Account, words: &[&str]) -> Command {
    let mut command = account.command();
    command.arg("--account").arg(account.scratch("copy")).args(words);
    command.arg("--key-file").arg(account.scratch("old.key"));
    command
}

/// The account and its key leave.
fn steal(account: &Account) {
    stdout_of(program("cp").arg("-a").arg(account.dir()).arg(account.scratch("copy")));
    let key = account.scratch("old.key");
    fs::write(&key, secrets::kek_file(account)).expect("the old key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
}

fn layers(account: &Account, disk: &str) -> Vec<u64> {
    let shown = account.json(&["show", disk]);
    shown["layers"].as_array().expect("layers").iter().map(|layer| layer["id"].as_u64().expect("an id")).collect()
}

/// Writes to both disks, by a client of a server if there is one.
fn write(account: &Account, served: bool, offset: u64, filled: u8) {
    let server = (!served).then(|| account.serve());
    for disk in ["disk", "other"] {
        let socket = account.scratch("nbd.sock");
        let mut client = Client::attach_at(&socket, disk).expect("attached");
        client.write(offset, &[filled; 65536]).expect("written");
        client.flush().expect("flushed");
    }
    if let Some(server) = server {
        assert!(server.terminate().success());
    }
}

#[test]
fn an_old_copy_and_the_old_key_read_nothing_that_is_written_after_a_rotation_of_the_account_key() {
    for served in [false, true] {
        let account = Account::new();
        account.create("disk", MIB);
        account.create("other", MIB);
        write(&account, false, 0, 1);
        steal(&account);
        let server = served.then(|| account.serve());
        let before = layers(&account, "disk");
        let rotated = account.json(&["key", "rotate-kek", "--account-key"]);
        // 128 pages and the footer page of each.
        let still =
            serde_json::json!([{ "name": "disk", "bytes": 129 * 512 }, { "name": "other", "bytes": 129 * 512 }]);
        assert_eq!(rotated["older"], still, "{rotated}");
        write(&account, served, 0, 2);
        let after = layers(&account, "disk");
        let new: Vec<_> = after.iter().filter(|layer| !before.contains(layer)).collect();
        assert_eq!(new.len(), 1, "what is written lies in a layer of its own: {after:?}");
        let layer = new[0].to_string();
        let out = account.scratch("layer.key");
        let out = out.to_str().expect("UTF-8");
        let export = ["key", "export", "disk", "--layer", &layer, "--out", out, "--yes-reveal"];
        stderr_of_failure(&mut on_copy(&account, &export));
        account.sealdisk(&export);
        let key = fs::read(out).expect("the new data key");
        // Nor does what was learnt from the copy open what lies in the account now.
        let old = fs::read(account.scratch("old.key")).expect("the old key");
        assert!(AccountKeys::try_read(&account, &old).is_none(), "the old key opens no account key");
        for layer in &before {
            fs::remove_file(out).expect("removed");
            let layer = layer.to_string();
            stdout_of(&mut on_copy(
                &account,
                &["key", "export", "disk", "--layer", &layer, "--out", out, "--yes-reveal"],
            ));
            assert_ne!(fs::read(out).expect("an old data key"), key);
        }
        let text = account.sealdisk(&["key", "rotate-kek", "--account-key"]);
        assert!(text.contains("still under older data keys") && text.contains("reencrypt --all"), "{text}");
        drop(server);
    }
}

/// In one go; at rest and while it is served.
#[test]
fn compromised_replaces_every_key_and_reencrypts_everything() {
    for served in [false, true] {
        let account = Account::new();
        account.create("disk", MIB);
        account.create("other", MIB);
        write(&account, false, 0, 1);
        let old = AccountKeys::read(&account, &secrets::kek_file(&account));
        let server = served.then(|| account.serve());
        let before = [layers(&account, "disk"), layers(&account, "other")].concat();
        let done = account.json(&["key", "rotate-kek", "--compromised"]);
        assert_eq!((&done["account_key_replaced"], &done["kept"]), (&true.into(), &serde_json::json!([])), "{done}");
        for disk in ["disk", "other"] {
            let now = layers(&account, disk);
            assert!(now.iter().all(|layer| !before.contains(layer)), "{disk}: {now:?} and before {before:?}");
        }
        drop(server);
        for (uuid, layer) in secrets::layers(&account, "disk") {
            let file = account.dir().join("disks").join(uuid.to_string()).join("keys");
            let slots = fs::read(file).expect("keys");
            let opens =
                |slot: &[u8]| old.data_key_wrapping(uuid, layer).unwrap_key(&slot[24..96], &mut [0; 64]).is_ok();
            assert!(!slots[4096..].chunks(512).any(opens), "layer {layer} is opened by the old account key");
        }
        let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
        assert_eq!(settings.matches("[[account_key]]").count(), 1, "nothing is pending: {settings}");
        let server = account.serve();
        let mut client = Client::attach(&server, "disk").expect("attached");
        assert_eq!(client.read(0, 65536).expect("read"), vec![1; 65536]);
    }
}

#[test]
fn compromised_is_broken_off_and_goes_on_when_it_is_asked_for_again() {
    for served in [false, true] {
        let account = Account::new();
        account.create("disk", 256 * MIB);
        account.create("other", MIB);
        {
            let server = account.serve();
            let mut client = Client::attach(&server, "disk").expect("attached");
            for at in (0..128 * MIB).step_by(MIB as usize) {
                client.write(at, &vec![3; MIB as usize]).expect("written");
            }
            client.flush().expect("flushed");
            assert!(server.terminate().success());
        }
        let version = |account: &Account| account.json(&["status"])["kek_version"].as_u64().expect("a version");
        let server = served.then(|| account.serve());
        let mut verb = account.command();
        verb.args(["key", "rotate-kek", "--compromised"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut verb = verb.spawn().expect("the verb starts");
        let settings = || fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
        let pending = || {
            let settings: toml::Table = settings().parse().expect("TOML");
            let keys = settings["account_key"].as_array().expect("keys");
            keys.len() == 2 && keys[0]["id"] == keys[1]["id"]
        };
        for _ in 0..3000 {
            if pending() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(100));
        let pid = Pid::from_raw(verb.id().cast_signed()).expect("a process");
        // At its own end it may be quicker than the signal.
        let _ = kill_process(pid, Signal::KILL);
        verb.wait().expect("it ends");
        let cut_off = pending();
        println!("served: {served}, broken off: {cut_off}");
        if let Some(server) = server {
            assert!(server.terminate().success());
        }
        let keys = || fs::read_dir(account.scratch("config/sealdisk")).expect("keys").count();
        let (made, was) = (keys(), version(&account));
        let status = account.sealdisk(&["status"]);
        assert_eq!(status.contains("--compromised"), cut_off, "{status}");

        let server = served.then(|| account.serve());
        account.sealdisk(&["key", "rotate-kek", "--compromised"]);
        drop(server);
        if cut_off {
            assert_eq!((keys(), version(&account)), (made, was), "it goes on under the key that was new");
        }
        assert!(!pending(), "{}", settings());
        let older = account.json(&["status"]);
        for disk in older["disks"].as_array().expect("disks") {
            let old = disk["keys"].as_array().expect("keys").iter().filter(|key| key["current"] != true);
            assert_eq!(old.map(|key| key["pages"].as_u64().expect("pages")).sum::<u64>(), 0, "{disk}");
        }
        // Done once, the next one begins anew.
        account.sealdisk(&["key", "rotate-kek", "--compromised"]);
        assert!(version(&account) > was);
        let server = account.serve();
        let mut client = Client::attach(&server, "disk").expect("attached");
        assert_eq!(client.read(77 * MIB, 512).expect("read"), [3; 512]);
    }
}

#[test]
fn what_snapshots_keep_under_older_keys_is_told_and_encryption_has_to_be_on() {
    let account = Account::new();
    account.create("disk", MIB);
    account.create("other", MIB);
    write(&account, false, 0, 1);
    account.sealdisk(&["snapshot", "create", "disk", "before"]);
    let done = account.json(&["key", "rotate-kek", "--compromised"]);
    assert_eq!(done["kept"], serde_json::json!([{ "name": "disk", "bytes": 129 * 512 }]), "{done}");
    account.sealdisk(&["encryption", "off"]);
    let refused = stderr_of_failure(account.command().args(["key", "rotate-kek", "--compromised"]));
    assert!(refused.contains("encryption is off"), "{refused}");
    assert_eq!(account.json(&["status"])["kek_version"], 2, "and nothing was replaced");
}
