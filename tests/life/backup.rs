//! The incremental backup of docs/nbd.md, as it stands there, against full copies.

use std::fs;
use std::path::Path;

use crate::support::{Account, Certificates, MIB, Server, program, stdout_of};

/// The program in the documentation.
fn script() -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nbd.md")).expect("the documentation");
    let (_, rest) = text.split_once("```python\n").expect("a program");
    rest.split_once("```").expect("its end").0.to_owned()
}

fn change(server: &Server, commands: &[&str]) {
    let mut qemu_io = program("qemu-io");
    qemu_io.args(["-f", "raw", "-d", "unmap"]);
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    stdout_of(qemu_io.arg(server.uri("disk")));
}

fn copy_of(server: &Server, export: &str, to: &Path) -> Vec<u8> {
    stdout_of(program("nbdcopy").arg(server.uri(export)).arg(to));
    fs::read(to).expect("the copy")
}

#[test]
fn an_incremental_backup_needs_only_an_nbd_client() {
    let account = Account::new();
    account.create("disk", 16 * MIB);
    let server = account.serve();
    let (program_file, backup, whole) =
        (account.scratch("backup.py"), account.scratch("disk.img"), account.scratch("whole.img"));
    fs::write(&program_file, script()).expect("the program");
    change(&server, &["write -P 1 0 4M", "write -P 2 8M 1M", "flush"]);
    account.sealdisk(&["snapshot", "create", "disk", "day0"]);
    copy_of(&server, "disk@day0", &backup);
    let days: [(&[&str], &str, u64); 4] = [
        (&["write -P 3 4k 4k", "write -P 3 15M 512", "discard 8M 64k"], "16M", 4096 + 512 + (64 << 10)),
        (&["write -P 4 1M 8k", "write -z 1M 4k", "discard 1028k 4k", "write -P 5 1028k 4k"], "17M", 8192 + MIB),
        (&["write -P 6 16M 512k"], "12M", 0),
        (&[], "14M", 2 * MIB),
    ];
    for ((commands, size, changed), day) in days.into_iter().zip(0..) {
        change(&server, commands);
        account.sealdisk(&["encryption", if day % 2 == 0 { "off" } else { "on" }]);
        account.sealdisk(&["resize", "disk", size, "--yes"]);
        let (before, now) = (format!("day{day}"), format!("day{}", day + 1));
        account.sealdisk(&["snapshot", "create", "disk", &now]);
        // What is written now belongs to the next day.
        change(&server, &["write -P 9 3M 4k"]);
        let export = format!("disk@{now}");
        let mut python = program("/usr/bin/python3");
        python.arg(&program_file).args([&server.uri(&export), &before]).arg(&backup);
        let said = stdout_of(&mut python);
        let expected = changed + if day == 0 { 0 } else { 4096 };
        assert!(said.starts_with(&format!("{expected} of ")), "{now}: {said}, not {expected}");
        let _ = fs::remove_file(&whole);
        assert!(fs::read(&backup).expect("the backup") == copy_of(&server, &export, &whole), "{now}");
        account.sealdisk(&["snapshot", "delete", "disk", &before]);
    }
    assert!(server.terminate().success());
}

/// From another machine, with certificates: the same lines of the page, over TLS.
#[test]
fn an_incremental_backup_over_tls() {
    let account = Account::new();
    account.create("disk", 4 * MIB);
    let certificates = Certificates::make();
    let mut options = certificates.options();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    options.extend(["--listen".to_owned(), format!("localhost:{port}"), "--tls-client-ca".to_owned()]);
    options.push(certificates.path("ca-cert.pem").to_str().expect("UTF-8").to_owned());
    let server = account.serve_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nbd.md")).expect("the documentation");
    let (_, block) = page.split_once("From another machine, over [TLS](#tls):\n\n```sh\n").expect("the lines");
    let (block, _) = block.split_once("```").expect("their end");
    let folder = certificates.client_folder("client");
    let block = block.replace("HOST", &format!("localhost:{port}")).replace("FOLDER", folder.to_str().expect("UTF-8"));
    fs::write(account.scratch("backup.py"), script()).expect("the program");
    let mut lines = block.lines().map(|line| line.replace("python3", "/usr/bin/python3"));
    let mut next = || {
        let line = lines.next().expect("two lines");
        stdout_of(program("sh").args(["-euc", &line]).current_dir(account.scratch("")))
    };
    change(&server, &["write -P 1 0 1M", "flush"]);
    account.sealdisk(&["snapshot", "create", "disk", "monday"]);
    next();
    change(&server, &["write -P 2 2M 64k", "discard 0 64k", "flush"]);
    account.sealdisk(&["snapshot", "create", "disk", "tuesday"]);
    let said = next();
    assert!(said.starts_with(&format!("{} of ", 128 << 10)), "{said}");
    let whole = copy_of(&server, "disk@tuesday", &account.scratch("whole.img"));
    assert!(fs::read(account.scratch("disk.img")).expect("the backup") == whole);
    assert!(server.terminate().success());
}

#[test]
fn nbdinfo_shows_what_changed_since_a_snapshot() {
    let account = Account::new();
    account.create("disk", 4 * MIB);
    let server = account.serve();
    change(&server, &["write -P 1 0 2M"]);
    account.sealdisk(&["snapshot", "create", "disk", "a"]);
    change(&server, &["write -P 2 1M 64k", "discard 64k 64k"]);
    account.sealdisk(&["snapshot", "create", "disk", "b"]);
    change(&server, &["write -P 3 3M 1M"]);
    let map = |export: &str, since: &str| -> Vec<[u64; 3]> {
        let context = format!("--map=sealdisk:diff:{since}");
        let text = stdout_of(program("nbdinfo").args(["--json", &context, &server.uri(export)]));
        let runs: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let number = |run: &serde_json::Value, field: &str| run[field].as_u64().expect("a number");
        let runs = runs.as_array().expect("an array").iter();
        runs.map(|run| ["offset", "length", "type"].map(|field| number(run, field))).collect()
    };
    const K64: u64 = 64 << 10;
    let between =
        vec![[0, K64, 0], [K64, K64, 3], [2 * K64, MIB - 2 * K64, 0], [MIB, K64, 1], [MIB + K64, 3 * MIB - K64, 0]];
    assert_eq!(map("disk@b", "a"), between);
    assert_eq!(map("disk", "b"), [[0, 3 * MIB, 0], [3 * MIB, MIB, 1]]);
    assert_eq!(map("disk", "a").last(), Some(&[3 * MIB, MIB, 1]));
    let contexts = |export: &str| stdout_of(program("nbdinfo").arg(server.uri(export)));
    assert!(contexts("disk").contains("sealdisk:diff:b") && contexts("disk@b").contains("sealdisk:diff:a"));
    assert!(!contexts("disk@b").contains("sealdisk:diff:b") && !contexts("disk@a").contains("sealdisk:diff:a"));
    assert!(server.terminate().success());
}
