//! Many clients at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sealdisk::nbd::Config;
use sealdisk::nbd::wire::transmission::{HeaderStyle, ReplyHeader, Request, command};
use sealdisk::serve::Limits;

use crate::child::Serving;
use crate::fixture::MIB;
use crate::hostile::PEAK;
use crate::raw::Client;

const IDLE: usize = 1000;
const ACTIVE: usize = 256;
const DEPTH: usize = 16;
const ROUNDS: usize = 8;

/// A thousand clients that only listen, and 256 that keep 4,096 requests in flight, all of which are answered, right.
#[test]
fn thousands_of_requests_in_flight() {
    let config = Config::from(Limits { max_connections: 1500, budget: 256 << 20, ..Limits::default() });
    let server = Serving::start(64 * MIB, &config);
    let style = HeaderStyle::Structured;
    let mut idle: Vec<_> = (0..IDLE).map(|_| Client::attached(&server.socket, style)).collect();
    let with_idle = server.resident();
    let mut active: Vec<_> = (0..ACTIVE).map(|_| Client::attached(&server.socket, style)).collect();
    let mut waits = Vec::with_capacity(ACTIVE * DEPTH * ROUNDS);
    for round in 0..ROUNDS {
        let sent: Vec<_> = active
            .iter_mut()
            .enumerate()
            .map(|(at, client)| {
                let mut bytes = Vec::new();
                for slot in 0..DEPTH {
                    let flags = 0;
                    let offset = ((at * DEPTH + slot) * 4096) as u64;
                    let (command, length) = if round % 2 == 0 { (command::WRITE, 4096) } else { (command::READ, 4096) };
                    bytes.extend(Request { flags, command, cookie: slot as u64, offset, length }.emit(style));
                    if command == command::WRITE {
                        bytes.extend([(at ^ slot) as u8 | 1; 4096]);
                    }
                }
                client.send(&bytes);
                Instant::now()
            })
            .collect();
        for (at, client) in active.iter_mut().enumerate() {
            let mut replies = HashMap::new();
            while replies.len() < DEPTH {
                let reply = client.reply(0);
                waits.push(sent[at].elapsed());
                let (cookie, data) = match reply.header {
                    ReplyHeader::Simple { error: 0, cookie } => (cookie, vec![]),
                    ReplyHeader::Chunk { kind: 1, cookie, done: true, .. } => (cookie, reply.payload[8..].to_vec()),
                    other => panic!("{other:?}"),
                };
                assert!(data.iter().all(|byte| *byte == (at ^ cookie as usize) as u8 | 1));
                assert!(replies.insert(cookie, data).is_none());
            }
        }
    }
    waits.sort_unstable();
    let percentile = |hundredth: usize| waits[(waits.len() - 1) * hundredth / 100].as_micros();
    println!(
        "{IDLE} idle and {ACTIVE} active clients, {} in flight: p50 {} us, p99 {} us; resident {} KiB with the idle, {} KiB at the peak, the goal {} KiB, {} threads",
        ACTIVE * DEPTH,
        percentile(50),
        percentile(99),
        with_idle >> 10,
        server.peak() >> 10,
        PEAK >> 10,
        server.threads(),
    );
    assert!(server.peak() < PEAK, "a peak of {} MiB", server.peak() >> 20);
    for client in idle.iter_mut().chain(&mut active) {
        assert_eq!(client.read(0, 1).len(), 1);
    }
}

/// One that sends its requests one by one is looked out for, but not once it is silent.
#[test]
fn a_quick_client_that_falls_silent_costs_no_processor() {
    const GOAL: Duration = Duration::from_millis(10);
    let server = Serving::start(MIB, &Config::default());
    let mut client = Client::attached(&server.socket, HeaderStyle::Structured);
    for round in 0..2000u64 {
        let offset = round % 256 * 4096;
        client.write(offset, &[round as u8 | 1; 4096]);
        assert_eq!(client.read(offset, 4096), [round as u8 | 1; 4096]);
    }
    let before = server.processor();
    std::thread::sleep(Duration::from_millis(400));
    let spent = server.processor() - before;
    println!("{spent:?} of the processor in 400 ms of silence, the goal {GOAL:?}");
    assert!(spent <= 5 * GOAL, "{spent:?} in 400 ms of silence");
    assert_eq!(client.read(0, 512).len(), 512);
}
