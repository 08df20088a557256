//! What is wrong with a disk is seen by whoever runs the server: a line in the log, a metric, a mark in `list` and
//! `status`, before any client asks and without a disk being opened for it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sealdisk::nbd::wire::handshake::OptionType;
use sealdisk::nbd::wire::transmission::HeaderStyle;

use crate::raw::Client;
use crate::scrape::{Scrape, serve};
use crate::support::{Account, MIB, program, run};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the metrics say so.
fn wait_for(addr: std::net::SocketAddr, what: &str, fits: impl Fn(&Scrape) -> bool) {
    let began = Instant::now();
    while !fits(&Scrape::fresh(addr)) {
        assert!(began.elapsed() < LIMIT, "the metrics never say: {what}");
    }
}

fn fault(scrape: &Scrape, disk: &str, fault: &str) -> f64 {
    scrape.value("sealdisk_disk_fault", &[("disk", disk), ("fault", fault)])
}

fn damaged(scrape: &Scrape) -> f64 {
    scrape.value("sealdisk_disks", &[("state", "damaged")])
}

fn base(account: &Account, name: &str) -> PathBuf {
    let path = account.scratch(name);
    fs::write(&path, vec![5; 4 * MIB as usize]).unwrap();
    path
}

fn checkpoint(account: &Account, name: &str) -> PathBuf {
    let disks = account.json(&["list"]);
    let disk = disks.as_array().unwrap().iter().find(|disk| disk["name"] == name).unwrap();
    let folder = account.dir().join("disks").join(disk["uuid"].as_str().unwrap());
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("checkpoint."))
        .unwrap()
}

#[test]
fn a_disk_that_cannot_be_opened_is_seen_before_anybody_asks_for_it() {
    let account = Account::new();
    account.create("good", MIB);
    account.create("bad", MIB);
    let file = checkpoint(&account, "bad");
    let sound = fs::read(&file).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"XX", 60).unwrap();
    let (server, addr) = serve(&account, &[]);
    wait_for(addr, "bad cannot be opened", |scrape| fault(scrape, "bad", "cannot_open") == 1.0);
    let scrape = Scrape::fresh(addr);
    assert_eq!((damaged(&scrape), fault(&scrape, "good", "cannot_open")), (1.0, 0.0));
    assert_eq!(scrape.value("sealdisk_disk_open_failures_total", &[("disk", "bad")]), 0.0, "nobody has tried");
    let log = server.log_with("the disk cannot be opened");
    let line = log.lines().find(|line| line.contains("the disk cannot be opened")).unwrap();
    assert!(line.contains(" WARN ") && line.contains("disk=bad") && line.contains("checkpoint."), "{line}");

    // Who asks for it is turned away, which counts; nothing of it is logged a hundred times.
    for _ in 0..100 {
        let mut client = Client::greeted(server.socket());
        assert!(client.info(OptionType::Go, "bad", &[]).last().unwrap().kind > 1 << 31);
    }
    Client::greeted(server.socket()).go("good");
    let scrape = Scrape::fresh(addr);
    assert_eq!(scrape.value("sealdisk_disk_open_failures_total", &[("disk", "bad")]), 100.0);
    assert_eq!(scrape.value("sealdisk_clients_turned_away_total", &[("reason", "not_opened")]), 100.0);
    assert_eq!(server.log().matches("the disk cannot be opened").count(), 1);
    for verb in ["list", "status"] {
        let output = run(account.command().arg(verb));
        let (said, warned) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(said.contains("bad !") && !said.contains("good !"), "{verb}: {said}");
        assert!(warned.contains("warning: bad: "), "{verb}: {warned}");
    }

    // Put right, it is served without a restart.
    fs::write(&file, sound).unwrap();
    let mut client = Client::greeted(server.socket());
    client.go("bad");
    client.read(0, 512);
    let scrape = Scrape::fresh(addr);
    assert_eq!((damaged(&scrape), fault(&scrape, "bad", "cannot_open")), (0.0, 0.0));
    server.log_with("the disk can be opened again");
}

#[test]
fn a_disk_whose_base_is_gone_is_told_at_the_start_instead_of_its_uri() {
    let account = Account::new();
    account.create("good", MIB);
    let image = base(&account, "image.raw");
    account.create_over("over", &image);
    fs::remove_file(&image).unwrap();
    let (server, addr) = serve(&account, &[]);
    let said = server.log_with("over  cannot be opened: ");
    assert!(said.contains("the base image is gone") && said.contains("image.raw"), "{said}");
    assert!(!said.contains("nbd+unix:///over"), "{said}");
    let log = server.log_with("disk=over");
    assert!(log.lines().any(|line| line.contains(" WARN ") && line.contains("disk=over")), "{log}");
    let scrape = Scrape::fresh(addr);
    assert_eq!((fault(&scrape, "over", "cannot_open"), damaged(&scrape)), (1.0, 1.0));
}

