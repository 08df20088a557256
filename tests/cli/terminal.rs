//! Nothing that comes from elsewhere acts on a terminal or forges a line: names of files, sources of keys, fields of
//! TOML files, in text, in JSON and in the log.

use std::fs;

use crate::support::{Account, program, run};

/// Clears the screen, sets the title, begins a line of its own, in three ways, and overrides the direction of text.
const HOSTILE: &str =
    "a\u{1b}[2J\u{1b}]0;title\u{7}\n2026-01-01T00:00:00.000000Z  INFO attached export=forged\r\u{9b}2J\u{202e}";

fn acts(text: &str) -> bool {
    text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}')
}

/// What a verb says on both ways, whether it ends well or not.
fn said(account: &Account, arguments: &[&str]) -> String {
    let output = run(account.command().args(arguments));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    said.concat()
}

fn check(account: &Account, arguments: &[&str]) {
    for json in [false, true] {
        let arguments = [arguments, if json { &["--json"] } else { &[] }].concat();
        let said = said(account, &arguments);
        assert!(!acts(&said), "{arguments:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("2026-01-01")), "{arguments:?}: {said}");
    }
}

/// Runs a program whose standard error is a terminal that takes nothing: nothing more (`full`, and read by nobody), or
/// nothing at all (`stopped`, as by Ctrl-S).
const DEAF_TERMINAL: &str = "
import os, pty, subprocess, sys, termios
master, slave = pty.openpty()
if sys.argv[1] == 'stopped':
    termios.tcflow(slave, termios.TCOOFF)
else:
    os.set_blocking(slave, False)
    try:
        while True:
            os.write(slave, b'x' * 100)
    except BlockingIOError:
        os.set_blocking(slave, True)
sys.exit(subprocess.run(sys.argv[2:], stderr=slave, stdout=subprocess.DEVNULL, timeout=60).returncode)
";

#[test]
fn a_terminal_that_is_stopped_or_full_holds_up_no_work() {
    let account = Account::new();
    // Its name makes the program note something.
    let image = account.scratch("image.vhd");
    fs::write(&image, vec![7; 8 << 20]).expect("an image");
    let (image, copy) = (image.display().to_string(), account.scratch("copy.raw").display().to_string());
    for terminal in ["stopped", "full"] {
        for verb in [
            &["import", &image, terminal, "--format", "raw"][..],
            &["export", terminal, &format!("{copy}.{terminal}"), "--to", "raw"],
        ] {
            let mut deaf = account.command_under(&["python3", "-c", DEAF_TERMINAL, terminal]);
            deaf.args(verb);
            let code = run(&mut deaf).status.code();
            assert_eq!(code, Some(0), "{terminal}: {verb:?}");
        }
    }
}

#[test]
fn names_of_files_act_on_no_terminal() {
    let account = Account::new();
    let path = |ending: &str| account.scratch(&format!("{HOSTILE}{ending}")).display().to_string();
    fs::write(path(".img"), vec![7; 1 << 20]).expect("an image");
    fs::write(path(".gz"), b"\x1F\x8B\x08 and more").expect("a file");
    check(&account, &["create", "disk", "--base", &path(".img")]);
    for arguments in [
        &["show", "disk"][..],
        &["list"],
        &["status"],
        &["verify", "disk"],
        &["import", &path(".img"), "copy"],
        &["import", &path(".gz"), "none"],
        &["import", &path("nothing"), "none"],
        &["vhd", "convert", &path(".img"), &path(".vhd"), "--to", "dynamic"],
        &["vhd", "info", &path(".vhd")],
        &["vhd", "check", &path(".vhd")],
        &["vhd", "azure-check", &path(".vhd")],
        &["vhd", "create", &path("new.vhd"), "--size", "1M"],
        &["vhd", "resize", &path("new.vhd"), "2M"],
        &["vhd", "resize", &path(".vhd"), "2M"],
        &["export", "copy", &path("exported.img")],
        &["map", "disk", "--svg", &path(".svg")],
        &["rebase", "disk", "--base", &path(".img")],
        &["verify", "disk", "--base"],
        &["show", HOSTILE],
        &["list", HOSTILE],
        &["delete", "disk", HOSTILE],
    ] {
        check(&account, arguments);
    }
    // JSON says it as it is.
    let shown = account.json(&["show", "disk"]);
    assert_eq!(shown["base"]["path"], path(".img"));
}

#[test]
fn what_is_written_into_an_account_acts_on_no_terminal() {
    let account = Account::new();
    account.create("disk", 1 << 20);
    let folder = account.dir().join("disks").join(HOSTILE.replace('/', ""));
    fs::create_dir(&folder).expect("a folder");
    check(&account, &["status"]);
    fs::remove_dir(folder).expect("removed");
    let settings = account.dir().join("account.toml");
    let good = fs::read_to_string(&settings).expect("settings");
    for (from, to) in [
        ("path = \"/", "path = \"/nowhere/\\u001b[2J\\n2026-01-01\\u202e/"),
        ("version = 0", "version = 0\n\"\\u001b[2J\\n2026-01-01\" = 1"),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        fs::write(&settings, good.replacen(from, to, 1)).expect("written");
        for verb in ["status", "list", "encryption"] {
            check(&account, &[verb]);
        }
    }
}

#[test]
fn no_name_of_a_file_forges_a_line_of_the_log() {
    let account = Account::new();
    let image = account.scratch(&format!("{HOSTILE}.img"));
    fs::write(&image, vec![7; 1 << 20]).expect("an image");
    account.create_over("disk", &image);
    let touched = fs::File::options().write(true).open(&image).expect("the image");
    touched.set_modified(std::time::UNIX_EPOCH).expect("touched");
    let log = account.scratch("log");
    let script = format!(
        "timeout 10 {} --account {} serve 2> {} & for n in $(seq 100); do [ -S {1}/nbd.sock ] && break; sleep .05; done; \
         qemu-img info 'nbd+unix:///disk?socket={1}/nbd.sock' > {3}; kill -TERM $!; wait",
        env!("CARGO_BIN_EXE_sealdisk"),
        account.dir().display(),
        log.display(),
        account.scratch("info").display()
    );
    let mut shell = program("bash");
    shell.env("XDG_CONFIG_HOME", account.scratch("config")).args(["-c", &script]);
    run(&mut shell);
    let log = fs::read_to_string(log).expect("a log");
    assert!(log.contains("the base image was touched") && log.contains("forged"), "{log}");
    assert!(!acts(&log) && !log.lines().any(|line| line.starts_with("2026-01-01")), "{log:?}");
}
