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
    assert!(String::from_utf8_lossy(&refused.stderr).contains("wrong passphrase"));
    assert!(with_input(&["create", "a", "--size", "1M", "--passphrase-fd", "0"], "phrase").status.success());
}

/// One line says what is wrong and where, one what to do about it: for each way in which a source gives no key.
#[test]
fn what_gives_no_key_says_so_in_a_line_and_what_to_do_in_another() {
    let account = Account::new();
    let path = |name: &str| account.scratch(name).to_str().expect("UTF-8").to_owned();
    for (name, content) in [("wrong", &[9; 32][..]), ("zeros", &[0; 32]), ("short", b"no key"), ("long", &[7; 2000])] {
        key_file(&account.scratch(name), content);
    }
    key_file(&account.scratch("open"), &[9; 32]);
    fs::set_permissions(account.scratch("open"), fs::Permissions::from_mode(0o644)).expect("its mode");
    let file = |name: &str| ["--key-file".to_owned(), path(name)];
    let credential = |name: &str| ["--key-credential".to_owned(), name.to_owned()];
    let command = |line: &str| ["--key-command".to_owned(), line.to_owned()];
    let option = |name: &str, value: &str| [name.to_owned(), value.to_owned()];
    let forms = "a key is 32 bytes, raw or written in hex or base64";
    let one = "it is to give one secret and nothing else";
    let fresh = "32 random bytes are one: head -c 32 /dev/urandom";
    let moved = "if it was moved, name where it is now: --key-file PATH";
    let at = |name: &str, what: &str| format!("{}: {what}", path(name));
    let missing = "cannot be opened: No such file or directory (os error 2)";
    let settings = |what: &str| format!("{}: {what}", account.dir().join("account.toml").display());
    let cases: Vec<([String; 2], String, &str)> = vec![
        (file("nowhere"), at("nowhere", &format!("the key file {missing}")), moved),
        (file("open"), at("open", "others can get at the key file (mode 644), so it is not used"), "chmod 600"),
        (file("zeros"), at("zeros", "the key is all zeros, so it is no key"), fresh),
        (file("short"), at("short", "holds 6 bytes that are no key"), forms),
        (file("long"), at("long", "gives more than 1024 bytes, which is too much"), one),
        (file(""), at("", "the key file is no regular file"), "a pipe is read with --key-fd"),
        (
            file("wrong"),
            settings("this key-encryption key is not the one of this account"),
            "it is opened by the key that came from the key file",
        ),
        (
            credential("nowhere"),
            at("nowhere", &format!("the systemd credential {missing}")),
            "the unit needs LoadCredential=nowhere:PATH",
        ),
        (
            credential("a/b"),
            "\"a/b\" is no name of a credential".to_owned(),
            "give the NAME of LoadCredential=NAME:PATH",
        ),
        (credential("short"), at("short", "holds 6 bytes that are no key"), forms),
        (
            command("/no/such/program"),
            "the key command `/no/such/program`: cannot be started: No such file".to_owned(),
            "the program is looked for in PATH",
        ),
        (
            command("false"),
            "the key command `false`: gave no key and failed (exit status: 1)".to_owned(),
            "what it says itself stands above",
        ),
        (
            command("head -c 32 /dev/zero"),
            "the key command `head`: the key is all zeros, so it is no key".to_owned(),
            fresh,
        ),
        (command("true"), "the key command `true`: holds 0 bytes that are no key".to_owned(), forms),
        (command("yes"), "the key command `yes`: gives more than 1024 bytes, which is too much".to_owned(), one),
        (command(""), "the key command is empty".to_owned(), "give a program and its words"),
        (command("cat 'kek"), "the key command has an open quote".to_owned(), "quotes and backslashes"),
        (
            option("--key-fd", "77"),
            "/proc/self/fd/77: descriptor 77 is not open".to_owned(),
            "in a shell: sealdisk ... 77< FILE",
        ),
        (option("--key-fd", "0"), "/proc/self/fd/0: holds 0 bytes that are no key".to_owned(), forms),
        (
            option("--passphrase-fd", "0"),
            "the key of this account is no passphrase but the key file".to_owned(),
            "leave --passphrase away",
        ),
    ];
    for (words, error, hint) in cases {
        let mut create = account.command();
        create.env("CREDENTIALS_DIRECTORY", account.scratch("")).args(["create", "d", "--size", "1M"]).args(&words);
        let stderr = stderr_of_failure(&mut create);
        let [says, helps] = stderr.lines().collect::<Vec<_>>()[..] else {
            panic!("{words:?}: not two lines: {stderr}")
        };
        assert!(says.starts_with(&format!("error: {error}")), "{words:?}: {error}: {stderr}");
        assert!(helps.starts_with(&format!("hint: {hint}")), "{words:?}: {hint}: {stderr}");
    }
    let slow = ["create", "d", "--size", "1M", "--key-command", "sleep 60", "--key-command-timeout", "1"];
    let stderr = stderr_of_failure(account.command().args(slow));
    assert_eq!(
        stderr,
        "error: the key command `sleep`: gave no key: timed out\nhint: it had 1 s: --key-command-timeout gives it more\n"
    );
    let stderr = stderr_of_failure(account.command().args(["create", "d", "--size", "1M", "--key-credential", "kek"]));
    assert!(
        stderr.starts_with("error: no systemd credentials, so no key \"kek\"\nhint: the key comes with the service")
    );
    let listed = account.sealdisk(&["list"]);
    assert!(!listed.contains(" d "), "{listed}");
    assert!(run(account.command().args(["create", "d", "--size", "1M"])).status.success());
}
