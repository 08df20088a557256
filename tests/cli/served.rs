//! A verb answers alike whether its account is free or being served.

use serde_json::{Value, json};

use crate::client::Client;
use crate::shapes::answer;
use crate::support::{Account, MIB, run};

const READING: [&[&str]; 7] = [
    &["list"],
    &["status"],
    &["show", "disk"],
    &["map", "disk"],
    &["encryption", "status"],
    &["show", "none"],
    &["map", "vhds/none"],
];

/// Text and JSON of every reading verb: all that a user sees of them.
fn seen(account: &Account) -> Vec<(String, String, Value)> {
    let one = |arguments: &&[&str]| {
        let output = run(account.command().args(*arguments));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let (mut document, stdout) = (answer(account, arguments).0, text(output.stdout));
        // What a server says of itself, `status` adds.
        let of_disks = |line: &&str| !line.starts_with("server ");
        if let Some(document) = document.as_object_mut() {
            document.remove("server");
        }
        let stdout = stdout.split("\n\nATTACHED ").next().unwrap_or_default();
        (stdout.lines().filter(of_disks).collect::<Vec<_>>().join("\n"), text(output.stderr), document)
    };
    READING.iter().map(one).collect()
}

#[test]
fn status_says_who_is_attached() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    assert_eq!(account.json(&["status"])["server"]["clients"], json!([]));
    let mut client = Client::attach(&server, "disk");
    client.write(0, &[1; 4096]);
    client.flush();
    let status = account.json(&["status"]);
    let mut attached = status["server"]["clients"][0].clone();
    let peer = attached["peer"].take();
    let expected = format!(",pid={}", std::process::id());
    assert!(peer.as_str().is_some_and(|peer| peer.starts_with("unix:uid=") && peer.ends_with(&expected)), "{peer}");
    attached["seconds"].take();
    let expected = json!({
        "export": "disk", "peer": null, "tls": false, "read_only": false, "seconds": null, "requests": 2,
        "read_bytes": 0, "written_bytes": 4096,
    });
    assert_eq!(attached, expected, "{status}");
    let text = account.sealdisk(&["status"]);
    let row = text.lines().skip_while(|line| !line.starts_with("ATTACHED ")).nth(1).expect("a row");
    assert!(row.starts_with("disk ") && row.contains("4 KiB"), "{text}");
    let (refused, _) = answer(&account, &["delete", "disk", "--yes"]);
    assert_eq!(refused["error"]["kind"], "InUse", "{refused}");
    drop(client);
}

#[test]
fn reading_verbs_answer_alike() {
    let account = Account::new();
    let base = account.scratch("base.raw");
    std::fs::write(&base, vec![7; 8 * MIB as usize]).expect("an image");
    account.create_over("disk", &base);
    account.create("images/other.vhd", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    for page in (0..2000).step_by(3) {
        client.write(page * 512, &[1; 512]);
    }
    account.sealdisk(&["encryption", "off"]);
    client.write(MIB, &[2; 700]);
    client.flush();
    drop(client);
    account.sealdisk(&["scrub", "disk", "--wait"]);
    let served = seen(&account);
    assert!(server.terminate().success());
    assert_eq!(served, seen(&account));
}

/// What changing verbs answer, with what differs from one run to the next left out.
fn changes(account: &Account) -> Vec<(Value, Option<i32>)> {
    let base = account.scratch("base.raw");
    std::fs::write(&base, vec![7; 4096]).expect("an image");
    let base = base.to_str().expect("UTF-8");
    let verbs: [&[&str]; 12] = [
        &["create", "over", "--base", base],
        &["create", "over", "--size", "1M"],
        &["create", "small", "--base", base, "--size", "512"],
        &["encryption", "off"],
        &["create", "plain", "--size", "1M"],
        &["scrub", "plain"],
        &["scrub", "plain", "--wait"],
        &["scrub", "none", "--wait"],
        &["delete", "plain", "--yes"],
        &["delete", "plain", "--yes"],
        &["encryption", "on"],
        &["list"],
    ];
    let mut answers: Vec<_> = verbs.iter().map(|verb| answer(account, verb)).collect();
    for (document, _) in &mut answers {
        forget(document);
    }
    answers
}

fn forget(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "uuid" | "created" | "key" | "account_key" | "path" | "base" | "files" if !value.is_object() => {
                        *value = json!("-")
                    }
                    _ => forget(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

#[test]
fn changing_verbs_answer_alike() {
    let free = Account::new();
    let served = Account::new();
    let server = served.serve();
    assert_eq!(changes(&free), changes(&served));
    assert!(server.terminate().success());
    let counts = |account: &Account| {
        let mut status = account.json(&["status"]);
        status["key_source"] = json!("-");
        forget(&mut status);
        status
    };
    assert_eq!(counts(&free), counts(&served));
}

#[test]
fn disks_come_and_go_while_serving() {
    let account = Account::new();
    let server = account.serve();
    account.create("new", MIB);
    let mut client = Client::attach(&server, "new");
    client.write(0, b"a guest's");
    let (refused, code) = answer(&account, &["delete", "new", "--yes"]);
    assert_eq!((&refused["error"]["kind"], code), (&json!("InUse"), Some(1)));
    assert_eq!(client.read(0, 9), b"a guest's");
    drop(client);
    account.sealdisk(&["delete", "new", "--yes"]);
    assert_eq!(account.json(&["list"]), json!([]));
    assert!(std::fs::read_dir(account.dir().join("disks")).expect("a folder").next().is_none());
}

#[test]
fn a_long_map_comes_in_parts() {
    let account = Account::new();
    account.create("disk", 48 * MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    // Twice as many runs as one message holds: every other page, and zeros between.
    for page in (0..70_000).step_by(2) {
        client.write(page * 512, &[1; 512]);
    }
    client.flush();
    drop(client);
    let served = account.json(&["map", "disk"]);
    assert_eq!(served.as_array().map(Vec::len), Some(70_001));
    let mut next = 0;
    for run in served.as_array().expect("an array") {
        assert_eq!(run["start"], next);
        next += run["pages"].as_u64().expect("a number");
    }
    assert_eq!(next, 48 * 2048 + 1);
    assert!(server.terminate().success());
    assert_eq!(served, account.json(&["map", "disk"]));
}
