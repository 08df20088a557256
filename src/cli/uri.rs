//! NBD URIs (NetworkBlockDevice/nbd, `doc/uri.md`).

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The export `name` on a unix socket.
pub(super) fn unix(name: &str, socket: &Path) -> String {
    format!("nbd+unix:///{}?socket={}", escaped(name.as_bytes()), escaped(socket.as_os_str().as_bytes()))
}

/// The export `name` on a TCP address.
pub(super) fn tcp(name: &str, addr: SocketAddr) -> String {
    format!("nbd://{}:{}/{}", host_of(addr), addr.port(), escaped(name.as_bytes()))
}

/// The same over TLS; `host`: by which the server's certificate is checked, instead of the address.
pub(super) fn tls(name: &str, addr: SocketAddr, host: Option<&str>) -> String {
    let host = host.map_or_else(|| host_of(addr), str::to_owned);
    format!("nbds://{host}:{}/{}", addr.port(), escaped(name.as_bytes()))
}

/// The address for a URI; of all addresses the name of this machine.
fn host_of(addr: SocketAddr) -> String {
    match addr.ip() {
        ip if ip.is_unspecified() => rustix::system::uname().nodename().to_str().unwrap_or("localhost").to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
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
        assert_eq!(tcp("disk1", address), "nbd://[::1]:10809/disk1");
        assert_eq!(tls("disk1", address, None), "nbds://[::1]:10809/disk1");
        assert_eq!(tls("disk1", address, Some("disks.example")), "nbds://disks.example:10809/disk1");
        assert!(!tcp("disk1", "0.0.0.0:10809".parse().expect("address")).contains("0.0.0.0"));
    }
}
