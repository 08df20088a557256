//! The unix socket of `serve`: where it lies, and who may open it.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use crate::serve::SocketAccess;
use crate::{Error, ErrorKind, Result};

#[derive(Debug, Clone, Default, Args)]
pub(super) struct SocketOptions {
    /// The NBD socket; ACCOUNT/nbd.sock if left out
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Permissions of the NBD socket, in octal: who may write may attach [default: 600, with --socket-group 660]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
    /// The group of the NBD socket, by name or number
    #[arg(long, value_name = "GROUP", value_parser = group)]
    socket_group: Option<u32>,
}

impl SocketOptions {
    pub(super) fn access(&self) -> SocketAccess {
        let default = if self.socket_group.is_some() { 0o660 } else { SocketAccess::default().mode };
        SocketAccess { mode: self.socket_mode.unwrap_or(default), group: self.socket_group }
    }
}

/// Three or four octal digits that leave the owner able to connect.
fn mode(text: &str) -> Result<u32> {
    let digits = text.len() == 3 || (text.len() == 4 && text.starts_with('0'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode & 0o600 == 0o600);
    mode.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "not a mode of a socket").hint("600: its owner; 660: its group too")
    })
}

/// The number of a group. Names are those of /etc/group: a directory service is asked by `getent`, not here.
fn group(text: &str) -> Result<u32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = fs::read("/etc/group").unwrap_or_default();
    let groups = String::from_utf8_lossy(&groups);
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "/etc/group has no group of this name")
            .hint("`getent group NAME` shows its number, which can stand for it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_leave_the_owner_in() {
        for (text, value) in [("600", 0o600), ("0660", 0o660), ("666", 0o666), ("777", 0o777)] {
            assert_eq!(mode(text).unwrap(), value);
        }
        for text in ["", "6", "60", "060", "460", "0x180", "rw", "1660", "+660", "00660", "888"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_is_a_number_or_a_name() {
        assert_eq!(group("root").unwrap(), 0);
        assert_eq!(group("4711").unwrap(), 4711);
        assert_eq!(group("no-such-group").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_group_alone_means_that_it_may_attach() {
        let options = SocketOptions { socket_group: Some(7), ..SocketOptions::default() };
        assert_eq!(options.access(), SocketAccess { mode: 0o660, group: Some(7) });
        assert_eq!(SocketOptions::default().access(), SocketAccess { mode: 0o600, group: None });
    }
}
