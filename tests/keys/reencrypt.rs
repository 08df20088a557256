//! What was stored before, brought under the current key.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::support::{Account, MIB, Server, program, stderr_of_failure, stdout_of};

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

/// What is empty in the image stays empty, and what is reported is what was encrypted, not what was looked at for it.
#[test]
fn the_holes_of_a_sparse_base_stay_holes_and_are_not_counted_as_encrypted() {
    let account = Account::new();
    let image = account.scratch("base.img");
    let base = File::create(&image).expect("a base image");
    base.set_len(64 * MIB).expect("its size");
    for at in [5 * MIB, 40 * MIB + 512] {
        base.write_all_at(&pages(0..100), at).expect("a little of it is written");
    }
    account.create_over("disk", &image);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[0; 4096]).expect("zeros of a client");
    client.flush().expect("flushed");
    let done = account.json(&["reencrypt", "disk", "--include-base"]);
    assert_eq!(done[0]["stored_bytes"], 200 * 512, "{done}");
    assert_eq!((&done[0]["base_detached"], &done[0]["remaining_bytes"]), (&true.into(), &0.into()), "{done}");
    let usage = account.usage("disk");
    // With the footer; what a client writes is encrypted whatever it is.
    assert_eq!((usage.base, usage.plain, usage.encrypted), (0, 0, 200 * 512 + 4096 + 512), "{usage:?}");
    assert!(allocated(&account, ".xts") < MIB, "{}", allocated(&account, ".xts"));
    for (at, content) in [(5 * MIB - 512, [vec![0; 512], pages(0..100)].concat()), (40 * MIB, vec![0; 512])] {
        assert_eq!(client.read(at, content.len()).expect("read"), content);
    }
    assert_eq!(client.read(40 * MIB + 512, 100 * 512).expect("read"), pages(0..100));
    let said = account.sealdisk(&["reencrypt", "disk", "--include-base"]);
    assert!(said.contains("all that it holds itself was under the current key already"), "{said}");
}

/// A disk with 8 MiB in plaintext, encryption on again, and a client.
fn plain_disk(account: &Account, server: &Server) -> Client {
    account.create("disk", 8 * MIB);
    account.sealdisk(&["encryption", "off"]);
    let mut client = Client::attach(server, "disk").expect("attached");
    for part in 0..8 {
        client.write(part * MIB, &pages(part * 2048..(part + 1) * 2048)).expect("in plaintext");
    }
    client.flush().expect("flushed");
    account.sealdisk(&["encryption", "on"]);
    client
}

