//! The answers of the verbs, as programs read them.

use serde_json::{Value, json};

use crate::support::{Account, MIB, run, sha256};

/// The one document that a verb with `--json` prints, and its exit code.
pub(crate) fn answer(account: &Account, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(account.command().args(arguments).arg("--json"));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"));
    (document, output.status.code())
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn status_counts_every_byte_of_every_disk() {
    let account = Account::new();
    account.create("one", MIB);
    account.sealdisk(&["encryption", "off"]);
    account.create("images/two.vhd", 2 * MIB);
    let status = account.json(&["status"]);
    assert_eq!(status["encryption"], "off");
    let disk = |name: &str, size: u64, plain: u64, encrypted: u64, keys: serde_json::Value| {
        json!({
            "name": name, "uuid": account.json(&["show", name])["uuid"], "size_bytes": size, "base_bytes": 0,
            "plain_bytes": plain, "encrypted_bytes": encrypted, "zero_bytes": size, "pending_scrub_bytes": 0,
            "stored_plain_bytes": plain, "stored_encrypted_bytes": encrypted, "keys": keys,
        })
    };
    // The footer page of each was stored as the setting was when the disk was made.
    let uuid = account.json(&["show", "one"])["uuid"].as_str().map(str::to_owned).expect("its uuid");
    let keys = json!([{
        "key": format!("{uuid}/1"), "pages": 1, "bytes": 512, "current": false, "sealed_blocks": 0, "worn": false,
    }]);
    let (plain, encrypted) = (disk("images/two.vhd", 2 * MIB, 512, 0, json!([])), disk("one", MIB, 0, 512, keys));
    assert_eq!(status["disks"], json!([plain, encrypted]));
    assert_eq!(status["hidden"], json!([]));
    let total = json!({
        "stored_plain_bytes": 512, "stored_encrypted_bytes": 512, "pending_scrub_bytes": 0, "unknown_disks": 0,
    });
    assert_eq!(status["total"], total);
    assert_eq!(account.json(&["encryption", "status"]), json!({ "encryption": "off" }));
    assert_eq!(account.json(&["encryption", "on"]), json!({ "encryption": "on" }));
    assert_eq!(account.json(&["status"])["encryption"], "on");
    // What would be written now, were the disk served.
    assert_eq!(account.json(&["status"])["disks"][1]["keys"][0]["current"], true);
}

#[test]
fn a_disk_over_a_base_has_its_size_and_leaves_it_alone() {
    let account = Account::new();
    let base = account.scratch("base.raw");
    std::fs::write(&base, vec![7; 5 * 512]).expect("an image");
    let sum = sha256(&base);
    account.create_over("disk", &base);
    let shown = account.json(&["show", "disk"]);
    assert_eq!((&shown["size_bytes"], &shown["blob_bytes"]), (&json!(5 * 512), &json!(6 * 512)));
    assert_eq!(shown["base"]["path"], base.canonicalize().expect("a path").to_str().expect("UTF-8"));
    assert_eq!(shown["base_bytes"], 5 * 512);
    let map = account.json(&["map", "disk"]);
    let runs = map.as_array().expect("an array");
    assert_eq!(runs[0], json!({ "start": 0, "pages": 5, "state": "base", "layer": null, "key": null }));
    assert_eq!(keys(&runs[1]), ["key", "layer", "pages", "start", "state"]);
    assert_eq!((&runs[1]["start"], &runs[1]["pages"], &runs[1]["state"]), (&json!(5), &json!(1), &json!("encrypted")));
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1]["key"], shown["layers"][0]["key"]);
    account.sealdisk(&["create", "larger", "--base", base.to_str().expect("UTF-8"), "--size", "1M"]);
    assert_eq!(account.json(&["show", "larger"])["zero_bytes"], MIB - 5 * 512);
    account.sealdisk(&["delete", "disk", "--yes"]);
    assert_eq!(sha256(&base), sum);
    let listed = account.json(&["list"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!((&listed[0]["name"], &listed[0]["size_bytes"]), (&json!("larger"), &json!(MIB)));
}

#[test]
fn a_name_is_one_name_in_both_forms() {
    let account = Account::new();
    account.create("short", MIB);
    account.create("vhds/long", MIB);
    let names = |status: Value| -> Vec<String> {
        let disks = status["disks"].as_array().expect("an array").clone();
        disks.iter().map(|disk| disk["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(account.json(&["status"])), ["vhds/long", "short"]);
    assert_eq!(account.json(&["show", "vhds/short"])["name"], "short");
    assert_eq!(account.json(&["show", "long"])["name"], "vhds/long");
    let (refused, code) = answer(&account, &["create", "vhds/short", "--size", "1M"]);
    assert_eq!((&refused["error"]["kind"], code), (&json!("AlreadyExists"), Some(1)));
}

#[test]
fn a_failure_is_one_document_and_one_line() {
    let account = Account::new();
    for (arguments, kind, code) in [
        (&["show", "none"][..], "NotFound", 1),
        (&["map", "none"], "NotFound", 1),
        (&["delete", "none", "--yes"], "NotFound", 1),
        (&["create", "disk", "--size", "100"], "InvalidInput", 1),
        (&["create", "disk", "--size", "much"], "InvalidInput", 2),
        (&["create", "a@b", "--size", "1M"], "InvalidInput", 2),
        (&["create", "disk"], "Usage", 2),
        (&["frobnicate"], "Usage", 2),
    ] {
        let (document, exit) = answer(&account, arguments);
        assert_eq!((document["error"]["kind"].as_str(), exit), (Some(kind), Some(code)), "{arguments:?}: {document}");
        assert_eq!(keys(&document), ["error"]);
        assert_eq!(keys(&document["error"]), ["kind", "message", "offset"]);
        let message = document["error"]["message"].as_str().expect("a text");
        assert!(!message.is_empty() && !message.contains('\n'), "{message}");
        let error = String::from_utf8(run(account.command().args(arguments)).stderr).expect("UTF-8");
        assert!(error.starts_with(&format!("error: {message}")), "{error}");
    }
    assert_eq!(account.json(&["list"]), json!([]));
}

#[test]
fn every_verb_explains_itself() {
    let account = Account::new();
    let verbs =
        ["quickstart", "init", "create", "list", "show", "status", "map", "serve", "encryption", "scrub", "delete"];
    for verb in verbs {
        let help = account.sealdisk(&[verb, "--help"]);
        assert!(help.contains(&format!("sealdisk {verb}")), "{help}");
    }
    assert!(account.sealdisk(&["--version"]).starts_with("sealdisk "));
}

#[test]
fn man_pages_and_completions_can_be_generated() {
    let account = Account::new();
    let folder = account.scratch("generated");
    account.sealdisk(&["generate", folder.to_str().expect("UTF-8")]);
    let text =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(text("man/sealdisk.1").contains(".TH sealdisk 1"));
    for verb in ["create", "serve", "key-rotate-kek", "snapshot-create", "vhd-check"] {
        let page = text(&format!("man/sealdisk-{verb}.1"));
        assert!(page.contains("\n.SH EXAMPLES\n") && page.contains("\n.SH \"EXIT STATUS\"\n"), "{verb}: {page}");
    }
    for completions in ["sealdisk.bash", "_sealdisk", "sealdisk.fish"] {
        assert!(text(&format!("completions/{completions}")).contains("quickstart"), "{completions}");
    }
}

#[test]
fn a_map_is_drawn_into_a_new_file_or_onto_standard_output() {
    let account = Account::new();
    account.create("disk", MIB);
    let path = account.scratch("disk.svg");
    let path = path.to_str().expect("UTF-8");
    account.sealdisk(&["map", "disk", "--svg", path]);
    let drawn = std::fs::read_to_string(path).expect("a picture");
    assert!(drawn.starts_with("<svg ") && drawn.contains("zero: 1 MiB"), "{drawn}");
    assert_eq!(account.sealdisk(&["map", "disk", "--svg", "-"]), drawn);
    let (again, code) = answer(&account, &["map", "disk", "--svg", path]);
    assert_eq!((again["error"]["kind"].as_str(), code), (Some("AlreadyExists"), Some(1)), "{again}");
    assert_eq!(std::fs::read_to_string(path).expect("a picture"), drawn);
}

#[test]
fn the_installation_has_every_file_at_its_place() {
    let account = Account::new();
    let ended = run(std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/install"))
        .arg("/opt/sealdisk")
        .env("SEALDISK_PROGRAM", env!("CARGO_BIN_EXE_sealdisk"))
        .env("DESTDIR", "packaged")
        .current_dir(account.scratch(".")));
    assert!(ended.status.success(), "{ended:?}");
    let at = |name: &str| account.scratch("packaged/opt/sealdisk").join(name);
    for name in [
        "bin/sealdisk",
        "share/man/man1/sealdisk.1",
        "share/bash-completion/completions/sealdisk",
        "share/zsh/site-functions/_sealdisk",
        "share/fish/vendor_completions.d/sealdisk.fish",
        "lib/systemd/system/sealdisk@.socket",
        "lib/systemd/system/sealdisk-metrics@.socket",
        "lib/sysusers.d/sealdisk.conf",
    ] {
        assert!(at(name).is_file(), "{name}");
    }
    let unit = std::fs::read_to_string(at("lib/systemd/system/sealdisk@.service")).expect("the unit");
    assert!(unit.contains("\nExecStart=/opt/sealdisk/bin/sealdisk --account "), "{unit}");
}
