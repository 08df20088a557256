//! The format of an image that is opened without one being given.
//!
//! **What a guest can write decides nothing.** Every byte of a raw image is its guest's, the last sector too: a footer
//! that a guest puts there must not make a VHD of its disk, least of all one that is read from other files of the host.
//! So the format is in the name: a VHD is what is called `.vhd` or `.avhd`, anything else is raw. Where name and
//! content contradict each other the image is refused, with the two words of which the user gives one.

use std::path::Path;

use super::{Format, OpenOptions};
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::vhd::foreign::{Foreign, HEAD};
use crate::vhd::{FOOTER, Fault};
use crate::{Error, ErrorKind, Result};

/// How footers and footer copies begin.
const COOKIE: &[u8; 8] = b"conectix";

/// Endings of other formats, with what they are called.
const OTHERS: &[(&str, &str)] = &[
    ("vhdx", "a VHDX"),
    ("avhdx", "a VHDX"),
    ("qcow", "a qcow image"),
    ("qcow2", "a qcow2 image"),
    ("vmdk", "a VMDK"),
    ("vdi", "a VDI"),
    ("qed", "a QED image"),
    ("ova", "an archive"),
    ("tar", "an archive"),
    ("zip", "an archive"),
    ("7z", "an archive"),
    ("rar", "an archive"),
    ("gz", "a compressed stream"),
    ("tgz", "a compressed stream"),
    ("xz", "a compressed stream"),
    ("zst", "a compressed stream"),
    ("bz2", "a compressed stream"),
    ("lz4", "a compressed stream"),
    ("lzma", "a compressed stream"),
    ("cpio", "an archive"),
    ("deb", "an archive"),
    ("rpm", "an archive"),
    ("xar", "an archive"),
];

/// The format of a file for which none was given: see the module documentation.
pub fn detect(file: &HostFile, options: &OpenOptions) -> Result<Format> {
    let refuse = |error: Error| Err(error.at_path(file.path()));
    let (head, tail) = (piece(file, 0)?, piece(file, file.size().saturating_sub(FOOTER as u64))?);
    if is_called_vhd(file.path()) {
        let raw = options.names.giving_format("raw").map(|words| format!("if it is a raw image: {words}"));
        return match crate::vhd::Metadata::read(file, options.recover, u64::MAX) {
            Ok(_) => Ok(Format::Vhd),
            Err(error) => match (error.kind(), Foreign::of(&head)) {
                (ErrorKind::Vhd(Fault::NotVhd | Fault::TooSmall | Fault::IsVhdx), Some(foreign)) => {
                    refuse(foreign.refused())
                }
                _ => refuse(options.names.recovering(error).hint_if_none(raw)),
            },
        };
    }
    if let Some(foreign) = Foreign::of(&head) {
        let error = foreign.refused();
        let hint = error.hint_text().unwrap_or_default().to_owned();
        let raw = options.names.giving_format("raw").map(|words| format!("{hint}; {words} takes it as a raw disk"));
        return refuse(error.hint(raw.unwrap_or(hint)));
    }
    if tail.starts_with(COOKIE) || tail.get(1..).is_some_and(|tail| tail.starts_with(COOKIE)) {
        return refuse(ambiguous("ends in the footer of a VHD, but is not called .vhd", options));
    }
    if head.starts_with(COOKIE) {
        return refuse(ambiguous("begins with the footer of a VHD, but is not called .vhd", options));
    }
    Ok(Format::Raw)
}

/// The refusal of what may be a VHD, or a raw disk whose guest wrote what a VHD has.
pub(crate) fn ambiguous(what: &str, options: &OpenOptions) -> Error {
    let error = Error::new(ErrorKind::InvalidInput, format!("{what}; a guest can write such a footer into a raw disk"));
    match (options.names.giving_format("vhd"), options.names.giving_format("raw")) {
        (Some(vhd), Some(raw)) => error.hint(format!("{raw} takes it as a raw disk, {vhd} as a VHD")),
        _ => error.hint("give its format: raw or vhd"),
    }
}

