//! NBD URIs (NetworkBlockDevice/nbd, `doc/uri.md`).

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The export `name` on a unix socket.
pub(super) fn unix(name: &str, socket: &Path) -> String {
    format!("nbd+unix:///{}?socket={}", escaped(name.as_bytes()), escaped(socket.as_os_str().as_bytes()))
}

/// The export `name` on a TCP address, over TLS or in plaintext. For a server that listens on all addresses the URI has the
/// name of this machine.
pub(super) fn tcp(name: &str, addr: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "nbds" } else { "nbd" };
    let name = escaped(name.as_bytes());
    match addr.ip().is_unspecified() {
        false => format!("{scheme}://{addr}/{name}"),
        true => {
            let machine = rustix::system::uname();
            let host = machine.nodename().to_str().unwrap_or("localhost");
            format!("{scheme}://{host}:{}/{name}", addr.port())
        }
    }
}

/// Percent-encodes all but the unreserved characters and slashes (RFC 3986, sections 2.1 to 2.3).
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // a String takes everything
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_escaped() {
        assert_eq!(
            unix("web/a b?.vhd", Path::new("/run/ä & b/nbd.sock")),
            "nbd+unix:///web/a%20b%3F.vhd?socket=/run/%C3%A4%20%26%20b/nbd.sock"
        );
        let address = "[::1]:10809".parse().expect("address");
        assert_eq!(tcp("disk1", address, false), "nbd://[::1]:10809/disk1");
        assert_eq!(tcp("disk1", address, true), "nbds://[::1]:10809/disk1");
        assert!(!tcp("disk1", "0.0.0.0:10809".parse().expect("address"), true).contains("0.0.0.0"));
    }
}
