//! The verbs of `vhd`, as a user and a program see them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::build::{Sparse, beside, fixed, put, seal_footer, seal_header, sector};
use crate::named::variants;

fn sealdisk(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealdisk")).args(args).current_dir(dir).output().unwrap()
}

/// Runs `vhd ARGS --json`; its document, which must be all of standard output.
fn vhd(dir: &Path, args: &[&str]) -> (bool, Value) {
    let output = sealdisk(dir, &[&["vhd"], args, &["--json"]].concat());
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 1, "{args:?}: {output:?}");
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
    (code == 0, document)
}

fn done(dir: &Path, args: &[&str]) -> Value {
    let (ok, document) = vhd(dir, args);
    assert!(ok, "{args:?}: {document}");
    document
}

/// The kind and message of the failure of `vhd ARGS --json`.
fn failed(dir: &Path, args: &[&str]) -> (String, String) {
    let (ok, document) = vhd(dir, args);
    assert!(!ok, "{args:?}: {document}");
    let text = |key: &str| document["error"][key].as_str().unwrap().to_owned();
    (text("kind"), text("message"))
}

fn small() -> Sparse {
    Sparse { size: 1 << 20, block: 64 << 10, ..Sparse::default() }
}

#[test]
fn info_describes_each_type_and_names_each_failure() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("fixed.vhd"), fixed(1 << 20, 1, 0x0102).0).unwrap();
    let info = done(dir, &["info", "fixed.vhd"]);
    assert_eq!(info["type"], "fixed");
    assert_eq!(info["current_size"], 1 << 20);
    assert_eq!(info["block_size"], Value::Null);
    assert_eq!(info["creator_app"], "win ");
    assert_eq!(info["unique_id"], "00000000-0000-0000-0000-000000000102");
    assert_eq!(info["parent"], Value::Null);
    assert_eq!(info["warnings"], serde_json::json!([]));

    fs::write(dir.join("dynamic.vhd"), Sparse { gap: 512, ..small() }.build()).unwrap();
    let info = done(dir, &["info", "dynamic.vhd"]);
    assert_eq!((&info["type"], &info["block_size"]), (&"dynamic".into(), &(64 << 10).into()));
    assert_eq!(info["warnings"], serde_json::json!(["TrailingGap"]));

    let child = Sparse { id: 5, parent: Some(beside(0x0102, "fixed.vhd")), ..small() };
    fs::write(dir.join("child.vhd"), child.build()).unwrap();
    let info = done(dir, &["info", "child.vhd"]);
    assert_eq!(info["type"], "differencing");
    assert!(info["parent"].as_str().unwrap().ends_with("fixed.vhd"));

    fs::create_dir(dir.join("elsewhere")).unwrap();
    fs::rename(dir.join("fixed.vhd"), dir.join("elsewhere/fixed.vhd")).unwrap();
    assert_eq!(failed(dir, &["info", "child.vhd"]).0, "ParentNotFound");
    done(dir, &["info", "child.vhd", "--no-parents"]);
    done(dir, &["info", "child.vhd", "--parent-root", "elsewhere"]);

    let (_, document) = vhd(dir, &["info", "/dev/null"]);
    assert_eq!(document["error"]["kind"], "InvalidInput");
    assert_eq!(failed(dir, &["info", "nowhere.vhd"]).0, "NotFound");
    let mut file = small().build();
    put(&mut file, 1536 + 8, &0u32.to_be_bytes());
    fs::write(dir.join("bad.vhd"), file).unwrap();
    let (_, document) = vhd(dir, &["info", "bad.vhd"]);
    assert_eq!(document["error"]["kind"], "MetadataOverlap");
    assert_eq!(document["error"]["offset"], 1536 + 8);
    let text = sealdisk(dir, &["vhd", "info", "dynamic.vhd"]);
    assert!(text.status.success() && String::from_utf8_lossy(&text.stdout).contains("warning: TrailingGap"));
}

