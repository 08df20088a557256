//! A passphrase typed at a terminal: `terminal.py` is the person and looks at the terminal.

use std::fs::{self, File};
use std::path::Path;

use crate::support::{Account, program, stdout_of};

fn with_passphrase() -> Account {
    let account = Account::new();
    fs::write(account.scratch("phrase"), "correct horse battery\n").expect("a passphrase");
    let mut rotate = account.command();
    rotate.args(["key", "rotate-kek", "--passphrase-fd", "0"]);
    rotate.stdin(File::open(account.scratch("phrase")).expect("the passphrase"));
    assert!(rotate.status().expect("the program runs").success());
    account
}

fn act(scenario: &str, account: &Account, verb: &[&str]) {
    let plain = account.command();
    let mut person = program("python3");
    person.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys/terminal.py")).arg(scenario);
    person.arg(plain.get_program()).args(plain.get_args()).args(verb);
    person.env("HOME", account.scratch("")).env("XDG_CONFIG_HOME", account.scratch("config"));
    stdout_of(&mut person);
}

#[test]
fn the_terminal_shows_again_what_is_typed_when_a_prompt_is_broken_off() {
    let account = with_passphrase();
    let verb = ["create", "disk", "--size", "1M"];
    act("broken_off", &account, &verb);
    act("stopped", &account, &verb);
    // The signals end a server in order as ever.
    act("ended_later", &account, &["serve"]);
}

#[test]
fn a_wrong_passphrase_is_said_to_be_wrong_and_may_be_typed_three_times() {
    act("tries", &with_passphrase(), &["encryption", "on"]);
}
