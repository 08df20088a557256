//! Keys destroyed: what remains opens with nothing.

use std::fs;
use std::path::PathBuf;

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure};

/// The wrapped data key in the first slot of a disk (docs/format.md), whichever of its two copies.
fn wrapped_data_key(account: &Account, uuid: &str) -> Vec<u8> {
    let keys = fs::read(account.dir().join("disks").join(uuid).join("keys")).expect("the keys of the disk");
    keys[4096 + 24..][..72].to_vec()
}

fn uuid(account: &Account, name: &str) -> String {
    account.json(&["show", name])["uuid"].as_str().expect("a uuid").to_owned()
}

#[test]
fn a_disk_is_beyond_reading_and_the_others_are_not() {
    let account = Account::new();
    for name in ["gone", "kept"] {
        account.create(name, MIB);
    }
    let (gone, wrapped) = (uuid(&account, "gone"), wrapped_data_key(&account, &uuid(&account, "gone")));
    assert!(!account.files_with(&wrapped).is_empty(), "the search finds what is there");
    let server = account.serve();
    let mut clients = ["gone", "kept"].map(|name| Client::attach(&server, name).expect("attached"));
    for client in &mut clients {
        client.write(0, &[7; 4096]).expect("written");
        client.flush().expect("flushed");
    }

    let refused = stderr_of_failure(account.command().args(["key", "erase", "gone"]));
    assert!(refused.contains("--yes-erase gone"), "{refused}");
    stderr_of_failure(account.command().args(["key", "erase", "gone", "--yes-erase", "kept"]));
    assert_eq!(clients[0].read(0, 4096).expect("nothing was done"), [7; 4096]);

    account.sealdisk(&["key", "erase", "gone", "--yes-erase", "gone"]);
    clients[0].read(0, 512).expect_err("attached or not");
    assert_eq!(clients[1].read(0, 4096).expect("another disk"), [7; 4096]);
    server.terminate();

    assert_eq!(account.files_with(&wrapped), Vec::<PathBuf>::new());
    assert!(!account.dir().join("disks").join(gone).join("keys").exists());
    let refused = stderr_of_failure(account.command().args(["show", "gone"]));
    assert!(refused.contains("wrapped data keys are gone"), "{refused}");
    account.sealdisk(&["delete", "gone", "--yes"]);
    account.sealdisk(&["show", "kept"]);
}

/// Also with the KEK, and with a copy of account.toml from before.
#[test]
fn an_account_is_beyond_reading() {
    let account = Account::new();
    account.create("disk", MIB);
    let disk = uuid(&account, "disk");
    let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    let field = |name: &str| {
        let rest = settings.split(&format!("{name} = \"")).nth(1).expect("a field");
        rest.split('"').next().expect("its end").to_owned()
    };
    let needles = [field("wrapped").into_bytes(), wrapped_data_key(&account, &disk)];
    for needle in &needles {
        assert!(!account.files_with(needle).is_empty(), "the search finds what is there");
    }
    account.sealdisk(&["key", "erase", "--whole-account", "--yes-erase", &field("account")]);
    for needle in &needles {
        assert_eq!(account.files_with(needle), Vec::<PathBuf>::new());
    }
    for verb in [&["serve"][..], &["key", "restore"], &["create", "b", "--size", "1M"]] {
        let refused = stderr_of_failure(account.command().args(verb));
        assert!(refused.contains("erased"), "{verb:?}: {refused}");
    }
    fs::write(account.dir().join("account.toml"), &settings).expect("an old copy put back");
    let refused = stderr_of_failure(account.command().args(["scrub", "disk", "--wait"]));
    assert!(refused.contains("wrapped data keys are gone"), "{refused}");
}

#[test]
fn a_disk_that_a_clone_reads_from_keeps_its_keys() {
    let account = Account::new();
    account.create("parent", MIB);
    account.sealdisk(&["clone", "parent", "child"]);
    let refused = stderr_of_failure(account.command().args(["key", "erase", "parent", "--yes-erase", "parent"]));
    assert!(refused.contains("clone child"), "{refused}");
    account.sealdisk(&["key", "rotate-kek", "--account-key"]);
    account.sealdisk(&["scrub", "child", "--wait"]);
    account.sealdisk(&["delete", "child", "--yes"]);
    account.sealdisk(&["key", "erase", "parent", "--yes-erase", "parent"]);
}
