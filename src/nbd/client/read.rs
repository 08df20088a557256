//! Reads: several under way at once, their replies in any order and each in chunks of any order.
//!
//! Every byte of the buffer is filled exactly once, or the read fails.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::wire::transmission::{ChunkType, HeaderStyle, ReplyHeader, command};
use super::{Client, DEPTH};
use crate::copy::target::TargetDisk;
use crate::{PAGE, Result};

/// Chunks of one reply beside one for each page of it.
const MORE_CHUNKS: usize = 1024;

/// A part of a read that is under way.
struct Part {
    cookie: u64,
    start: usize,
    len: usize,
    /// Bytes of it that came.
    filled: usize,
    /// Begin and end of what came, runs that touch as one.
    came: BTreeMap<usize, usize>,
    /// How many chunks may still come.
    chunks: usize,
}

impl Part {
    fn new(cookie: u64, start: usize, len: usize) -> Self {
        Self { cookie, start, len, filled: 0, came: BTreeMap::new(), chunks: len / PAGE + MORE_CHUNKS }
    }

    /// Notes that `range` of it came. `false`: some of it came already, and could stand for what never did.
    fn fill(&mut self, range: &Range<usize>) -> bool {
        let before = self.came.range(..range.end).next_back().map(|(&start, &end)| (start, end));
        if range.is_empty() || before.is_some_and(|(_, end)| end > range.start) {
            return false;
        }
        self.filled += range.len();
        let end = self.came.remove(&range.end).unwrap_or(range.end);
        let start = before.filter(|&(_, end)| end == range.start).map_or(range.start, |(start, _)| start);
        self.came.insert(start, end);
        true
    }
}

impl Client {
    /// Fills `buf` from byte `offset`; the range lies inside the size.
    pub(super) fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.await_writes()?;
        let mut parts = Vec::with_capacity(DEPTH);
        let mut asked = 0;
        while asked < buf.len() || !parts.is_empty() {
            while asked < buf.len() && parts.len() < DEPTH {
                let len = self.most.min(buf.len() - asked);
                let cookie = self.request(command::READ, 0, offset + asked as u64, len as u64)?;
                parts.push(Part::new(cookie, asked, len));
                asked += len;
            }
            self.recv_reply(offset, buf, &mut parts)?;
        }
        Ok(())
    }

    /// Takes one simple reply, or one chunk.
    fn recv_reply(&mut self, offset: u64, buf: &mut [u8], parts: &mut Vec<Part>) -> Result<()> {
        let header = self.reply()?;
        let (ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. }) = header;
        let index = parts.iter().position(|part| part.cookie == cookie).ok_or_else(|| self.unasked())?;
        let part = &mut parts[index];
        let at = offset + part.start as u64;
        let ours = &mut buf[part.start..part.start + part.len];
        match header {
            ReplyHeader::Simple { error: 0, .. } if self.style != HeaderStyle::Simple => {
                return Err(self.transport.broken("content in a simple reply"));
            }
            ReplyHeader::Simple { error: 0, .. } => {
                self.transport.fill_content(ours)?;
                parts.swap_remove(index);
                self.answered += 1;
            }
            ReplyHeader::Simple { error, .. } => return Err(self.refused(error, "", at)),
            ReplyHeader::Chunk { kind, done, length, .. } => {
                part.chunks = part.chunks.checked_sub(1).ok_or_else(|| self.transport.broken("chunks without end"))?;
                self.chunk((kind, done, length), at, part, ours)?;
                if done {
                    let part = parts.swap_remove(index);
                    if part.filled != part.len {
                        return Err(self.transport.broken("less content than asked for"));
                    }
                    self.answered += 1;
                }
            }
        }
        Ok(())
    }

    /// Takes the payload of a chunk of a part that begins at byte `at` of the export and belongs into `ours`.
    fn chunk(
        &mut self,
        (kind, done, length): (u16, bool, u64),
        at: u64,
        part: &mut Part,
        ours: &mut [u8],
    ) -> Result<()> {
        let hole = kind == ChunkType::OffsetHole as u16 && length == 12;
        if !hole && (kind != ChunkType::OffsetData as u16 || length <= 8) {
            return self.plain_chunk(kind, done, length, at);
        }
        let from = u64::from_be_bytes(self.transport.receive()?);
        let len = if hole { u64::from(u32::from_be_bytes(self.transport.receive()?)) } else { length - 8 };
        let start = from.checked_sub(at);
        let end = start.and_then(|start| start.checked_add(len)).filter(|&end| end <= ours.len() as u64);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(self.transport.broken("content that was not asked for"));
        };
        let range = start as usize..end as usize;
        if !part.fill(&range) {
            return Err(self.transport.broken("content that came already, or none"));
        }
        if hole {
            ours[range].fill(0);
            self.transport.progress(len);
            return Ok(());
        }
        self.transport.fill_content(&mut ours[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_once_and_runs_that_touch_are_one() {
        let mut part = Part::new(1, 0, 100);
        for (range, taken) in [
            (10..20, true),
            (30..40, true),
            (20..20, false),
            (15..25, false),
            (5..11, false),
            (9..41, false),
            (39..50, false),
            (20..30, true),
            (0..10, true),
            (0..1, false),
            (40..100, true),
        ] {
            assert_eq!(part.fill(&range), taken, "{range:?}");
        }
        assert_eq!((part.filled, part.came), (100, BTreeMap::from([(0, 100)])));
    }
}
