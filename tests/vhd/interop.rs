//! Judged by others: what we and the generator write is read by qemu-img and 7-Zip as it is by us, and the other way
//! round. Chains are for 7-Zip: qemu-img knows no parents.

use std::fs;
use std::path::Path;
use std::process::Command;

use sealdisk::copy::convert::{ConvertOptions, Phase, Target, convert};
use sealdisk::vhd::create::{New, create};
use sealdisk::{base, vhd};

use crate::build::{mix, sector};
use crate::corpus;

/// Runs `program`; its standard output. Its failure is the test's.
fn run(program: &str, args: &[&str], dir: &Path) -> Vec<u8> {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|e| panic!("{program} (a Debian package) is needed: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The content of `name` in `dir` by qemu-img.
fn by_qemu(dir: &Path, name: &str, options: &str) -> Vec<u8> {
    let out = dir.join("qemu.raw");
    let image = format!("driver=vpc,file.driver=file,file.filename={name}{options}");
    run("qemu-img", &["convert", "--image-opts", "-O", "raw", &image, "qemu.raw"], dir);
    let content = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    content
}

fn by_7zip(dir: &Path, name: &str) -> Vec<u8> {
    run("7zz", &["x", "-tVHD", "-so", name], dir)
}

fn by_us(path: &Path) -> Vec<u8> {
    let (image, _) = base::open(path, &base::OpenOptions::default()).unwrap();
    let mut content = vec![0; image.size() as usize];
    image.read_at(0, &mut content).unwrap();
    content
}

/// A raw image with holes, zeros and content.
fn raw(path: &Path, size: u64) -> Vec<u8> {
    let mut content = vec![0; size as usize];
    for n in (0..size / 512).filter(|n| mix(n / 700).is_multiple_of(3)) {
        content[n as usize * 512..][..512].copy_from_slice(&sector(77, n));
    }
    fs::write(path, &content).unwrap();
    content
}

/// Disks that a judge cannot read or misreads, and why.
const QEMU_CANNOT: [&str; 3] = [
    // It believes the footer copy at offset 0, which here is the guest's.
    "fixed-forged-start",
    // And refuses a disk whose copy is damaged, its footer sound or not.
    "dynamic-copy-damaged",
    // It knows no footer of 511 bytes.
    "fixed-short-footer",
];
const ZIP_CANNOT: [&str; 11] = [
    // It believes offset 0, too.
    "fixed-forged-start",
    "dynamic-copy-damaged",
    // It takes a disk that ends one byte early as damaged.
    "fixed-short-footer",
    "dynamic-short-footer",
    // It wants exactly as many table entries as the size needs; the specification allows more.
    "dynamic-spare-entries",
    // It refuses other than zeros in sectors that a bitmap calls unused; the specification says nothing of them.
    "dynamic-bitmaps-junk",
    "chain-junk",
    // It reports an error past the end of a parent that is shorter than its child.
    "chain-longer",
    // It follows one relative locator and the name as it stands, and does not look at ids.
    "chain-by-name",
    "chain-by-url",
    "chain-second-locator",
];

#[test]
fn the_corpus_reads_the_same_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let (mut qemu, mut zip) = (0, 0);
    corpus::each(dir.path(), |disk| {
        let file = disk.path.file_name().unwrap().to_str().unwrap();
        if !disk.chain && disk.plain_bitmaps && !QEMU_CANNOT.contains(&disk.name) {
            for options in ["", ",force_size_calc=current_size"] {
                assert!(by_qemu(dir.path(), file, options) == disk.content, "{} by qemu-img{options}", disk.name);
            }
            qemu += 1;
        }
        if !ZIP_CANNOT.contains(&disk.name) {
            assert!(by_7zip(dir.path(), file) == disk.content, "{} by 7-Zip", disk.name);
            zip += 1;
        }
    });
    assert!(qemu > 15 && zip > 20, "{qemu} {zip}");
}

#[test]
fn ours_read_the_same_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.raw");
    let content = raw(&input, (9 << 20) + 512);
    for (name, target) in [
        ("fixed.vhd", Target::Fixed),
        ("dynamic.vhd", Target::Dynamic { block_size: 2 << 20 }),
        ("small.vhd", Target::Dynamic { block_size: 64 << 10 }),
    ] {
        let options = ConvertOptions { input: base::OpenOptions::default(), target, azure: false };
        let path = dir.path().join(name);
        let mut heard = Vec::new();
        convert(&input, &path, &options, &mut |phase, done, total| heard.push((phase, done, total))).unwrap();
        for phase in [Phase::Copy, Phase::Verify] {
            let told: Vec<_> = heard.iter().filter(|told| told.0 == phase).map(|told| (told.1, told.2)).collect();
            let all = content.len() as u64;
            assert!(told.is_sorted() && told.last() == Some(&(all, all)), "{name}: {told:?}");
        }
        assert!(by_us(&path) == content);
        for options in ["", ",force_size_calc=current_size"] {
            assert!(by_qemu(dir.path(), name, options) == content, "{name} by qemu-img{options}");
        }
        assert!(by_7zip(dir.path(), name) == content, "{name} by 7-Zip");
        run("qemu-img", &["compare", "-f", "raw", "-F", "vpc", "in.raw", name], dir.path());
    }
    // An empty child shows its parent.
    let open = vhd::OpenOptions::default();
    let new = New::Differencing { parent: dir.path().join("dynamic.vhd"), size: None, block_size: 2 << 20, open };
    create(&dir.path().join("child.vhd"), &new).unwrap();
    assert!(by_us(&dir.path().join("child.vhd")) == content);
    assert!(by_7zip(dir.path(), "child.vhd") == content, "child by 7-Zip");
}

#[test]
fn theirs_read_the_same_by_us() {
    let dir = tempfile::tempdir().unwrap();
    let content = raw(&dir.path().join("in.raw"), 9 << 20);
    for (name, options) in [
        ("fixed.vhd", "subformat=fixed,force_size=on"),
        ("dynamic.vhd", "subformat=dynamic,force_size=on"),
        // Rounded up to a geometry, with the creator whose readers take the size from it.
        ("fixed-chs.vhd", "subformat=fixed"),
        ("dynamic-chs.vhd", "subformat=dynamic"),
    ] {
        run("qemu-img", &["convert", "-f", "raw", "-O", "vpc", "-o", options, "in.raw", name], dir.path());
        let ours = by_us(&dir.path().join(name));
        assert!(ours[..content.len()] == content, "{name}");
        assert!(ours[content.len()..].iter().all(|&byte| byte == 0), "{name}: zeros past the end");
        assert!(ours == by_qemu(dir.path(), name, ",force_size_calc=current_size"), "{name} by qemu-img");
        assert!(ours == by_7zip(dir.path(), name), "{name} by 7-Zip");
    }
}
