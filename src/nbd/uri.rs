//! Where an export is, as a URI (NetworkBlockDevice/nbd, `doc/uri.md`).

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::{Error, ErrorKind, Result};

/// The port of NBD (IANA).
const PORT: u16 = 10809;

/// What to do about a server that is reached by TLS alone.
pub(super) const BY_PIPE: &str = "pipe it: `nbdcopy URI - | sealdisk import - NAME`";

/// An export and its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    pub place: Place,
    pub export: String,
    text: String,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Unix(PathBuf),
    Tcp(String, u16),
}

impl Uri {
    /// Whether `text` is meant as one, by its scheme.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.split_once("://")
            .is_some_and(|(scheme, _)| scheme == "nbd" || scheme == "nbds" || scheme.starts_with("nbd+"))
    }

    /// `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Error::new(ErrorKind::InvalidInput, format!("\"{text}\" is no NBD URI: {what}"))
                .hint("nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = String::from_utf8(unescaped(export)).map_err(|_| invalid("the export's name is no UTF-8"))?;
        let place = match scheme {
            "nbd+unix" => {
                let socket = query.split('&').find_map(|part| part.strip_prefix("socket="));
                let socket = socket.ok_or_else(|| invalid("it names no socket"))?;
                Place::Unix(OsString::from_vec(unescaped(socket)).into())
            }
            "nbd" => {
                let (name, port) = match host.rsplit_once(':') {
                    Some((name, port)) if !port.contains(']') => {
                        (name, port.parse().map_err(|_| invalid("its port is no number"))?)
                    }
                    _ => (host, PORT),
                };
                let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
                Place::Tcp(if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }, port)
            }
            "nbds" | "nbds+unix" => {
                let what = format!("\"{text}\" wants TLS, which is not spoken here");
                return Err(Error::new(ErrorKind::InvalidInput, what).hint(BY_PIPE));
            }
            _ => return Err(invalid("only nbd:// and nbd+unix:// are read")),
        };
        Ok(Self { place, export, text: text.to_owned() })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Percent-decoding (RFC 3986, section 2.1); what is no escape stays as it is.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.filter(|_| bytes[at] == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_a_place_and_an_export() {
        let uri = Uri::parse("nbd+unix:///web/a%20b?socket=/run/%C3%A4.sock").expect("a URI");
        assert_eq!((uri.place, uri.export.as_str()), (Place::Unix("/run/ä.sock".into()), "web/a b"));
        for (text, host, port) in [
            ("nbd://h/x", "h", PORT),
            ("nbd://h:9/x", "h", 9),
            ("nbd://[::1]:9/x", "::1", 9),
            ("nbd://[::1]/x", "::1", PORT),
            ("nbd:///x", "localhost", PORT),
        ] {
            let uri = Uri::parse(text).expect(text);
            assert_eq!((uri.place, uri.export.as_str()), (Place::Tcp(host.into(), port), "x"));
        }
        assert_eq!(unescaped("a%2fb%+1%"), b"a/b%+1%");
        for bad in ["nbds://h/x", "nbd+unix:///x", "nbd://h:y/x", "http://h/x", "x"] {
            let error = Uri::parse(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert!(Uri::is_one("nbds://h") && !Uri::is_one("/tmp/nbd://x") && !Uri::is_one("disk.vhd"));
    }
}
