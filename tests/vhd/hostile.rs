//! Files that must be refused, each with the name of what is wrong.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealdisk::ErrorKind;
use sealdisk::io::source::Source;
use sealdisk::vhd::{Fault, OpenOptions, check, open, open_sources};

use crate::build::{Held, Parent, Sparse, beside, fixed, footer, mix, put, seal_footer, seal_header, utf16le};

/// A file, what it is refused for, and why it is here.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) file: Vec<u8>,
    pub(crate) fault: Fault,
}

const AT_HEADER: usize = 512;
const AT_TABLE: usize = 1536;

fn small() -> Sparse {
    Sparse { size: 1 << 20, block: 64 << 10, ..Sparse::default() }
}

/// A small dynamic disk with both footers changed.
fn with_footers(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = small().build();
    let end = file.len() - 512;
    for at in [0, end] {
        change(&mut file[at..at + 512]);
        seal_footer(&mut file[at..at + 512]);
    }
    file
}

/// A small dynamic disk with its header changed.
fn with_header(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut file = small().build();
    change(&mut file[AT_HEADER..AT_HEADER + 1024]);
    seal_header(&mut file[AT_HEADER..AT_HEADER + 1024]);
    file
}

fn with_entry(index: usize, value: u32) -> Vec<u8> {
    let mut file = small().build();
    put(&mut file, AT_TABLE + index * 4, &value.to_be_bytes());
    file
}

fn fixed_with(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let (mut file, _) = fixed(64 << 10, 3, 3);
    let at = file.len() - 512;
    change(&mut file[at..]);
    seal_footer(&mut file[at..]);
    file
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, fault, file| cases.push(Case { name, file, fault });
    file_cases(&mut case);
    footer_cases(&mut case);
    header_cases(&mut case);
    table_cases(&mut case);
    cases
}

