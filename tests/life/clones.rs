//! Clones read through to their source, keep it alive, and go their own way; a difference is what was changed.

use serde_json::Value;

use crate::support::{Account, MIB, Server, program, run, stdout_of};

fn io(server: &Server, export: &str, commands: &[&str]) -> String {
    let mut qemu_io = program("qemu-io");
    qemu_io.args(["-f", "raw"]);
    if export.contains('@') {
        qemu_io.arg("-r");
    }
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    stdout_of(qemu_io.arg(server.uri(export)))
}

/// Reads and lets qemu-io compare; it says so on a mismatch, and exits with success all the same.
fn holds(server: &Server, export: &str, reads: &[&str]) {
    let text = io(server, export, reads);
    assert!(!text.contains("verification failed"), "{export}: {text}");
    assert_eq!(text.matches("bytes at offset").count(), reads.len(), "{export}: {text}");
}

fn refused(account: &Account, arguments: &[&str]) -> Value {
    let output = run(account.command().args(arguments).arg("--json"));
    assert!(!output.status.success(), "{arguments:?} should have failed");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
    document["error"]["kind"].clone()
}

#[test]
fn a_clone_reads_through_and_outlives_its_source() {
    let account = Account::new();
    account.create("golden", 4 * MIB);
    let server = account.serve();
    io(&server, "golden", &["write -P 1 0 1M", "flush"]);
    account.sealdisk(&["encryption", "off"]);
    io(&server, "golden", &["write -P 2 1M 1M", "flush"]);
    account.sealdisk(&["snapshot", "create", "golden", "v1"]);
    account.sealdisk(&["clone", "golden@v1", "web"]);
    account.sealdisk(&["encryption", "on"]);
    io(&server, "golden", &["write -P 9 0 2M", "flush"]);
    // The clone has what the snapshot has, in the form in which the source stores it.
    holds(&server, "web", &["read -P 1 0 1M", "read -P 2 1M 1M", "read -P 0 2M 2M"]);
    let usage = account.usage("web");
    assert_eq!(
        (usage.base, usage.plain, usage.encrypted),
        (0, MIB + 512, MIB),
        "its footer was written while encryption was off"
    );
    let golden = account.json(&["show", "golden"])["uuid"].clone();
    let map = account.json(&["map", "web"]);
    assert_eq!((&map[0]["of"], &map[1]["of"]), (&golden, &golden), "{map}");
    assert_eq!(map[0]["key"], format!("{}/1", golden.as_str().expect("a uuid")));
    // Its own writes are its own, and a clone of it sees both.
    io(&server, "web", &["write -P 3 512k 1M", "flush"]);
    account.sealdisk(&["clone", "web", "web2"]);
    holds(&server, "web2", &["read -P 1 0 512k", "read -P 3 512k 1M", "read -P 2 1536k 512k"]);
    holds(&server, "golden", &["read -P 9 0 2M"]);

    assert_eq!(refused(&account, &["snapshot", "delete", "golden", "v1"]), "InUse");
    account.sealdisk(&["rename", "golden", "gilded"]);
    let document = account.json(&["delete", "gilded", "--yes"]);
    assert_eq!((&document["deleted"], &document["hidden"]), (&"gilded".into(), &golden), "{document}");
    assert_eq!(document["clones"][0]["name"], "web", "{document}");
    let named = format!("@{}", golden.as_str().expect("a uuid"));
    assert_eq!(account.json(&["show", &named])["hidden"], true);
    let said = account.sealdisk(&["delete", "web", "--yes"]);
    assert!(said.contains("until the last of them is gone: web2\n") && said.contains("its name is now @"), "{said}");
    assert_eq!(refused(&account, &["show", "gilded"]), "NotFound");
    holds(&server, "web2", &["read -P 1 0 512k", "read -P 3 512k 1M", "read -P 2 1536k 512k"]);
    assert!(server.terminate().success());

    // Over a restart, and after the account key was replaced, which the hidden disks need too.
    let key = account.scratch("new.key");
    std::fs::write(&key, [7; 32]).expect("a key file");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    account.sealdisk(&["key", "rotate-kek", "--account-key", "--key-file", key.to_str().expect("UTF-8")]);
    let server = account.serve();
    holds(&server, "web2", &["read -P 1 0 512k", "read -P 3 512k 1M", "read -P 2 1536k 512k"]);
    assert_eq!(account.sealdisk(&["delete", "web2", "--yes"]), "deleted web2\n");
    let left = std::fs::read_dir(account.dir().join("disks")).expect("the folder").count();
    assert_eq!(left, 0, "with the last clone its sources go");
}

#[test]
fn a_difference_is_what_was_changed() {
    let account = Account::new();
    account.create("disk", 4 * MIB);
    let server = account.serve();
    io(&server, "disk", &["write -P 1 0 2M", "flush"]);
    account.sealdisk(&["snapshot", "create", "disk", "a"]);
    assert_eq!(account.json(&["diff", "disk", "--from", "a"])["runs"], serde_json::json!([]));
    io(&server, "disk", &["write -P 2 4k 4k", "write -P 2 3M 512", "flush"]);
    account.sealdisk(&["snapshot", "create", "disk", "b"]);
    let commands = ["-f", "raw", "-d", "unmap", "-c", "discard 1M 64k", "-c", "write -P 3 0 512"];
    stdout_of(program("qemu-io").args(commands).arg(server.uri("disk")));
    account.sealdisk(&["resize", "disk", "5M"]);
    let runs = |arguments: &[&str]| -> Vec<(u64, u64, String)> {
        let document = account.json(&[&["diff", "disk"], arguments].concat());
        let runs = document["runs"].as_array().expect("runs").iter();
        runs.map(|run| {
            let number = |field: &str| run[field].as_u64().expect("a number");
            (number("start"), number("pages"), run["change"].as_str().expect("a word").to_owned())
        })
        .collect()
    };
    let written = |start, pages| (start, pages, "written".to_owned());
    let cleared = |start, pages| (start, pages, "cleared".to_owned());
    assert_eq!(runs(&["--from", "a", "--to", "b"]), [written(8, 8), written(6144, 1)]);
    assert_eq!(runs(&["--from", "b"]), [written(0, 1), cleared(2048, 128), cleared(8192, 2048)]);
    let all = [written(0, 1), written(8, 8), cleared(2048, 128), written(6144, 1), cleared(8192, 2048)];
    assert_eq!(runs(&["--from", "a"]), all);
    assert_eq!(refused(&account, &["diff", "disk", "--from", "b", "--to", "a"]), "InvalidInput");
    assert!(server.terminate().success());
    // The same without a server, after all was written out and read back.
    assert_eq!(runs(&["--from", "a"]), all);
}

#[test]
fn clones_of_clones_end_at_the_31st_generation_and_say_so() {
    let account = Account::new();
    account.create("g0", 1 << 20);
    let server = account.serve();
    for n in 1..=31 {
        account.sealdisk(&["clone", &format!("g{}", n - 1), &format!("g{n}")]);
    }
    let refused = crate::support::run(account.command().args(["clone", "g31", "g32"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("generation 31"), "{said}");
    assert!(said.contains("`sealdisk clone g31 NEW --full`"), "{said}");
    account.sealdisk(&["clone", "g31", "g32", "--full"]);
    account.sealdisk(&["clone", "g32", "g33"]);
    assert!(server.terminate().success());
}
