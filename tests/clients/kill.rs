//! The server is killed under clients that know what was answered to them.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::{Account, MIB, program, run, stdout_of};

const NAME: &str = "disk";
const PAGE: usize = 512;
const CONNECTIONS: usize = 3;
const PAGES: usize = 2000;
/// Each connection has had ten answers when the writers are under way; a few of them may be for the same page.
const LEAST_WRITTEN: usize = 20;

/// By page: the number last answered (0: none), and the number last sent.
type Written = HashMap<usize, [u64; 2]>;

/// Runs the writers until the server is killed, with the encryption switched off and on under them. The kill comes at
/// another moment of each round.
fn write_until_killed(account: &Account, round: u64) -> Written {
    let server = account.serve();
    let mut writers = Command::new("/usr/bin/python3"); // the one that Debian's python3-libnbd belongs to
    writers.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/writers.py"));
    let mark = account.scratch("under-way");
    let _ = fs::remove_file(&mark);
    writers.args([server.uri(NAME), PAGES.to_string(), CONNECTIONS.to_string()]).arg(&mark);
    let output = thread::scope(|scope| {
        let writers = scope.spawn(move || run(&mut writers));
        // However long a busy machine takes for that; the time of the writers is bounded.
        while !mark.exists() && !writers.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        if !writers.is_finished() {
            account.sealdisk(&["encryption", "off"]);
            thread::sleep(Duration::from_millis(round * 37 % 150));
            account.sealdisk(&["encryption", "on"]);
            thread::sleep(Duration::from_millis(round * 61 % 150));
        }
        server.kill();
        writers.join().expect("the writers end")
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "round {round}: {errors}");
    let number = |word: &str| word.parse::<u64>().expect("a number");
    let written: Written = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (number(words[0]) as usize, [number(words[1]), number(words[2])])
        })
        .collect();
    assert!(written.len() >= LEAST_WRITTEN, "round {round}: only {} pages were written: {errors}", written.len());
    written
}

fn kill_again_and_again(rounds: u64) {
    let account = Account::new();
    account.create(NAME, 4 * MIB);
    let copy = account.scratch("copy.img");
    let mut before = vec![0; 4 * MIB as usize];
    let mut checked = 0;
    for round in 0..rounds {
        let written = write_until_killed(&account, round);
        let server = account.serve();
        stdout_of(program("nbdcopy").arg(server.uri(NAME)).arg(&copy));
        let disk = fs::read(&copy).expect("a copy");
        checked += written.len();
        for (page, [answered, sent]) in written {
            let [old, content] = [&before, &disk].map(|disk| &disk[page * PAGE..][..PAGE]);
            let full_of = |number: u64| number.to_le_bytes().repeat(PAGE / 8);
            let right =
                content == full_of(sent) || if answered == 0 { content == old } else { content == full_of(answered) };
            assert!(right, "round {round}, page {page}: neither {answered} nor {sent} but {:?}", &content[..16]);
        }
        before = disk;
        // Also while it runs: a long run that is cut off has shown something too.
        if (round + 1) % 100 == 0 || round + 1 == rounds {
            eprintln!("{} kills, {checked} written pages checked, none lost", round + 1);
        }
    }
}

#[test]
fn what_was_made_durable_is_there_after_a_kill() {
    kill_again_and_again(3);
}

#[test]
#[ignore = "takes half an hour"]
fn what_was_made_durable_is_there_after_a_thousand_kills() {
    kill_again_and_again(1000);
}
