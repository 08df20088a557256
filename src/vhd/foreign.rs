//! Files that are no disk as they are: images of other programs, compressed streams and archives, told by their first
//! bytes, each with the command that makes a disk image of it.
//!
//! A guest can write such bytes into a raw disk of its own. That disk is then refused until its format is given; it is
//! never read as something else. What is a disk in itself is not listed: an ISO image, a file system (squashfs, which a
//! guest mounts as it is), a LUKS volume.

use crate::{Error, ErrorKind};

/// Bytes of the beginning of a file that are looked at; a shorter file is looked at whole.
pub(crate) const HEAD: usize = 512;

/// A format that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) name: &'static str,
    way: Remedy,
}

/// What makes a disk image of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// `qemu-img convert`, by its name of the format.
    Convert(&'static str),
    /// A program that takes the names of the file and of the raw image that it makes.
    Expand(&'static str),
    /// A program that writes what it decompresses to standard output.
    Decompress(&'static str),
    /// A program that unpacks files beside the archive.
    Unpack(&'static str),
}

use Remedy::{Convert, Decompress, Expand, Unpack};

/// Name, way, offset and bytes of each.
#[rustfmt::skip]
const KNOWN: &[(&str, Remedy, usize, &[u8])] = &[
    ("VHDX", Convert("vhdx"), 0, b"vhdxfile"),
    ("qcow", Convert("qcow"), 0, b"QFI\xFB\0\0\0\x01"),
    ("qcow2", Convert("qcow2"), 0, b"QFI\xFB"),
    ("VMDK", Convert("vmdk"), 0, b"KDMV"),
    ("VMDK", Convert("vmdk"), 0, b"COWD"),
    ("VMDK", Convert("vmdk"), 0, b"# Disk D"),
    ("QED", Convert("qed"), 0, b"QED\0"),
    ("VDI", Convert("vdi"), 0, b"<<< "),
    ("VDI", Convert("vdi"), 0x40, b"\x7F\x10\xDA\xBE"),
    ("Parallels", Convert("parallels"), 0, b"WithoutFreeSpace"),
    ("Parallels", Convert("parallels"), 0, b"WithouFreSpacExt"),
    ("Bochs", Convert("bochs"), 0, b"Bochs Virtual HD Image\0"),
    ("cloop", Convert("cloop"), 0, b"#!/bin/sh\n#V2.0 Format\n"),
    ("Android sparse", Expand("simg2img"), 0, b"\x3A\xFF\x26\xED"),
    ("gzip", Decompress("gzip"), 0, b"\x1F\x8B\x08"),
    ("xz", Decompress("xz"), 0, b"\xFD7zXZ\0"),
    ("Zstandard", Decompress("zstd"), 0, b"\x28\xB5\x2F\xFD"),
    ("bzip2", Decompress("bzip2"), 0, b"BZh"),
    ("LZ4", Decompress("lz4"), 0, b"\x04\x22\x4D\x18"),
    ("LZ4", Decompress("lz4"), 0, b"\x02\x21\x4C\x18"),
    // It begins with its parameters and the size of its dictionary: those that programs choose.
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x01\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x04\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x08\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x10\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x20\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x40\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\x80\0"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\0\x01"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\0\x02"),
    ("LZMA", Decompress("xz"), 0, b"\x5D\0\0\0\x04"),
    ("lzip", Decompress("lzip"), 0, b"LZIP"),
    ("lzop", Decompress("lzop"), 0, b"\x89LZO\0\r\n\x1A\n"),
    ("compress", Decompress("gzip"), 0, b"\x1F\x9D"),
    ("zip", Unpack("unzip"), 0, b"PK\x03\x04"),
    ("zip", Unpack("unzip"), 0, b"PK\x05\x06"),
    ("7z", Unpack("7z x"), 0, b"7z\xBC\xAF\x27\x1C"),
    ("RAR", Unpack("unrar x"), 0, b"Rar!\x1A\x07"),
    ("cabinet", Unpack("cabextract"), 0, b"MSCF\0\0\0\0"),
    ("Windows image", Unpack("7z x"), 0, b"MSWIM\0\0\0"),
    ("tar", Unpack("tar -xf"), 257, b"ustar"),
    ("cpio", Unpack("cpio -id -F"), 0, b"070701"),
    ("cpio", Unpack("cpio -id -F"), 0, b"070702"),
    ("cpio", Unpack("cpio -id -F"), 0, b"070707"),
    ("ar", Unpack("ar x"), 0, b"!<arch>\n"),
    ("RPM", Unpack("7z x"), 0, b"\xED\xAB\xEE\xDB"),
    ("xar", Unpack("7z x"), 0, b"xar!\0\x1C"),
];

impl Foreign {
    /// What a file that begins with `head` is, if it is one of those.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        let begins = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
        KNOWN.iter().find(|(_, _, at, magic)| begins(*at, magic)).map(|&(name, way, ..)| Self { name, way })
    }

    /// With its article and what it is one of: "a qcow2 image".
    pub(crate) fn described(&self) -> String {
        let what = match self.way {
            Convert(_) | Expand(_) => "image",
            Decompress(_) => "compressed stream",
            Unpack(_) if self.name.ends_with("image") => "",
            Unpack(_) => "archive",
        };
        let article =
            if matches!(self.name, "xz" | "LZ4" | "lzip" | "lzop" | "LZMA" | "RAR" | "RPM" | "ar" | "Android sparse") {
                "an"
            } else {
                "a"
            };
        format!("{article} {} {what}", self.name).trim_end().to_owned()
    }

    /// Why it is refused, with the way to a disk image of it.
    pub(crate) fn refused(&self) -> Error {
        let kind = match self.name {
            "VHDX" => ErrorKind::Vhd(crate::vhd::Fault::IsVhdx),
            _ => ErrorKind::Unsupported,
        };
        Error::new(kind, format!("{}, neither a VHD nor a raw image", self.described())).hint(self.hint())
    }

    fn hint(&self) -> String {
        match self.way {
            Convert(name) => format!("`qemu-img convert -f {name} -O raw IN OUT` makes a raw image of it"),
            Decompress(program) => {
                format!("`{program} -dc IN > OUT` unpacks it, `{program} -dc IN | sealdisk import - NAME` copies it")
            }
            Expand(program) => format!("`{program} IN OUT` makes a raw image of it"),
            Unpack(program) => format!("`{program} IN` unpacks it"),
        }
    }

    /// The same for a stream, of which no file is there yet.
    pub(crate) fn refused_in_stream(&self) -> Error {
        let error = self.refused();
        match self.way {
            Decompress(program) => error.hint(format!("`{program} -dc | sealdisk import - NAME` reads it")),
            Convert(_) | Expand(_) | Unpack(_) => error.hint(format!("store it in a file; then {}", self.hint())),
        }
    }

    /// One command that makes a VHD or raw image `output`, fit to be converted further, of `input`: both words of a
    /// shell.
    pub(crate) fn command(&self, input: &str, output: &str) -> String {
        match self.way {
            Convert(name) => {
                format!("qemu-img convert -f {name} -O vpc -o subformat=fixed,force_size=on {input} {output}")
            }
            Decompress(program) => format!("{program} -dc {input} > {output}"),
            Expand(program) => format!("{program} {input} {output}"),
            Unpack(program) => format!("{program} {input}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(head: &[u8]) -> Option<&'static str> {
        Foreign::of(head).map(|foreign| foreign.name)
    }

    #[test]
    fn first_bytes_tell_what_is_no_disk() {
        for (_, _, at, magic) in KNOWN {
            let head = [&vec![0; *at][..], magic, &[0; 64]].concat();
            let found = Foreign::of(&head).expect("known");
            assert!(!found.hint().is_empty() && found.described().len() > found.name.len() + 1, "{found:?}");
            assert_eq!(named(&head[..at + magic.len() - 1]).filter(|_| *at > 0), None, "cut off");
        }
        assert_eq!(named(b"QFI\xFB\0\0\0\x01"), Some("qcow"));
        assert_eq!(named(b"QFI\xFB\0\0\0\x03"), Some("qcow2"));
        // As `xz --format=lzma` begins, and a disk on which a guest counts.
        assert_eq!(named(b"\x5D\0\0\x80\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), Some("LZMA"));
        assert_eq!(named(b"\x5D\0\0\0\0\0\0\0"), None);
    }

    #[test]
    fn what_is_a_disk_in_itself_is_none() {
        let mut ext4 = vec![0; 4096];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        for disk in [&b""[..], &[0; HEAD], &ext4, b"LUKS\xBA\xBE\0\x02", b"hsqs", b"\xEB\x63\x90", b"conectix"] {
            assert_eq!(named(disk), None);
        }
    }
}
