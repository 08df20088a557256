//! Disk images made of this machine's own files.

use std::path::{Path, PathBuf};

use super::account::path_str;
use super::command::{program, stdout_of};

/// A raw image of `size` bytes at `path`: an ext4 file system with real files in it.
pub(crate) fn file_system_image(path: &Path, size: u64) {
    let blocks = format!("{}k", size >> 10);
    stdout_of(
        program("mke2fs").args(["-q", "-F", "-t", "ext4", "-d", "/usr/share/common-licenses"]).arg(path).arg(blocks),
    );
}

/// The image as a VHD of a `subformat` (`fixed`, `dynamic`), made by qemu-img beside it.
pub(crate) fn vhd_of(raw: &Path, subformat: &str) -> PathBuf {
    let vhd = raw.with_extension(format!("{subformat}.vhd"));
    let options = format!("subformat={subformat},force_size=on");
    stdout_of(
        program("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vpc", "-o", &options])
            .args([path_str(raw), path_str(&vhd)]),
    );
    vhd
}

/// The SHA-256 of a file, in hex.
pub(crate) fn sha256(path: &Path) -> String {
    let line = stdout_of(program("sha256sum").arg(path));
    line.split_whitespace().next().expect("a line of sha256sum").to_owned()
}
