//! Streams in and out, through pipes.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::{content, failure_of, image, layer_bytes, noise, shell, text};
use crate::support::{Account, MIB, program, run, stdout_of};

const SIZE: u64 = 13 * MIB;

#[test]
fn a_stream_of_either_kind_becomes_a_disk_of_its_size() {
    let account = Account::new();
    let raw = image(&account, "image.img", SIZE, &[(0, 8192), (SIZE - 512, 512)]);
    let raw = fs::read(raw).unwrap();
    for served in [false, true] {
        let server = served.then(|| account.serve());
        stdout_of(&mut shell(&account, &format!("$sealdisk import - raw-{served} < image.img")));
        stdout_of(&mut shell(&account, &format!("cat image.img | $sealdisk import - sized-{served} --size 13M")));
        stdout_of(&mut shell(&account, &format!("$sealdisk export raw-{served} - --exact-size > fixed.vhd")));
        stdout_of(&mut shell(&account, &format!("cat fixed.vhd | $sealdisk import - fixed-{served} --format vhd")));
        stdout_of(
            program("qemu-img")
                .args(["compare", "-f", "vpc", "-F", "raw", "-q"])
                .args([account.scratch("fixed.vhd"), account.scratch("image.img")]),
        );
        for name in ["raw", "sized", "fixed"] {
            let name = format!("{name}-{served}");
            assert_eq!(account.json(&["show", &name])["size_bytes"], SIZE);
            assert!(content(&account, &name) == raw, "{name}");
            assert_eq!(account.usage(&name).encrypted, 8192 + 4096 + 512, "zeros take no space");
        }
        assert!(server.is_none_or(|server| server.terminate().success()));
    }
    // One account's disk into another's, with nothing between.
    let other = Account::new();
    let program = env!("CARGO_BIN_EXE_sealdisk");
    let there = other.dir();
    let line =
        format!("$sealdisk export raw-true - | {program} --account {} import - moved --format vhd", there.display());
    stdout_of(&mut shell(&account, &line));
    assert!(content(&other, "moved")[..SIZE as usize] == raw);
}

#[test]
fn a_disk_grows_with_a_stream_of_unknown_size() {
    let account = Account::new();
    // Past what a disk has at first, with data on both sides.
    let runs = [(0, 512), ((1 << 30) - 4096, 8192), ((1 << 30) + 5 * MIB, 4096)];
    let raw = image(&account, "large.img", (1 << 30) + 6 * MIB, &runs);
    stdout_of(&mut shell(&account, "$sealdisk import - disk < large.img"));
    let document = account.json(&["show", "disk"]);
    assert_eq!(document["size_bytes"], (1 << 30) + 6 * MIB);
    let out = account.scratch("out.img");
    account.sealdisk(&["export", "disk", text(&out), "--to", "raw"]);
    stdout_of(program("qemu-img").args(["compare", "-f", "raw", "-F", "raw", text(&raw), text(&out)]));
    assert!(account.usage("disk").encrypted <= 32 << 10);
}

#[test]
fn a_stream_that_is_cut_off_makes_no_disk_and_can_be_repeated() {
    let account = Account::new();
    fs::write(account.scratch("image.img"), noise(5, SIZE as usize)).unwrap();
    let server = account.serve();
    let import = |line: &str| run(shell(&account, line).arg("--"));
    let cut = import("head -c 10M image.img | $sealdisk import - disk --size 13M --json");
    let document = failure_of(&cut);
    assert_eq!(document["unfinished"], "disk", "{document}");
    let refused = run(program("qemu-io").args(["-f", "raw", "-c", "read 0 512"]).arg(server.uri("disk")));
    assert!(!refused.status.success(), "an unfinished disk is not served");
    let without_footer = import("$sealdisk import - other --format vhd --json < image.img");
    assert_eq!(failure_of(&without_footer)["error"]["kind"], "Io");
    account.sealdisk(&["delete", "other", "--yes"]);

    // Half of it differs now: what is there is compared, not trusted.
    let mut changed = noise(5, SIZE as usize);
    changed[MIB as usize..2 * MIB as usize].fill(0);
    changed[5 * MIB as usize..6 * MIB as usize].copy_from_slice(&noise(9, MIB as usize));
    fs::write(account.scratch("image.img"), &changed).unwrap();
    let again = import("$sealdisk import - disk --size 13M --json < image.img");
    let document: serde_json::Value = serde_json::from_slice(&again.stdout).expect("a document");
    assert_eq!(document["resumed"], true, "{document}");
    assert!(document["written_bytes"].as_u64() < Some(SIZE - 2 * MIB), "only what differs is written: {document}");
    assert!(content(&account, "disk") == changed);
    assert!(server.terminate().success());
}

#[test]
fn what_is_no_stream_of_a_disk_is_refused() {
    let account = Account::new();
    image(&account, "image.img", 2 * MIB, &[(0, 512)]);
    account.sealdisk(&["import", text(&account.scratch("image.img")), "disk"]);
    account.sealdisk(&["export", "disk", text(&account.scratch("dynamic.vhd")), "--to", "dynamic"]);
    for (line, kind) in [
        ("$sealdisk import - new --json < dynamic.vhd", "Unsupported"),
        ("$sealdisk import - new --json < /dev/null", "InvalidInput"),
        ("head -c 1000 image.img | $sealdisk import - new --json", "InvalidInput"),
        ("$sealdisk import - disk --json < image.img", "AlreadyExists"),
        ("$sealdisk export disk - --to dynamic --json", "InvalidInput"),
        ("$sealdisk export disk - --json", "InvalidInput"),
    ] {
        let document = failure_of(&run(&mut shell(&account, line)));
        assert_eq!(document["error"]["kind"], kind, "{line}: {document}");
    }
    assert_eq!(account.json(&["list"]).as_array().map(Vec::len), Some(1), "nothing was made");
}

/// The disk fails while the stream stays open and says nothing: nobody waits for more of it.
#[test]
fn a_silent_stream_does_not_hold_a_copy_whose_disk_is_gone() {
    let account = Account::new();
    let server = account.serve();
    let mut command = account.command();
    command.args(["import", "-", "disk", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let mut stream = child.stdin.take().expect("a pipe");
    // A piece, of which some is held back for a footer, and a piece more.
    stream.write_all(&noise(1, 9 << 20)).expect("taken");
    let started = Instant::now();
    while layer_bytes(&account) < 4 * MIB {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(2));
    }
    server.kill();
    // It finds out with the next piece, if it has not yet.
    let _ = stream.write_all(&noise(2, 4 << 20));
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output().expect("a child can be waited for")));
    let output = ended.recv_timeout(Duration::from_secs(60)).expect("it ends while the stream is open");
    assert_eq!(failure_of(&output)["unfinished"], "disk");
    drop(stream);
    account.sealdisk(&["delete", "disk", "--yes"]);
}
