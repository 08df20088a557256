//! A served account is put under another key, and a data key leaves it, only for a verb that has the key it is opened
//! by; and that key never reaches the server.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::{Account, MIB, stderr_of_failure};

/// The answer of the server of an account to a request that brings no files.
fn ask(account: &Account, request: &serde_json::Value) -> serde_json::Value {
    let body = request.to_string();
    let mut stream = UnixStream::connect(account.dir().join("control.sock")).expect("the control socket");
    let mut header = *b"sdctl\0\x01\0\0\0\0\0\0\0\0\0";
    header[8..12].copy_from_slice(&u32::try_from(body.len()).expect("short").to_le_bytes());
    stream.write_all(&header).and_then(|()| stream.write_all(body.as_bytes())).expect("sent");
    stream.read_exact(&mut header).expect("an answer");
    let mut answer = vec![0; u32::from_le_bytes(header[8..12].try_into().expect("four")) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    serde_json::from_slice(&answer).expect("JSON")
}

#[test]
fn a_served_account_is_rekeyed_and_its_keys_are_exported_only_with_its_key() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let settings = || fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    let before = settings();
    let kek = before.split("path = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a path").to_owned();
    let away = account.scratch("away");
    fs::rename(&kek, &away).expect("moved");
    let other = account.scratch("other");
    fs::write(&other, [9; 32]).expect("a key");
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let other = other.to_str().expect("UTF-8");
    let out = account.scratch("layer1");
    let out = out.to_str().expect("UTF-8");
    let export = ["key", "export", "disk", "--layer", "1", "--out", out, "--yes-reveal"];
    for words in [&["key", "rotate-kek"][..], &["key", "rotate-kek", "--account-key"], &export] {
        let refused = stderr_of_failure(account.command().args(words));
        assert!(refused.contains("cannot be opened"), "{words:?}: {refused}");
        assert!(refused.contains("if it was moved"), "{words:?}: {refused}");
    }
    let wrong = [&["key", "rotate-kek", "--old-key-file", other][..], &[&export[..], &["--key-file", other]].concat()]
        .map(|words| stderr_of_failure(account.command().args(words)));
    for refused in wrong {
        assert!(refused.contains("not the one of this account"), "{refused}");
    }
    assert!(!fs::exists(out).expect("looked for"), "no key was revealed");

    // Past the verbs: with no proof, a proof of another key, an old challenge.
    let what = serde_json::json!({ "verb": "export", "name": "disk", "layer": 1 });
    let challenge = ask(&account, &serde_json::json!({ "verb": "key", "what": { "verb": "challenge" } }));
    let nonce = challenge["done"].as_str().expect("a number").to_owned();
    let proven = |nonce: &str| {
        let proven = serde_json::json!({ "verb": "proven", "nonce": nonce, "proof": "00".repeat(32), "what": what });
        ask(&account, &serde_json::json!({ "verb": "key", "what": proven }))["failed"]["message"].to_string()
    };
    assert!(proven(&nonce).contains("is not proven"));
    assert!(proven(&nonce).contains("too late"), "a challenge counts once");
    assert!(proven(&"11".repeat(32)).contains("too late"), "and only if it was given");
    let bare = ask(&account, &serde_json::json!({ "verb": "key", "what": what }));
    assert!(bare["failed"]["message"].to_string().contains("does not understand"), "{bare}");
    assert_eq!(settings(), before, "nothing was changed");

    // With it.
    let old = ["--old-key-file", away.to_str().expect("UTF-8")];
    account.sealdisk(&[&export[..], &["--key-file", old[1]]].concat());
    assert_eq!(fs::read(out).expect("the data key").len(), 64);
    account.sealdisk(&[&["key", "rotate-kek"], &old[..]].concat());
    // The server tells the new key from the old one.
    let refused = stderr_of_failure(account.command().args([&["key", "rotate-kek"], &old[..]].concat()));
    assert!(refused.contains("not the one of this account"), "{refused}");
    account.sealdisk(&["key", "rotate-kek", "--account-key"]);
    account.sealdisk(&["key", "revoke"]);
    account.sealdisk(&["key", "restore"]);
    account.sealdisk(&["key", "rotate-kek"]);
    drop(server);
    account.sealdisk(&["scrub", "disk", "--wait"]);
}
