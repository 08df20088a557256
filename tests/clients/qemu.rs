//! `qemu-img` and `qemu-io`.

use std::path::Path;

use crate::support::{Account, MIB, Server, file_system_image, program, run, sha256, stdout_of, vhd_of};

const NAME: &str = "disk";

fn qemu_img(arguments: &[&str]) -> String {
    stdout_of(program("qemu-img").args(arguments))
}

/// Runs commands of `qemu-io` on an export, in one session. A pattern that is not found fails it.
fn qemu_io(server: &Server, commands: &[&str]) -> String {
    let mut qemu_io = program("qemu-io");
    for command in commands {
        qemu_io.args(["-c", command]);
    }
    // The status of qemu-io says nothing about a pattern that differs: its output does.
    let output = run(qemu_io.args(["-f", "raw", &server.uri(NAME)]));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let bad = ["failed", "error", "Invalid", "invalid", "differ"].iter().any(|word| text.contains(word));
    assert!(output.status.success() && !bad, "{commands:?}:\n{text}");
    text
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What `qemu-img map` says of an export: (start, length, whether zero), neighbours of one kind joined.
fn map(uri: &str) -> Vec<(u64, u64, bool)> {
    let mut runs: Vec<(u64, u64, bool)> = Vec::new();
    for run in json(&qemu_img(&["map", "--output=json", "-f", "raw", uri])).as_array().expect("an array") {
        let field = |name: &str| run[name].as_u64().expect("a number");
        let zero = run["zero"].as_bool().expect("a boolean");
        match runs.last_mut() {
            Some(last) if last.2 == zero => last.1 += field("length"),
            _ => runs.push((field("start"), field("length"), zero)),
        }
    }
    runs
}

fn compare(left: &str, right: &str) {
    qemu_img(&["compare", "-f", "raw", "-F", "raw", left, right]);
}

#[test]
fn info_tells_the_size_of_the_disk() {
    let account = Account::new();
    account.create(NAME, 5 * MIB);
    let server = account.serve();
    let info = json(&qemu_img(&["info", "--output=json", &server.uri(NAME)]));
    assert_eq!(info["virtual-size"], 5 * MIB);
    assert_eq!(info["format"], "raw");
}

#[test]
fn patterns_of_every_kind_read_back() {
    let account = Account::new();
    account.create(NAME, 80 * MIB);
    let server = account.serve();
    qemu_io(
        &server,
        &[
            "write -P 0xa5 0 64k",
            "read -P 0xa5 0 64k",
            // One page, and ranges that start and end inside a 4 KiB block.
            "write -P 0x11 512 512",
            "read -P 0xa5 0 512",
            "read -P 0x11 512 512",
            "read -P 0xa5 1024 7168",
            "write -P 0x22 33792 1536",
            "read -P 0x22 33792 1536",
            // The largest request there is.
            "write -P 0x33 1M 32M",
            "read -P 0x33 1M 32M",
            // Zeros, with and without giving the space back.
            "write -z 2M 1M",
            "read -P 0 2M 1M",
            "write -z -u 4M 1M",
            "read -P 0 4M 1M",
            "read -P 0x33 3M 1M",
            // FUA, on data and on zeros.
            "write -f -P 0x44 40M 4k",
            "read -P 0x44 40M 4k",
            "write -f -z 40M 512",
            "read -P 0 40M 512",
            "read -P 0x44 41943552 3584",
            "discard 8M 1M",
            "read -P 0 8M 1M",
            // The end of the disk, and what was never written.
            "write -P 0x55 83885568 512",
            "read -P 0x55 83885568 512",
            "read -P 0 50M 16M",
            "flush",
        ],
    );
    server.terminate();
    let server = account.serve();
    qemu_io(&server, &["read -P 0x11 512 512", "read -P 0x33 5M 3M", "read -P 0 8M 1M", "read -P 0x55 83885568 512"]);
}

#[test]
fn many_requests_in_flight_read_back() {
    let account = Account::new();
    account.create(NAME, 32 * MIB);
    let server = account.serve();
    let mut commands = Vec::new();
    for n in 0..64 {
        commands.push(format!("aio_write -P {} {}k 60k", n + 1, n * 60));
    }
    commands.push("aio_flush".to_owned());
    for n in 0..64 {
        commands.push(format!("aio_read -P {} {}k 60k", n + 1, n * 60));
    }
    commands.push("aio_flush".to_owned());
    qemu_io(&server, &commands.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn requests_past_the_end_fail_and_the_next_one_works() {
    let account = Account::new();
    account.create(NAME, MIB);
    let server = account.serve();
    let output =
        run(program("qemu-io").args(["-c", "write 1M 4k", "-c", "read -P 0 0 1M", "-f", "raw", &server.uri(NAME)]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("read 1048576/1048576 bytes at offset 0"), "{text}");
}

#[test]
fn map_shows_what_is_stored() {
    let account = Account::new();
    account.create(NAME, 16 * MIB);
    let server = account.serve();
    qemu_io(&server, &["write -P 1 1M 1M", "write -P 2 8M 64k", "write -z -u 1536k 64k", "discard 1M 128k"]);
    let expected = [
        (0, 1152 << 10, true),
        (1152 << 10, 384 << 10, false),
        (1536 << 10, 64 << 10, true),
        (1600 << 10, 448 << 10, false),
        (2 * MIB, 6 * MIB, true),
        (8 * MIB, 64 << 10, false),
        (8 * MIB + (64 << 10), 8 * MIB - (64 << 10), true),
    ];
    assert_eq!(map(&server.uri(NAME)), expected);
}

#[test]
fn convert_in_and_out_keeps_every_byte_and_hole() {
    let account = Account::new();
    let raw = account.scratch("files.img");
    file_system_image(&raw, 24 * MIB);
    let raw = raw.to_str().expect("UTF-8");
    account.create(NAME, 24 * MIB);
    let server = account.serve();
    let uri = server.uri(NAME);
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", "-m", "8", "-W", raw, &uri]);
    compare(raw, &uri);
    let usage = account.usage(NAME);
    assert!(usage.encrypted < 12 * MIB && usage.zero > 12 * MIB, "holes of the source are no pages: {usage:?}");

    let out = account.scratch("out.img");
    let out = out.to_str().expect("UTF-8");
    qemu_img(&["convert", "-f", "raw", "-O", "raw", &uri, out]);
    compare(raw, out);
    let vhd = account.scratch("out.vhd");
    let vhd = vhd.to_str().expect("UTF-8");
    qemu_img(&["convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", &uri, vhd]);
    qemu_img(&["compare", "-f", "raw", "-F", "vpc", &uri, vhd]);
}

/// A disk over a VHD of real files reads as they do, takes writes, and leaves the VHD alone.
fn over_a_vhd(subformat: &str) {
    let account = Account::new();
    let raw = account.scratch("files.img");
    file_system_image(&raw, 24 * MIB);
    let vhd = vhd_of(&raw, subformat);
    let before = sha256(&vhd);
    account.create_over(NAME, &vhd);
    assert_eq!(account.usage(NAME).encrypted, 512, "nothing is stored but the footer page");

    let server = account.serve();
    let uri = server.uri(NAME);
    compare(path(&raw), &uri);
    qemu_io(&server, &["write -P 0x77 3145216 1M", "read -P 0x77 3145216 1M", "write -z -u 8M 64k"]);
    let local = format!("{}", raw.display());
    let edits = program("qemu-io")
        .args(["-f", "raw", "-c", "write -P 0x77 3145216 1M", "-c", "write -z 8M 64k", &local])
        .status()
        .expect("qemu-io runs");
    assert!(edits.success());
    compare(path(&raw), &uri);
    let usage = account.usage(NAME);
    assert_eq!((usage.encrypted, usage.plain), (MIB + 512, 0));

    server.terminate();
    let server = account.serve();
    compare(path(&raw), &server.uri(NAME));
    assert_eq!(sha256(&vhd), before, "the base is never written");
}

#[test]
fn over_a_fixed_vhd() {
    over_a_vhd("fixed");
}

#[test]
fn over_a_dynamic_vhd() {
    over_a_vhd("dynamic");
}

#[test]
fn bench_runs_to_its_end() {
    let account = Account::new();
    account.create(NAME, 16 * MIB);
    let server = account.serve();
    let uri = server.uri(NAME);
    qemu_img(&["bench", "-f", "raw", "-w", "-c", "2000", "-d", "32", "-s", "4k", "--flush-interval=100", &uri]);
    qemu_img(&["bench", "-f", "raw", "-c", "2000", "-d", "32", "-s", "4k", &uri]);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}
