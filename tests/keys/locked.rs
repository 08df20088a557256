//! Memory for keys that the system does not let be locked: said, or refused. For a user who may lock none.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::support::{Account, run};

const USER: u32 = 65_534;
const SAID: &str = "memory for keys cannot be locked, so they may be swapped out: the limit is 0 KiB";

/// The program, for an account of a user who may lock no memory; root may lock any.
fn command(home: &Account, words: &[&str]) -> Command {
    let folder = home.scratch("mine");
    let mut command = Command::new("prlimit");
    command.arg("--memlock=0");
    if rustix::process::geteuid().is_root() {
        let id = USER.to_string();
        command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.arg(folder.join("sealdisk")).args(["--account", "account"]).args(words);
    command.current_dir(&folder).env("HOME", &folder).env("XDG_CONFIG_HOME", folder.join("config"));
    command
}

#[test]
fn memory_that_cannot_be_locked_is_told_once_and_refused_where_it_has_to_be_locked() {
    let home = Account::new();
    let folder = home.scratch("mine");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(env!("CARGO_BIN_EXE_sealdisk"), folder.join("sealdisk")).expect("the program");
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(home.scratch(""), fs::Permissions::from_mode(0o755)).expect("a way to it");
        chown(&folder, Some(USER), Some(USER)).expect("given away");
    }
    let said_by = |words: &[&str]| {
        let output = run(&mut command(&home, words));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    };
    for words in [&["init"][..], &["create", "disk", "--size", "1M"], &["key", "rotate-data", "disk", "--json"]] {
        let said = said_by(words);
        assert_eq!(said.matches("cannot be locked").count(), 1, "{words:?}: {said}");
        assert!(said.contains(SAID) && said.contains("ulimit -l") && said.contains("LimitMEMLOCK="), "{said}");
    }
    // What has no key has nothing to say.
    for words in [&["generate", "generated"][..], &["--version"]] {
        let said = said_by(words);
        assert!(!said.contains("locked"), "{words:?}: {said}");
    }

    let refused = run(&mut command(&home, &["serve", "--require-locked-memory"]));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains("memory for keys cannot be locked (limit 0 KiB)"), "{said}");
    assert!(said.contains("hint: raise the limit with `ulimit -l`"), "{said}");

    // A server says so in its log, once, whatever it opens.
    let serve = command(&home, &["serve"]);
    let mut wrapped = Command::new("timeout");
    wrapped.args(["--preserve-status", "2"]).arg(serve.get_program()).args(serve.get_args());
    wrapped.current_dir(&folder).envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(&mut wrapped);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(log.matches(SAID).count(), 1, "{log}");
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(SAID)), "{log}");
    assert!(output.status.success(), "{log}");
}
