//! Another key-encryption key, of every kind of source from every other, with and without a server; and the same key
//! from another kind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::client::Client;
use crate::support::{Account, MIB, program, run, stderr_of_failure, stdout_of};

/// The kinds of sources, as account.toml names them.
const KINDS: [&str; 5] = ["file", "command", "credential", "passphrase", "fd"];

/// A secret of one kind, in a file of its own.
#[derive(Debug, Clone, Copy)]
struct Key {
    kind: &'static str,
    version: usize,
}

impl Key {
    fn file(self) -> String {
        format!("secret{}", self.version)
    }

    /// A fresh secret; none is ever given twice.
    fn make(self, account: &Account) {
        let path = account.scratch(&self.file());
        fs::write(&path, hex::encode([self.version as u8 + 1; 32])).expect("a secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    /// The options that name it; where it comes by a descriptor, that is `fd`.
    fn options(self, fd: u32) -> Vec<String> {
        let file = self.file();
        match self.kind {
            "file" => vec!["--key-file".into(), file],
            "command" => vec!["--key-command".into(), format!("cat {file}")],
            "credential" => vec!["--key-credential".into(), file],
            "passphrase" => vec!["--passphrase-fd".into(), fd.to_string()],
            _ => vec!["--key-fd".into(), fd.to_string()],
        }
    }

    /// The options that give it again as the old key, where it cannot be asked for by itself.
    fn old_options(self, fd: u32) -> Vec<String> {
        match self.kind {
            "passphrase" => vec!["--old-passphrase-fd".into(), fd.to_string()],
            "fd" => vec!["--old-key-fd".into(), fd.to_string()],
            _ => Vec::new(),
        }
    }
}

/// The program with the secret of `old` on descriptor 3 and that of `new` on descriptor 4.
fn with(account: &Account, old: Key, new: Key, arguments: &[String]) -> Command {
    let plain = account.command();
    let mut command = program("bash");
    command.arg("-c").arg(format!("exec \"$0\" \"$@\" 3<{} 4<{}", old.file(), new.file()));
    command.arg(plain.get_program()).args(plain.get_args()).args(arguments).current_dir(account.scratch(""));
    command.env("XDG_CONFIG_HOME", account.scratch("config")).env("CREDENTIALS_DIRECTORY", account.scratch(""));
    command
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// From `first` on, every step from one kind to another once, back at `first` in the end.
fn tour(first: usize, kinds: &mut Vec<&'static str>) {
    kinds.push(KINDS[first]);
    for (next, kind) in KINDS.iter().enumerate().skip(first + 1) {
        if next == first + 1 {
            tour(next, kinds);
        } else {
            kinds.push(kind);
        }
        kinds.push(KINDS[first]);
    }
}

#[test]
fn from_every_kind_of_source_to_every_other() {
    let mut kinds = Vec::new();
    tour(0, &mut kinds);
    let mut pairs: Vec<_> = kinds.windows(2).collect();
    pairs.sort_unstable();
    pairs.dedup();
    assert_eq!(pairs.len(), KINDS.len() * (KINDS.len() - 1));

    for served in [false, true] {
        let account = Account::new();
        account.create("disk", MIB);
        let mut old = Key { kind: kinds[0], version: 0 };
        old.make(&account);
        stdout_of(&mut with(&account, old, old, &[words(&["key", "rotate-kek"]), old.options(4)].concat()));
        let server = served.then(|| account.serve());
        let mut client = server.as_ref().map(|server| Client::attach(server, "disk").expect("attached"));
        for (step, &kind) in kinds.iter().enumerate().skip(1) {
            let new = Key { kind, version: step };
            new.make(&account);
            let arguments = [words(&["key", "rotate-kek", "--json"]), new.options(4), old.old_options(3)].concat();
            let said = stdout_of(&mut with(&account, old, new, &arguments));
            let what = format!("{} to {kind}, served: {served}", old.kind);
            let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!(said["kek_version"], 2 + step, "{what}");
            let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
            let settings: toml::Table = settings.parse().expect("TOML");
            assert_eq!(settings["kek"]["source"]["kind"].as_str(), Some(kind), "{what}");
            if let Some(client) = &mut client {
                client.write(0, &[step as u8; 512]).expect("a client goes on");
                assert_eq!(client.read(0, 512).expect("a client goes on"), [step as u8; 512], "{what}");
            } else {
                // The next step opens it with the new key; the old one is refused.
                let scrub = [words(&["scrub", "disk", "--wait"]), old.options(3)].concat();
                let refused = stderr_of_failure(&mut with(&account, old, new, &scrub));
                let by_key = refused.contains("not the one of this account") || refused.contains("wrong passphrase");
                assert!(by_key || refused.contains("the key of this account is no "), "{what}: {refused}");
            }
            old = new;
        }
        drop(client);
        if let Some(server) = server {
            assert!(server.terminate().success());
        }
        // The last one is a file, and is asked for unasked.
        assert!(run(&mut with(&account, old, old, &words(&["scrub", "disk", "--wait"]))).status.success());
    }
}

/// The key stays, and is asked for elsewhere from then on. A passphrase has a salt of its own, so it is always another
/// key.
#[test]
fn the_same_key_from_another_kind_of_source() {
    for served in [false, true] {
        let account = Account::new();
        account.create("disk", MIB);
        let key = |kind| Key { kind, version: 0 };
        key("file").make(&account);
        stdout_of(&mut with(
            &account,
            key("file"),
            key("file"),
            &words(&["key", "rotate-kek", "--key-file", "secret0"]),
        ));
        let server = served.then(|| account.serve());
        let kinds = ["file", "credential", "command", "fd", "file"];
        for (&from, &to) in kinds.iter().zip(&kinds[1..]) {
            let what = format!("{from} to {to}, served: {served}");
            let (old, new) = (key(from), key(to));
            let arguments = [words(&["key", "rotate-kek", "--json"]), new.options(4), old.old_options(3)].concat();
            let said = stdout_of(&mut with(&account, old, new, &arguments));
            let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!((&said["kek_replaced"], &said["kek_version"]), (&false.into(), &2.into()), "{what}");
            let status: serde_json::Value =
                serde_json::from_str(&account.sealdisk(&["status", "--json"])).expect("JSON");
            assert_eq!((&status["key_source"], &status["kek_version"]), (&said["key_source"], &2.into()), "{what}");
            // Unasked, where that can be.
            let scrub =
                [words(&["scrub", "disk", "--wait"]), if to == "fd" { new.options(4) } else { Vec::new() }].concat();
            assert!(run(&mut with(&account, old, new, &scrub)).status.success(), "{what}");
            // From where it comes already there is nothing to do, and a new account key wants a new key above it.
            let again = [words(&["key", "rotate-kek"]), new.options(4), new.old_options(3)].concat();
            let refused = stderr_of_failure(&mut with(&account, new, new, &again));
            assert!(refused.contains("gives the key in use: nothing to change"), "{what}: {refused}");
            let deep = [again, words(&["--account-key"])].concat();
            let refused = stderr_of_failure(&mut with(&account, new, new, &deep));
            assert!(refused.contains("needs a new key above it"), "{what}: {refused}");
        }
        if let Some(server) = server {
            assert!(server.terminate().success());
        }
    }
}