/// Whatever the verb, a failure is one document on standard output with exit status 1: what kind, a message, and the
/// byte of the file that is wrong, or null.
#[test]
fn each_verb_fails_with_one_document() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut file = small().build();
    put(&mut file, 1536 + 8, &0u32.to_be_bytes());
    fs::write(dir.join("bad.vhd"), &file).unwrap();
    for (args, offset) in [
        (&["info", "bad.vhd"][..], Value::from(1536 + 8)),
        (&["check", "bad.vhd"], (1536 + 8).into()),
        (&["repair", "bad.vhd"], (1536 + 8).into()),
        (&["create", "x.vhd", "--parent", "bad.vhd"], (1536 + 8).into()),
        (&["convert", "bad.vhd", "x.vhd", "--to", "raw"], (1536 + 8).into()),
        (&["resize", "bad.vhd", "1G"], Value::Null),
        (&["azure-check", "bad.vhd"], Value::Null),
        (&["info", "none.vhd"], Value::Null),
        (&["check", "none.vhd"], Value::Null),
        (&["repair", "none.vhd"], Value::Null),
        (&["create", "x.vhd", "--size", "0"], Value::Null),
        (&["convert", "none.vhd", "x.vhd", "--to", "fixed"], Value::Null),
        (&["resize", "none.vhd", "1G"], Value::Null),
        (&["azure-check", "none.vhd"], Value::Null),
    ] {
        let (ok, document) = vhd(dir, args);
        let error = document["error"].as_object().unwrap_or_else(|| panic!("{args:?}: {document}"));
        assert!(!ok && error["kind"].is_string() && error["message"].is_string(), "{args:?}: {document}");
        assert_eq!((&error["offset"], error.len()), (&offset, 3), "{args:?}: {document}");
    }
    assert!(fs::read(dir.join("bad.vhd")).unwrap() == file && !dir.join("x.vhd").exists());
}

#[test]
fn check_lists_every_fault_of_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut file = small().build();
    for (index, entry) in [(2usize, 0u32), (4, u32::MAX - 1), (6, 1)] {
        put(&mut file, 1536 + index * 4, &entry.to_be_bytes());
    }
    fs::write(dir.join("bad.vhd"), file).unwrap();
    let (ok, document) = vhd(dir, &["check", "bad.vhd"]);
    assert!(!ok);
    assert_eq!(document["error"]["kind"], "MetadataOverlap");
    let faults: Vec<_> = document["faults"].as_array().unwrap().iter().map(|f| f["kind"].clone()).collect();
    assert_eq!(faults, ["MetadataOverlap", "BlockOutOfFile", "MetadataOverlap"]);
    fs::write(dir.join("good.vhd"), small().build()).unwrap();
    assert_eq!(done(dir, &["check", "good.vhd"])["ok"], true);
}

