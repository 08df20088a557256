//! `nbdinfo` and `nbdcopy`.

use std::fs;

use crate::support::{Account, MIB, file_system_image, program, stdout_of};

fn nbdinfo(arguments: &[&str]) -> serde_json::Value {
    let text = stdout_of(program("nbdinfo").arg("--json").args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn list_shows_every_disk() {
    let account = Account::new();
    account.create("first", MIB);
    account.create("images/second", 2 * MIB);
    let server = account.serve();
    let list = nbdinfo(&["--list", &server.uri("")]);
    let mut exports: Vec<_> = list["exports"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|export| {
            (export["export-name"].as_str().expect("a name"), export["export-size"].as_u64().expect("a size"))
        })
        .collect();
    exports.sort_unstable();
    assert_eq!(exports, [("first", MIB), ("images/second", 2 * MIB)]);
}

#[test]
fn info_shows_what_the_export_can_do() {
    let account = Account::new();
    account.create("disk", 3 * MIB);
    let server = account.serve();
    let info = nbdinfo(&[&server.uri("disk")]);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 3 * MIB);
    for able in ["can_cache", "can_fast_zero", "can_fua", "can_multi_conn", "can_trim", "can_zero"] {
        assert_eq!(export[able], true, "{able}: {export}");
    }
    assert_eq!(export["is_read_only"], false);
    assert_eq!(export["block_size_minimum"], 512);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 * MIB);
    assert_eq!(info["structured"], true);
}

#[test]
fn map_covers_the_disk() {
    let account = Account::new();
    account.create("disk", 8 * MIB);
    let server = account.serve();
    let uri = server.uri("disk");
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", "write -P 1 1M 1M", &uri]));
    let runs: Vec<_> = nbdinfo(&["--map", &uri])
        .as_array()
        .expect("an array")
        .iter()
        .map(|run| ["offset", "length", "type"].map(|field| run[field].as_u64().expect("a number")))
        .collect();
    assert_eq!(runs, [[0, MIB, 3], [MIB, MIB, 0], [2 * MIB, 6 * MIB, 3]]);
}

#[test]
fn nbdcopy_both_ways_over_several_connections() {
    let account = Account::new();
    let raw = account.scratch("files.img");
    file_system_image(&raw, 40 * MIB);
    account.create("disk", 40 * MIB);
    let server = account.serve();
    let uri = server.uri("disk");
    let copied = account.scratch("copied.img");
    stdout_of(program("nbdcopy").args(["--connections=4", "--flush"]).arg(&raw).arg(&uri));
    stdout_of(program("nbdcopy").arg("--connections=4").arg(&uri).arg(&copied));
    assert!(fs::read(&raw).expect("an image") == fs::read(&copied).expect("a copy"), "the copy differs");

    // From one disk to another, both served by one process.
    drop(server);
    account.create("second", 40 * MIB);
    let server = account.serve();
    stdout_of(program("nbdcopy").args([server.uri("disk"), server.uri("vhds/second")]));
    stdout_of(program("nbdcopy").arg(server.uri("vhds/second")).arg(&copied));
    assert!(fs::read(&raw).expect("an image") == fs::read(&copied).expect("a copy"), "the second copy differs");
}
