//! The recipes of docs/security.md for where a key comes from, run as they stand there. `/etc` and the account are in
//! the test's own folder, and what a test must not or cannot use (a cloud's KMS, Vault, the machine's credential key)
//! is a program of the same name and the same arguments that keeps the key in a file.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::support::{Account, program, stdout_of};

/// The blocks in `language` below the heading `heading`.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).expect("docs/security.md");
    let section = text.split("\n### ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no heading {heading}"));
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    let blocks: Vec<_> = blocks.map(|block| block.split("```").next().expect("its end").to_owned()).collect();
    assert!(!blocks.is_empty(), "no {language} below {heading}");
    blocks
}

/// Where a recipe is followed. `sealdisk` is in the path, and there is no account yet.
struct Place(Account);

impl Place {
    fn new() -> Self {
        let place = Self(Account::new());
        fs::remove_dir_all(place.0.dir()).expect("a place for an account");
        for folder in ["bin", "etc/sealdisk", "etc/credstore.encrypted"] {
            fs::create_dir_all(place.0.scratch(folder)).expect("a folder");
        }
        symlink(env!("CARGO_BIN_EXE_sealdisk"), place.0.scratch("bin/sealdisk")).expect("the program");
        place
    }

    /// A program in the path.
    fn stand_in(&self, name: &str, script: &str) {
        let path = self.0.scratch("bin").join(name);
        fs::write(&path, format!("#!/bin/sh -e\n{script}")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("its mode");
    }

    /// The block, with the files of the document where the test has them.
    fn here(&self, block: &str) -> String {
        block
            .replace("/etc/", &format!("{}/", self.0.scratch("etc").display()))
            .replace("/usr/bin/sealdisk", "sealdisk")
    }

    fn shell(&self, block: &str) -> Command {
        let mut shell = program("bash");
        shell.args(["-e", "-u", "-o", "pipefail", "-c", &self.here(block)]).current_dir(self.0.scratch(""));
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", self.0.scratch("bin").display()));
        shell.env("SEALDISK_ACCOUNT", self.0.dir()).env("XDG_CONFIG_HOME", self.0.scratch("config"));
        shell
    }

    fn follow(&self, block: &str) -> String {
        stdout_of(&mut self.shell(block))
    }

    /// The account is opened by such a source, and nothing else has to be said.
    fn is_opened_by(&self, source: &str) {
        self.follow("sealdisk create disk1 --size 1M && sealdisk scrub disk1 --wait");
        let status = self.follow("sealdisk status");
        assert!(status.contains(source), "{status}");
    }
}

#[test]
fn a_key_file() {
    let place = Place::new();
    for block in blocks("A key file", "sh") {
        place.follow(&block);
    }
    let key = fs::metadata(place.0.scratch("etc/sealdisk/kek")).expect("the key");
    assert_eq!((key.len(), key.permissions().mode() & 0o777), (32, 0o600));
    place.is_opened_by("etc/sealdisk/kek");
}

/// Typed on a terminal.
#[test]
fn a_passphrase() {
    let place = Place::new();
    let init = &blocks("A passphrase", "sh")[0];
    let on_terminal = |commands: &str, lines: &str| {
        let mut shell =
            place.shell("{ sleep 1; printf \"$LINES_TYPED\"; sleep 3; } | script -qec \"$COMMANDS\" /dev/null");
        stdout_of(shell.env("COMMANDS", commands).env("LINES_TYPED", lines))
    };
    on_terminal(init, "correct horse\\ncorrect horse\\n");
    on_terminal("sealdisk create disk1 --size 1M", "correct horse\\n");
    let status = place.follow("printf 'correct horse' > FILE; sealdisk status --passphrase-fd 3 3< FILE");
    assert!(status.contains("passphrase") && status.contains("disk1"), "{status}");
}

#[test]
fn a_systemd_credential() {
    let place = Place::new();
    // Arguments: encrypt --name=NAME FROM TO. What systemd would decrypt for the service is taken as it is.
    place.stand_in("systemd-creds", "[ \"$1\" = encrypt ] && [ \"$2\" = --name=kek ]\ncp \"$3\" \"$4\"\n");
    // An account with a key of its own, and the file that the credential is made of.
    place.follow("sealdisk init; (umask 077 && head -c 32 /dev/urandom > /etc/sealdisk/kek)");
    place.follow(&blocks("A systemd credential", "sh")[0]);
    let unit = place.here(&blocks("A systemd credential", "ini")[0]);
    let setting = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name}: {unit}")).to_owned()
    };
    let (name, from) = setting("LoadCredentialEncrypted")
        .split_once(':')
        .map(|(name, from)| (name.to_owned(), from.to_owned()))
        .unwrap();
    let credentials = place.0.scratch("credentials");
    fs::create_dir(&credentials).expect("a folder");
    fs::copy(&from, credentials.join(name)).expect("the credential");
    let with_credentials = |command: &str| {
        stdout_of(place.shell(command).env("CREDENTIALS_DIRECTORY", &credentials));
    };
    with_credentials("sealdisk key rotate-kek --key-credential kek");
    with_credentials("sealdisk create disk1 --size 1M");
    // The service's own command line, in this account, for a moment.
    let serve = setting("ExecStart").replace("/srv/disks", &place.0.dir().display().to_string());
    with_credentials(&format!("timeout --preserve-status --signal=TERM 3 {serve} --socket nbd.sock"));
}

