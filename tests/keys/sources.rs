//! Every source of the key-encryption key: named once, remembered, and never written down.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Account, run, stderr_of_failure, stdout_of};

/// Another account in the scratch folder of `account`, without the default key.
fn verb(account: &Account, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealdisk"));
    command.current_dir(account.scratch("")).env("SEALDISK_ACCOUNT", account.scratch("other")).args(words);
    command.env("XDG_CONFIG_HOME", account.scratch("config")).env_remove("CREDENTIALS_DIRECTORY");
    command
}

fn key_file(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("a key file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// `init` with `words`; later verbs need none of them. Neither `secret` nor its hex or base64 form is in the account.
fn is_remembered_and_not_written(account: &Account, words: &[&str], secret: &[u8]) {
    stdout_of(&mut verb(account, &[&["init"], words].concat()));
    stdout_of(&mut verb(account, &["create", "disk", "--size", "1M"]));
    let shown = stdout_of(&mut verb(account, &["show", "disk"]));
    assert!(shown.contains("encrypted"), "{shown}");
    for form in [secret.to_vec(), hex::encode(secret).into_bytes(), base64(secret).into_bytes()] {
        for file in files_below(&account.scratch("other")) {
            let content = fs::read(&file).expect("a file of the account");
            assert!(!content.windows(form.len()).any(|bytes| bytes == form), "{}", file.display());
        }
    }
    fs::remove_dir_all(account.scratch("other")).expect("the account is removed");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD_NO_PAD.encode(bytes)
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn files_and_commands_are_remembered() {
    let account = Account::new();
    let secret: Vec<u8> = (100..132).collect();
    let path = account.scratch("kek");
    let file = path.to_str().expect("UTF-8");
    for content in [secret.clone(), hex::encode(&secret).into_bytes(), format!("{}=\n", base64(&secret)).into_bytes()] {
        key_file(&path, &content);
        is_remembered_and_not_written(&account, &["--key-file", file], &secret);
        is_remembered_and_not_written(&account, &["--key-command", &format!("cat '{file}'")], &secret);
        is_remembered_and_not_written(&account, &["--key-command-shell", &format!("cat < '{file}'")], &secret);
    }
}

/// What cannot be asked for again is to be given again.
#[test]
fn descriptors_credentials_and_passphrases_are_given_again() {
    let account = Account::new();
    let secret = hex::encode((0..32).map(|n| n * 7 + 1).collect::<Vec<u8>>());
    key_file(&account.scratch("kek"), secret.as_bytes());
    let with_input = |words: &[&str], file: &str| {
        let mut command = verb(&account, words);
        command.stdin(File::open(account.scratch(file)).expect("a file"));
        command.output().expect("the program runs")
    };

    assert!(with_input(&["init", "--key-fd", "0"], "kek").status.success());
    let refused = stderr_of_failure(&mut verb(&account, &["create", "a", "--size", "1M"]));
    assert!(refused.contains("--key-fd"), "{refused}");
    assert!(with_input(&["create", "a", "--size", "1M", "--key-fd", "0"], "kek").status.success());
    fs::remove_dir_all(account.scratch("other")).expect("the account is removed");

    let credentials = account.scratch("");
    let mut init = verb(&account, &["init", "--key-credential", "kek"]);
    stdout_of(init.env("CREDENTIALS_DIRECTORY", &credentials));
    let refused = stderr_of_failure(&mut verb(&account, &["create", "a", "--size", "1M"]));
    assert!(refused.contains("systemd"), "{refused}");
    stdout_of(verb(&account, &["create", "a", "--size", "1M"]).env("CREDENTIALS_DIRECTORY", &credentials));
    fs::remove_dir_all(account.scratch("other")).expect("the account is removed");

    fs::write(account.scratch("phrase"), "correct horse battery\n").expect("a file");
    fs::write(account.scratch("wrong"), "correct horse buttery\n").expect("a file");
    assert!(with_input(&["init", "--passphrase-fd", "0"], "phrase").status.success());
    let refused = with_input(&["create", "a", "--size", "1M", "--passphrase-fd", "0"], "wrong");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not the one of this account"));
    assert!(with_input(&["create", "a", "--size", "1M", "--passphrase-fd", "0"], "phrase").status.success());
}

#[test]
fn a_wrong_missing_or_open_key_file_is_refused_in_one_line() {
    let account = Account::new();
    key_file(&account.scratch("wrong"), &[9; 32]);
    let create = |words: &[&str]| {
        let mut command = account.command();
        command.args(["create", "d", "--size", "1M"]).args(words);
        command
    };
    let wrong = account.scratch("wrong");
    let wrong = wrong.to_str().expect("UTF-8");
    for (words, says) in [
        (vec!["--key-file", wrong], "not the one of this account"),
        (vec!["--key-file", "/nowhere/kek"], "cannot be opened"),
        (vec!["--key-command", "false"], "gave no key"),
    ] {
        let stderr = stderr_of_failure(&mut create(&words));
        assert!(
            stderr.lines().next().is_some_and(|line| line.starts_with("error: ") && line.contains(says)),
            "{stderr}"
        );
    }
    fs::set_permissions(wrong, fs::Permissions::from_mode(0o644)).expect("its mode");
    let stderr = stderr_of_failure(&mut create(&["--key-file", wrong]));
    assert!(stderr.contains("mode 644"), "{stderr}");
    let listed = account.sealdisk(&["list"]);
    assert!(!listed.contains(" d "), "{listed}");
    assert!(run(&mut create(&[])).status.success());
}
