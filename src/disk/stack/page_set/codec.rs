//! The stored form of a set of pages, as a checkpoint has it.

use roaring::RoaringBitmap;

use super::{PART, PageSet, Part};
use crate::{Error, ErrorKind, Result};

impl PageSet {
    /// Appends the stored form: count of parts (u32), then per part a tag byte (0 empty, 1 full, 2 mixed) and for mixed
    /// ones the length (u32) and the portable Roaring serialization.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for part in &self.parts {
            match part {
                Part::Empty => out.push(0),
                Part::Full => out.push(1),
                Part::Mixed(bits) => {
                    out.push(2);
                    out.extend_from_slice(&(bits.serialized_size() as u32).to_le_bytes());
                    // Writing to a vector cannot fail.
                    let written = bits.serialize_into(&mut *out);
                    debug_assert!(written.is_ok());
                }
            }
        }
    }

    /// Takes what [`PageSet::encode`] wrote off the front of `input`. No page at or above `limit` is accepted.
    pub(crate) fn decode(input: &mut &[u8], limit: u64) -> Result<PageSet> {
        let bad = |what: &str| Error::new(ErrorKind::Corrupt, format!("page set: {what}"));
        let count = u32::from_le_bytes(*input.split_off_first_chunk_or(bad)?) as usize;
        if count as u64 > limit.div_ceil(PART) {
            return Err(bad("more parts than the blob has"));
        }
        // Each takes a byte at the least, so that no count makes the memory of more.
        let mut parts = Vec::with_capacity(count.min(input.len()));
        for _ in 0..count {
            let [tag] = *input.split_off_first_chunk_or(bad)?;
            parts.push(match tag {
                0 => Part::Empty,
                1 => Part::Full,
                2 => {
                    let len = u32::from_le_bytes(*input.split_off_first_chunk_or(bad)?) as usize;
                    let body = input.split_off(..len).ok_or_else(|| bad("truncated"))?;
                    let bits = RoaringBitmap::deserialize_from(body).map_err(|_| bad("bitmap does not parse"))?;
                    if bits.max().is_some_and(|page| u64::from(page) >= PART) {
                        return Err(bad("page outside its part"));
                    }
                    if bits.is_empty() { Part::Empty } else { Part::Mixed(bits) }
                }
                _ => return Err(bad("unknown part tag")),
            });
        }
        let set = PageSet { parts };
        if set.intersects(limit..u64::MAX) {
            return Err(bad("page past the end of the blob"));
        }
        Ok(set)
    }
}

trait Take {
    fn split_off_first_chunk_or<const N: usize>(&mut self, bad: impl Fn(&str) -> Error) -> Result<&[u8; N]>;
}

impl<'a> Take for &'a [u8] {
    fn split_off_first_chunk_or<const N: usize>(&mut self, bad: impl Fn(&str) -> Error) -> Result<&'a [u8; N]> {
        let (head, rest) = self.split_first_chunk::<N>().ok_or_else(|| bad("truncated"))?;
        *self = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_refuses_what_no_set_is() {
        let refuses = |stored: &[u8], limit: u64, what: &str| {
            let error = PageSet::decode(&mut &stored[..], limit).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.what().contains(what), "{error}");
        };
        refuses(&[1, 0, 0, 0, 3], PART, "unknown part tag");
        refuses(&[2, 0, 0, 0, 1, 1], PART, "more parts");
        refuses(&[1, 0, 0, 0, 1], PART - 1, "past the end");
        // As many parts as it takes for a gigabyte, in four bytes.
        refuses(&[0xFF, 0xFF, 0xFF, 1], u64::MAX, "truncated");
        let mut stray = RoaringBitmap::new();
        stray.insert(PART as u32);
        let mut stored = vec![1, 0, 0, 0, 2];
        stored.extend((stray.serialized_size() as u32).to_le_bytes());
        stray.serialize_into(&mut stored).unwrap();
        refuses(&stored, 2 * PART, "outside its part");
    }

    #[test]
    fn decode_refuses_every_truncation() {
        let mut set = PageSet::new();
        set.insert(3..9);
        set.insert(PART..2 * PART);
        let mut stored = Vec::new();
        set.encode(&mut stored);
        for len in 0..stored.len() {
            assert!(PageSet::decode(&mut &stored[..len], 4 * PART).is_err(), "{len}");
        }
    }
}
