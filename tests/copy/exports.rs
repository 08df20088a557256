//! Exports: every format, judged by others; sparse; snapshots; and nothing overwritten.

use std::fs;
use std::path::PathBuf;

use crate::fixture::{content, exported, failure, image, noise, same, taken, text};
use crate::support::{Account, MIB, program, stdout_of};

const SIZE: u64 = 48 * MIB;
/// 1 MiB and some in all.
const RUNS: [(u64, usize); 4] = [(0, 512), (7 * MIB + 4096, 700 << 10), (30 * MIB, 300 << 10), (SIZE - 512, 512)];

fn check(account: &Account, raw: &PathBuf, view: &str, tag: &str) {
    for (kind, format) in [("fixed", "vpc"), ("dynamic", "vpc"), ("raw", "raw")] {
        let path = account.scratch(&format!("{tag}.{kind}"));
        let document = account.json(&["export", view, text(&path), "--to", kind]);
        assert_eq!(document["size_bytes"], SIZE, "{document}");
        assert_eq!((&document["type"], &document["verified"]), (&kind.into(), &true.into()));
        if kind == "raw" {
            assert!(fs::read(&path).unwrap() == fs::read(raw).unwrap());
        } else {
            account.sealdisk(&["vhd", "check", text(&path)]);
            assert!(exported(account, &path, kind) == fs::read(raw).unwrap(), "{kind}");
            stdout_of(program("qemu-img").args(["compare", "-f", format, "-F", "raw", text(&path), text(raw)]));
        }
        if kind == "fixed" {
            account.sealdisk(&["vhd", "azure-check", text(&path)]);
            assert_eq!(fs::metadata(&path).unwrap().len(), SIZE + 512);
        }
        let most = if kind == "dynamic" { 10 * MIB } else { 2 * MIB };
        assert!(taken(&path) <= most, "{kind}: {} bytes taken", taken(&path));
    }
}

#[test]
fn every_format_of_disks_and_snapshots_served_and_not() {
    let account = Account::new();
    let raw = image(&account, "image.img", SIZE, &RUNS);
    account.sealdisk(&["import", text(&raw), "disk"]);
    check(&account, &raw, "disk", "rest");
    let server = account.serve();
    check(&account, &raw, "disk", "served");
    account.sealdisk(&["snapshot", "create", "disk", "then"]);
    let write = ["-f", "raw", "-c", "write -P 9 0 1M", "-c", "flush"];
    stdout_of(program("qemu-io").args(write).arg(server.uri("disk")));
    check(&account, &raw, "disk@then", "snapshot");
    assert!(content(&account, "disk").starts_with(&[9; 4096]));
    // What was drawn for reading is gone again.
    let snapshots = account.json(&["snapshot", "list", "disk"]);
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1), "{snapshots}");
    assert!(server.terminate().success());
}

#[test]
fn a_fixed_vhd_is_rounded_up_to_what_azure_takes() {
    let account = Account::new();
    let raw = image(&account, "odd.img", MIB + 512, &[(MIB, 512)]);
    account.sealdisk(&["import", text(&raw), "odd"]);
    let path = account.scratch("odd.vhd");
    assert_eq!(account.json(&["export", "odd", text(&path)])["size_bytes"], 20 * MIB);
    account.sealdisk(&["vhd", "azure-check", text(&path)]);
    let exact = account.scratch("exact.vhd");
    assert_eq!(account.json(&["export", "odd", text(&exact), "--exact-size"])["size_bytes"], MIB + 512);
    account.sealdisk(&["vhd", "check", text(&exact)]);
    same(("raw", &raw), ("raw", &cut(&account, &path, MIB + 512)));
}

/// The first `len` bytes of a file, in another.
fn cut(account: &Account, path: &PathBuf, len: u64) -> PathBuf {
    let copy = account.scratch("cut.img");
    fs::write(&copy, &fs::read(path).unwrap()[..len as usize]).unwrap();
    copy
}

#[test]
fn no_file_is_overwritten() {
    let account = Account::new();
    account.create("disk", MIB);
    let path = account.scratch("mine.vhd");
    fs::write(&path, "mine").unwrap();
    let document = failure(&account, &["export", "disk", text(&path)]);
    assert_eq!(document["error"]["kind"], "AlreadyExists");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let link = account.scratch("link.vhd");
    std::os::unix::fs::symlink(account.scratch("nowhere"), &link).unwrap();
    assert_eq!(failure(&account, &["export", "disk", text(&link)])["error"]["kind"], "AlreadyExists");
    assert!(!account.scratch("nowhere").exists());
    // Nothing is left of a refusal.
    let names = fs::read_dir(account.scratch("")).unwrap().flatten();
    let parts = names.filter(|entry| entry.file_name().to_string_lossy().contains("part")).count();
    assert_eq!(parts, 0);
}

#[test]
fn what_an_earlier_attempt_left_is_made_right() {
    let account = Account::new();
    let raw = image(&account, "image.img", SIZE, &RUNS);
    account.sealdisk(&["import", text(&raw), "disk"]);
    for kind in ["fixed", "dynamic", "raw"] {
        let path = account.scratch(&format!("disk.{kind}"));
        // Noise, and longer than the file will be.
        let part = account.scratch(&format!("disk.{kind}.sealdisk-part"));
        fs::write(&part, noise(3, 50 << 20)).unwrap();
        account.sealdisk(&["export", "disk", text(&path), "--to", kind]);
        assert!(!part.exists());
        assert!(exported(&account, &path, kind) == fs::read(&raw).unwrap(), "{kind}");
        let most = if kind == "dynamic" { 10 * MIB } else { 2 * MIB };
        assert!(taken(&path) <= most, "{kind}: {} bytes taken", taken(&path));
    }
}
