//! The snapshot that a copy reads is nobody else's: no list shows it, no name reaches it, and no verb takes it away.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::fixture::{failure, image, text};
use crate::support::{Account, MIB, program, run, stdout_of};

const SIZE: u64 = 4 * MIB;

/// An export into a pipe that nobody empties: it goes on reading its snapshot for as long as it is let.
fn reader(account: &Account) -> Child {
    let mut command = account.command();
    command.args(["export", "disk", "-", "--to", "raw"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("its first byte");
    child
}

/// The names of all snapshots of such copies that the files of the account know.
fn names(account: &Account) -> Vec<String> {
    let mut names = Vec::new();
    for path in account.files_with(b"reading/") {
        let bytes = fs::read(path).unwrap();
        for at in (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"reading/")) {
            let hex = &bytes[at + 8..][..32];
            assert!(hex.iter().all(u8::is_ascii_hexdigit));
            names.push(format!("reading/{}", String::from_utf8_lossy(hex)));
        }
    }
    names.sort();
    names.dedup();
    names
}

#[test]
fn the_snapshot_of_a_copy_is_out_of_reach() {
    let account = Account::new();
    let raw = image(&account, "image.img", SIZE, &[(0, SIZE as usize)]);
    account.sealdisk(&["import", text(&raw), "disk"]);
    let server = account.serve();
    account.sealdisk(&["snapshot", "create", "disk", "mine"]);
    let before = shown(&account);
    let mut copy = reader(&account);
    let names = names(&account);
    assert_eq!(names.len(), 1, "{names:?}");
    let hidden = names[0].as_str();
    let at = format!("disk@{hidden}");

    // Shown by nothing.
    assert_eq!(shown(&account), before);
    for arguments in
        [&["status"][..], &["show", "disk"], &["list"], &["audit", "disk"], &["verify", "disk"], &["map", "disk"]]
    {
        for json in [&[][..], &["--json"]] {
            let told = account.sealdisk(&[arguments, json].concat());
            assert!(!told.contains("reading/"), "{arguments:?}: {told}");
        }
    }
    let exports = stdout_of(program("nbdinfo").args(["--list", "--json"]).arg(server.uri("")));
    assert!(!exports.contains("reading/"), "{exports}");

    // Reached by no name.
    for export in [&at, &at.replace('/', "%2F")] {
        let attached = run(program("nbdinfo").arg(server.uri(export)));
        assert!(!attached.status.success(), "{}", String::from_utf8_lossy(&attached.stdout));
    }
    let map = run(program("nbdinfo").arg(format!("--map=sealdisk:diff:{hidden}")).arg(server.uri("disk")));
    assert!(!map.status.success(), "{}", String::from_utf8_lossy(&map.stdout));
    let mine = "mine";
    for arguments in [
        &["diff", "disk", "--from", hidden][..],
        &["diff", "disk", "--from", mine, "--to", hidden],
        &["snapshot", "create", "disk", hidden],
        &["snapshot", "delete", "disk", hidden],
        &["snapshot", "rollback", "disk", hidden, "--yes"],
        &["clone", &at, "new"],
        &["clone", &at, "new", "--full"],
        &["export", &at, "new.vhd"],
        &["export", &at, "-"],
    ] {
        let refused = run(account.command().args(arguments));
        assert!(!refused.status.success(), "{arguments:?}");
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains("no valid name of a snapshot"), "{arguments:?}: {told}");
    }

    let by_a_copy = Value::from("the disk \"disk\" is in use by a copy out of it");
    // Taken away by nobody, while what is the user's own can go.
    for arguments in [&["snapshot", "rollback", "disk", mine, "--yes"][..], &["delete", "disk", "--yes"]] {
        let error = failure(&account, arguments)["error"].clone();
        assert_eq!((&error["kind"], &error["message"]), (&"InUse".into(), &by_a_copy), "{arguments:?}");
    }
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", "write -P 9 0 4M", "-c", "flush"]).arg(server.uri("disk")));
    account.sealdisk(&["snapshot", "delete", "disk", mine]);
    let mut copied = Vec::new();
    copy.stdout.as_mut().expect("a pipe").read_to_end(&mut copied).expect("the copy");
    assert!(copy.wait().expect("it ends").success());
    assert!(copied[..] == fs::read(&raw).unwrap()[1..], "the copy is of the moment when it began");

    // It is gone with its reader: the disk has what it had, and can be deleted.
    account.sealdisk(&["delete", "disk", "--yes"]);
    assert!(server.terminate().success());
}

/// What the verbs tell of the snapshots of the disk.
fn shown(account: &Account) -> [Value; 2] {
    [account.json(&["snapshot", "list", "disk"]), account.json(&["diff", "disk", "--from", "mine"])]
}
