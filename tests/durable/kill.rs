//! SIGKILL and SIGTERM in the middle of everything, and what was answered is there: the last answered write of each
//! page, flushed or not, because the machine runs on.

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

/// What a page may hold. Each client waits for its answer, so only the last write of a page can be one that is not
/// answered.
#[derive(Debug, Clone, Default)]
struct Page {
    /// The number last answered, and the one sent after it.
    answered: u64,
    sent: Option<u64>,
    /// The number that a flush or a later opening made durable, and those answered since.
    durable: u64,
    since: Vec<u64>,
}

impl Page {
    /// After a kill all that was answered is there. Where the kill hit an opening, what it was to make durable may be
    /// lost: old or new.
    fn may_hold(&self, content: &[u8], in_opening: bool) -> Option<u64> {
        let last = [Some(self.answered), self.sent];
        let older = in_opening.then(|| self.since.iter().copied().chain([self.durable]));
        last.into_iter().flatten().chain(older.into_iter().flatten()).find(|number| content == page_of(*number))
    }
}

fn page_of(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(PAGE / 8)
}

/// One client with pages of its own. Ends when the server is gone; says how many writes were answered.
fn write_until_killed(mut client: Client, first: usize, pages: &mut [Page], seed: u64) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut answered = 0;
    loop {
        let number = random.next_u64() | 1;
        let page = random.random_range(0..PAGES);
        pages[page].sent = Some(number);
        if !client.try_write_volatile(((first + page) * PAGE) as u64, &page_of(number)) {
            return answered;
        }
        let of = &mut pages[page];
        (of.answered, of.sent) = (number, None);
        of.since.push(number);
        answered += 1;
        if random.random_bool(0.1) {
            if !client.try_flush() {
                return answered;
            }
            for page in pages.iter_mut().filter(|page| !page.since.is_empty()) {
                page.durable = page.answered;
                page.since.clear();
            }
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

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Terminated,
    /// While it closes its disks and writes their checkpoints.
    KilledInClosing,
    /// While it opens the disk and recovers it.
    KilledInOpening,
}

const ENDS: [End; 6] =
    [End::Killed, End::Terminated, End::Killed, End::KilledInClosing, End::Killed, End::KilledInOpening];

/// Gives the number of answered writes.
fn kill_again_and_again(rounds: usize) -> usize {
    let account = Account::new();
    account.create(DISK, MIB);
    let mut random = ChaCha8Rng::seed_from_u64(rounds as u64);
    let mut pages = vec![Page::default(); CONNECTIONS * PAGES];
    let (mut answered, mut in_opening) = (0, false);
    for round in 0..rounds {
        let end = ENDS[round % ENDS.len()];
        let server = account.serve();
        if end == End::KilledInOpening {
            thread::scope(|scope| {
                scope.spawn(|| Client::try_attach(&server, DISK));
                thread::sleep(Duration::from_micros(random.random_range(0..8000)));
                server.signal_kill();
            });
            in_opening = true;
            continue;
        }
        let mut client = Client::attach(&server, DISK);
        for (index, page) in pages.iter_mut().enumerate() {
            let content = client.read((index * PAGE) as u64, PAGE);
            let found = page.may_hold(&content, in_opening).unwrap_or_else(|| {
                panic!("round {round}, page {index}: {:x?} instead of {page:x?}", &content[..16]);
            });
            // What is read may not have been answered before, and is not durable yet.
            *page = Page { answered: found, sent: None, durable: page.durable, since: page.since.clone() };
            page.since.push(found);
        }
        // Now it is, and only now must a kill in the next opening keep it.
        client.flush();
        pages
            .iter_mut()
            .for_each(|page| *page = Page { durable: page.answered, answered: page.answered, ..Page::default() });
        in_opening = false;
        drop(client);
        let delay = Duration::from_millis(random.random_range(1..60));
        thread::scope(|scope| {
            let clients: Vec<_> = pages
                .chunks_mut(PAGES)
                .enumerate()
                .map(|(connection, pages)| {
                    let (client, seed) = (Client::attach(&server, DISK), random.next_u64());
                    scope.spawn(move || write_until_killed(client, connection * PAGES, pages, seed))
                })
                .collect();
            let account = &account;
            scope.spawn(move || disturb(account, round));
            thread::sleep(delay);
            match end {
                End::Terminated => server.signal_terminate(),
                End::KilledInClosing => {
                    server.signal_terminate();
                    thread::sleep(Duration::from_micros(random.random_range(0..8000)));
                    server.signal_kill();
                }
                End::Killed | End::KilledInOpening => server.signal_kill(),
            }
            answered += clients.into_iter().map(|client| client.join().expect("a client ends")).sum::<usize>();
        });
        drop(server);
    }
    answered
}

#[test]
fn what_was_answered_survives_kills() {
    assert!(kill_again_and_again(12) > 100);
}

#[test]
#[ignore = "takes minutes"]
fn what_was_answered_survives_a_thousand_kills() {
    let answered = kill_again_and_again(1000);
    eprintln!("1000 ends, {answered} answered writes, none lost");
}
