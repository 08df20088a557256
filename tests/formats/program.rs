//! The real program finds in a copy of the golden account what was left there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::client::Client;
use crate::fixtures::{RecordedView, expected, sha256};
use crate::golden::folder;
use crate::support::{Account, Server};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn check(server: &Server, export: &str, view: &RecordedView) {
    let content = Client::attach(server, export).read(0, view.size as usize);
    assert_eq!(sha256(&content), view.sha256, "{export}");
}

#[test]
fn the_program_serves_a_copy_of_the_golden_account() {
    let account = Account::new();
    fs::remove_dir_all(account.dir()).unwrap();
    copy(&folder().join("account"), &account.dir());
    let (key, base) = (account.scratch("kek"), account.scratch("base.raw"));
    fs::copy(folder().join("kek"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(folder().join("base.raw"), &base).unwrap();
    let key = key.to_str().unwrap();
    account.sealdisk(&["rebase", "mixed", "--base", base.to_str().unwrap(), "--key-file", key]);

    let server = account.serve_with(&["--key-file", key]);
    for (name, disk) in expected().disks {
        // This machine was booted since: what was not flushed is not believed.
        check(&server, &name, disk.flushed.as_ref().unwrap_or(&disk.seen));
        for (snapshot, view) in &disk.snapshots {
            check(&server, &format!("{name}@{snapshot}"), view);
        }
        account.sealdisk(&["verify", &name]);
    }
    assert!(server.terminate().success());
    account.sealdisk(&["audit", "vhds/ended", "--key-file", key]);
}
