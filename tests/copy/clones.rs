//! Full copies of disks: within an account and into another.

use std::fs;
use std::path::PathBuf;

use crate::fixture::{content, failure, image, text};
use crate::support::{Account, MIB, program, run, sha256, stdout_of};

fn write(server: &crate::support::Server, export: &str, command: &str) {
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush"]).arg(server.uri(export)));
}

#[test]
fn a_full_clone_is_encrypted_and_needs_nothing_of_its_source() {
    let account = Account::new();
    let raw = image(&account, "base.img", 8 * MIB, &[(0, MIB as usize), (6 * MIB, 4096)]);
    let sum = sha256(&raw);
    account.sealdisk(&["encryption", "off"]);
    account.create_over("disk", &raw);
    let server = account.serve();
    write(&server, "disk", "write -P 1 1M 1M");
    account.sealdisk(&["encryption", "on"]);
    write(&server, "disk", "write -P 2 2M 1M");
    account.sealdisk(&["snapshot", "create", "disk", "then"]);
    write(&server, "disk", "write -P 3 0 64k");
    let (now, then) = (content(&account, "disk"), content(&account, "disk@then"));
    assert!(now != then);
    account.sealdisk(&["clone", "disk", "now", "--full"]);
    account.sealdisk(&["clone", "disk@then", "then", "--full"]);
    assert!(server.terminate().success());
    account.sealdisk(&["clone", "disk", "at-rest", "--full"]);
    account.sealdisk(&["delete", "disk", "--yes"]);
    assert_eq!(sha256(&raw), sum);
    fs::remove_file(&raw).unwrap();
    for (name, expected) in [("now", &now), ("then", &then), ("at-rest", &now)] {
        assert!(content(&account, name) == *expected, "{name}");
        let usage = account.usage(name);
        assert_eq!((usage.base, usage.plain), (0, 0), "{name}");
        assert!(usage.encrypted <= 4 * MIB, "{name}: zeros take no space");
        let document = account.json(&["show", name]);
        assert_eq!((&document["base"], &document["clone_of"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    }
}

#[test]
fn a_copy_into_another_account_is_under_the_keys_of_that_one() {
    for (here_served, there_served) in [(false, false), (true, false), (false, true), (true, true)] {
        let (here, there) = (Account::new(), Account::new());
        let raw = image(&here, "image.img", 8 * MIB, &[(4096, MIB as usize)]);
        here.sealdisk(&["import", text(&raw), "disk"]);
        let servers = (here_served.then(|| here.serve()), there_served.then(|| there.serve()));
        let other = there.dir();
        let key = fs::canonicalize(key_of(&there)).unwrap();
        let clone = ["clone", "disk", "web/copy", "--full", "--into", text(&other)];
        // The key of the other account is where that one says, unless it is named.
        let document = here.json(&[&clone[..], &["--into-key-file", text(&key)]].concat());
        assert_eq!(document["name"], "web/copy");
        assert!(content(&there, "web/copy") == fs::read(&raw).unwrap());
        assert_eq!(failure(&here, &clone)["error"]["kind"], "AlreadyExists");
        let wrong = here.scratch("wrong.key");
        fs::copy(key_of(&here), &wrong).unwrap();
        if !there_served {
            let refused = failure(&here, &[&clone[..], &["--into-key-file", text(&wrong)]].concat());
            assert_eq!(refused["error"]["kind"], "WrongKey");
        }
        // The account itself, by another path, is no other one.
        let same = here.scratch("account/../account");
        here.sealdisk(&["clone", "disk", "same", "--full", "--into", text(&same)]);
        assert!(content(&here, "same") == fs::read(&raw).unwrap());
        for server in [servers.0, servers.1].into_iter().flatten() {
            assert!(server.terminate().success());
        }
    }
    let account = Account::new();
    account.create("disk", MIB);
    let misused = run(account.command().args(["clone", "disk", "new", "--into", "elsewhere"]));
    assert_eq!(misused.status.code(), Some(2), "--into goes with --full");
}

/// Where `init` put the key.
fn key_of(account: &Account) -> PathBuf {
    let status = account.json(&["status"]);
    let source = status["key_source"].as_str().expect("a source").to_owned();
    let path = source.split_whitespace().find(|word| word.contains('/')).expect("a path in it");
    path.trim_matches(['"', '\'']).into()
}