#[test]
fn a_base_that_is_deleted_under_an_open_disk_can_still_be_saved() {
    let account = Account::new();
    let image = base(&account, "image.raw");
    account.create_over("over", &image);
    let (server, addr) = serve(&account, &[]);
    let client = Client::attached(server.socket(), HeaderStyle::Simple);
    let content = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    wait_for(addr, "the base was deleted", |scrape| fault(scrape, "over", "base_deleted") == 1.0);
    let log = server.log_with("the base image was deleted or replaced while the disk is open");
    let (_, way) = log.split_once("cp --sparse=always ").expect("a way out");
    let from = way.split_whitespace().next().unwrap();
    assert!(from.starts_with(&format!("/proc/{}/fd/", server.pid())), "{from}");
    let saved = account.scratch("saved.raw");
    let mut copy = program("cp");
    if !rustix::process::geteuid().is_root() {
        copy = program("sudo");
        copy.args(["-n", "cp"]);
    }
    let copied = run(copy.arg("--sparse=always").arg(from).arg(&saved));
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(fs::read(&saved).unwrap() == content);
    let status = account.json(&["status"]);
    assert_eq!(status["disks"][0]["faults"][0]["fault"], "base_deleted");
    let mut client = client;
    account.sealdisk(&["rebase", "over", "--base", saved.to_str().unwrap()]);
    let status = account.json(&["status"]);
    assert!(status["disks"][0]["faults"].as_array().is_none_or(Vec::is_empty), "{status}");
    wait_for(addr, "the base is in order again", |scrape| fault(scrape, "over", "base_deleted") == 0.0);
    assert_eq!(client.read(0, 512), [5; 512], "from the file that it was rebased to");
    drop(client);
    // So does the next server.
    assert!(server.terminate().success());
    let server = account.serve();
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    assert_eq!(client.read(0, 512), [5; 512]);
}

#[test]
fn connections_that_ask_nothing_keep_no_verb_from_the_control_socket() {
    let account = Account::new();
    account.create("disk", 1 << 20);
    let _server = account.serve();
    let silent: Vec<_> =
        (0..60).map(|_| UnixStream::connect(account.dir().join("control.sock")).expect("a connection")).collect();
    let began = Instant::now();
    account.sealdisk(&["status"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(silent);
}

#[test]
fn a_base_that_is_changed_is_seen_without_a_read() {
    let account = Account::new();
    let image = base(&account, "image.raw");
    account.create_over("over", &image);
    let (server, addr) = serve(&account, &[]);
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    assert_eq!(client.read(0, 512), [5; 512]);
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"other", MIB).unwrap();
    wait_for(addr, "the base was changed", |scrape| fault(scrape, "over", "base_changed") == 1.0);
    let log = server.log_with("nothing more is read from the base of the disk");
    assert!(log.contains(" ERROR ") && log.contains("image.raw"), "{log}");
    assert_eq!(client.try_read(0, 512, 0), Err(5), "from now on");
}

#[test]
fn an_unclean_end_is_told_when_the_disk_is_opened() {
    let account = Account::new();
    account.create("a", MIB);
    let (server, addr) = serve(&account, &[]);
    let recovered = |addr| Scrape::fresh(addr).value("sealdisk_disk_recoveries_total", &[("disk", "a")]);
    assert_eq!(recovered(addr), 0.0);
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    client.write(0, &[1; 8192]);
    client.try_request(sealdisk::nbd::wire::transmission::command::FLUSH, 0, 0, 0);
    server.kill();
    let (server, addr) = serve(&account, &[]);
    drop(Client::attached(server.socket(), HeaderStyle::Simple));
    let log = server.log_with("recovered after an unclean end");
    let line = log.lines().find(|line| line.contains("recovered after an unclean end")).unwrap();
    assert!(line.contains(" WARN ") && line.contains("disk=a") && line.contains("pages=16"), "{line}");
    assert_eq!(recovered(addr), 1.0);
    let when = Scrape::fresh(addr).value("sealdisk_disk_recovered_timestamp_seconds", &[("disk", "a")]);
    assert!(when > 1e9);
}

#[test]
fn counters_of_every_disk_are_there_from_the_start() {
    let account = Account::new();
    account.create("a", MIB);
    let (_server, addr) = serve(&account, &[]);
    let scrape = Scrape::fresh(addr);
    for errno in ["EIO", "ENOSPC"] {
        assert_eq!(scrape.value("sealdisk_request_errors_total", &[("disk", "a"), ("errno", errno)]), 0.0);
    }
    for command in ["read", "write", "flush"] {
        assert_eq!(scrape.value("sealdisk_requests_total", &[("disk", "a"), ("command", command)]), 0.0);
    }
    for metric in ["sealdisk_disk_open_failures_total", "sealdisk_disk_recoveries_total"] {
        assert_eq!(scrape.value(metric, &[("disk", "a")]), 0.0);
    }
    assert_eq!(scrape.value("sealdisk_clients_turned_away_total", &[("reason", "tls")]), 0.0);
}
