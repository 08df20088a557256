//! Keys destroyed: what remains opens with nothing.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::attacker::Attacker;
use crate::client::Client;
use crate::support::{Account, MIB, program, run, stderr_of_failure, stdout_of};

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

/// `key erase WHAT` on a terminal, with these lines typed: what it shows, and whether it succeeded.
fn typed(account: &Account, what: &str, lines: &[&str]) -> (String, bool) {
    let erase = format!("{} --account {} key erase {what}", env!("CARGO_BIN_EXE_sealdisk"), account.dir().display());
    let mut terminal = program("bash");
    terminal.args(["-c", "printf '%s\\n' \"${@:2}\" | script -qec \"$1\" /dev/null", "bash", &erase]).args(lines);
    let output = run(terminal.env("XDG_CONFIG_HOME", account.scratch("config")));
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

/// Once is not enough, and neither is anything but the very name.
#[test]
fn on_a_terminal_the_name_is_asked_for_twice() {
    let account = Account::new();
    for name in ["gone", "kept"] {
        account.create(name, MIB);
    }
    let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    let id = settings.split("account = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
    for (what, name) in [("gone", "gone"), ("--account", id)] {
        let wrong: [&[&str]; 6] = [
            &["yes", "yes"],
            &["kept", name],
            &[name, "kept"],
            &[name, ""],
            &["", name],
            &[&name.to_uppercase(), name],
        ];
        for lines in wrong {
            let (shown, succeeded) = typed(&account, what, lines);
            assert!(!succeeded && shown.contains("nothing was done"), "{lines:?}: {shown}");
            let asked_again = shown.contains("Once more, its name: ");
            assert_eq!(asked_again, lines[0] == name, "{lines:?}: {shown}");
            account.sealdisk(&["scrub", "gone", "--wait"]);
        }
        let (shown, succeeded) = typed(&account, what, &[name, name]);
        let question = format!("the keys of {name} will be destroyed, and what they encrypt with them. Its name: ");
        assert!(succeeded && shown.contains(&question) && shown.contains("Once more, its name: "), "{shown}");
        stderr_of_failure(account.command().args(["scrub", "gone", "--wait"]));
        if what == "gone" {
            account.sealdisk(&["scrub", "kept", "--wait"]);
            account.sealdisk(&["delete", "gone", "--yes"]);
            account.create("gone", MIB);
        }
    }
    let refused = stderr_of_failure(account.command().args(["scrub", "kept", "--wait"]));
    assert!(refused.contains("erased"), "{refused}");
}

const SECRET: &[u8] = b"what nobody is to read again";

/// Two disks with three data keys, and a few pages under each.
fn account_with_data() -> Account {
    let account = Account::new();
    for name in ["a", "b"] {
        account.create(name, MIB);
    }
    let server = account.serve();
    for (at, name) in [(0, "a"), (0, "b"), (4096, "b")] {
        let mut client = Client::attach(&server, name).expect("attached");
        client.write(at, &SECRET.repeat(20)[..512]).expect("written");
        client.flush().expect("flushed");
        account.sealdisk(&["key", "rotate-data", "a"]);
        if at == 0 && name == "b" {
            account.sealdisk(&["key", "rotate-data", "b"]);
        }
    }
    assert!(server.terminate().success());
    account
}

const KEYS: [&str; 4] = ["a, layer 1", "account key", "b, layer 1", "b, layer 2"];

/// Over every file of the account, also with the KEK and all that was known before, and with an old account.toml.
#[test]
fn an_account_is_beyond_reading() {
    let account = account_with_data();
    let attacker = Attacker::new(&account, &["a", "b"]);
    assert_eq!(attacker.finds(&account.dir()), KEYS, "the search finds what is there");
    let path = account.dir().join("account.toml");
    let settings = fs::read_to_string(&path).expect("account.toml");
    let id = settings.split("account = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");

    let refused = stderr_of_failure(account.command().args(["key", "erase", "--account"]));
    assert!(refused.contains(&format!("--yes-erase {id}")), "{refused}");
    account.sealdisk(&["key", "erase", "--account", "--yes-erase", id]);
    assert_eq!(attacker.finds(&account.dir()), Vec::<String>::new());
    assert_eq!(account.files_with(SECRET), Vec::<PathBuf>::new());
    for verb in [&["serve"][..], &["key", "restore"], &["create", "c", "--size", "1M"], &["scrub", "a", "--wait"]] {
        let refused = stderr_of_failure(account.command().args(verb));
        assert!(refused.contains("erased") && refused.contains("hint: `sealdisk delete`"), "{verb:?}: {refused}");
    }

    fs::write(&path, &settings).expect("an old copy put back");
    assert_eq!(attacker.finds(&account.dir()), ["account key"]);
    for disk in ["a", "b"] {
        let refused = stderr_of_failure(account.command().args(["scrub", disk, "--wait"]));
        assert!(refused.contains("wrapped data keys are gone"), "{refused}");
    }
}

/// Nothing says any more where in it a key may lie, or whose account it is: the directory is named instead.
#[test]
fn an_account_whose_settings_are_damaged_is_erased_all_the_same() {
    for served in [false, true] {
        let account = account_with_data();
        let attacker = Attacker::new(&account, &["a", "b"]);
        let server = served.then(|| account.serve());
        let path = account.dir().join("account.toml");
        let mut damaged = fs::read(&path).expect("account.toml");
        damaged[3] = 0xFF;
        fs::write(&path, &damaged).expect("damaged");
        assert_eq!(attacker.finds(&account.dir()), KEYS, "the wrapped key is still in it");
        if !served {
            let refused = stderr_of_failure(account.command().args(["scrub", "a", "--wait"]));
            assert!(refused.contains("account.toml"), "{refused}");
        }

        let dir = account.dir().canonicalize().expect("a path");
        let dir = dir.to_str().expect("UTF-8");
        let refused = stderr_of_failure(account.command().args(["key", "erase", "--account"]));
        assert!(refused.contains("WARNING") && refused.contains(&format!("--yes-erase {dir}")), "{refused}");
        stderr_of_failure(account.command().args(["key", "erase", "--account", "--yes-erase", "account"]));
        assert_eq!(fs::read(&path).expect("account.toml"), damaged, "nothing was done");
        account.sealdisk(&["key", "erase", "--account", "--yes-erase", dir]);
        assert_eq!(attacker.finds(&account.dir()), Vec::<String>::new());
        drop(server);
        let refused = stderr_of_failure(account.command().arg("serve"));
        assert!(refused.contains("erased"), "{refused}");
    }
}

/// `--account` means every key where it stands alone, and the account's directory where it has a value.
#[test]
fn which_keys_are_meant_is_never_guessed() {
    let account = Account::new();
    for name in ["a", "b"] {
        account.create(name, MIB);
    }
    let dir = account.dir();
    let dir = dir.to_str().expect("UTF-8");
    let bare = |arguments: &[&str]| {
        let mut command = account.command();
        let mut bare = std::process::Command::new(command.get_program());
        bare.current_dir(account.scratch("")).env_remove("SEALDISK_ACCOUNT").args(arguments);
        command.args(arguments);
        (command, bare)
    };
    for arguments in [&["key", "erase", "--account", dir][..], &["key", "erase"], &["key", "erase", "a", "--account"]] {
        let refused = stderr_of_failure(&mut bare(arguments).0);
        assert!(refused.contains("error:") && !refused.contains("destroyed\n"), "{arguments:?}: {refused}");
    }
    stdout_of(&mut bare(&["key", "erase", "a", "--yes-erase", "a", "--account", dir]).1);
    account.sealdisk(&["show", "b"]);
    let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    let id = settings.split("account = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
    let (_, mut by_environment) = bare(&["key", "erase", "--yes-erase", id, "--account"]);
    stdout_of(by_environment.env("SEALDISK_ACCOUNT", dir));
    let refused = stderr_of_failure(account.command().args(["scrub", "b", "--wait"]));
    assert!(refused.contains("erased"), "{refused}");
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

/// A second name of a disk's file of keys: what is found there is what lies in the freed blocks once the disk is gone.
fn keys_kept_in_sight(account: &Account, folder: &str, number: u32) -> PathBuf {
    let sight = account.scratch(&format!("keys{number}"));
    fs::hard_link(account.dir().join("disks").join(folder).join("keys"), &sight).expect("a second name");
    assert!(is_stored(&sight), "the search finds what is there");
    sight
}

fn is_stored(keys: &PathBuf) -> bool {
    fs::read(keys).expect("the file").chunks(512).any(|sector| sector.starts_with(b"SLOT"))
}

#[test]
fn a_disk_that_is_deleted_leaves_no_wrapped_key_behind() {
    let account = Account::new();
    for name in ["disk", "source"] {
        account.create(name, MIB);
    }
    let of_disk = keys_kept_in_sight(&account, &uuid(&account, "disk"), 1);
    let of_source = keys_kept_in_sight(&account, &uuid(&account, "source"), 2);
    // Without the key-encryption key.
    account.sealdisk(&["delete", "disk", "--yes", "--key-command", "false"]);
    assert!(!is_stored(&of_disk));

    account.sealdisk(&["clone", "source", "clone"]);
    let of_clone = keys_kept_in_sight(&account, &uuid(&account, "clone"), 3);
    account.sealdisk(&["delete", "source", "--yes"]);
    assert!(is_stored(&of_source), "the clone reads from it");
    account.sealdisk(&["delete", "clone", "--yes"]);
    assert!(!is_stored(&of_clone) && !is_stored(&of_source), "with its last clone it goes");

    // What verbs left that were cut off, and a copy that has not ended.
    for (number, prefix) in [(4, ".gone-"), (5, ".new-")] {
        account.create("left", MIB);
        let uuid = uuid(&account, "left");
        let left = keys_kept_in_sight(&account, &uuid, number);
        let disks = account.dir().join("disks");
        fs::rename(disks.join(&uuid), disks.join(format!("{prefix}{uuid}"))).expect("renamed");
        account.create("other", MIB);
        account.sealdisk(&["delete", "other", "--yes"]);
        assert!(!is_stored(&left), "{prefix}");
        assert_eq!(fs::read_dir(&disks).expect("the disks").count(), 0);
    }
    let image = account.scratch("image");
    fs::write(&image, vec![7; 128 * MIB as usize]).expect("an image");
    let mut import = account.command().args(["import", "image", "copy"]).spawn().expect("the program starts");
    let disks = account.dir().join("disks");
    let is_there =
        |entry: std::io::Result<fs::DirEntry>| !entry.expect("an entry").file_name().to_string_lossy().starts_with('.');
    let started = Instant::now();
    while !fs::read_dir(&disks).expect("the disks").any(is_there) {
        assert!(started.elapsed() < Duration::from_secs(30), "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    import.kill().expect("it runs");
    assert!(!import.wait().expect("it ends").success(), "it was over before it was killed");
    let copy = account.json(&["list"])[0]["uuid"].as_str().expect("a UUID").to_owned();
    let of_copy = keys_kept_in_sight(&account, &copy, 6);
    account.sealdisk(&["delete", "copy", "--yes"]);
    assert!(!is_stored(&of_copy));
}

#[test]
fn a_layer_that_goes_leaves_no_wrapped_key_behind() {
    let account = Account::new();
    account.create("disk", MIB);
    let sight = keys_kept_in_sight(&account, &uuid(&account, "disk"), 1);
    let wrapped = wrapped_data_key(&account, &uuid(&account, "disk"));
    account.sealdisk(&["key", "rotate-data", "disk"]);
    account.sealdisk(&["reencrypt", "disk"]);
    assert_eq!(account.json(&["show", "disk"])["layers"].as_array().map(Vec::len), Some(1));
    let left = fs::read(sight).expect("the file");
    assert!(!left.windows(wrapped.len()).any(|window| window == wrapped));
}