#[test]
fn repair_restores_what_is_written_twice_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = dir.join("x.vhd");
    let whole = small().build();
    let end = whole.len() - 512;
    let mut cases: Vec<(&str, Vec<u8>)> = vec![("footer cut off", whole[..end].to_vec())];
    let mut broken = |name, change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = whole.clone();
        change(&mut file);
        cases.push((name, file));
    };
    broken("footer damaged", &|f| f[end + 50] ^= 0xFF);
    broken("copy damaged", &|f| f[50] ^= 0xFF);
    broken("copy gone", &|f| f[..512].fill(0));
    broken("header checksum", &|f| f[512 + 36] ^= 0xFF);
    broken("last byte missing", &|f| f.truncate(end + 511));
    broken("footer and header checksum", &|f| {
        f[end + 64] ^= 1;
        f[512 + 36] ^= 1;
    });
    for (name, file) in cases {
        fs::write(&path, &file).unwrap();
        assert!(!done(dir, &["repair", "x.vhd", "--dry-run"])["repairs"].as_array().unwrap().is_empty());
        assert!(fs::read(&path).unwrap() == file, "{name}: a dry run writes nothing");
        assert!(!done(dir, &["repair", "x.vhd"])["repairs"].as_array().unwrap().is_empty());
        assert!(fs::read(&path).unwrap() == whole, "{name}");
        assert_eq!(done(dir, &["repair", "x.vhd"])["repairs"], serde_json::json!([]), "{name}: once is enough");
        assert_eq!(done(dir, &["check", "x.vhd"])["warnings"], serde_json::json!([]));
    }
    let (mut file, _) = fixed(64 << 10, 1, 1);
    let whole = file.clone();
    let at = file.len() - 512;
    file[at + 65] ^= 1;
    fs::write(&path, &file).unwrap();
    done(dir, &["repair", "x.vhd"]);
    assert!(fs::read(&path).unwrap() == whole, "the checksum of a fixed disk");

    // What is not written twice is not repaired, and nothing is changed then.
    let mut table = small().build();
    put(&mut table, 1536, &0u32.to_be_bytes());
    table.truncate(end);
    let mut size = whole.clone();
    size[at + 55] ^= 2;
    let mut both = small().build();
    both[60] ^= 1;
    both[end + 60] ^= 1;
    let mut version = whole.clone();
    put(&mut version[at..], 12, &[0, 9, 0, 0]);
    seal_footer(&mut version[at..]);
    let mut block = small().build();
    put(&mut block[512..], 32, &[0, 0, 0, 1]);
    seal_header(&mut block[512..1536]);
    for (name, file, kind) in [
        ("a bad table under a missing footer", table, "MetadataOverlap"),
        ("a fixed disk whose size is wrong", size, "BadFooterChecksum"),
        ("both footers", both, "BadFooterChecksum"),
        ("another version", version, "UnsupportedVersion"),
        ("a bad block size", block, "BadBlockSize"),
        ("no VHD", vec![0; 4096], "NotVhd"),
    ] {
        fs::write(&path, &file).unwrap();
        assert_eq!(failed(dir, &["repair", "x.vhd"]).0, kind, "{name}");
        assert!(fs::read(&path).unwrap() == file, "{name}: unchanged");
    }
}

#[test]
fn create_makes_sound_disks_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(dir, &["create", "a.vhd", "--size", "30G"]);
    done(dir, &["create", "b.vhd", "--size", "2040G", "--type", "dynamic", "--block-size", "512K"]);
    done(dir, &["create", "c.vhd", "--size", "1M", "--type", "dynamic", "--block-size", "4K"]);
    done(dir, &["create", "d.vhd", "--parent", "c.vhd"]);
    fs::create_dir(dir.join("sub")).unwrap();
    done(dir, &["create", "sub/e.vhd", "--parent", "d.vhd", "--size", "2M"]);
    // A fixed disk has no limit of 2040 GiB.
    done(dir, &["create", "f.vhd", "--size", "3T"]);
    for name in ["a.vhd", "b.vhd", "c.vhd", "d.vhd", "f.vhd"] {
        assert_eq!(done(dir, &["check", name])["warnings"], serde_json::json!([]), "{name}");
        assert!(fs::metadata(dir.join(name)).unwrap().blocks() * 512 < 17 << 20, "{name} is sparse");
    }
    assert_eq!(done(dir, &["info", "f.vhd"])["current_size"], 3u64 << 40);
    // One with it has, and reaches it.
    done(dir, &["create", "g.vhd", "--parent", "c.vhd", "--size", "2040G"]);
    done(dir, &["create", "h.vhd", "--parent", "g.vhd"]);
    for name in ["b.vhd", "g.vhd", "h.vhd"] {
        assert_eq!(done(dir, &["info", name])["current_size"], 2040u64 << 30, "{name}");
    }
    assert_eq!(failed(dir, &["info", "sub/e.vhd"]).0, "ParentForbidden");
    assert_eq!(done(dir, &["info", "sub/e.vhd", "--parent-root", "."])["current_size"], 2 << 20);
    let before = fs::read(dir.join("c.vhd")).unwrap();
    assert_eq!(failed(dir, &["create", "c.vhd", "--size", "1M"]).0, "AlreadyExists");
    assert!(fs::read(dir.join("c.vhd")).unwrap() == before);
    for (args, kind) in [
        (&["--size", "2041G", "--type", "dynamic"][..], "SizeTooLarge"),
        (&["--size", "2190433321472", "--type", "dynamic"], "SizeTooLarge"),
        (&["--parent", "c.vhd", "--size", "2041G"], "SizeTooLarge"),
        // With its parent's table there would be more entries than are opened.
        (&["--parent", "b.vhd"], "LimitExceeded"),
        (&["--size", "1000"], "BadSize"),
        (&["--size", "0"], "BadSize"),
        (&["--size", "1M", "--type", "dynamic", "--block-size", "3M"], "BadBlockSize"),
        (&["--size", "1M", "--type", "dynamic", "--block-size", "2K"], "BadBlockSize"),
        (&["--size", "17G", "--type", "dynamic", "--block-size", "4K"], "LimitExceeded"),
        (&["--size", "1M", "--block-size", "4K"], "InvalidInput"),
        (&["--size", "1M", "--type", "differencing"], "InvalidInput"),
        (&["--parent", "nowhere.vhd"], "NotFound"),
    ] {
        assert_eq!(failed(dir, &[&["create", "x.vhd"], args].concat()).0, kind, "{args:?}");
    }
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.vhd", "b.vhd", "c.vhd", "d.vhd", "f.vhd", "g.vhd", "h.vhd", "sub"], "nothing half-made");
}

