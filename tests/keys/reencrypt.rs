//! What was stored before, brought under the current key.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure};

/// Sixteen bytes that say which page they are in, repeated.
fn page(number: u64) -> Vec<u8> {
    format!("page {number:10}.").into_bytes().repeat(32)
}

fn pages(range: std::ops::Range<u64>) -> Vec<u8> {
    range.flat_map(page).collect()
}

/// In the base image, in plaintext and under an older key, with a client that goes on writing.
#[test]
fn plain_pages_old_keys_and_the_base_come_under_the_current_key_while_clients_write() {
    let account = Account::new();
    let image = account.scratch("base.img");
    fs::write(&image, pages(0..8 * MIB / 512)).expect("a base image");
    account.create_over("disk", &image);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &pages(0..1000)).expect("under the first key");
    account.sealdisk(&["encryption", "off"]);
    client.write(1000 * 512, &pages(1000..2000)).expect("in plaintext");
    client.flush().expect("flushed");
    assert!(!account.files_with(&page(1500)).is_empty(), "the search finds what is there");

    let refused = stderr_of_failure(account.command().args(["reencrypt", "disk"]));
    assert!(refused.contains("encryption is off"), "{refused}");
    account.sealdisk(&["encryption", "on"]);
    account.sealdisk(&["key", "rotate-data", "disk"]);

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = Client::attach(&server, "disk").expect("attached");
            let mut round = 0u8;
            while !done.load(Ordering::Relaxed) {
                round = round.wrapping_add(1);
                for at in (4000..6000).step_by(97) {
                    writer.write(at * 512, &[round; 512]).expect("written");
                    assert_eq!(writer.read(at * 512, 512).expect("read"), [round; 512], "the client's writes win");
                }
            }
        });
        let without_base = account.json(&["reencrypt", "disk"]);
        assert_eq!(without_base[0]["remaining_bytes"], 0);
        let usage = account.usage("disk");
        assert!(usage.base > 0 && usage.plain == 0, "{usage:?}");
        let with_base = account.json(&["reencrypt", "disk", "--include-base"]);
        assert_eq!((&with_base[0]["remaining_bytes"], &with_base[0]["base_detached"]), (&0.into(), &true.into()));
        done.store(true, Ordering::Relaxed);
    });
    let usage = account.usage("disk");
    assert_eq!((usage.base, usage.plain), (0, 0), "{usage:?}");
    account.sealdisk(&["scrub", "disk", "--wait"]);
    assert!(account.files_with(&page(1500)).is_empty() && account.files_with(&page(9000)).is_empty());
    // One layer is left, under the current key.
    assert_eq!(account.json(&["show", "disk"])["layers"].as_array().map(Vec::len), Some(1));
    assert!(server.terminate().success());

    fs::remove_file(&image).expect("the base goes");
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached without its base");
    for range in [0..4000, 6000..8 * MIB / 512] {
        assert_eq!(
            client.read(range.start * 512, (range.end - range.start) as usize * 512).expect("read"),
            pages(range)
        );
    }
}

/// Ended by a kill, it is started again and goes on; detached, the server does it.
#[test]
fn a_sweep_that_was_cut_off_goes_on() {
    let account = Account::new();
    account.create("disk", 8 * MIB);
    account.sealdisk(&["encryption", "off"]);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    for part in 0..8 {
        client.write(part * MIB, &pages(part * 2048..(part + 1) * 2048)).expect("in plaintext");
    }
    client.flush().expect("flushed");
    account.sealdisk(&["encryption", "on"]);

    let mut slow = account.command().args(["reencrypt", "disk", "--rate", "2M"]).spawn().expect("the program starts");
    let started = Instant::now();
    while account.usage("disk").encrypted < MIB {
        assert!(started.elapsed() < Duration::from_secs(30), "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    slow.kill().expect("it runs");
    slow.wait().expect("it ends");
    server.kill();

    let server = account.serve();
    let refused = stderr_of_failure(account.command().args(["reencrypt", "nowhere", "--detach"]));
    assert!(refused.contains("no disk"), "{refused}");
    account.sealdisk(&["reencrypt", "--all", "--detach"]);
    let started = Instant::now();
    while account.usage("disk").plain > 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = Client::attach(&server, "disk").expect("attached");
    assert_eq!(client.read(0, 8 * MIB as usize).expect("read"), pages(0..8 * 2048));
    assert!(server.terminate().success());
    let refused = stderr_of_failure(account.command().args(["reencrypt", "disk", "--detach"]));
    assert!(refused.contains("no server"), "{refused}");
    account.sealdisk(&["reencrypt", "disk"]);
}
