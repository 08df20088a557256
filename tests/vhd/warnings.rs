//! What is odd about a disk that is read all the same.

use std::path::Path;

use sealdisk::vhd::{OpenOptions, Warning, check, open};

use crate::build::{Held, Parent, Sparse, beside, fixed, footer, put, seal_footer, utf16le};

fn small() -> Sparse {
    Sparse { size: 1 << 20, block: 64 << 10, ..Sparse::default() }
}

fn fixed_with(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let (mut file, _) = fixed(64 << 10, 3, 3);
    let at = file.len() - 512;
    change(&mut file[at..]);
    seal_footer(&mut file[at..]);
    file
}

fn warnings_of(path: &Path, options: &OpenOptions) -> Vec<Warning> {
    let opened = open(path, options).unwrap();
    let notices = opened.chain.images()[0].notices();
    let checked = check::check(path, options, &mut |_, _| {}).unwrap();
    assert!(checked.faults.is_empty());
    assert_eq!(checked.notices, notices, "check says the same");
    notices.iter().map(|notice| notice.warning).collect()
}

/// Files that are odd in one way, and what is said about them.
pub(crate) fn cases() -> Vec<(&'static str, Vec<u8>, Option<Warning>)> {
    let gap = |mut file: Vec<u8>| {
        let at = file.len() - 512;
        file.splice(at..at, vec![0; 1536]);
        file
    };
    let mut short = small().build();
    short.pop();
    let mut copy_bad = small().build();
    copy_bad[200] = 1;
    let mut differ = small().build();
    differ[200] = 1;
    seal_footer(&mut differ[..512]);
    vec![
        ("nothing", small().build(), None),
        ("nothing, fixed", fixed_with(|_| {}), None),
        ("features 0", fixed_with(|f| put(f, 8, &[0; 4])), Some(Warning::ReservedFeatureBitClear)),
        ("features 3", fixed_with(|f| put(f, 8, &[0, 0, 0, 3])), None),
        ("features 18", fixed_with(|f| put(f, 8, &[0, 0, 0, 18])), Some(Warning::UnknownFeatureBits)),
        ("saved", fixed_with(|f| f[84] = 1), Some(Warning::SavedState)),
        ("future", fixed_with(|f| put(f, 24, &[0xFF; 4])), Some(Warning::TimestampInFuture)),
        ("data offset", fixed_with(|f| put(f, 16, &0xFFFF_FFFFu64.to_be_bytes())), Some(Warning::DataOffsetNotAllOnes)),
        ("data offset 0", fixed_with(|f| put(f, 16, &[0; 8])), Some(Warning::DataOffsetNotAllOnes)),
        ("gap, fixed", gap(fixed_with(|_| {})), Some(Warning::TrailingGap)),
        ("gap, dynamic", Sparse { gap: 4096, ..small() }.build(), Some(Warning::TrailingGap)),
        ("short", short, Some(Warning::ShortFooter)),
        ("copy bad", copy_bad, Some(Warning::FooterCopyBad)),
        ("copies differ", differ, Some(Warning::FooterCopiesDiffer)),
        ("geometry is nobody's business", fixed_with(|f| put(f, 56, &[0; 4])), None),
        ("creator too", fixed_with(|f| put(f, 28, &[0xFF; 12])), None),
        ("original size too", fixed_with(|f| put(f, 40, &[0; 8])), None),
        ("reserved bytes too", fixed_with(|f| put(f, 300, b"something")), None),
    ]
}

#[test]
fn each_warning_for_its_reason_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.vhd");
    for (name, file, expected) in cases() {
        std::fs::write(&path, file).unwrap();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(warnings_of(&path, &OpenOptions::default()), expected, "{name}");
    }
}

/// Only a full check reads the data.
#[test]
fn check_finds_data_that_the_bitmaps_hide() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("junk.vhd");
    for (junk, held, expected) in [
        (true, Held::Runs(4), vec![Warning::ClearBitNonZeroData]),
        (false, Held::Runs(4), vec![]),
        (true, Held::All, vec![]),
    ] {
        std::fs::write(&path, Sparse { junk, held, ..small() }.build()).unwrap();
        let report = check::check(&path, &OpenOptions::default(), &mut |_, _| {}).unwrap();
        assert_eq!(report.notices.iter().map(|n| n.warning).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn recovery_reads_by_the_copy_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.vhd");
    let spec = small();
    let whole = spec.build();
    let recover = OpenOptions { recover: true, ..OpenOptions::default() };
    let expected: Vec<u8> = spec.model().iter().flatten().flatten().copied().collect();
    let mut damaged = whole.clone();
    let end = damaged.len() - 512;
    damaged[end + 64] ^= 1;
    for file in [&whole[..end], &[&whole[..end], &[0; 100]].concat(), &damaged] {
        std::fs::write(&path, file).unwrap();
        assert!(open(&path, &OpenOptions::default()).is_err());
        let warnings = warnings_of(&path, &recover);
        assert!(warnings.contains(&Warning::FooterRecovered), "{warnings:?}");
        let opened = open(&path, &recover).unwrap();
        let mut buf = vec![0; expected.len()];
        opened.chain.read(0, &mut buf, true).unwrap();
        assert!(buf == expected);
    }
    // Never by a copy that says "fixed": it is the guest's.
    let (mut file, _) = fixed(64 << 10, 3, 3);
    file.truncate(64 << 10);
    file[..512].copy_from_slice(&footer(2, 64 << 10, u64::MAX, 9));
    std::fs::write(&path, &file).unwrap();
    assert!(open(&path, &recover).is_err());
    // A sound footer decides, recovery or not.
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(warnings_of(&path, &recover), []);
}

#[test]
fn parents_that_changed_and_locators_that_are_bad() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.vhd"), fixed(1 << 20, 3, 7).0).unwrap();
    let path = dir.path().join("child.vhd");
    let with = |parent: Parent| {
        std::fs::write(&path, Sparse { parent: Some(parent), ..small() }.build()).unwrap();
        warnings_of(&path, &OpenOptions::default())
    };
    assert_eq!(with(beside(7, "p.vhd")), []);
    assert_eq!(with(Parent { time: 5, ..beside(7, "p.vhd") }), [Warning::ParentTimestampMismatch]);
    for bad in [
        (*b"W2ru", b"odd".to_vec()),
        (*b"W2ru", vec![0x00, 0xD8, 0x41, 0x00]),
        (*b"W2ru", vec![0; 64]),
        (*b"W2ku", utf16le("\\\\server\\share\\p.vhd")),
        (*b"W2ku", utf16le("http://server/p.vhd")),
        (*b"W2ru", utf16le("..\\..\\..\\etc\\passwd")),
        (*b"MacX", b"file:///%zz".to_vec()),
        (*b"W2ru", vec![0x41; (64 << 10) + 2]),
    ] {
        let mut parent = beside(7, "p.vhd");
        parent.locators.insert(0, bad.clone());
        assert_eq!(with(parent), [Warning::BadParentLocator], "{:?}", bad.0);
    }
    // Codes of old systems are none of these.
    for code in [*b"Wi2r", *b"Wi2k", *b"Mac ", *b"abcd"] {
        let mut parent = beside(7, "p.vhd");
        parent.locators.insert(0, (code, b"whatever".to_vec()));
        assert_eq!(with(parent), []);
    }
}