fn file_cases(case: &mut impl FnMut(&'static str, Fault, Vec<u8>)) {
    case("empty", Fault::TooSmall, vec![]);
    case("510 bytes", Fault::TooSmall, vec![0; 510]);
    case("zeros", Fault::NotVhd, vec![0; 4096]);
    case("511 zeros", Fault::NotVhd, vec![0; 511]);
    case("only a footer", Fault::Truncated, footer(2, 512, u64::MAX, 1).to_vec());
    case("a vhdx", Fault::IsVhdx, [&b"vhdxfile"[..], &[0; 4088]].concat());
    let (file, _) = fixed(64 << 10, 3, 3);
    case("fixed, footer cut off", Fault::NotVhd, file[..64 << 10].to_vec());
    case("fixed, beginning missing", Fault::Truncated, file[512..].to_vec());
    case("fixed, bytes behind the footer", Fault::NotVhd, [&file[..], &[0; 512]].concat());
    // A fixed disk whose guest forged a dynamic disk at its beginning, and whose footer was cut off.
    let mut forged = file[..64 << 10].to_vec();
    forged[..2048].copy_from_slice(&fixed(2048, 9, 9).0[..2048]);
    forged[..512].copy_from_slice(&footer(2, 2048, u64::MAX, 9));
    case("a fixed footer at the beginning", Fault::NotVhd, forged);
    let file = small().build();
    case("dynamic, footer cut off", Fault::Truncated, file[..file.len() - 512].to_vec());
    case("dynamic, half of it", Fault::Truncated, file[..file.len() / 2].to_vec());
    case("dynamic, header cut off", Fault::NotVhd, file[..1024].to_vec());
}

fn footer_cases(case: &mut impl FnMut(&'static str, Fault, Vec<u8>)) {
    let mut file = small().build();
    let end = file.len() - 512;
    file[end + 90] ^= 1;
    case("footer checksum, copy good", Fault::BadFooterChecksum, file.clone());
    file[90] ^= 1;
    case("footer checksum, copy too", Fault::BadFooterChecksum, file);
    let (mut file, _) = fixed(64 << 10, 3, 3);
    *file.last_mut().unwrap() ^= 0x80;
    case("fixed footer checksum", Fault::BadFooterChecksum, file);
    case("version 2", Fault::UnsupportedVersion, with_footers(|f| put(f, 12, &[0, 2, 0, 0])));
    case("version 0", Fault::UnsupportedVersion, with_footers(|f| put(f, 12, &[0, 0, 0, 1])));
    for (name, kind) in [("type 0", 0u32), ("type 1", 1), ("type 5", 5), ("type 6", 6), ("type -1", u32::MAX)] {
        case(name, Fault::UnsupportedDiskType, with_footers(|f| put(f, 60, &kind.to_be_bytes())));
    }
    case("size 0", Fault::BadSize, with_footers(|f| put(f, 48, &0u64.to_be_bytes())));
    case("size 1000", Fault::BadSize, with_footers(|f| put(f, 48, &1000u64.to_be_bytes())));
    case("fixed size 0", Fault::BadSize, fixed_with(|f| put(f, 48, &0u64.to_be_bytes())));
    case("fixed, size of more", Fault::Truncated, fixed_with(|f| put(f, 48, &(1u64 << 20).to_be_bytes())));
    case("fixed, size over all", Fault::Truncated, fixed_with(|f| put(f, 48, &(u64::MAX - 511).to_be_bytes())));
    let over = (2040u64 << 30) + 512;
    case("over 2040 GiB", Fault::SizeTooLarge, with_footers(|f| put(f, 48, &over.to_be_bytes())));
    case("size over all", Fault::SizeTooLarge, with_footers(|f| put(f, 48, &(u64::MAX - 511).to_be_bytes())));
    let tap = |f: &mut [u8]| {
        put(f, 28, b"tap\0");
        put(f, 32, &1u32.to_be_bytes());
    };
    case("little-endian bitmaps of tap 0.1", Fault::UnsupportedFeatures, with_footers(tap));
    for (name, at, fault) in [
        ("header at 513", 513, Fault::BadHeaderOffset),
        ("header at 0", 0, Fault::BadHeaderOffset),
        ("header at all ones", u64::MAX, Fault::BadHeaderOffset),
        ("header at 32-bit ones", 0xFFFF_FFFF, Fault::BadHeaderOffset),
        ("header far away", 1 << 40, Fault::HeaderOutOfFile),
        ("header at the end of all", u64::MAX - 511, Fault::HeaderOutOfFile),
    ] {
        case(name, fault, with_footers(|f| put(f, 16, &u64::to_be_bytes(at))));
    }
    let end = small().build().len() as u64 - 512;
    case("header on the footer", Fault::HeaderOutOfFile, with_footers(|f| put(f, 16, &end.to_be_bytes())));
    let last = end - 512;
    case("header half on the footer", Fault::HeaderOutOfFile, with_footers(|f| put(f, 16, &last.to_be_bytes())));
    case("header on the table", Fault::BadHeaderCookie, with_footers(|f| put(f, 16, &1536u64.to_be_bytes())));
}

fn header_cases(case: &mut impl FnMut(&'static str, Fault, Vec<u8>)) {
    let mut file = small().build();
    file[AT_HEADER + 700] ^= 1;
    case("header checksum", Fault::BadHeaderChecksum, file);
    case("header cookie", Fault::BadHeaderCookie, with_header(|h| put(h, 0, b"cxsparsf")));
    case("header version 2", Fault::UnsupportedVersion, with_header(|h| put(h, 24, &[0, 2, 0, 0])));
    for (name, block) in [
        ("block size 0", 0u32),
        ("block size 512", 512),
        ("block size 2 KiB", 2 << 10),
        ("block size 3 MiB", 3 << 20),
        ("block size 512 MiB", 512 << 20),
        ("block size 2 GiB", 2 << 30),
        ("block size -1", u32::MAX),
    ] {
        case(name, Fault::BadBlockSize, with_header(|h| put(h, 32, &block.to_be_bytes())));
    }
    for (name, table, fault) in [
        ("table at 1537", 1537, Fault::BadBatOffset),
        ("table at all ones", u64::MAX, Fault::BadBatOffset),
        ("table far away", 1 << 40, Fault::BatOutOfFile),
        ("table at the end of all", u64::MAX - 511, Fault::BatOutOfFile),
        ("table on the footer copy", 0, Fault::MetadataOverlap),
        ("table on the header", 1024, Fault::MetadataOverlap),
    ] {
        case(name, fault, with_header(|h| put(h, 16, &u64::to_be_bytes(table))));
    }
    let end = small().build().len() as u64 - 512;
    case("table on the footer", Fault::BatOutOfFile, with_header(|h| put(h, 16, &end.to_be_bytes())));
    case("no entries", Fault::BatTooSmall, with_header(|h| put(h, 28, &0u32.to_be_bytes())));
    case("an entry too few", Fault::BatTooSmall, with_header(|h| put(h, 28, &15u32.to_be_bytes())));
    case("entries without end", Fault::BatOutOfFile, with_header(|h| put(h, 28, &u32::MAX.to_be_bytes())));
    // A table that is all there, but of more entries than are read.
    let many = Sparse { size: (16 << 30) + 4096, block: 4 << 10, held: Held::None, ..Sparse::default() };
    case("a table of over 4 Mi entries", Fault::LimitExceeded, many.build());
    case("larger than its table", Fault::BatTooSmall, with_footers(|f| put(f, 48, &(2040u64 << 30).to_be_bytes())));
}

fn table_cases(case: &mut impl FnMut(&'static str, Fault, Vec<u8>)) {
    let file = small().build();
    let sectors = (file.len() / 512) as u32;
    let first = u32::from_be_bytes(file[AT_TABLE..AT_TABLE + 4].try_into().unwrap());
    let stride = (64 << 10) / 512 + 1;
    case("block at sector 0", Fault::MetadataOverlap, with_entry(3, 0));
    case("block on the header", Fault::MetadataOverlap, with_entry(3, 1));
    case("block on the table", Fault::MetadataOverlap, with_entry(0, 3));
    case("block that ends in the footer", Fault::BlockOutOfFile, with_entry(3, sectors - stride));
    case("block behind the end", Fault::BlockOutOfFile, with_entry(3, sectors));
    case("block far away", Fault::BlockOutOfFile, with_entry(15, u32::MAX - 1));
    case("the same block twice", Fault::BlockOverlap, with_entry(9, first));
    case("a block on another", Fault::BlockOverlap, with_entry(9, first + stride / 2));
    case("a block on the next", Fault::BlockOverlap, with_entry(0, first + 1));
    // All entries of a large table the same: more blocks than the file has room for.
    let spec = Sparse { size: 512 << 20, block: 4 << 10, held: Held::None, ..Sparse::default() };
    let mut file = spec.build();
    let at = file.len() - 512;
    file.splice(at..at, vec![0; 16 << 10]);
    let place = ((at / 512) as u32).to_be_bytes();
    for entry in file[AT_TABLE..AT_TABLE + (512 << 20) / (4 << 10) * 4].chunks_exact_mut(4) {
        entry.copy_from_slice(&place);
    }
    case("a large table of one block", Fault::BlockOverlap, file);
}

fn fault_of(path: &Path) -> Option<Fault> {
    match open(path, &OpenOptions::default()).unwrap_err().kind() {
        ErrorKind::Vhd(fault) => Some(fault),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_is_refused_for_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.vhd");
    let cases = cases();
    assert!(cases.len() > 60);
    for case in &cases {
        std::fs::write(&path, &case.file).unwrap();
        assert_eq!(fault_of(&path), Some(case.fault), "{}", case.name);
        let error = open(&path, &OpenOptions::default()).unwrap_err();
        assert!(error.path().is_some(), "{}: {error}", case.name);
        assert!(case.fault == Fault::TooSmall || error.offset().is_some(), "{}: no offset: {error}", case.name);
        // `check` names the same first fault, as an error or in its report.
        let first = match check::check(&path, &OpenOptions::default(), &mut |_, _| {}) {
            Ok(report) => report.faults.first().map(sealdisk::Error::kind),
            Err(error) => Some(error.kind()),
        };
        assert_eq!(first, Some(ErrorKind::Vhd(case.fault)), "{} by check", case.name);
    }
}

/// What a refusal costs at most: [`what_it_costs`] of any file.
const GOAL: Duration = Duration::from_millis(50);

/// The time to refuse the file at `path`, by the clock of the thread and the least of some, so that what else the
/// machine does counts little.
fn what_it_costs(path: &Path) -> Duration {
    let run = |_| {
        let start = thread_time();
        open(path, &OpenOptions::default()).unwrap_err();
        thread_time() - start
    };
    (0..3).map(run).min().unwrap()
}

pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What it takes to sort a million numbers: unoptimised builds and slow machines have more time.
fn yardstick() -> Duration {
    let mut numbers: Vec<u64> = (0..1 << 20).map(mix).collect();
    let start = thread_time();
    numbers.sort_unstable();
    thread_time() - start
}

/// A disk of `blocks` blocks of 4 KiB with all that a header can hold, at the sectors that `place` gives: it has the
/// number of each block and the first sector behind the structures. The file is as long as the blocks need, and takes
/// next to no space.
fn large(path: &Path, blocks: u64, place: impl Fn(u64, u64) -> u64) {
    let locators = (0..8).map(|_| (*b"W2ru", vec![0x41; 64 << 10])).collect();
    let parent = Parent { locators, ..beside(7, "p.vhd") };
    let spec = Sparse { size: blocks * 4096, block: 4096, held: Held::None, parent: Some(parent), ..Sparse::default() };
    let mut image = spec.build();
    let footer = image.split_off(image.len() - 512);
    let first = (image.len() / 512) as u64;
    let mut end = 0;
    for (n, entry) in (0..blocks).zip(image[AT_TABLE..].chunks_exact_mut(4)) {
        let at = place(n, first);
        end = end.max(at + 9);
        entry.copy_from_slice(&(at as u32).to_be_bytes());
    }
    let file = File::create(path).unwrap();
    file.write_all_at(&image, 0).unwrap();
    file.write_all_at(&footer, end * 512).unwrap();
}

/// The files that cost most: with the largest tables that are read, and nothing wrong up to the end.
#[test]
fn the_costliest_are_refused_in_time() {
    const MOST: u64 = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("costly.vhd");
    // A permutation of 0..2^bits.
    let shuffled = |n: u64, count: u64| (n.wrapping_mul(0x9E37_79B1) ^ 0x5_5555) % count;
    let mut worst = (Duration::ZERO, "");
    let mut attempt = |name, fault, blocks, place: &dyn Fn(u64, u64) -> u64| {
        large(&path, blocks, place);
        assert_eq!(fault_of(&path), Some(fault), "{name}");
        let took = what_it_costs(&path);
        println!("{name}: {:.1} ms", took.as_secs_f64() * 1e3);
        worst = worst.max((took, name));
    };
    attempt("in order, the last on the header", Fault::MetadataOverlap, MOST, &|n, first| {
        if n == MOST - 1 { 1 } else { first + n * 9 }
    });
    attempt("in order, and no parent", Fault::ParentNotFound, MOST, &|n, first| first + n * 9);
    attempt("in no order, and no parent", Fault::ParentNotFound, MOST, &|n, first| first + 9 * shuffled(n, MOST));
    attempt("in no order, two on each other", Fault::BlockOverlap, MOST, &|n, first| {
        first + if n == MOST - 1 { 9 * shuffled(0, MOST) + 8 } else { 9 * shuffled(n, MOST) }
    });
    attempt("in no order, and far apart", Fault::LimitExceeded, MOST, &|n, first| first + 16 * shuffled(n, MOST));
    // Locators that are wrong at their end.
    let locators = (0..8).map(|_| (*b"W2ku", [vec![0x41; (64 << 10) - 2], vec![0x07, 0x00]].concat())).collect();
    let parent = Parent { locators, ..beside(7, "p.vhd") };
    fs::write(&path, Sparse { parent: Some(parent), ..small() }.build()).unwrap();
    worst = worst.max((what_it_costs(&path), "locators"));
    for case in cases() {
        fs::write(&path, &case.file).unwrap();
        worst = worst.max((what_it_costs(&path), case.name));
    }
    println!("the costliest: {:.1} ms ({}); the goal is {GOAL:?}", worst.0.as_secs_f64() * 1e3, worst.1);
    assert!(worst.0 < (GOAL * 5).max(yardstick() * 3), "{worst:?}");
}

/// No prefix of a disk and no single wrong byte of its metadata makes anything but an error or a disk that can be read.
#[test]
fn cut_and_flipped_files_never_panic() {
    let parent = Parent { locators: vec![(*b"W2ru", utf16le(".\\p.vhd"))], ..beside(7, "p.vhd") };
    let spec = Sparse { size: 8 << 10, block: 4 << 10, held: Held::Runs(3), parent: Some(parent), ..Sparse::default() };
    let (file, base) = (spec.build(), fixed(8 << 10, 1, 7).0);
    let mut opened = 0;
    let mut attempt = |file: Vec<u8>, recover: bool| {
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(file), Arc::new(base.clone())];
        if let Ok(chain) = open_sources(sources, recover)
            && chain.size() <= 1 << 20
        {
            let mut buf = vec![0; chain.size() as usize];
            chain.read(0, &mut buf, true).unwrap();
            opened += 1;
        }
    };
    for recover in [false, true] {
        for len in 0..file.len() {
            attempt(file[..len].to_vec(), recover);
        }
        for at in 0..file.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut changed = file.clone();
                changed[at] ^= flip;
                attempt(changed, recover);
            }
        }
    }
    assert!(opened > 1000, "most changes are of content, not of what describes it: {opened}");
}
