//! Parent locators: the paths by which a differencing disk names its parent, as bytes in the file.

use std::ops::Range;

use super::Fault;
use super::header::LocatorEntry;
use crate::Result;
use crate::io::source::Source;

/// The most bytes of a path that are read.
const MAX_LENGTH: u64 = 64 << 10;

/// What a locator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Locator {
    /// A path relative to the child's folder, with `\` or `/`.
    Relative(String),
    /// A path from a root of the host system that wrote it.
    Absolute(String),
    /// A `file:` URL, decoded to its path.
    Url(String),
    /// A code of old Macintosh or Windows versions, or an unknown one: not followed.
    Legacy([u8; 4]),
}

/// The bytes of the file that `entry` points to; they must lie before `end`.
pub(super) fn range(entry: &LocatorEntry, end: u64) -> Result<Range<u64>> {
    let (offset, length) = (entry.offset.get(), u64::from(entry.length.get()));
    let bad = |what: String| Fault::BadParentLocator.at(offset, what);
    if length == 0 || length > MAX_LENGTH {
        return Err(bad(format!("a parent locator of {length} bytes (1 to {MAX_LENGTH} are allowed)")));
    }
    match offset.checked_add(length) {
        Some(stop) if stop <= end => Ok(offset..stop),
        _ => Err(bad(format!("a parent locator ({length} bytes at {offset}) reaches past {end}"))),
    }
}

/// Reads and decodes a locator. Every error is [`Fault::BadParentLocator`], or one of reading.
pub(super) fn read(source: &dyn Source, entry: &LocatorEntry, end: u64) -> Result<Locator> {
    if !matches!(&entry.code, b"W2ru" | b"W2ku" | b"MacX") {
        return Ok(Locator::Legacy(entry.code));
    }
    let range = range(entry, end)?;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    source.read_at(range.start, &mut bytes)?;
    let locator = match &entry.code {
        b"W2ru" => utf16(&bytes).map(Locator::Relative),
        b"W2ku" => utf16(&bytes).map(Locator::Absolute),
        _ => file_url(&bytes).map(Locator::Url),
    };
    locator.map_err(|what| Fault::BadParentLocator.at(range.start, what))
}

/// UTF-16LE up to the first zero: some writers pad to a sector.
fn utf16(bytes: &[u8]) -> Result<String, &'static str> {
    if !bytes.len().is_multiple_of(2) {
        return Err("a parent locator of an odd number of bytes is no UTF-16");
    }
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text: Result<String, _> = char::decode_utf16(units.take_while(|&unit| unit != 0)).collect();
    plausible(text.map_err(|_| "a parent locator is no UTF-16")?)
}

/// The path of a `file:` URL on this host, percent-encoding undone.
fn file_url(bytes: &[u8]) -> Result<String, &'static str> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(bytes).map_err(|_| "a parent locator is no UTF-8")?;
    // What is no file here stays as it is; following it is then refused as a path.
    let Some(rest) = text.strip_prefix("file://") else { return plausible(text.to_owned()) };
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = [bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)];
        let mut value = [0];
        hex::decode_to_slice(digits, &mut value).map_err(|_| "a parent locator has bad percent-encoding")?;
        decoded.push(value[0]);
    }
    plausible(String::from_utf8(decoded).map_err(|_| "a parent locator is no UTF-8")?)
}

fn plausible(text: String) -> Result<String, &'static str> {
    match text {
        text if text.is_empty() => Err("a parent locator is empty"),
        // No name of a file that anyone made, and not fit for a terminal.
        text if text.contains(char::is_control) => Err("a parent locator contains a control character"),
        text => Ok(text),
    }
}

/// `path` as a locator stores it.
pub(super) fn encode_utf16(path: &str) -> Vec<u8> {
    path.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_broken_ones_refused() {
        assert_eq!(utf16(&encode_utf16(".\\ä\u{1F4BE}.vhd")).unwrap(), ".\\ä\u{1F4BE}.vhd");
        assert_eq!(utf16(b"a\0b\0\0\0\0\0").unwrap(), "ab");
        assert!(utf16(b"a\0b").is_err());
        assert!(utf16(&[0x00, 0xD8, b'a', 0]).is_err(), "half a surrogate pair");
        assert!(utf16(&[0; 512]).is_err());
        assert!(utf16(&encode_utf16("a\u{1B}[2J")).is_err());
        assert_eq!(file_url(b"file://localhost/vm/a%20b.vhd\0junk").unwrap(), "/vm/a b.vhd");
        assert_eq!(file_url(b"file:///vm/a.vhd").unwrap(), "/vm/a.vhd");
        assert!(file_url(b"file:///vm/a%2").is_err());
        assert!(file_url(b"file:///vm/a%00b").is_err());
        assert_eq!(file_url(b"http://host/a").unwrap(), "http://host/a");
    }
}
