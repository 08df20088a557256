//! The hot path by instructions: what neither noise nor other load on the machine changes.
//!
//! The program serves under callgrind, which counts the instructions that it executes outside the kernel; requests come
//! as they do from a busy client, 32 at once. A start without requests is taken off. The budgets are of the profile
//! that `./test` builds (optimised, with debug assertions), with the portable cipher, because valgrind knows no
//! AVX-512; they leave a half, so that a path of twice the length goes over and a new compiler does not. How fast it
//! all is by the clock, kernel included, `benches/` measures.
//!
//! The AVX-512 cipher is held against the portable one, in turn and by the time of the processor, the best of many
//! rounds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use sealdisk::crypto::xts::{Backend, XtsKey};
use support::{Account, MIB, program, stdout_of};

const DEPTH: usize = 32;
const OPERATIONS: usize = 2048;
const BLOCK: usize = 4096;
/// Under callgrind everything takes fifty times as long.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Nothing,
    Reads,
    Writes,
}

/// Sends `OPERATIONS` requests of 4 KiB, each to a place of its own, and takes the replies.
fn drive(socket: &Path, load: Load) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    nbd::client::handshake(&mut stream, b"disk").unwrap();
    let reads = load == Load::Reads;
    let payload = vec![0x5a; if reads { 0 } else { BLOCK }];
    let mut replies = vec![0; DEPTH * (16 + if reads { BLOCK } else { 0 })];
    for batch in 0..OPERATIONS / DEPTH {
        let mut requests = Vec::new();
        for at in (0..DEPTH).map(|index| batch * DEPTH + index) {
            // An odd factor walks through all places, none next to the one before.
            let offset = (at * 1021 % OPERATIONS * BLOCK) as u64;
            requests.extend(0x2560_9513_u32.to_be_bytes());
            requests.extend([0, 0, 0, u8::from(!reads)]);
            requests.extend((at as u64).to_be_bytes());
            requests.extend(offset.to_be_bytes());
            requests.extend((BLOCK as u32).to_be_bytes());
            requests.extend(&payload);
        }
        stream.write_all(&requests).unwrap();
        stream.read_exact(&mut replies).unwrap();
        for reply in replies.chunks(replies.len() / DEPTH) {
            assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "a reply without an error");
        }
    }
}

/// Instructions of a server from its start to its end, with a load between.
fn instructions(account: &Account, load: Load) -> u64 {
    let socket = account.scratch("counted.sock");
    let counts = account.scratch("counts");
    let serve = account.command();
    let mut command: Command = program("valgrind");
    command.args(["--quiet", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", counts.display()));
    command
        .arg(serve.get_program())
        .args(serve.get_args())
        .args(["serve", "--log-level", "warn", "--confine", "off", "--socket"])
        .arg(&socket);
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        assert!(server.try_wait().unwrap().is_none() && started.elapsed() < LIMIT, "the server does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    if load != Load::Nothing {
        drive(&socket, load);
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    let counts = std::fs::read_to_string(counts).unwrap();
    let total = counts.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.unwrap_or_else(|| panic!("no total in {counts}")).trim().parse().unwrap()
}

/// Budgets of a read and of a write, in instructions.
fn check(encryption: &str, budgets: [u64; 2]) {
    let account = Account::new();
    account.sealdisk(&["encryption", encryption]);
    account.create("disk", 64 * MIB);
    let server = account.serve();
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", "write -P 7 0 8M", "-c", "flush", &server.uri("disk")]));
    // Opening after an unclean end would drop the cache.
    assert!(server.terminate().success());
    let nothing = instructions(&account, Load::Nothing);
    let mut over = Vec::new();
    for (load, budget) in [Load::Reads, Load::Writes].into_iter().zip(budgets) {
        let each = (instructions(&account, load) - nothing) / OPERATIONS as u64;
        eprintln!("encryption {encryption}, {load:?}: {each} instructions an operation of 4 KiB (budget {budget})");
        if each > budget {
            over.push(load);
        }
    }
    assert!(over.is_empty(), "encryption {encryption}: over their budget: {over:?}");
}

#[test]
fn a_request_costs_no_more_instructions_than_its_budget() {
    check("off", [3_000, 2_600]);
}

#[test]
fn a_request_and_its_encryption_cost_no_more_instructions_than_their_budget() {
    // Of which 65,536 are for wiping the stack, at one a byte; without debug assertions that are 3,072.
    check("on", [100_000, 104_000]);
}

/// Nanoseconds of the processor for 4 MiB in runs of 64 KiB.
fn encryption_time(backend: Backend) -> i64 {
    let key = XtsKey::with_backend(&std::array::from_fn(|at| at as u8), backend).unwrap();
    let (plain, mut sealed) = (vec![0x5a; 64 << 10], vec![0; 64 << 10]);
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    let started = now();
    for run in 0..64 {
        key.encrypt(run * 128, &plain, &mut sealed);
    }
    now() - started
}

#[test]
fn each_backend_is_faster_than_the_one_before() {
    let backends: Vec<_> = Backend::available().collect();
    let mut best = vec![i64::MAX; backends.len()];
    for _ in 0..30 {
        for (best, backend) in best.iter_mut().zip(&backends) {
            *best = encryption_time(*backend).min(*best);
        }
    }
    for (backend, best) in backends.iter().zip(&best) {
        eprintln!("{}: {:.1} GiB/s", backend.name(), 4.0 / 1024.0 / (*best as f64 / 1e9));
    }
    // More than 2.6 times is usual.
    assert!(best.is_sorted_by(|slower, faster| faster * 3 / 2 < *slower), "{best:?} ns for 4 MiB");
}
