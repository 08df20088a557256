//! fio's nbd engine: it knows what it wrote and checks what it reads.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::Duration;

use crate::support::{Account, MIB, Server, program, run, stdout_of};

const NAME: &str = "disk";
const JOBS: usize = 4;

/// Pages of 512 bytes in requests of mixed sizes, several jobs, each with a connection and a part of the disk of its
/// own.
fn job(server: &Server, folder: &Path, part: u64, options: &[&str]) -> std::process::Command {
    let mut fio = program("timeout");
    fio.current_dir(folder)
        .args([
            "--kill-after=5",
            "100",
            "fio",
            "--name=job",
            "--ioengine=nbd",
            &format!("--numjobs={JOBS}"),
            "--blockalign=512",
            "--randseed=7",
        ])
        .args(["--verify=crc32c", "--verify_fatal=1", "--group_reporting"])
        .arg(format!("--uri={}", server.uri(NAME)))
        .arg(format!("--size={part}"))
        .arg(format!("--offset_increment={part}"))
        .args(options);
    fio
}

#[test]
fn random_writes_verify() {
    let account = Account::new();
    account.create(NAME, 64 * MIB);
    let server = account.serve();
    let folder = account.scratch("");
    let options = ["--rw=randwrite", "--bsrange=512-128k", "--iodepth=16", "--do_verify=1"];
    stdout_of(&mut job(&server, &folder, 16 * MIB, &options));
    // Again, over what is there, with flushes between.
    stdout_of(&mut job(&server, &folder, 16 * MIB, &[&options[..], &["--fsync=32"]].concat()));
}

#[test]
fn mixed_reads_writes_and_trims_verify() {
    let account = Account::new();
    account.create(NAME, 16 * MIB);
    let server = account.serve();
    let folder = account.scratch("");
    stdout_of(&mut job(
        &server,
        &folder,
        4 * MIB,
        &["--rw=randrw", "--bsrange=512-64k", "--iodepth=8", "--do_verify=1"],
    ));
    // One at a time: fio itself lets a trim and the write after it overtake one another.
    stdout_of(&mut job(&server, &folder, 4 * MIB, &["--rw=randtrimwrite", "--bs=4k", "--iodepth=1", "--do_verify=1"]));
}

/// Clients that are attached now, by the log. (fio attaches for a moment before its jobs do.)
fn attached(server: &Server) -> usize {
    let log = server.log();
    log.matches(" attached ").count().saturating_sub(log.matches(" detached ").count())
}

/// Bytes encrypted so far, those of pages that were overwritten included.
fn sealed_bytes(account: &Account) -> u64 {
    let shown = account.json(&["show", NAME]);
    let layers = shown["layers"].as_array().expect("layers").iter();
    layers.map(|layer| layer["sealed_blocks"].as_u64().expect("a number") * 16).sum()
}

/// Kills the server under writers that note what was answered, and checks all of that after a restart: no flush was
/// asked for, but the machine goes on, and with it what the server handed to the kernel.
fn kill_under_writers(filled: bool) {
    let account = Account::new();
    account.create(NAME, 256 * MIB);
    let folder = account.scratch("");
    let part = 64 * MIB;
    let server = account.serve();
    if filled {
        let mut fill = program("qemu-io");
        fill.args((0..8).flat_map(|n| ["-c".to_owned(), format!("write -P 0x99 {}M 32M", n * 32)]));
        stdout_of(fill.args(["-c", "flush", "-f", "raw", &server.uri(NAME)]));
    }
    let writes = ["--rw=randwrite", "--bsrange=512-4k", "--iodepth=1"];
    let killed: Output = thread::scope(|scope| {
        let mut fio = job(&server, &folder, part, &[&writes[..], &["--do_verify=0", "--verify_state_save=1"]].concat());
        let fio = scope.spawn(move || run(&mut fio));
        // However long a busy machine takes until every job is attached and writes; fio's own time is bounded.
        while attached(&server) < JOBS && !fio.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        let enough = sealed_bytes(&account) + 8 * MIB;
        while sealed_bytes(&account) < enough && !fio.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        server.kill();
        fio.join().expect("fio ends")
    });
    assert!(!killed.status.success(), "fio was done before the server was killed");

    let server = account.serve();
    let verify =
        [&writes[..], &["--verify_only=1", "--verify_state_load=1", "--output-format=json", "--output=report.json"]]
            .concat();
    stdout_of(&mut job(&server, &folder, part, &verify));
    let report = fs::read_to_string(folder.join("report.json")).expect("fio's report");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"));
    let verified = report["jobs"][0]["read"]["total_ios"].as_u64().expect("a number");
    assert!(verified > 100, "only {verified} writes were verified");
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    kill_under_writers(true);
}

#[test]
fn what_was_answered_on_new_pages_is_there_after_a_kill() {
    kill_under_writers(false);
}