/// Bytes that the layer files whose names end so take.
fn allocated(account: &Account, end: &str) -> u64 {
    let disks = fs::read_dir(account.dir().join("disks")).expect("the disks");
    let layers = disks.flat_map(|disk| fs::read_dir(disk.expect("a disk").path().join("layers")).expect("its layers"));
    let layers =
        layers.map(|layer| layer.expect("a layer")).filter(|layer| layer.path().to_string_lossy().ends_with(end));
    layers.map(|layer| layer.metadata().expect("a file").blocks() * 512).sum()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whoever does it, a verb that waits or the server: switched off it pauses, and nothing more is encrypted or
/// decrypted; switched on it goes on by itself, with what was written in plaintext meanwhile too.
#[test]
fn it_pauses_while_encryption_is_off_and_goes_on_when_it_is_on() {
    for detached in [false, true] {
        let account = Account::new();
        let server = account.serve();
        let mut client = plain_disk(&account, &server);
        let said = account.scratch("said");
        let mut verb = account.command();
        verb.args(["reencrypt", "disk", "--rate", "2M"]).args(detached.then_some("--detach"));
        verb.stdout(Stdio::null()).stderr(File::create(&said).expect("a file"));
        let mut verb = verb.spawn().expect("the program starts");
        wait_for("a part is encrypted", || account.usage("disk").encrypted > MIB);
        account.sealdisk(&["encryption", "off"]);
        let before = account.usage("disk");
        assert!(before.plain > MIB, "it was not done before: {before:?}");
        // Behind where it is, and ahead.
        for at in [0, 8 * MIB - 4096] {
            client.write(at, &[9; 4096]).expect("in plaintext again");
        }
        if !detached {
            let is_said = || fs::read_to_string(&said).expect("what it says").contains("paused: encryption is off");
            wait_for("it says that it pauses", is_said);
        }
        std::thread::sleep(Duration::from_millis(1500));
        let paused = account.usage("disk");
        assert_eq!((paused.encrypted, paused.plain), (before.encrypted - 4096, before.plain + 4096));
        account.sealdisk(&["encryption", "on"]);
        if detached {
            wait_for("it is done", || account.usage("disk").plain == 0);
            assert!(verb.wait().expect("it ended long ago").success());
        } else {
            assert!(verb.wait().expect("it ends").success());
        }
        assert_eq!(account.usage("disk").plain, 0);
        assert_eq!(client.read(0, 4096).expect("read"), [9; 4096]);
        assert_eq!(client.read(4096, 4 * MIB as usize).expect("read"), pages(8..8 + 4 * 2048));
    }
}

/// Without a server the verb has the disk open itself.
#[test]
fn ctrl_c_leaves_what_was_done_and_the_next_one_does_the_rest() {
    for served in [true, false] {
        let account = Account::new();
        let server = account.serve();
        drop(plain_disk(&account, &server));
        let server = served.then_some(server);
        let mut slow =
            account.command().args(["reencrypt", "disk", "--rate", "2M"]).spawn().expect("the program starts");
        let started = Instant::now();
        // Without a server it holds the account, and nobody else can ask.
        wait_for("a part is encrypted", || match served {
            true => account.usage("disk").encrypted > MIB,
            false => allocated(&account, ".xts") > MIB,
        });
        kill_process(Pid::from_child(&slow), Signal::INT).expect("it runs");
        assert!(!slow.wait().expect("it ends").success());
        let took = started.elapsed();
        let done = account.usage("disk").encrypted;
        assert!(done > 0 && done < 7 * MIB, "{done}");
        // One step more may be under way.
        assert!(
            done as f64 <= took.as_secs_f64() * 2e6 * 1.05 + 2e6,
            "{done} bytes in {took:?} are faster than the rate"
        );
        println!("{done} bytes in {took:?} at 2M a second, ended by Ctrl-C");

        // A terminal is shown exactly what is left, and how far it is.
        let words = "reencrypt disk --rate 8M";
        let mut seen = program("script");
        seen.args([
            "-qec",
            &format!("{} --account {} {words}", env!("CARGO_BIN_EXE_sealdisk"), account.dir().display()),
        ]);
        let shown = stdout_of(seen.arg("/dev/null").env("XDG_CONFIG_HOME", account.scratch("config")));
        let left = (8 * MIB + 512 - done) as f64 / MIB as f64;
        let totals: Vec<f64> = shown
            .split(" of ")
            .skip(1)
            .filter_map(|rest| rest.split_once(" MiB").and_then(|(number, _)| number.trim().parse().ok()))
            .collect();
        assert!(!totals.is_empty(), "no bar: {shown}");
        // A server may have ended a step after `done` was looked at.
        let exact = |total: f64| if served { total <= left + 0.01 && total > 0.0 } else { (total - left).abs() < 0.01 };
        assert!(totals.iter().all(|total| exact(*total)), "{left}: {totals:?}");
        assert!(shown.contains("all that it holds itself is under the current key"), "{shown}");
        assert_eq!(account.usage("disk").plain, 0);
        let server = server.unwrap_or_else(|| account.serve());
        let mut client = Client::attach(&server, "disk").expect("attached");
        assert_eq!(client.read(0, 8 * MIB as usize).expect("read"), pages(0..8 * 2048));
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