#[test]
fn resize_moves_the_footer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = dir.join("x.vhd");
    fs::write(&path, fixed(1 << 20, 1, 9).0).unwrap();
    assert_eq!(done(dir, &["resize", "x.vhd", "3M"])["old_size"], 1 << 20);
    let file = fs::read(&path).unwrap();
    assert_eq!(file.len(), (3 << 20) + 512);
    assert!(file[(1 << 20) - 512..1 << 20] == sector(1, 2047));
    assert!(file[1 << 20..3 << 20].iter().all(|&byte| byte == 0), "the old footer is gone");
    let info = done(dir, &["info", "x.vhd"]);
    assert_eq!((&info["current_size"], &info["warnings"]), (&(3 << 20).into(), &serde_json::json!([])));
    assert!(info["unique_id"].as_str().unwrap().ends_with("09"), "it is the same disk");
    assert_eq!(info["original_size"], 1 << 20);

    assert_eq!(failed(dir, &["resize", "x.vhd", "512"]).0, "InvalidInput");
    done(dir, &["resize", "x.vhd", "512", "--shrink"]);
    let file = fs::read(&path).unwrap();
    assert!(file.len() == 1024 && file[..512] == sector(1, 0));
    done(dir, &["resize", "x.vhd", "2T"]);
    assert_eq!(done(dir, &["check", "x.vhd"])["warnings"], serde_json::json!([]));

    let saved = |change: &dyn Fn(&mut [u8])| {
        let (mut file, _) = fixed(1 << 20, 1, 9);
        let at = file.len() - 512;
        change(&mut file[at..]);
        seal_footer(&mut file[at..]);
        file
    };
    for (name, file, kind) in [
        ("saved state", saved(&|f| f[84] = 1), "Unsupported"),
        ("unknown features", saved(&|f| f[8] = 1), "UnsupportedFeatures"),
        ("a gap", [&[0; 512], &fixed(512, 1, 9).0[..]].concat(), "Unsupported"),
        ("dynamic", small().build(), "Unsupported"),
    ] {
        fs::write(&path, &file).unwrap();
        assert_eq!(failed(dir, &["resize", "x.vhd", "4M"]).0, kind, "{name}");
        assert!(fs::read(&path).unwrap() == file, "{name}: unchanged");
    }
}

