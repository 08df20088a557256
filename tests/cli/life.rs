//! The life of a disk after it was made: snapshots, sizes, names, bases that move; served and not.

use std::fs;

use serde_json::{Value, json};

use crate::client::Client;
use crate::shapes::answer;
use crate::support::{Account, MIB, program, run, stderr_of_failure, stdout_of};

fn kind(account: &Account, arguments: &[&str]) -> Option<String> {
    answer(account, arguments).0["error"]["kind"].as_str().map(str::to_owned)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("an array").iter().map(|item| item["name"].as_str().expect("a name")).collect()
}

#[test]
fn snapshots_are_taken_read_and_rolled_back_to_while_serving() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    client.write(0, &[1; 4096]);
    assert_eq!(account.json(&["snapshot", "create", "disk", "one"])["name"], "one");
    client.write(2048, &[2; 4096]);
    account.sealdisk(&["snapshot", "create", "disk", "two"]);
    client.write(0, &[3; 512]);
    assert_eq!(names(&account.json(&["snapshot", "list", "disk"])), ["one", "two"]);
    assert_eq!(kind(&account, &["snapshot", "create", "disk", "one"]).as_deref(), Some("AlreadyExists"));

    let mut one = Client::attach(&server, "disk@one");
    assert_eq!(one.read(0, 8192), [[1; 4096], [0; 4096]].concat());
    let info = stdout_of(program("nbdinfo").args(["--json", &server.uri("disk@two")]));
    let info: Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!(info["exports"][0]["is_read_only"], true);
    assert!(!run(program("nbdinfo").arg(server.uri("disk@none"))).status.success());
    // In use: nobody pulls it away under a client.
    assert_eq!(kind(&account, &["snapshot", "delete", "disk", "one"]).as_deref(), Some("InUse"));
    assert_eq!(kind(&account, &["delete", "disk", "--yes"]).as_deref(), Some("InUse"));
    assert_eq!(kind(&account, &["snapshot", "rollback", "disk", "one"]).as_deref(), Some("InvalidInput"));
    // Neither the disk: what its client has cached would no longer fit.
    assert_eq!(kind(&account, &["snapshot", "rollback", "disk", "one", "--yes"]).as_deref(), Some("InUse"));
    drop(client);
    account.sealdisk(&["snapshot", "rollback", "disk", "one", "--yes"]);
    let mut client = Client::attach(&server, "disk");
    assert_eq!(client.read(0, 8192), [[1; 4096], [0; 4096]].concat());
    assert_eq!(names(&account.json(&["snapshot", "list", "disk"])), ["one"]);
    drop(one);
    drop(client);
    account.sealdisk(&["snapshot", "delete", "disk", "one"]);
    assert!(server.terminate().success());
    assert_eq!(account.json(&["snapshot", "list", "disk"]), json!([]));
    assert_eq!(account.json(&["status"])["disks"][0]["encrypted_bytes"], 4096 + 512);
}

#[test]
fn a_disk_grows_and_shrinks() {
    let account = Account::new();
    account.create("disk", MIB);
    assert_eq!(account.json(&["resize", "disk", "2M"])["size_bytes"], 2 * MIB);
    let server = account.serve();
    Client::attach(&server, "disk").write(MIB, &[1; 4096]);
    assert_eq!(account.json(&["resize", "disk", "4M"])["size_bytes"], 4 * MIB);
    assert_eq!(Client::attach(&server, "disk").read(4 * MIB - 512, 512), [0; 512]);
    assert_eq!(kind(&account, &["resize", "disk", "1M"]).as_deref(), Some("InvalidInput"));
    // Where nobody can be asked, what would be lost is said all the same.
    let told = stderr_of_failure(account.command().args(["resize", "disk", "1M"]));
    assert!(told.contains("cut off the last 3 MiB of disk for good?") && told.contains("--yes"), "{told}");
    let told = stderr_of_failure(account.command().args(["resize", "disk", "1000"]));
    assert!(told.contains("1000 bytes are no size") && !told.contains("for good"), "{told}");
    assert_eq!(account.json(&["resize", "disk", "1M", "--yes"])["size_bytes"], MIB);
    account.sealdisk(&["resize", "disk", "2M"]);
    assert_eq!(Client::attach(&server, "disk").read(MIB, 4096), [0; 4096]);
    assert_eq!(kind(&account, &["resize", "disk", "1000", "--yes"]).as_deref(), Some("InvalidInput"));
    let map = account.json(&["map", "disk"]);
    let pages: u64 = map.as_array().expect("runs").iter().filter_map(|run| run["pages"].as_u64()).sum();
    assert_eq!(pages, 2 * 2048 + 1);
}

