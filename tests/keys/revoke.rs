//! The keys taken back while a disk is in use, and given again.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure};

#[test]
fn nothing_is_served_until_the_keys_are_restored_and_clients_that_stayed_go_on() {
    let account = Account::new();
    account.create("disk", MIB);
    account.create("other", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[1; 4096]).expect("written encrypted");
    account.sealdisk(&["encryption", "off"]);
    client.write(8192, &[2; 4096]).expect("written in plaintext");
    account.sealdisk(&["encryption", "on"]);

    let asked = Instant::now();
    let revoked = account.json(&["key", "revoke"]);
    assert_eq!(revoked["unflushed"], serde_json::json!([]));
    for offset in [0, 8192, 65536] {
        client.read(offset, 512).expect_err("neither encrypted nor plain nor empty pages are read");
    }
    client.write(0, &[3; 512]).expect_err("nothing is written");
    client.flush().expect_err("nothing is flushed");
    assert!(asked.elapsed() < Duration::from_secs(20), "far from hanging");
    // Opened before or not, no export answers.
    for name in ["disk", "other"] {
        if let Ok(mut late) = Client::attach(&server, name) {
            late.read(0, 512).expect_err("nor for a new client");
        }
    }
    let refused = stderr_of_failure(account.command().args(["create", "third", "--size", "1M"]));
    assert!(refused.contains("revoked"), "{refused}");
    // Not by a wrong key.
    let wrong = account.scratch("wrong");
    fs::write(&wrong, [9; 32]).expect("a key");
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let refused = stderr_of_failure(account.command().args(["key", "restore", "--key-file"]).arg(&wrong));
    assert!(refused.contains("not the one of this account"), "{refused}");
    client.read(0, 512).expect_err("still revoked");

    assert_eq!(account.json(&["key", "restore"])["were_revoked"], true);
    assert_eq!(client.read(0, 4096).expect("the same client goes on"), [1; 4096]);
    assert_eq!(client.read(8192, 4096).expect("in plaintext too"), [2; 4096]);
    client.write(16384, &[4; 4096]).expect("written");
    client.flush().expect("flushed");
    assert!(server.terminate().success());
}

/// Counted from the moment that the verb is started, for clients that read and clients that write.
#[test]
fn every_export_answers_with_an_error_within_a_second() {
    const GOAL: Duration = Duration::from_secs(1);
    let account = Account::new();
    let names = ["a", "b", "c", "d"];
    for name in names {
        account.create(name, MIB);
    }
    let server = account.serve();
    let until_refused = |name: &str, mut client: Client, writes: bool| {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            let done = if writes { client.write(4096, &[1; 4096]) } else { client.read(8192, 4096).map(drop) };
            if done.is_err() {
                return (Instant::now(), client);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{name}: the keys are gone and it is still served");
    };
    let until_refused = &until_refused;
    std::thread::scope(|scope| {
        let clients = names.map(|name| {
            [false, true].map(|writes| {
                let client = Client::attach(&server, name).expect("attached before the keys go");
                scope.spawn(move || until_refused(name, client, writes))
            })
        });
        std::thread::sleep(Duration::from_millis(200));
        let asked = Instant::now();
        account.sealdisk(&["key", "revoke"]);
        let refused = clients.into_iter().flatten().map(|client| client.join().expect("a client"));
        let (at, clients): (Vec<_>, Vec<_>) = refused.unzip();
        assert!(at.iter().all(|&at| at >= asked), "nothing fails before");
        let took = at.iter().map(|at| at.duration_since(asked)).max().expect("clients");
        println!("{} clients of {} exports were refused within {took:?}; the goal is {GOAL:?}", at.len(), names.len());
        assert!(took < 5 * GOAL, "{took:?}");

        account.sealdisk(&["key", "restore"]);
        for mut client in clients {
            client.read(4096, 512).expect("it was an answer: the connection goes on");
        }
    });
}

#[test]
fn a_restart_does_not_bring_the_keys_back() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[7; 4096]).expect("written");
    account.sealdisk(&["key", "revoke"]);
    // Written before, made durable by the revocation itself.
    server.kill();

    let refused = stderr_of_failure(account.command().arg("serve"));
    assert!(refused.contains("revoked") && refused.contains("key restore"), "{refused}");
    // By hand neither.
    let path = account.dir().join("account.toml");
    let settings = fs::read_to_string(&path).expect("account.toml");
    fs::write(&path, settings.replace("revoked = true", "revoked = false")).expect("changed by hand");
    let refused = stderr_of_failure(account.command().arg("serve"));
    assert!(refused.contains("does not match its MAC"), "{refused}");
    fs::write(&path, settings).expect("put back");

    account.sealdisk(&["key", "restore"]);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    assert_eq!(client.read(0, 4096).expect("read"), [7; 4096]);
}

/// Clients that try again whatever fails, while the keys come and go: what was acknowledged is there, in the order of
/// each client.
#[test]
fn what_was_acknowledged_survives_keys_that_come_and_go() {
    const CLIENTS: u64 = 3;
    const PAGES: u64 = 64;
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let done = AtomicBool::new(false);
    let met = AtomicU64::new(0);
    let write = |client: u64, mut attached: Client| {
        let mut versions = vec![0u8; PAGES as usize];
        let (mut failed, mut page) = (0, 0);
        while !done.load(Ordering::Relaxed) {
            let version = versions[page as usize].wrapping_add(1);
            let offset = (client * PAGES + page) * 512;
            match attached.write(offset, &[version; 512]).and_then(|()| attached.flush()) {
                Ok(()) => {
                    versions[page as usize] = version;
                    page = (page + 7) % PAGES;
                }
                Err(_) => {
                    failed += 1;
                    met.fetch_add(u64::from(failed == 1), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        versions
    };
    let write = &write;
    let written: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|client| {
            let attached = Client::attach(&server, "disk").expect("attached before the keys go");
            scope.spawn(move || write(client, attached))
        });
        let clients: Vec<_> = clients.collect();
        // More often where a busy machine let a client sleep through it.
        for round in 0.. {
            if round >= 5 && met.load(Ordering::Relaxed) == CLIENTS {
                break;
            }
            assert!(round < 100, "not every client has met a revocation");
            std::thread::sleep(Duration::from_millis(100));
            account.sealdisk(&["key", "revoke"]);
            std::thread::sleep(Duration::from_millis(50));
            account.sealdisk(&["key", "restore"]);
        }
        std::thread::sleep(Duration::from_millis(100));
        done.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    });
    server.kill();
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    for (of, versions) in written.iter().enumerate() {
        for (page, &version) in versions.iter().enumerate() {
            let offset = (of as u64 * PAGES + page as u64) * 512;
            let found = client.read(offset, 512).expect("read");
            // One write more may have become durable without its answer: a failed flush says nothing of it.
            assert!(found == [version; 512] || found == [version.wrapping_add(1); 512], "client {of}, page {page}");
        }
    }
}
