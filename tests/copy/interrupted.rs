//! Copies that are stopped, killed or lose their server, and the same command again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Running, content, exported, failure, failure_of, layer_bytes, midway, noise, taken, text};
use crate::support::{Account, MIB, program, run, stdout_of};

/// What takes long enough to be stopped within it.
const SIZE: u64 = 24 * MIB;

/// An NBD server that takes its time: a piece of the copy takes a twentieth of a second. One request of a connection at
/// a time: with several, nbdkit may die of an assertion (`raw_send_socket`) when a client with requests in flight is
/// gone.
struct Slow {
    child: Child,
    socket: PathBuf,
}

impl Slow {
    fn start(account: &Account) -> Self {
        let socket = account.scratch("slow.sock");
        let mut nbdkit = program("nbdkit");
        nbdkit.args(["--foreground", "--exit-with-parent", "-U", text(&socket), "--filter=delay", "pattern"]);
        nbdkit.args([&format!("size={SIZE}"), "rdelay=50ms", "--threads=1"]).stdin(Stdio::null());
        let child = nbdkit.spawn().expect("nbdkit starts");
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Self { child, socket }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", text(&self.socket))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pattern() -> Vec<u8> {
    (0..SIZE / 8).flat_map(|n| (n * 8).to_be_bytes()).collect()
}

/// An import of which something is there.
fn begun(account: &Account, uri: &str) -> Running {
    let mut running = Running::start(account.command().args(["import", uri, "disk", "--json"]));
    running.wait_until("something is there", || layer_bytes(account) >= 5 * MIB);
    running
}

/// The same command again, which has to go on.
fn go_on(account: &Account, arguments: &[&str]) -> Value {
    let document = account.json(arguments);
    assert_eq!((&document["resumed"], &document["verified"]), (&true.into(), &true.into()), "{document}");
    document
}

#[test]
fn an_import_that_is_stopped_goes_on_where_it_was() {
    let account = Account::new();
    let slow = Slow::start(&account);
    let uri = slow.uri();
    let import = ["import", &uri, "disk"];
    for (served, signal) in [(true, Signal::INT), (false, Signal::TERM)] {
        let server = served.then(|| account.serve());
        let running = begun(&account, &uri);
        running.signal(signal);
        // As timeout(1) does, which signals the process and its group; apart, so that the kernel does not make one of
        // them.
        std::thread::sleep(std::time::Duration::from_millis(5));
        running.signal(signal);
        let document = failure_of(&running.end());
        assert_eq!(document["error"]["kind"], "Cancelled");
        assert_eq!(document["unfinished"], "disk");
        // It is there for nobody but delete and the same command.
        let listed = account.json(&["list"]);
        assert_eq!(listed[0]["error"]["kind"], "InUse", "{listed}");
        for arguments in [
            &["show", "disk"][..],
            &["snapshot", "create", "disk", "s"],
            &["clone", "disk", "new"],
            &["resize", "disk", "64M"],
            &["rename", "disk", "new"],
            &["export", "disk", "out.vhd"],
            &["key", "rotate-data", "disk"],
        ] {
            assert_eq!(failure(&account, arguments)["error"]["kind"], "InUse", "{arguments:?}");
        }
        if let Some(server) = &server {
            let list = stdout_of(program("nbdinfo").args(["--list", "--json"]).arg(server.uri("")));
            assert!(!list.contains("\"disk\""), "{list}");
        }
        // Another source is no way to go on.
        let other = account.scratch("other.img");
        fs::write(&other, [1; 4096]).unwrap();
        assert_eq!(failure(&account, &["import", text(&other), "disk"])["error"]["kind"], "AlreadyExists");
        let document = go_on(&account, &import);
        assert!(document["written_bytes"].as_u64() < Some(SIZE), "it did not begin anew: {document}");
        assert!(content(&account, "disk") == pattern());
        account.sealdisk(&["delete", "disk", "--yes"]);
        assert!(server.is_none_or(|server| server.terminate().success()));
    }
}

#[test]
fn an_import_that_is_killed_goes_on_too() {
    let account = Account::new();
    let slow = Slow::start(&account);
    let uri = slow.uri();
    for served in [true, false] {
        let server = served.then(|| account.serve());
        let running = begun(&account, &uri);
        running.signal(Signal::KILL);
        assert!(!running.end().status.success());
        assert_eq!(failure(&account, &["show", "disk"])["error"]["kind"], "InUse");
        go_on(&account, &["import", &uri, "disk"]);
        assert!(content(&account, "disk") == pattern());
        account.sealdisk(&["delete", "disk", "--yes"]);
        // One that is not wanted any more is dropped, and the name is free.
        let running = begun(&account, &uri);
        running.signal(Signal::KILL);
        running.end();
        account.sealdisk(&["delete", "disk", "--yes"]);
        assert_eq!(fs::read_dir(account.dir().join("disks")).unwrap().count(), 0);
        assert!(server.is_none_or(|server| server.terminate().success()));
    }
}

#[test]
fn an_import_outlives_its_server() {
    let account = Account::new();
    let slow = Slow::start(&account);
    let uri = slow.uri();
    for kill in [false, true] {
        let server = account.serve();
        let running = begun(&account, &uri);
        // While one copies, no other may, nor may the disk be deleted.
        running.signal(Signal::STOP);
        for arguments in [&["import", &uri, "disk"][..], &["delete", "disk", "--yes"]] {
            let error = failure(&account, arguments)["error"].clone();
            assert_eq!(error["kind"], "InUse", "{arguments:?}");
            assert_eq!(error["message"], "the disk \"disk\" is in use by a copy into it", "{arguments:?}");
        }
        running.signal(Signal::CONT);
        if kill {
            server.kill()
        } else {
            assert!(server.terminate().success())
        }
        let document = failure_of(&running.end());
        assert_eq!(document["unfinished"], "disk", "{document}");
        let server = account.serve();
        go_on(&account, &["import", &uri, "disk"]);
        assert!(content(&account, "disk") == pattern());
        account.sealdisk(&["delete", "disk", "--yes"]);
        assert!(server.terminate().success());
    }
}

/// An export that is stopped when something is there.
fn exporting(account: &Account, export: &[&str], (path, part): (&Path, &Path)) -> Running {
    let start = || Running::start(account.command().args(export).arg("--json"));
    midway(start, || part.exists() && taken(part) >= MIB, || fs::remove_file(path).expect("an export that ended"))
}

#[test]
fn an_export_that_is_stopped_or_killed_goes_on() {
    let account = Account::new();
    let raw = account.scratch("image.img");
    fs::write(&raw, noise(3, SIZE as usize)).unwrap();
    account.sealdisk(&["import", text(&raw), "disk"]);
    let server = account.serve();
    account.sealdisk(&["snapshot", "create", "disk", "mine"]);
    for (kind, signal) in
        [("fixed", Signal::INT), ("dynamic", Signal::KILL), ("raw", Signal::TERM), ("fixed", Signal::KILL)]
    {
        let path = account.scratch(&format!("disk.{kind}"));
        let part = account.scratch(&format!("disk.{kind}.sealdisk-part"));
        let export = ["export", "disk", text(&path), "--to", kind];
        let running = exporting(&account, &export, (&path, &part));
        // Two at once would write over each other.
        assert_eq!(failure(&account, &export)["error"]["kind"], "InUse");
        // The snapshot it reads is seen by nobody else.
        let listed = account.json(&["snapshot", "list", "disk"]);
        assert_eq!((listed.as_array().map(Vec::len), &listed[0]["name"]), (Some(1), &"mine".into()), "{listed}");
        let contexts = stdout_of(program("nbdinfo").arg("--json").arg(server.uri("disk")));
        assert!(contexts.contains("sealdisk:diff:mine") && !contexts.contains("reading/"), "{contexts}");
        running.signal(signal);
        running.signal(Signal::CONT);
        let ended = running.end();
        assert!(!path.exists() && part.exists(), "nothing half-made has the name");
        if signal != Signal::KILL {
            let document = failure_of(&ended);
            assert_eq!(document["error"]["kind"], "Cancelled");
            assert_eq!(document["unfinished"], text(&part));
        }
        account.sealdisk(&export);
        assert!(!part.exists());
        assert!(exported(&account, &path, kind) == fs::read(&raw).unwrap(), "{kind}");
        fs::remove_file(path).unwrap();
    }
    account.sealdisk(&["snapshot", "delete", "disk", "mine"]);
    assert_eq!(account.json(&["snapshot", "list", "disk"]), serde_json::json!([]));
    // The snapshot of a reader whose server was killed goes at the next start.
    let path = account.scratch("disk.fixed");
    let part = account.scratch("disk.fixed.sealdisk-part");
    let running = exporting(&account, &["export", "disk", text(&path)], (&path, &part));
    let before = layers(&account);
    server.kill();
    running.signal(Signal::CONT);
    assert!(!running.end().status.success());
    let server = account.serve();
    assert_eq!(account.json(&["snapshot", "list", "disk"]), serde_json::json!([]));
    let write = ["-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush"];
    stdout_of(program("qemu-io").args(write).arg(server.uri("disk")));
    account.sealdisk(&["scrub", "disk", "--wait"]);
    assert!(layers(&account) <= before + 1, "no snapshot keeps layers");
    account.sealdisk(&["export", "disk", text(&path)]);
    assert!(server.terminate().success());
}

fn layers(account: &Account) -> usize {
    account.json(&["show", "disk"])["layers"].as_array().expect("layers").len()
}

#[test]
fn an_image_that_changes_under_the_copy_is_noticed() {
    let account = Account::new();
    let raw = account.scratch("image.img");
    fs::write(&raw, noise(4, SIZE as usize)).unwrap();
    for (n, change) in [("shrinks", SIZE / 2 + 512), ("grows", 2 * SIZE)].into_iter().enumerate() {
        let name = format!("disk{n}");
        let running = midway(
            || Running::start(account.command().args(["import", text(&raw), &name])),
            || layer_bytes(&account) >= MIB,
            || drop(account.sealdisk(&["delete", &name, "--yes"])),
        );
        fs::File::options().write(true).open(&raw).unwrap().set_len(change.1).unwrap();
        running.signal(Signal::CONT);
        let ended = running.end();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("changed") || told.contains("ends early"), "{}: {told}", change.0);
        // What is there is of the image as it was: it is no use to say that the same command goes on.
        assert!(told.contains(&format!("sealdisk delete {name}")) && !told.contains("same command"), "{told}");
        assert_eq!(failure(&account, &["import", text(&raw), &name])["error"]["kind"], "AlreadyExists");
        account.sealdisk(&["delete", &name, "--yes"]);
        fs::write(&raw, noise(4, SIZE as usize)).unwrap();
    }
    assert!(run(account.command().args(["import", text(&raw), "disk"])).status.success());
}
