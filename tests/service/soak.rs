//! Mixed load with switches, scrubs, snapshots and scrapes for a while: neither memory nor descriptors grow.
//!
//! `SEALDISK_SOAK_SECONDS` says how long the long one takes; 600 if it is not set.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sealdisk::nbd::wire::transmission::{HeaderStyle, command};

use crate::raw::Client;
use crate::scrape::{Scrape, serve, text};
use crate::support::{Account, MIB, Server};

/// Memory that may come on top from the middle third of the time to the last; a test fails at five times that.
const GOAL_MIB: f64 = 4.0;
/// Descriptors that may come on top: a verb, a checkpoint or a new layer is under way at one moment and not at another.
const DESCRIPTORS: f64 = 12.0;
const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];

#[test]
fn a_short_soak_grows_nothing() {
    soak(Duration::from_secs(15));
}

#[test]
#[ignore = "takes ten minutes"]
fn a_long_soak_grows_nothing() {
    let seconds = std::env::var("SEALDISK_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    soak(Duration::from_secs(seconds.unwrap_or(600)));
}

fn soak(time: Duration) {
    let account = Account::new();
    account.create("a", 64 * MIB);
    account.create("b", 64 * MIB);
    let (server, addr) = serve(&account, &[]);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let on = |work: &dyn Fn()| {
        while !stop.load(Ordering::Relaxed) {
            work();
        }
    };
    let pause = |millis| thread::sleep(Duration::from_millis(millis));
    let samples = thread::scope(|scope| {
        for (seed, disk) in ["a", "a", "b"].into_iter().enumerate() {
            let (server, stop, asked) = (&server, &stop, &asked);
            scope.spawn(move || load(server, disk, seed as u64, stop, asked));
        }
        scope.spawn(|| {
            on(&|| {
                for setting in ["off", "on"] {
                    account.sealdisk(&["encryption", setting]);
                    pause(1000);
                }
            });
        });
        scope.spawn(|| {
            on(&|| {
                account.sealdisk(&["scrub", "a", "--wait"]);
                account.sealdisk(&["snapshot", "create", "b", "soak"]);
                pause(700);
                account.sealdisk(&["snapshot", "delete", "b", "soak"]);
                pause(700);
            });
        });
        scope.spawn(|| {
            on(&|| {
                drop(text(addr));
                pause(50);
            });
        });
        let samples = watch(addr, time);
        stop.store(true, Ordering::Relaxed);
        samples
    });
    let scrape = Scrape::fresh(addr);
    let answered = scrape.sum("sealdisk_requests_total") as u64;
    println!("{answered} requests in {time:?}, {} samples", samples.len());
    assert_eq!(answered, asked.load(Ordering::Relaxed));
    assert_eq!((scrape.sum("sealdisk_request_errors_total"), scrape.sum("sealdisk_disk_poisoned")), (0.0, 0.0));
    let third = samples.len() / 3;
    let middle = Third::of(&samples[third..2 * third]);
    let last = Third::of(&samples[2 * third..]);
    println!("middle third: {middle:?}\nlast third:   {last:?}");
    let grown = last.memory_mib - middle.memory_mib;
    assert!(grown < 5.0 * GOAL_MIB, "{grown} MiB more");
    assert!(last.descriptors <= middle.descriptors + DESCRIPTORS);
    assert!(last.threads <= middle.threads + 16.0);
    assert!(server.terminate().success());
    account.sealdisk(&["verify", "a"]);
    account.sealdisk(&["verify", "b"]);
}

#[derive(Debug)]
struct Sample {
    memory_mib: f64,
    descriptors: f64,
    threads: f64,
}

/// The median of memory and the most of the rest.
#[derive(Debug)]
struct Third {
    memory_mib: f64,
    descriptors: f64,
    threads: f64,
}

impl Third {
    fn of(samples: &[Sample]) -> Self {
        let mut memory: Vec<_> = samples.iter().map(|sample| sample.memory_mib).collect();
        memory.sort_by(f64::total_cmp);
        let most = |of: fn(&Sample) -> f64| samples.iter().map(of).fold(0.0, f64::max);
        Self {
            memory_mib: memory[memory.len() / 2],
            descriptors: most(|sample| sample.descriptors),
            threads: most(|sample| sample.threads),
        }
    }
}

fn watch(addr: SocketAddr, time: Duration) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    while began.elapsed() < time {
        thread::sleep(Duration::from_millis(300));
        let scrape = Scrape::fresh(addr);
        samples.push(Sample {
            memory_mib: scrape.value("process_resident_memory_bytes", &[]) / MIB as f64,
            descriptors: scrape.value("process_open_fds", &[]),
            threads: scrape.value("process_threads", &[]),
        });
    }
    samples
}

/// Clients one after the other, each with a few hundred requests, all over a part of the disk that is small enough for
/// every page to be written again and again.
fn load(server: &Server, disk: &str, seed: u64, stop: &AtomicBool, asked: &AtomicU64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut data = vec![0; 128 << 10];
    random.fill(&mut data[..]);
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::greeted(server.socket());
        client.negotiate(STYLES[random.random_range(0..STYLES.len())]);
        client.go(disk);
        for _ in 0..200 {
            let length = 512 * random.random_range(1..=data.len() as u64 / 512);
            let offset = 512 * random.random_range(0..(8 * MIB - length) / 512);
            let done = match random.random_range(0..20) {
                0 => client.try_request(command::FLUSH, 0, 0, 0),
                1 => client.try_request(command::TRIM, 0, offset, length),
                2 => client.try_request(command::WRITE_ZEROES, 0, offset, length),
                3..12 => client.try_write(offset, &data[..length as usize], 0),
                _ => client.try_read(offset, length as usize, 0).map_or_else(|errno| errno, |_| 0),
            };
            assert_eq!(done, 0, "{disk}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    }
}
