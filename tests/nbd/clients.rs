//! Independent clients against a server whose every answer is known.

use std::process::Command;

use sealdisk::nbd::Config;

use crate::fixture::{Counting, MIB, ServerFixture, Shelf};
use crate::transmission::pattern;

/// Runs a program that has to succeed, and gives what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{program} {arguments:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

#[test]
fn libnbd_sends_almost_anything() {
    let shelf = Shelf::new();
    let disk = shelf.add("disk", 16 * MIB, Some(Counting(MIB)));
    shelf.put("fixed", &disk, true);
    let fixture = ServerFixture::new(&shelf, Config::default());
    let battery = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nbd/battery.py");
    // Debian's bindings belong to Debian's interpreter.
    print!("{}", run("/usr/bin/python3", &[battery, fixture.socket.to_str().unwrap()]));
}

#[test]
fn nbdinfo_shows_our_own_context() {
    let shelf = Shelf::new();
    let disk = shelf.add("disk", 4 * MIB, Some(Counting(MIB)));
    disk.write(2 * MIB, &pattern(1, 4096), sealdisk::disk::Durability::Volatile).unwrap();
    let fixture = ServerFixture::new(&shelf, Config::default());
    let uri = format!("nbd+unix:///disk?socket={}", fixture.socket.display());
    let map = run("nbdinfo", &["--map=sealdisk:encryption", &uri]);
    let runs: Vec<Vec<u64>> =
        map.lines().map(|line| line.split_whitespace().take(3).map(|field| field.parse().unwrap()).collect()).collect();
    let expected = [[0, MIB, 3], [MIB, MIB, 0], [2 * MIB, 4096, 1], [2 * MIB + 4096, 2 * MIB - 4096, 0]];
    assert_eq!(runs, expected);
}

/// Between a client and us: errors that are tried again, delays, and a policy that refuses what is not in our block
/// sizes (so that it would show if we advertised other ones).
#[test]
fn data_survives_what_nbdkit_puts_in_between() {
    let (fixture, _disk) = ServerFixture::plain(4 * MIB);
    let image = fixture.shelf.path("image");
    std::fs::write(&image, pattern(3, 4 << 20)).unwrap();
    let (image, uri) = (image.to_str().unwrap(), format!("uri=nbd+unix:///disk?socket={}", fixture.socket.display()));
    let copies = format!("nbdcopy {image} \"$uri\" && nbdcopy \"$uri\" {image}.back && cmp {image} {image}.back");
    let filters = ["retry-request", "error", "delay", "blocksize-policy"].map(|filter| format!("--filter={filter}"));
    let mut arguments = vec!["--exit-with-parent", "-U", "-"];
    arguments.extend(filters.iter().map(String::as_str));
    arguments.extend(["nbd", &uri, "error-pread-rate=10%", "error-pwrite-rate=10%", "retry-request-delay=1"]);
    arguments.extend(["retry-request-retries=20", "rdelay=1ms", "wdelay=1ms"]);
    arguments.extend(["blocksize-minimum=512", "blocksize-error-policy=error", "--run", &copies]);
    run("nbdkit", &arguments);
}