#[test]
fn convert_goes_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let spec = Sparse { size: (5 << 20) + 512, ..Sparse::default() };
    fs::write(dir.join("in.vhd"), spec.build()).unwrap();
    let content: Vec<u8> = spec.model().iter().flatten().flatten().copied().collect();
    for (from, to, kind) in [
        ("in.vhd", "a.vhd", "fixed"),
        ("a.vhd", "b.raw", "raw"),
        ("b.raw", "c.vhd", "dynamic"),
        ("c.vhd", "d.raw", "raw"),
    ] {
        let made = done(dir, &["convert", from, to, "--to", kind]);
        assert_eq!((&made["current_size"], &made["verified"]), (&content.len().into(), &true.into()));
    }
    assert!(fs::read(dir.join("d.raw")).unwrap() == content);
    // Each block's data, behind its bitmap of one sector, begins on a border of 4 KiB.
    let file = fs::read(dir.join("c.vhd")).unwrap();
    let entries = file[1536..].chunks_exact(4).take(3).map(|entry| u32::from_be_bytes(entry.try_into().unwrap()));
    let blocks: Vec<_> = entries.map(|sector| u64::from(sector) * 512 + 512).collect();
    assert!(blocks.iter().all(|at| at.is_multiple_of(4096) && *at < file.len() as u64), "{blocks:?}");
    assert_eq!(failed(dir, &["convert", "in.vhd", "a.vhd", "--to", "raw"]).0, "AlreadyExists");
    assert_eq!(failed(dir, &["convert", "nowhere", "x", "--to", "raw"]).0, "NotFound");
    fs::write(dir.join("not.vhd"), [1; 4096]).unwrap();
    assert_eq!(failed(dir, &["convert", "not.vhd", "x", "--to", "raw"]).0, "NotVhd");
    done(dir, &["convert", "not.vhd", "yes.vhd", "--to", "fixed", "--from", "raw"]);
    // A chain becomes one file.
    done(dir, &["create", "child.vhd", "--parent", "c.vhd"]);
    done(dir, &["convert", "child.vhd", "e.raw", "--to", "raw"]);
    assert!(fs::read(dir.join("e.raw")).unwrap() == content);
}

#[test]
fn convert_keeps_what_is_sparse_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // 3 TiB, fixed, with a little content at both ends: over what a dynamic disk may have.
    done(dir, &["create", "big.vhd", "--size", "3T"]);
    let file = fs::File::options().write(true).open(dir.join("big.vhd")).unwrap();
    file.write_all_at(&sector(1, 0), 0).unwrap();
    file.write_all_at(&sector(1, 1), (3 << 40) - 512).unwrap();
    let made = done(dir, &["convert", "big.vhd", "copy.vhd", "--to", "fixed"]);
    assert!(made["stored_bytes"].as_u64().unwrap() < 1 << 20, "{made}");
    assert!(fs::metadata(dir.join("copy.vhd")).unwrap().blocks() * 512 < 1 << 20);
    let copy = fs::File::open(dir.join("copy.vhd")).unwrap();
    let mut buf = [0; 512];
    copy.read_exact_at(&mut buf, (3 << 40) - 512).unwrap();
    assert!(buf == sector(1, 1));
    assert_eq!(failed(dir, &["convert", "big.vhd", "x.vhd", "--to", "dynamic"]).0, "SizeTooLarge");
    assert!(!dir.join("x.vhd").exists());
}

