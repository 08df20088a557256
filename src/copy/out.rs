//! Out to a stream: every byte of the disk in order, and behind them the footer of a fixed VHD if that is asked for.

use std::io::{self, Write};

use super::PIECE;
use crate::base::Content;
use crate::base::read_ahead::read_ahead;
use crate::{Error, Result};

/// Writes the whole of `source`, zeros up to `size` bytes, and `footer`.
pub fn write_all(
    source: &mut dyn Content,
    size: u64,
    footer: &[u8],
    to: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let failed = |e: io::Error| Error::io("cannot write the stream", e);
    let mut next = 0;
    // What is read of a piece, and where it ends: the rest of it is zeros.
    let fill = |buf: &mut [u8]| {
        if next >= size {
            return Ok(None);
        }
        let (at, end) = (next, (next + PIECE as u64).min(size));
        let inside = source.size().clamp(at, end);
        let has_data = inside > at && source.next_data(at)?.is_some_and(|data| data < inside);
        let read = if has_data { (inside - at) as usize } else { 0 };
        if has_data {
            source.read_at(at, &mut buf[..read])?;
        }
        next = end;
        Ok(Some((at, read, end)))
    };
    let zeros = vec![0; PIECE];
    read_ahead(PIECE, fill, |pieces| {
        while let Some((at, data, end)) = pieces.take()? {
            let rest = &zeros[..(end - at) as usize - data.len()];
            to.write_all(data).and_then(|()| to.write_all(rest)).map_err(failed)?;
            progress(end);
        }
        Ok(())
    })?;
    to.write_all(footer).and_then(|()| to.flush()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data in every third piece.
    struct Thirds(u64);

    impl Content for Thirds {
        fn size(&self) -> u64 {
            self.0
        }

        fn next_data(&mut self, offset: u64) -> Result<Option<u64>> {
            let piece = PIECE as u64;
            let next =
                if (offset / piece).is_multiple_of(3) { offset } else { (offset / piece).next_multiple_of(3) * piece };
            Ok(Some(next).filter(|&next| next < self.0))
        }

        fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
            assert!(offset + buf.len() as u64 <= self.0 && (offset / PIECE as u64).is_multiple_of(3));
            buf.fill(7);
            Ok(())
        }
    }

    #[test]
    fn holes_become_zeros_and_the_footer_comes_last() {
        let piece = PIECE as u64;
        let mut out = Vec::new();
        write_all(&mut Thirds(3 * piece + 512), 4 * piece, b"end", &mut out, &mut |_| ()).expect("written");
        assert_eq!(out.len(), 4 * PIECE + 3);
        assert!(out[..PIECE].iter().all(|&byte| byte == 7) && out[PIECE..3 * PIECE].iter().all(|&byte| byte == 0));
        assert_eq!(out[3 * PIECE..3 * PIECE + 513], [&[7; 512][..], &[0]].concat());
        assert!(out.ends_with(b"\0end"));
    }
}
