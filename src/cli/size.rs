//! Sizes as people write and read them: powers of 1,024.

use crate::{Error, ErrorKind, Result};

const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

/// Bytes of `text`: a whole number, alone or with K, M, G or T (also KiB, MiB, GiB, TiB), in any case.
pub fn parse(text: &str) -> Result<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let (digits, shift) = UNITS
        .iter()
        .find_map(|&(unit, shift)| {
            let digits = upper.strip_suffix(&format!("{unit}IB")).or_else(|| upper.strip_suffix(unit))?;
            Some((digits, shift))
        })
        .unwrap_or((&upper, 0));
    let shown = || text.chars().take(40).flat_map(char::escape_debug).collect::<String>();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let what = format!("\"{}\" is no size", shown());
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .hint("a size is a whole number of bytes, or one with K, M, G or T: 10G, 512M, 1073741824"));
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| {
        let what = format!("\"{}\" is too large a size", shown());
        Error::new(ErrorKind::InvalidInput, what).hint("the largest disk has 1024T")
    })
}

/// `bytes` for people: at most four digits and a unit.
#[must_use]
pub fn human(bytes: u64) -> String {
    for (unit, shift) in UNITS {
        let whole = bytes >> shift;
        if whole == 0 {
            continue;
        }
        if bytes == whole << shift {
            return format!("{whole} {unit}iB");
        }
        // One decimal, cut off rather than rounded: a size is never shown larger than it is.
        let tenths = (u128::from(bytes) * 10) >> shift;
        return format!("{}.{} {unit}iB", tenths / 10, tenths % 10);
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1024),
            ("512M", 512 << 20),
            ("10G", 10 << 30),
            (" 10GiB ", 10 << 30),
            ("8t", 8 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text).expect(text), bytes);
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1", "+1", "1.5G", "10GB", "1 0", "0x10", "18446744073709551616", "16777216T"] {
            assert_eq!(parse(text).expect_err(text).kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn people_read_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (10 << 30, "10 GiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,24}", bytes in any::<u64>()) {
            let _ = parse(&text);
            prop_assert_eq!(parse(&bytes.to_string()).expect("digits"), bytes);
            prop_assert!(human(bytes).len() <= 16);
        }
    }
}
