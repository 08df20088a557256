//! A thousand disks in an account: opened when they are asked for, closed again when nobody uses them, so that neither
//! descriptors nor memory grow with their number.

use std::time::Instant;

use sealdisk::account::control::client::Client as Control;
use sealdisk::account::request::Request;

use crate::raw::Client;
use crate::scrape::{Scrape, serve, serve_under};
use crate::support::{Account, MIB, program, stdout_of};

const DISKS: usize = 1000;
/// What many systems allow by default.
const DESCRIPTORS: u64 = 1024;
/// Memory of a server that has opened them all, one after the other; a test fails at five times that.
const GOAL_MIB: u64 = 64;

fn name(index: usize) -> String {
    format!("d{index:04}")
}

#[test]
fn a_thousand_disks_take_what_those_in_use_take() {
    let account = Account::new();
    let (server, _) = serve(&account, &[]);
    let control = Control::connect(&account.dir().join("control.sock"), rustix::process::geteuid().as_raw())
        .expect("the control socket");
    let began = Instant::now();
    for index in 0..DISKS {
        let name = name(index).parse().expect("a name");
        control.call(&Request::Create { name, size: Some(MIB), base: None }, &[]).expect("a disk");
    }
    println!("{DISKS} disks made in {:?}", began.elapsed());
    assert!(server.terminate().success());

    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let began = Instant::now();
    let (server, addr) = serve_under(&account, &["prlimit", &limit]);
    let start = began.elapsed();
    let scrape = Scrape::fresh(addr);
    let memory = |scrape: &Scrape| scrape.value("process_resident_memory_bytes", &[]) as u64 / MIB;
    assert_eq!(scrape.value("process_max_fds", &[]) as u64, DESCRIPTORS);
    let disks = |scrape: &Scrape, state| scrape.value("sealdisk_disks", &[("state", state)]) as usize;
    assert_eq!((disks(&scrape, "open"), disks(&scrape, "closed")), (0, DISKS));
    let fresh = memory(&scrape);
    println!("served after {start:?}, {fresh} MiB, {} descriptors", scrape.value("process_open_fds", &[]));

    let limits = account.json(&["status"])["server"].clone();
    let (idle, connections) = (limits["idle_disks"].as_u64().unwrap(), limits["connections"].as_u64().unwrap());
    assert_eq!(limits["descriptors"].as_u64(), Some(DESCRIPTORS));
    assert_eq!(scrape.value("sealdisk_connections_limit", &[]) as u64, connections);
    assert!(idle > 0 && (32..100).contains(&connections), "{limits}");

    let began = Instant::now();
    let mut most = (0, 0);
    for index in 0..DISKS {
        let mut client = attach(&server, index);
        // Not all: a first write makes a log, which takes its time.
        match index % 10 {
            0 => client.write(4096, &index.to_be_bytes()),
            _ => assert_eq!(client.read(4096, 8), [0; 8]),
        }
        drop(client);
        if index % 50 == 49 {
            let scrape = Scrape::fresh(addr);
            most.0 = most.0.max(scrape.value("process_open_fds", &[]) as u64);
            most.1 = most.1.max(memory(&scrape));
            // Those that are still being let go of come on top.
            assert!(disks(&scrape, "open") as u64 <= idle + 4, "{} disks are open", disks(&scrape, "open"));
        }
    }
    println!(
        "each attached, and every tenth written, in {:?}: at most {} descriptors, {} MiB",
        began.elapsed(),
        most.0,
        most.1
    );
    assert!(most.0 < DESCRIPTORS * 3 / 4);
    assert!(most.1 < 5 * GOAL_MIB);

    // The clients that list exports ask for each of them, in one handshake.
    let began = Instant::now();
    let uri = server.uri("");
    let listed = stdout_of(program("nbdinfo").args(["--list", &uri]));
    assert_eq!(listed.lines().filter(|line| line.starts_with("export=")).count(), DISKS);
    let listed = stdout_of(program("qemu-nbd").args(["--list", "-k"]).arg(server.socket()));
    assert_eq!(listed.matches("export: ").count(), DISKS);
    println!("listed by nbdinfo and qemu-nbd in {:?}", began.elapsed());

    let began = Instant::now();
    let status = account.json(&["status"]);
    println!("status of all in {:?}", began.elapsed());
    let known = status["disks"].as_array().expect("disks");
    assert_eq!(known.len(), DISKS);
    assert!(known.iter().all(|disk| disk["encrypted_bytes"].as_u64() >= Some(512)), "{status}");
    let scrape = Scrape::fresh(addr);
    println!("{} descriptors, {} MiB", scrape.value("process_open_fds", &[]), memory(&scrape));
    assert!((scrape.value("process_open_fds", &[]) as u64) < DESCRIPTORS * 3 / 4);
    // As many clients as may attach, each with a disk of its own; a further one is refused.
    let mut clients: Vec<_> = (0..connections as usize).map(|index| attach(&server, index)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(4096, 8), if index % 10 == 0 { index } else { 0 }.to_be_bytes());
    }
    let scrape = Scrape::fresh(addr);
    println!("{connections} attached: {} descriptors", scrape.value("process_open_fds", &[]));
    assert!((scrape.value("process_open_fds", &[]) as u64) < DESCRIPTORS);
    drop(clients);
    assert!(server.terminate().success());

    // Without a server, in a verb's own process.
    let began = Instant::now();
    let status = stdout_of(account.command_under(&["prlimit", "--nofile=512:512"]).args(["status", "--json"]));
    println!("status of all without a server in {:?}", began.elapsed());
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let known = status["disks"].as_array().expect("disks");
    assert!(known.iter().all(|disk| disk["encrypted_bytes"].as_u64() >= Some(512)), "{status}");
    assert!(status["server"].is_null());
}

fn attach(server: &crate::support::Server, index: usize) -> Client {
    let mut client = Client::greeted(server.socket());
    client.go(&name(index));
    client
}
