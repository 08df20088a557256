//! Every named cause and warning has a file that is refused for it, or read with it; and the documentation has each.
//!
//! The names are taken from the declarations themselves, so that none can be added without one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use sealdisk::io::host_file::HostFile;
use sealdisk::io::source::Source;
use sealdisk::vhd::{OpenOptions, check, open, open_sources};
use sealdisk::{Error, ErrorKind, Result};

use crate::build::{Held, Parent, Sparse, beside, fixed, utf16le};
use crate::{hostile, warnings};

/// The variants of an enum without fields in a source text.
pub(crate) fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let start = source.find(&format!("pub enum {name} {{")).unwrap();
    let body = source[start..].split("\n}").next().unwrap();
    let names = body.lines().skip(1).filter_map(|line| line.trim().strip_suffix(','));
    let names: BTreeSet<_> = names.filter(|name| name.chars().all(char::is_alphanumeric)).map(str::to_owned).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

/// The names in the first column of the table under a heading of the documentation.
fn documented(heading: &str) -> BTreeSet<String> {
    let text = include_str!("../../docs/vhd.md");
    let part = text.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let cells = part.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

/// What `vhd check` of the file at `path` names: faults first.
fn named(path: &Path, options: &OpenOptions) -> Vec<String> {
    let kind = |error: &Error| match error.kind() {
        ErrorKind::Vhd(fault) => format!("{fault:?}"),
        other => format!("{other:?}"),
    };
    match check::check(path, options, &mut |_, _| {}) {
        Err(error) => vec![kind(&error)],
        Ok(report) => {
            let warnings = report.notices.iter().map(|notice| format!("{:?}", notice.warning));
            report.faults.iter().map(kind).chain(warnings).collect()
        }
    }
}

#[test]
fn each_name_has_a_file_and_a_line_of_documentation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vhd");
    let mut seen = BTreeSet::new();
    let mut see = |file: &[u8], options: &OpenOptions| {
        fs::write(&path, file).unwrap();
        seen.extend(named(&path, options));
    };
    let plain = OpenOptions::default();
    for case in hostile::cases() {
        see(&case.file, &plain);
    }
    for (_, file, _) in warnings::cases() {
        see(&file, &plain);
    }
    let small = Sparse { size: 1 << 20, block: 64 << 10, held: Held::Runs(3), ..Sparse::default() };
    see(&Sparse { junk: true, ..small.clone() }.build(), &plain);
    let whole = small.build();
    see(&whole[..whole.len() - 512], &OpenOptions { recover: true, ..OpenOptions::default() });
    // Of parents.
    fs::write(dir.path().join("p.vhd"), fixed(1 << 20, 3, 7).0).unwrap();
    for parent in [
        beside(7, "nowhere.vhd"),
        beside(8, "p.vhd"),
        beside(0x0D, "x.vhd"),
        Parent { name: String::new(), locators: vec![(*b"W2ku", utf16le("//server/share/q.vhd"))], ..beside(7, "") },
        Parent { name: String::new(), locators: vec![(*b"W2ru", b"odd".to_vec())], ..beside(7, "") },
        Parent { locators: vec![(*b"W2ru", b"odd".to_vec())], ..beside(7, "p.vhd") },
        Parent { time: 5, ..beside(7, "p.vhd") },
    ] {
        see(&Sparse { parent: Some(parent), ..small.clone() }.build(), &plain);
    }
    // `Io` has tests of its own, below.
    let causes = variants(include_str!("../../src/error/vhd_fault.rs"), "VhdFault");
    let warnings = variants(include_str!("../../src/vhd/warning.rs"), "Warning");
    let expected: BTreeSet<_> = causes.union(&warnings).cloned().collect();
    assert_eq!(seen, expected);
    let with_io: BTreeSet<_> = causes.into_iter().chain(["Io".to_owned()]).collect();
    assert_eq!(documented("Causes"), with_io);
    assert_eq!(documented("Warnings"), warnings);
}

/// A file of which one byte cannot be read.
#[derive(Debug)]
struct BadSector(Vec<u8>, u64);

impl Source for BadSector {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.1) {
            return Err(Error::new(ErrorKind::Io, "a bad sector").at_offset(self.1));
        }
        self.0.read_at(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
}

/// Wherever a sector is bad, the answer is `Io` with its place, at opening or at reading; never another cause, never
/// made-up bytes.
#[test]
fn a_bad_sector_anywhere_is_an_error_of_reading() {
    let spec = Sparse { size: 64 << 10, block: 4 << 10, held: Held::Runs(3), ..Sparse::default() };
    let file = spec.build();
    let content: Vec<u8> = spec.model().into_iter().flat_map(|sector| sector.unwrap_or([0; 512])).collect();
    let (mut opening, mut reading) = (0, 0);
    for at in (0..file.len() as u64).step_by(512) {
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(BadSector(file.clone(), at))];
        let chain = match open_sources(sources, false) {
            Ok(chain) => chain,
            Err(error) => {
                assert_eq!((error.kind(), error.offset()), (ErrorKind::Io, Some(at)));
                opening += 1;
                continue;
            }
        };
        for (n, expected) in content.chunks(4096).enumerate() {
            let mut buf = vec![0xAA; expected.len()];
            match chain.read(n as u64 * 4096, &mut buf, true) {
                Ok(_) => assert!(buf == expected, "{at}"),
                Err(error) => {
                    assert_eq!((error.kind(), error.offset()), (ErrorKind::Io, Some(at)));
                    reading += 1;
                }
            }
        }
    }
    // Footer, copy, header and table; at least every block's bitmap.
    assert!(opening == 5 && reading >= 16, "{opening} {reading}");
}

/// A file that becomes shorter while it is open is no file with other content.
#[test]
fn a_file_cut_while_it_is_read_is_an_error_of_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vhd");
    fs::write(&path, Sparse::default().build()).unwrap();
    let opened = open(&path, &OpenOptions::default()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let mut buf = vec![0; opened.chain.size() as usize];
    for wait in [true, false] {
        let error = opened.chain.read(0, &mut buf, wait).unwrap_err();
        assert_eq!((error.kind(), error.offset(), error.path()), (ErrorKind::Io, Some(1 << 20), Some(&*path)));
    }
    // So is one whose length was never what the system says: those of the kernel's own.
    let odd = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if odd.metadata().is_ok_and(|odd| odd.len() >= 512) {
        assert_eq!(named(odd, &OpenOptions::default()), ["Io"]);
        assert!(HostFile::open(odd).is_ok());
    }
}
