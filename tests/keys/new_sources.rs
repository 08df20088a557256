//! A source that is to open an account from now on: what is taken, and what is refused before anything has changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::support::{Account, MIB, program, run, stderr_of_failure, stdout_of};

const RANDOM: &str = "head -c 32 /dev/urandom";

/// `init` of another account in the scratch folder of `account`.
fn init(account: &Account, words: &[&str]) -> Command {
    let mut command = account.command();
    command.arg("--account").arg(account.scratch("other")).arg("init").args(words);
    command
}

fn key_file(path: &Path, content: &[u8], mode: u32) {
    let _ = fs::remove_file(path);
    fs::write(path, content).expect("a key file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

#[test]
fn a_key_command_that_prints_another_key_each_time_is_refused() {
    let account = Account::new();
    account.create("disk", MIB);
    let refused = stderr_of_failure(&mut init(&account, &["--key-command", RANDOM]));
    assert!(refused.contains("gives another key each time"), "{refused}");
    assert!(!account.scratch("other").exists(), "nothing is left of it");

    let settings = || fs::read(account.dir().join("account.toml")).expect("account.toml");
    let before = settings();
    for served in [false, true] {
        let server = served.then(|| account.serve());
        for deep in [&[][..], &["--account-key"]] {
            let words = [&["key", "rotate-kek", "--key-command", RANDOM], deep].concat();
            let refused = stderr_of_failure(account.command().args(words));
            assert!(refused.contains("gives another key each time"), "served: {served}: {refused}");
        }
        drop(server);
        assert_eq!(settings(), before, "the old wrapping stays");
        account.sealdisk(&["scrub", "disk", "--wait"]);
    }
}

#[test]
fn thirty_two_characters_of_text_are_no_new_key_and_open_what_was_made_with_them() {
    let account = Account::new();
    let path = account.scratch("kek");
    let file = path.to_str().expect("UTF-8");
    key_file(&path, b"0123456789abcdef0123456789abcdef", 0o600);
    let refused = stderr_of_failure(&mut init(&account, &["--key-file", file]));
    assert!(refused.contains("32 characters of text") && refused.contains("write it in base64"), "{refused}");
    let refused = stderr_of_failure(account.command().args(["key", "rotate-kek", "--key-file", file]));
    assert!(refused.contains("32 characters of text"), "{refused}");

    // Insisted upon, and then opened by the text itself too.
    let written = account.scratch("written");
    let base64 = stdout_of(program("base64").arg(&path));
    key_file(&written, base64.as_bytes(), 0o600);
    account.sealdisk(&["key", "rotate-kek", "--key-file", written.to_str().expect("UTF-8")]);
    account.sealdisk(&["create", "disk", "--size", "1M", "--key-file", file]);
}

/// The modes that secret stores impose, for a user that is not root; and slips, which look alike.
#[test]
fn key_files_with_the_modes_of_secret_stores_are_taken_where_no_other_user_of_ours_reads_them() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    let user = 65_534;
    let account = Account::new();
    let mine = account.scratch("mine");
    fs::create_dir(&mine).expect("a folder");
    let program = mine.join("sealdisk");
    fs::copy(env!("CARGO_BIN_EXE_sealdisk"), &program).expect("the program");
    fs::set_permissions(account.scratch(""), fs::Permissions::from_mode(0o755)).expect("a way to it");
    chown(&mine, Some(user), Some(user)).expect("given away");
    let path = account.scratch("kek");
    // (owner, group, mode, taken)
    let cases = [
        (0, user, 0o440, true),
        (0, user, 0o640, true),
        (0, user, 0o444, false),
        (0, user, 0o460, false),
        (0, 7, 0o444, false),
        (user, user, 0o440, false),
        (user, user, 0o400, true),
    ];
    for (owner, group, mode, taken) in cases {
        key_file(&path, &[0xA9; 32], 0o600);
        chown(&path, Some(owner), Some(group)).expect("given away");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        let _ = fs::remove_dir_all(mine.join("account"));
        let id = user.to_string();
        let mut init = Command::new("setpriv");
        init.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&program).current_dir(&mine);
        init.args(["--account", "account", "init", "--key-file"]).arg(&path);
        let output = run(&mut init);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), taken, "{owner}:{group} {mode:o}: {said}");
        if !taken {
            assert!(said.contains("--key-fd") && said.contains("--key-credential"), "another way: {said}");
        }
    }

    // As Docker and Kubernetes mount them: in memory, read-only.
    let secrets = account.scratch("secrets");
    fs::create_dir(&secrets).expect("a folder");
    let script = "mount -t tmpfs none \"$1\" && head -c 32 /dev/urandom > \"$1/kek\" && chmod 0444 \"$1/kek\" && \
                  { [ \"$2\" = rw ] || mount -o remount,ro,bind \"$1\"; } && \
                  exec \"$3\" --account \"$4\" init --key-file \"$1/kek\"";
    for (mount, taken) in [("ro", true), ("rw", false)] {
        let mut init = Command::new("unshare");
        init.args(["--mount", "sh", "-c", script, "sh"]).arg(&secrets).arg(mount).arg(&program);
        init.arg(account.scratch(mount));
        let output = run(&mut init);
        assert_eq!(output.status.success(), taken, "{mount}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// On the file system of the account, in a file elsewhere, in no file.
#[test]
fn init_and_rotate_kek_say_where_the_key_lies_and_to_keep_a_copy_away_from_this_machine() {
    let account = Account::new();
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let elsewhere = memory.path().join("kek");
    key_file(&elsewhere, &[0xA9; 32], 0o600);
    let elsewhere = elsewhere.to_str().expect("UTF-8");
    let away = "Keep a copy of this file away from this machine";
    let apart = ["--passphrase", "--key-credential", "STICK"];
    let fold = |said: &str| assert!(said.lines().all(|line| line.len() <= 80 || line.contains('/')), "{said}");

    let said = stdout_of(&mut init(&account, &[]));
    assert!(said.contains("in the open on the same file system") && said.contains(away), "{said}");
    assert!(apart.iter().all(|way| said.contains(way)), "{said}");
    fold(&said);
    let said = account.sealdisk(&["key", "rotate-kek"]);
    assert!(said.contains("in the open on the same file system") && said.contains(away), "{said}");
    fold(&said);
    assert_eq!(account.json(&["key", "rotate-kek"])["key_place"], "same-file-system");
    let said = account.sealdisk(&["key", "rotate-kek", "--key-file", elsewhere]);
    assert!(!said.contains("the same file system") && said.contains(away), "{said}");
    let said = account.sealdisk(&["key", "rotate-kek", "--key-command", &format!("cat '{elsewhere}'")]);
    assert!(!said.contains("in the open") && said.contains("Keep a copy of the key away"), "{said}");
}
