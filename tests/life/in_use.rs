//! A disk that is in use is neither deleted nor rolled back, and the error names who has it; who holds it for a moment
//! is waited for.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sealdisk::account::attachment::Use;
use sealdisk::account::disk_ref::DiskRef;
use sealdisk::account::name::BlobName;
use sealdisk::account::registry::Registry;
use sealdisk::account::view_name::SnapshotName;
use sealdisk::{Error, ErrorKind};

use crate::client::Client;
use crate::family;
use crate::support::{Account, MIB, run, stderr_of_failure};

/// How long an error may take that names a client. A test fails at five times that.
const AT_ONCE: Duration = Duration::from_secs(1);
/// More than anything here takes.
const HANGS: Duration = Duration::from_secs(60);

fn name() -> BlobName {
    "disk".parse().expect("a name")
}

fn snapshot() -> SnapshotName {
    "one".parse().expect("a name")
}

/// An account with one disk, which has one snapshot.
fn registry(folder: &Path) -> Registry {
    let path = folder.join("account");
    family::make(&path);
    let registry = family::open(&path);
    drop(registry.create(&name(), Some(MIB), None).expect("a disk"));
    registry.take_snapshot(&name(), &snapshot()).expect("a snapshot");
    registry
}

#[track_caller]
fn in_use(error: &Error, by: &str) {
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert!(error.what().contains(by), "{error}");
}

#[test]
fn delete_and_rollback_name_the_client_that_has_the_disk() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    account.sealdisk(&["snapshot", "create", "disk", "one"]);
    let refused = |arguments: &[&str]| {
        let began = Instant::now();
        let told = stderr_of_failure(account.command().args(arguments));
        assert!(began.elapsed() < 5 * AT_ONCE, "{arguments:?}: {:?}", began.elapsed());
        assert!(told.contains("hint: detach its clients first: `sealdisk status` shows them"), "{told}");
        told
    };
    let this = format!("client unix:uid={},pid={}", rustix::process::geteuid().as_raw(), std::process::id());
    let client = Client::attach(&server, "disk").expect("attached");
    for arguments in [&["delete", "disk", "--yes"][..], &["snapshot", "rollback", "disk", "one", "--yes"]] {
        let told = refused(arguments);
        assert!(told.contains(&format!("the disk \"disk\" is in use by {this}\n")), "{told}");
    }
    // Under another name it has the same clients.
    account.sealdisk(&["rename", "disk", "renamed"]);
    let told = refused(&["delete", "renamed", "--yes"]);
    assert!(told.contains(&format!("the disk \"renamed\" is in use by {this}\n")), "{told}");
    drop(client);
    // One that is leaving is waited for.
    account.sealdisk(&["snapshot", "rollback", "renamed", "one", "--yes"]);
    let viewer = Client::attach(&server, "renamed@one").expect("attached");
    for arguments in [&["delete", "renamed", "--yes"][..], &["snapshot", "delete", "renamed", "one"]] {
        let told = refused(arguments);
        assert!(told.contains(&format!("the snapshot \"renamed@one\" is in use by {this}\n")), "{told}");
    }
    drop(viewer);
    account.sealdisk(&["delete", "renamed", "--yes"]);
    assert!(server.terminate().success());
}

#[test]
fn delete_and_rollback_name_the_re_encryption_that_holds_the_disk() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let registry = registry(folder.path());
    let piece = registry.attach(&name(), Use::Reencryption).expect("attached");
    in_use(&registry.delete(&name()).expect_err("held"), "the disk \"disk\" is in use by a re-encryption");
    in_use(&registry.roll_back(&name(), &snapshot(), &[]).expect_err("held"), "in use by a re-encryption");
    // What only a snapshot is held for is in the way of that snapshot's end.
    drop(piece);
    let view = registry.attach_snapshot(&DiskRef::from(&name()), "one", Use::Verb("map")).expect("attached");
    registry.roll_back(&name(), &snapshot(), &[]).expect("that snapshot stays");
    in_use(
        &registry.delete_snapshot(&name(), &snapshot()).expect_err("held"),
        "\"disk@one\" is in use by `sealdisk map`",
    );
    drop(view);
    registry.delete_snapshot(&name(), &snapshot()).expect("free");
    registry.close().expect("closed");
}

/// Between its pieces it holds nothing.
#[test]
fn a_disk_that_is_re_encrypted_in_the_background_is_rolled_back_renamed_and_deleted() {
    let account = Account::new();
    account.create("disk", 4 * MIB);
    let server = account.serve();
    account.sealdisk(&["encryption", "off"]);
    Client::attach(&server, "disk").expect("attached").write(0, &vec![1; 2 << 20]).expect("written");
    account.sealdisk(&["snapshot", "create", "disk", "one"]);
    account.sealdisk(&["encryption", "on"]);
    account.sealdisk(&["reencrypt", "disk", "--detach", "--rate", "64k"]);
    account.sealdisk(&["snapshot", "rollback", "disk", "one", "--yes"]);
    account.sealdisk(&["rename", "disk", "renamed"]);
    let before = account.usage("renamed").plain;
    let began = Instant::now();
    while account.usage("renamed").plain >= before {
        assert!(began.elapsed() < HANGS, "it does not go on: {}", server.log());
        thread::sleep(Duration::from_millis(100));
    }
    account.sealdisk(&["delete", "renamed", "--yes"]);
    let status = run(account.command().args(["status"]));
    assert!(status.status.success());
    assert!(server.terminate().success());
}

#[test]
fn delete_waits_for_a_step_of_the_background_work() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let registry = registry(folder.path());
    let step = registry.attach(&name(), Use::Maintenance).expect("attached");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            done.store(true, Ordering::SeqCst);
            drop(step);
        });
        registry.delete(&name()).expect("deleted");
        assert!(done.load(Ordering::SeqCst), "it was waited for");
    });
    assert_eq!(registry.disk(&name()).expect_err("gone").kind(), ErrorKind::NotFound);
    registry.close().expect("closed");
}

#[test]
fn hundreds_attach_and_detach_while_the_disk_is_deleted_and_nothing_hangs() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let registry = registry(folder.path());
    let (attached, began) = (AtomicU32::new(0), Instant::now());
    let client = || Use::Client("unix:uid=0,pid=1".to_owned());
    thread::scope(|scope| {
        for thread in 0..8 {
            let (registry, attached) = (&registry, &attached);
            scope.spawn(move || {
                for round in 0..400 {
                    let held = match (thread + round) % 4 {
                        0 => registry.attach_snapshot(&DiskRef::from(&name()), "one", client()),
                        1 => registry.attach(&name(), Use::Request),
                        _ => registry.attach(&name(), client()),
                    };
                    match held {
                        Ok(held) => {
                            let again = held.clone();
                            held.read(0, &mut [0; 512]).expect("it is there while it is held");
                            drop((held, again));
                            attached.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    }
                }
            });
        }
        while attached.load(Ordering::SeqCst) < 200 {
            assert!(began.elapsed() < HANGS);
            thread::yield_now();
        }
        while let Err(error) = registry.delete(&name()) {
            in_use(&error, "is in use by ");
            assert!(began.elapsed() < HANGS, "{error}");
        }
    });
    assert!(began.elapsed() < HANGS);
    assert_eq!(registry.disk(&name()).expect_err("gone").kind(), ErrorKind::NotFound);
    registry.create(&name(), Some(MIB), None).expect("its name is free");
    registry.close().expect("closed");
}
