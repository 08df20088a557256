//! SIGKILL in the middle of everything, and what was made durable is there.

use std::thread;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::client::Client;
use crate::support::{Account, MIB};

const DISK: &str = "disk";
const PAGE: usize = 512;
const CONNECTIONS: usize = 3;
/// Of each connection.
const PAGES: usize = 200;

/// What a page may hold: the number last made durable, and any written since.
#[derive(Debug, Clone, Default)]
struct Page {
    durable: u64,
    since: Vec<u64>,
}

fn page_of(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(PAGE / 8)
}

/// One client with pages of its own. Ends when the server is gone.
fn write_until_killed(mut client: Client, first: usize, pages: &mut [Page], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    loop {
        let number = random.next_u64() | 1;
        let page = random.random_range(0..PAGES);
        pages[page].since.push(number);
        let offset = ((first + page) * PAGE) as u64;
        if random.random_bool(0.3) {
            // Flushed with all that this client wrote before.
            if !client.try_write(offset, &page_of(number)) {
                return;
            }
            for page in pages.iter_mut() {
                page.durable = page.since.pop().unwrap_or(page.durable);
                page.since.clear();
            }
        } else if !client.try_write_volatile(offset, &page_of(number)) {
            return;
        }
    }
}

/// What goes on besides when the server is killed.
fn disturb(account: &Account, round: usize) {
    let verbs: &[&[&str]] = match round % 4 {
        0 => &[&["encryption", "off"], &["encryption", "on"]],
        1 => &[&["scrub", DISK]],
        2 => &[&["encryption", "off"], &["scrub", DISK], &["encryption", "on"]],
        _ => &[],
    };
    for verb in verbs {
        // The server may be gone by then.
        let _ = account.command().args(*verb).output();
    }
}

fn kill_again_and_again(rounds: usize) -> usize {
    let account = Account::new();
    account.create(DISK, MIB);
    let mut random = ChaCha8Rng::seed_from_u64(rounds as u64);
    let mut pages = vec![Page::default(); CONNECTIONS * PAGES];
    let mut made_durable = 0;
    for round in 0..rounds {
        let server = account.serve();
        let mut client = Client::attach(&server, DISK);
        for (index, page) in pages.iter_mut().enumerate() {
            let content = client.read((index * PAGE) as u64, PAGE);
            let possible = page.since.iter().copied().chain([page.durable]);
            let found = possible.into_iter().find(|number| content == page_of(*number)).unwrap_or_else(|| {
                panic!("round {round}, page {index}: {:x?} is none of {page:x?}", &content[..16]);
            });
            *page = Page { durable: found, since: Vec::new() };
        }
        drop(client);
        if round % 7 == 6 {
            // Killed while it opens.
            server.kill();
            continue;
        }
        let delay = Duration::from_millis(random.random_range(1..60));
        thread::scope(|scope| {
            for (connection, pages) in pages.chunks_mut(PAGES).enumerate() {
                let (client, seed) = (Client::attach(&server, DISK), random.next_u64());
                scope.spawn(move || write_until_killed(client, connection * PAGES, pages, seed));
            }
            let account = &account;
            scope.spawn(move || disturb(account, round));
            thread::sleep(delay);
            if round % 5 == 4 { server.signal_terminate() } else { server.signal_kill() }
        });
        made_durable += pages.iter().filter(|page| page.durable != 0).count();
        drop(server);
    }
    made_durable
}

#[test]
fn what_was_made_durable_survives_kills() {
    assert!(kill_again_and_again(12) > 100);
}

#[test]
#[ignore = "takes minutes"]
fn what_was_made_durable_survives_a_thousand_kills() {
    let made_durable = kill_again_and_again(1000);
    eprintln!("1000 kills, {made_durable} durable pages checked, none lost");
}
