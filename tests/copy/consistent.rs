//! A disk that is written while it is copied: the copy is one moment of it.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nbd::client::{NbdClient, handshake};

use crate::fixture::{noise, text};
use crate::support::{Account, MIB};

const SIZE: u64 = 64 * MIB;

#[test]
fn the_first_and_the_last_page_are_of_one_moment() {
    let account = Account::new();
    let raw = account.scratch("image.img");
    fs::write(&raw, noise(6, SIZE as usize)).unwrap();
    account.sealdisk(&["import", text(&raw), "disk"]);
    let server = account.serve();
    let stop = AtomicBool::new(false);
    // How often both pages were written.
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = UnixStream::connect(server.socket()).expect("the server listens");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
            let export = handshake(&mut stream, b"disk").expect("a handshake");
            let mut client = NbdClient::new(stream, &export);
            let mut generation = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                generation += 1;
                for at in [0, SIZE - 512] {
                    client.seek(SeekFrom::Start(at)).expect("seek");
                    client.write_all(&generation.to_le_bytes().repeat(64)).expect("written");
                }
                written.store(generation, Ordering::SeqCst);
            }
        });
        let checks = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Until then the pages hold what was imported.
            more_than(0, &written);
            for n in 0..3 {
                let before = written.load(Ordering::SeqCst);
                let path = account.scratch(&format!("copy{n}.img"));
                let document = account.json(&["export", "disk", text(&path), "--to", "raw"]);
                assert_eq!(document["temporary_snapshot"], true);
                one_moment(&fs::read(&path).unwrap());
                account.sealdisk(&["clone", "disk", &format!("clone{n}"), "--full"]);
                let path = account.scratch(&format!("clone{n}.img"));
                account.sealdisk(&["export", &format!("clone{n}"), text(&path), "--to", "raw"]);
                one_moment(&fs::read(&path).unwrap());
                more_than(before + 1, &written);
            }
        }));
        stop.store(true, Ordering::SeqCst);
        checks.expect("the copies are consistent");
    });
    assert_eq!(account.json(&["snapshot", "list", "disk"]), serde_json::json!([]));
    assert!(server.terminate().success());
}

/// Waits until there are more than `least`.
fn more_than(least: u64, written: &AtomicU64) {
    let started = Instant::now();
    while written.load(Ordering::SeqCst) <= least {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody writes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The first page is written first: the last is of the same generation, or of the one before.
fn one_moment(image: &[u8]) {
    let generation = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    let (first, last) = (generation(0), generation(image.len() - 512));
    assert!(first > 0 && first - last <= 1, "{first} and {last}");
}