/// Every cause, and the command printed really mends it.
#[test]
fn azure_check_names_the_cause_and_its_command_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let write = |name: &str, file: &[u8]| fs::write(dir.join(name), file).unwrap();
    let good = fixed(20 << 20, 1, 1).0;
    write("good.vhd", &good);
    assert_eq!(done(dir, &["azure-check", "good.vhd"])["ok"], true);

    write("raw.vhd", &good[..20 << 20]);
    run("qemu-img", &["create", "-q", "-f", "vhdx", "vhdx.vhd", "30M"]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "qcow2.vhd", "30M"]);
    run("qemu-img", &["create", "-q", "-f", "vpc", "dynamic.vhd", "30M"]);
    run("qemu-img", &["create", "-q", "-f", "vpc", "-o", "subformat=fixed", "rounded.vhd", "30M"]);
    done(dir, &["create", "child.vhd", "--parent", "dynamic.vhd"]);
    write("odd size.vhd", &fixed((21 << 20) + 512, 1, 1).0);
    write("small.vhd", &fixed(1 << 20, 1, 1).0);
    write("behind.vhd", &[&good[..], &[0; 1024]].concat());
    write("gap.vhd", &[&good[..20 << 20], &[0; 512], &good[20 << 20..]].concat());
    write("short.vhd", &good[..good.len() - 1]);
    let mut damaged = good.clone();
    damaged[(20 << 20) + 65] ^= 1;
    write("damaged.vhd", &damaged);
    let dynamic = Sparse { size: 20 << 20, ..Sparse::default() }.build();
    write("cut.vhd", &dynamic[..dynamic.len() - 512]);
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut file = good.clone();
        let footer = &mut file[20 << 20..];
        change(footer);
        seal_footer(footer);
        file
    };
    write("offset.vhd", &changed(&|footer| put(footer, 16, &0xFFFF_FFFFu64.to_be_bytes())));
    write("saved.vhd", &changed(&|footer| footer[84] = 1));
    let mut seen = BTreeSet::new();
    for (name, cause) in [
        ("raw.vhd", "Raw"),
        ("vhdx.vhd", "Vhdx"),
        ("qcow2.vhd", "OtherFormat"),
        ("dynamic.vhd", "Dynamic"),
        ("child.vhd", "Differencing"),
        ("rounded.vhd", "SizeRoundedToGeometry"),
        ("odd size.vhd", "SizeNotWholeMib"),
        ("small.vhd", "TooSmall"),
        ("behind.vhd", "DataAfterFooter"),
        ("gap.vhd", "DataBeforeFooter"),
        ("short.vhd", "FooterShort"),
        ("damaged.vhd", "FooterDamaged"),
        ("cut.vhd", "FooterMissing"),
        ("offset.vhd", "DataOffset"),
        ("saved.vhd", "SavedState"),
    ] {
        seen.insert(cause.to_owned());
        let (ok, document) = vhd(dir, &["azure-check", name]);
        assert!(!ok, "{name}");
        assert_eq!(document["error"]["kind"], cause, "{name}: {document}");
        let fix = document["problems"][0]["fix"].as_str().unwrap();
        let folder = Path::new(env!("CARGO_BIN_EXE_sealdisk")).parent().unwrap().display();
        run("sh", &["-c", &format!("PATH={folder}:$PATH; {fix}")]);
        let copy = name.replace(".vhd", "-azure.vhd");
        let mended = if dir.join(&copy).exists() { copy } else { name.to_owned() };
        assert_eq!(done(dir, &["azure-check", &mended])["ok"], true, "{name}: {fix}");
    }
    // One cause has no such command: what is missing is nowhere.
    write("half.vhd", &good[10 << 20..]);
    let (_, document) = vhd(dir, &["azure-check", "half.vhd"]);
    let problem = &document["problems"][0];
    assert_eq!(
        (&document["error"]["kind"], &problem["fix"]),
        (&"Truncated".into(), &"copy the file again: content is missing".into())
    );
    seen.insert("Truncated".to_owned());
    assert_eq!(seen, variants(include_str!("../../src/vhd/azure.rs"), "Cause"));
    let text = sealdisk(dir, &["vhd", "azure-check", "raw.vhd"]);
    let lines = String::from_utf8(text.stderr).unwrap();
    assert!(lines.lines().count() == 2 && lines.contains("hint: sealdisk vhd convert"), "{lines}");
}