/// Up to a footer's length from byte `at` on.
fn piece(file: &HostFile, at: u64) -> Result<Vec<u8>> {
    const _: () = assert!(HEAD == FOOTER);
    let mut bytes = vec![0; (file.size() - at).min(HEAD as u64) as usize];
    file.read_at(at, &mut bytes)?;
    Ok(bytes)
}

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Whether the name says that the file is a VHD.
#[must_use]
pub fn is_called_vhd(path: &Path) -> bool {
    ending(path).is_some_and(|ending| ending == "vhd" || ending == "avhd")
}

/// What to tell where a file of a format is called otherwise, without the path.
#[must_use]
pub fn disagreement(path: &Path, format: Format) -> Option<String> {
    match format {
        Format::Vhd if is_called_vhd(path) => None,
        Format::Vhd => Some("a VHD that is not called .vhd: whatever opens it has to be told its format".to_owned()),
        Format::Raw if is_called_vhd(path) => Some("a raw image that is called a VHD".to_owned()),
        Format::Raw => {
            let ending = ending(path)?;
            let (_, called) = OTHERS.iter().find(|(other, _)| *other == ending)?;
            Some(format!("a raw image that is called {called}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhd::{Footer, OptionNames};
    use uuid::Uuid;

    const NAMES: OptionNames =
        OptionNames { format: Some("--base-format"), root: Some("--base-root"), recover: Some("--base-recover") };

    fn found(name: &str, bytes: &[u8]) -> Result<Format> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let options = OpenOptions { names: NAMES, ..OpenOptions::default() };
        detect(&HostFile::open(&path).unwrap(), &options)
    }

    fn refused(name: &str, bytes: &[u8]) -> (ErrorKind, String) {
        let error = found(name, bytes).unwrap_err();
        (error.kind(), error.hint_text().unwrap_or_default().to_owned())
    }

    #[test]
    fn only_the_name_makes_a_vhd() {
        let fixed = [vec![7; 4096], Footer::fixed(4096, Uuid::from_u128(5), 1 << 30).to_bytes().to_vec()].concat();
        for name in ["a.vhd", "b.VHD", "c.avhd"] {
            assert_eq!(found(name, &fixed).unwrap(), Format::Vhd, "{name}");
        }
        for name in ["a.img", "b", "c.vhd.bak", "d.raw", "vhd"] {
            let (kind, hint) = refused(name, &fixed);
            assert_eq!(kind, ErrorKind::InvalidInput, "{name}");
            assert!(hint.contains("`--base-format raw`") && hint.contains("`--base-format vhd`"), "{hint}");
        }
        // Damaged, or at the other end, as a guest would leave it.
        let mut damaged = fixed.clone();
        damaged[4096 + 70] ^= 1;
        let first = [COOKIE, &[0; 4088][..]].concat();
        for bytes in [&damaged[..], &fixed[..fixed.len() - 1], &first] {
            assert_eq!(refused("a.img", bytes).0, ErrorKind::InvalidInput);
        }
        assert_eq!(found("a.img", &[7; 4096]).unwrap(), Format::Raw);
    }

    #[test]
    fn a_raw_image_called_a_vhd_is_refused_with_the_option_of_the_verb() {
        let (kind, hint) = refused("a.vhd", &[0; 4096]);
        assert_eq!(kind, ErrorKind::Vhd(Fault::NotVhd));
        assert!(hint.contains("`--base-format raw`"), "{hint}");
    }

    #[test]
    fn what_is_no_disk_is_refused_whatever_it_is_called() {
        for name in ["a.img", "a.vhd", "a"] {
            let (kind, hint) = refused(name, &[&b"\x1F\x8B\x08"[..], &[0; 4093]].concat());
            assert_eq!(kind, ErrorKind::Unsupported, "{name}");
            assert!(hint.contains("gzip -dc"), "{hint}");
        }
        assert_eq!(refused("a.vhd", &[&b"vhdxfile"[..], &[0; 4088]].concat()).0, ErrorKind::Vhd(Fault::IsVhdx));
    }

    #[test]
    fn names_that_say_something_else_are_told() {
        let told = |name: &str, format| disagreement(Path::new(name), format).is_some();
        assert!(told("a.img", Format::Vhd) && told("a.vhd", Format::Raw) && told("disk-flat.VMDK", Format::Raw));
        for name in ["a.img", "a.raw", "a", "a.iso", "a.qcow2.d/b"] {
            assert!(!told(name, Format::Raw), "{name}");
        }
        assert!(!told("a.VHD", Format::Vhd));
    }
}
