//! What a server has acknowledged is there after it has ended, whichever way.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use crate::client::Client;
use crate::layers::PAGE;
use crate::model::Model;
use crate::support::{Account, MIB, stdout_of};

const DISK: &str = "disk";
const SIZE: usize = 2 * MIB as usize;

fn account_with_disk() -> (Account, Model) {
    let account = Account::new();
    account.create(DISK, SIZE as u64);
    (account, Model::new(DISK, &[], SIZE))
}

#[test]
fn sigterm_loses_nothing_that_was_acknowledged() {
    let (account, mut model) = account_with_disk();
    for _ in 0..3 {
        let server = account.serve();
        let mut client = Client::attach(&server, DISK);
        model.check_reads(&mut client);
        // Never flushed by the client.
        model.scatter(&mut client, 50);
        assert!(server.terminate().success(), "exit status");
        assert_eq!(account.json(&["status"])["disks"][0]["pending_scrub_bytes"], 0);
    }
    let server = account.serve();
    model.check_reads(&mut Client::attach(&server, DISK));
}

#[test]
fn kill_loses_nothing_that_was_acknowledged() {
    let (account, mut model) = account_with_disk();
    for round in 0..6 {
        let server = account.serve();
        let mut client = Client::attach(&server, DISK);
        model.check_reads(&mut client);
        model.scatter(&mut client, 30);
        if round % 3 == 1 {
            client.flush();
            model.scatter(&mut client, 10);
        }
        server.kill();
    }
    // Read twice: opening after a kill is itself no change.
    for _ in 0..2 {
        let server = account.serve();
        model.check_reads(&mut Client::attach(&server, DISK));
        server.kill();
    }
}

/// Writes page by page, each flushed before the next, until the server is killed in the middle of it.
#[test]
fn kill_under_load_leaves_the_old_or_the_new_of_the_last_page_alone() {
    let (account, _) = account_with_disk();
    let content = |round: usize, page: usize| vec![(round * 100 + page % 100) as u8; PAGE];
    let pages = SIZE / PAGE;
    for round in 1..4 {
        let server = account.serve();
        let mut client = Client::attach(&server, DISK);
        let (done, acknowledged) = mpsc::channel();
        let writer = thread::spawn(move || {
            for page in 0..pages {
                if !client.try_write((page * PAGE) as u64, &content(round, page)) {
                    return;
                }
                if done.send(page).is_err() {
                    return;
                }
            }
        });
        for _ in 0..40 * round {
            acknowledged.recv().expect("the server answers until it is killed");
        }
        server.kill();
        writer.join().expect("the writer ends");
        let last = acknowledged.try_iter().last().unwrap_or(40 * round - 1);

        let server = account.serve();
        let mut client = Client::attach(&server, DISK);
        for page in 0..=last {
            let read = client.read((page * PAGE) as u64, PAGE);
            assert!(read == content(round, page), "page {page} of {last} was acknowledged in round {round}");
        }
        // The one in flight when the server died; none further.
        let read = client.read(((last + 1) * PAGE) as u64, PAGE);
        let old = if round == 1 { vec![0; PAGE] } else { content(round - 1, last + 1) };
        let before = if 40 * (round - 1) < last { vec![0; PAGE] } else { old.clone() };
        assert!(read == content(round, last + 1) || read == old || read == before, "page {}", last + 1);
        drop(client);
        assert!(server.terminate().success());
    }
}

/// A client that has the server killed as soon as a write with FUA was acknowledged, before anything is flushed.
const FUA_THEN_KILL: &str = "
import nbd, os, signal, sys
uri, server = sys.argv[1:]
client = nbd.NBD()
client.connect_uri(uri)
for page in range(8):
    client.pwrite(bytes([page + 1]) * 512, page * 1536, nbd.CMD_FLAG_FUA)
client.zero(512, 0, nbd.CMD_FLAG_FUA)
os.kill(int(server), signal.SIGKILL)
";

#[test]
fn kill_loses_no_write_with_fua() {
    let (account, _) = account_with_disk();
    let server = account.serve();
    let pid = server.pid().to_string();
    stdout_of(Command::new("/usr/bin/python3").args(["-c", FUA_THEN_KILL, &server.uri(DISK), &pid]));
    drop(server);
    let server = account.serve();
    let mut client = Client::attach(&server, DISK);
    assert_eq!(client.read(0, PAGE), [0; PAGE]);
    for page in 1..8 {
        assert_eq!(client.read(page * 1536, PAGE), [page as u8 + 1; PAGE], "page {page}");
    }
}