#[test]
fn a_disk_is_renamed_under_its_clients() {
    let account = Account::new();
    account.create("old", MIB);
    account.create("other", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "old");
    client.write(0, b"before");
    assert_eq!(kind(&account, &["rename", "old", "vhds/other"]).as_deref(), Some("AlreadyExists"));
    assert_eq!(account.json(&["rename", "old", "web/new"])["name"], "web/new");
    client.write(6, b" and after");
    assert_eq!(Client::attach(&server, "web/new").read(0, 16), b"before and after");
    assert_eq!(kind(&account, &["show", "old"]).as_deref(), Some("NotFound"));
    // The switch reaches it under its new name.
    account.sealdisk(&["encryption", "off"]);
    client.write(0, &[7; 512]);
    assert_eq!(account.json(&["show", "web/new"])["plain_bytes"], 512);
    assert_eq!(kind(&account, &["delete", "web/new", "--yes"]).as_deref(), Some("InUse"));
    drop(client);
    assert!(server.terminate().success());
    assert_eq!(names(&account.json(&["list"])), ["other", "web/new"]);
    account.sealdisk(&["rename", "web/new", "old"]);
    assert_eq!(names(&account.json(&["list"])), ["old", "other"]);
}

/// In a shell in the same folder, wherever the account lies.
#[test]
fn the_next_command_that_init_names_works_as_it_stands() {
    let account = Account::new();
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_sealdisk")).parent().expect("a folder");
    let path = format!("{}:/usr/bin:/bin", programs.display());
    for (options, variable, named) in [
        ("--account \"it's here\"", None, true),
        ("", None, false),
        ("", Some("elsewhere"), false),
        ("--account other", Some("elsewhere"), true),
    ] {
        let sh = |line: &str| {
            let mut shell = program("sh");
            shell.args(["-c", line]).env("PATH", &path).envs(variable.map(|dir| ("SEALDISK_ACCOUNT", dir)));
            shell.env("HOME", account.scratch("")).env_remove("XDG_CONFIG_HOME").current_dir(account.scratch(""));
            stdout_of(&mut shell)
        };
        let said = sh(&format!("sealdisk {options} init"));
        let next = said.rsplit_once("\nnext: ").expect("a next command").1.trim_end();
        assert_eq!(next.contains("--account"), named, "{next}");
        sh(next);
        assert!(sh(&format!("sealdisk {options} list")).contains("disk1"), "{next}");
    }
}

#[test]
fn a_base_that_moved_is_found_again_and_no_other_is_taken() {
    let account = Account::new();
    let (base, moved, other) =
        (account.scratch("base.img"), account.scratch("moved.img"), account.scratch("other.img"));
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    fs::write(&base, vec![7; MIB as usize]).expect("an image");
    fs::write(&other, vec![8; MIB as usize]).expect("an image");
    account.create_over("disk", &base);
    let digest = crate::support::sha256(&base);
    // What is logged is the verb that was asked for, and only where it records something.
    let server = account.serve();
    for _ in 0..2 {
        assert_eq!(account.json(&["verify", "disk", "--base"])["base"]["files"][0]["sha256"], digest);
    }
    assert!(server.terminate().success());
    let log = fs::read_to_string(account.scratch("serve.log")).expect("a log");
    let acts: Vec<_> = log.lines().filter(|line| line.contains(" act ")).collect();
    assert!(matches!(acts[..], [act] if act.contains("verb=\"verify --base\"") && act.contains("base.img")), "{log}");
    assert_eq!(account.json(&["verify", "disk", "--base"])["base"]["files"][0]["sha256"], digest);
    fs::rename(&base, &moved).expect("moved");
    assert_eq!(kind(&account, &["show", "disk"]).as_deref(), Some("NotFound"));
    assert_eq!(kind(&account, &["rebase", "disk", "--base", &path(&other)]).as_deref(), Some("BaseChanged"));
    // Served: the server opens no path that it is told.
    let server = account.serve();
    let report = account.json(&["rebase", "disk", "--base", &path(&moved)]);
    assert_eq!(report["base"]["path"], path(&moved.canonicalize().expect("a path")));
    assert_eq!(Client::attach(&server, "disk").read(0, 4), [7; 4]);
    assert!(server.terminate().success());
    assert_eq!(account.json(&["verify", "disk", "--base"])["base"]["files"][0]["sha256"], digest);
    account.create("empty", MIB);
    assert_eq!(kind(&account, &["verify", "empty", "--base"]).as_deref(), Some("InvalidInput"));
}
