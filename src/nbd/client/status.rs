//! What a server says of its export: which bytes may be other than zero.
//!
//! It is what `base:allocation` told last, and no more than that: one reply to one request.

use super::super::wire::transmission::{ChunkType, state};

/// Extents in one reply. Servers of the field stop at 1 Mi.
const MOST_EXTENTS: usize = 1 << 20;
/// Bytes of a chunk with as many extents, in the wider of both forms.
pub(super) const MOST_BYTES: u64 = 8 + 16 * MOST_EXTENTS as u64;

/// The runs of `[begin, end)` that may be other than zero, in order and apart from each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Status {
    begin: u64,
    end: u64,
    data: Vec<(u64, u64)>,
}

impl Status {
    /// Reads the payload of a chunk of type `kind` that answers for `asked` bytes from `begin` on, of an export of
    /// `size` bytes. An error says what breaks the protocol.
    pub(super) fn parse(
        kind: u16,
        payload: &[u8],
        context: u32,
        (begin, asked): (u64, u64),
        size: u64,
    ) -> Result<Self, &'static str> {
        let wide = match kind {
            kind if kind == ChunkType::BlockStatus as u16 => false,
            kind if kind == ChunkType::BlockStatusExt as u16 => true,
            _ => return Err("another chunk in place of a block status"),
        };
        let (skip, step) = if wide { (8, 16) } else { (4, 8) };
        let (head, extents) = payload.split_at_checked(skip).ok_or("a block status too short")?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum: u64, &byte| sum << 8 | u64::from(byte));
        if number(&head[..4]) != u64::from(context) {
            return Err("the status of a context that was not asked for");
        }
        let count = extents.len() / step;
        if count == 0 || extents.len() % step != 0 || count > MOST_EXTENTS || wide && number(&head[4..]) != count as u64
        {
            return Err("a block status of no such length");
        }
        let mut status = Self { begin, end: begin, data: Vec::new() };
        for extent in extents.chunks_exact(step) {
            let (length, flags) = extent.split_at(step / 2);
            if number(length) == 0 {
                return Err("an extent of length 0");
            }
            // Only the last may reach past what was asked.
            if status.end - begin >= asked {
                return Err("an extent past what was asked for");
            }
            // Some servers round the last one up to their blocks.
            let end = status.end.saturating_add(number(length)).min(size);
            if number(flags) & u64::from(state::ZERO) == 0 {
                status.add(end);
            }
            status.end = end;
        }
        Ok(status)
    }

    /// Data from the end on, up to `end`.
    fn add(&mut self, end: u64) {
        match self.data.last_mut() {
            Some(last) if last.1 == self.end => last.1 = end,
            _ => self.data.push((self.end, end)),
        }
    }

    pub(super) fn covers(&self, at: u64) -> bool {
        (self.begin..self.end).contains(&at)
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The first byte from `at` on that may be other than zero, as far as is known.
    pub(super) fn next_data(&self, at: u64) -> Option<u64> {
        let first = self.data.partition_point(|&(_, end)| end <= at);
        self.data.get(first).map(|&(start, _)| start.max(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;
    const NARROW: u16 = ChunkType::BlockStatus as u16;
    const WIDE: u16 = ChunkType::BlockStatusExt as u16;

    fn payload(kind: u16, context: u32, extents: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = context.to_be_bytes().to_vec();
        if kind == WIDE {
            bytes.extend((extents.len() as u32).to_be_bytes());
        }
        for &(length, flags) in extents {
            if kind == WIDE {
                bytes.extend([length.to_be_bytes(), flags.to_be_bytes()].concat());
            } else {
                bytes.extend([(length as u32).to_be_bytes(), (flags as u32).to_be_bytes()].concat());
            }
        }
        bytes
    }

    #[test]
    fn what_breaks_the_protocol_is_no_status() {
        for kind in [NARROW, WIDE] {
            let parse = |payload: &[u8]| Status::parse(kind, payload, 7, (4096, 8192), SIZE);
            for (context, extents) in [
                (6, &[(512, 0)][..]),
                (7, &[]),
                (7, &[(0, 0)]),
                (7, &[(512, 0), (0, 2)]),
                (7, &[(8192, 0), (512, 0)]),
                (7, &[(9000, 0), (512, 0)]),
            ] {
                parse(&payload(kind, context, extents)).expect_err("refused");
            }
            let good = payload(kind, 7, &[(512, 0), (512, 3)]);
            for cut in [0, 3, 5, good.len() - 1] {
                parse(&good[..cut]).expect_err("cut off");
            }
            let status = parse(&good).expect("good");
            assert_eq!((status.begin, status.end, status.data), (4096, 5120, vec![(4096, 4608)]));
            // The last one may be longer than what was asked, and than the export.
            assert_eq!(parse(&payload(kind, 7, &[(u64::MAX >> 32, 0)])).expect("long").end, SIZE);
        }
        Status::parse(NARROW + 7, &payload(NARROW, 7, &[(512, 0)]), 7, (0, 512), SIZE).expect_err("another type");
    }

    proptest! {
        /// Against a map of the export, a byte for each KiB.
        #[test]
        fn the_next_data_is_that_of_the_map(
            runs in prop::collection::vec((1u64..40, any::<bool>()), 1..60),
            begin in 0u64..100,
            looks in prop::collection::vec(0u64..1000, 1..20),
        ) {
            let extents: Vec<_> = runs.iter().map(|&(units, data)| (units << 10, if data { 0 } else { 3 })).collect();
            let map: Vec<bool> = runs.iter().flat_map(|&(units, data)| std::iter::repeat_n(data, units as usize)).collect();
            let asked = (map.len() as u64) << 10;
            for kind in [NARROW, WIDE] {
                let status = Status::parse(kind, &payload(kind, 1, &extents), 1, (begin << 10, asked), u64::MAX).unwrap();
                prop_assert_eq!(status.end(), (begin << 10) + asked);
                for &look in looks.iter().filter(|&&look| look < map.len() as u64) {
                    let found = map[look as usize..].iter().position(|&data| data).map(|n| (begin + look + n as u64) << 10);
                    prop_assert_eq!(status.next_data((begin + look) << 10), found);
                }
                prop_assert!(status.data.windows(2).all(|two| two[0].1 < two[1].0));
            }
        }

        #[test]
        fn any_bytes_are_a_status_or_refused(kind: u16, bytes: Vec<u8>, begin in 0..SIZE, asked in 1..SIZE) {
            for kind in [kind, NARROW, WIDE] {
                let context = super::super::transport::word(&bytes, 0).unwrap_or_default();
                if let Ok(status) = Status::parse(kind, &bytes, context, (begin, asked), SIZE) {
                    prop_assert!(status.end > begin && status.end <= SIZE);
                }
            }
        }
    }
}