#[test]
fn a_kms_through_a_command() {
    let place = Place::new();
    // A key management service whose ciphertext is the key, turned around.
    place.stand_in(
        "aws",
        "case \"$1 $2\" in\n\
         'kms generate-data-key') head -c 32 /dev/urandom | base64 -w0 | rev | base64 ;;\n\
         'kms decrypt') file=${4#fileb://}; [ \"$3\" = --ciphertext-blob ]; rev < \"$file\" ;;\n\
         *) exit 2 ;;\nesac\n",
    );
    place.follow(&blocks("A KMS, through a command", "sh")[0]);
    place.is_opened_by("aws kms decrypt");
    fs::remove_file(place.0.scratch("etc/sealdisk/kek.kms")).expect("the encrypted key");
    assert!(!crate::support::run(&mut place.shell("sealdisk create disk2 --size 1M")).status.success());
}

/// The stand-in takes what the documented command line takes: flags before the path, `NAME=-` for standard input, a
/// field without a line break after it, status 1 for its own errors and 2 for those of the server.
#[test]
fn vault_through_a_command() {
    let place = Place::new();
    place.stand_in(
        "vault",
        "store=${0%/*}/../store\n\
         [ \"$VAULT_ADDR\" = http://127.0.0.1:8200 ] || { echo 'connection refused' >&2; exit 2; }\n\
         case \"$1 $2 $3\" in\n\
         'kv put -mount=secret') [ $# = 5 ] && [ \"${5#*=}\" = - ] || exit 1; mkdir -p \"$store/$4\"; cat > \"$store/$4/${5%=*}\" ;;\n\
         'kv get -mount=secret') [ $# = 5 ] || exit 1\n\
           [ -d \"$store/$5\" ] || { echo \"No value found at secret/data/$5\" >&2; exit 2; }\n\
           case \"$4\" in -field=*) printf %s \"$(cat \"$store/$5/${4#-field=}\")\" ;; *) exit 1 ;; esac ;;\n\
         *) exit 1 ;;\nesac\n",
    );
    let recipe = &blocks("A KMS, through a command", "sh")[1];
    let refused = crate::support::run(&mut place.shell(recipe));
    assert!(!refused.status.success(), "without an address");
    let with_address = |command: &str| stdout_of(place.shell(command).env("VAULT_ADDR", "http://127.0.0.1:8200"));
    with_address(recipe);
    let stored = fs::read_to_string(place.0.scratch("store/sealdisk/kek")).expect("the key in the store");
    assert_eq!(stored.trim().len(), 44, "32 bytes in base64");
    with_address("sealdisk create disk1 --size 1M && sealdisk scrub disk1 --wait");
    let status = with_address("sealdisk status");
    assert!(status.contains("vault kv get"), "{status}");
    // Another key in its place opens nothing, and neither does none.
    with_address("head -c 32 /dev/urandom | base64 | vault kv put -mount=secret sealdisk kek=-");
    let fails = |says: &str| {
        let mut scrub = place.shell("sealdisk scrub disk1 --wait");
        let stderr = crate::support::stderr_of_failure(scrub.env("VAULT_ADDR", "http://127.0.0.1:8200"));
        assert!(stderr.contains(says), "{says}: {stderr}");
    };
    fails("not the one of this account");
    fs::remove_dir_all(place.0.scratch("store/sealdisk")).expect("the secret is deleted");
    fails(
        "No value found at secret/data/sealdisk\nerror: the key command `vault`: gave no key and failed (exit status: 2)",
    );
}
