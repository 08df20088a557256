//! The keys taken back while a disk is in use, and given again.

use std::fs;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure};

#[test]
fn nothing_is_served_until_the_keys_are_restored_and_clients_that_stayed_go_on() {
    let account = Account::new();
    account.create("disk", MIB);
    account.create("other", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[1; 4096]).expect("written encrypted");
    account.sealdisk(&["encryption", "off"]);
    client.write(8192, &[2; 4096]).expect("written in plaintext");
    account.sealdisk(&["encryption", "on"]);

    let asked = Instant::now();
    let revoked = account.json(&["key", "revoke"]);
    assert_eq!(revoked["unflushed"], serde_json::json!([]));
    for offset in [0, 8192, 65536] {
        client.read(offset, 512).expect_err("neither encrypted nor plain nor empty pages are read");
    }
    client.write(0, &[3; 512]).expect_err("nothing is written");
    client.flush().expect_err("nothing is flushed");
    assert!(asked.elapsed() < Duration::from_secs(20), "far from hanging");
    // Opened before or not, no export answers.
    for name in ["disk", "other"] {
        if let Ok(mut late) = Client::attach(&server, name) {
            late.read(0, 512).expect_err("nor for a new client");
        }
    }
    let refused = stderr_of_failure(account.command().args(["create", "third", "--size", "1M"]));
    assert!(refused.contains("revoked"), "{refused}");
    // Not by a wrong key.
    let wrong = account.scratch("wrong");
    fs::write(&wrong, [9; 32]).expect("a key");
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let refused = stderr_of_failure(account.command().args(["key", "restore", "--key-file"]).arg(&wrong));
    assert!(refused.contains("not the one of this account"), "{refused}");
    client.read(0, 512).expect_err("still revoked");

    assert_eq!(account.json(&["key", "restore"])["were_revoked"], true);
    assert_eq!(client.read(0, 4096).expect("the same client goes on"), [1; 4096]);
    assert_eq!(client.read(8192, 4096).expect("in plaintext too"), [2; 4096]);
    client.write(16384, &[4; 4096]).expect("written");
    client.flush().expect("flushed");
    assert!(server.terminate().success());
}

#[test]
fn a_restart_does_not_bring_the_keys_back() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[7; 4096]).expect("written");
    account.sealdisk(&["key", "revoke"]);
    // Written before, made durable by the revocation itself.
    server.kill();

    let refused = stderr_of_failure(account.command().arg("serve"));
    assert!(refused.contains("revoked") && refused.contains("key restore"), "{refused}");
    // By hand neither.
    let path = account.dir().join("account.toml");
    let settings = fs::read_to_string(&path).expect("account.toml");
    fs::write(&path, settings.replace("revoked = true", "revoked = false")).expect("changed by hand");
    let refused = stderr_of_failure(account.command().arg("serve"));
    assert!(refused.contains("does not match its MAC"), "{refused}");
    fs::write(&path, settings).expect("put back");

    account.sealdisk(&["key", "restore"]);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    assert_eq!(client.read(0, 4096).expect("read"), [7; 4096]);
}
