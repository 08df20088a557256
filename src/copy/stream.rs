//! A stream as a source: a raw image, or a fixed VHD, whose last 512 bytes are its footer.
//!
//! A stream has no name, so it is raw unless its format was given: a footer at its end may be its guest's.
//!
//! A stream has an end and nothing else: whether it is whole can only be told by a footer or by the size that the user
//! expects. Other formats are refused where their first bytes tell.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::source::Pieces;
use super::{PIECE, Stop};
use crate::base::{Format, OpenOptions, ambiguous};
use crate::vhd::foreign::{Foreign, HEAD};
use crate::vhd::{FOOTER, Footer};
use crate::{Error, ErrorKind, PAGE, Result};

/// How long the stream is waited for between two looks at the stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// See the module documentation.
#[derive(Debug)]
pub struct Stream<F> {
    from: F,
    stop: Stop,
    options: OpenOptions,
    /// Bytes that the image must have, without a footer.
    expected: Option<u64>,
    /// The first `ahead` bytes of it were read and are not given yet; the last [`FOOTER`] of them are held back until
    /// it is known whether they are the end.
    buf: Vec<u8>,
    ahead: usize,
    ended: bool,
    /// Bytes given.
    at: u64,
}

impl<F: AsFd> Stream<F> {
    /// Reads the beginning of the stream. Of `options` format and names count; `expected`: bytes of the image.
    pub fn open(from: F, options: OpenOptions, expected: Option<u64>, stop: Stop) -> Result<Self> {
        let buf = vec![0; PIECE + FOOTER];
        let mut stream = Self { from, stop, options, expected, buf, ahead: 0, ended: false, at: 0 };
        stream.read()?;
        let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
        if stream.ahead == 0 {
            return Err(invalid("the stream is empty").hint("see whether the program before the pipe failed"));
        }
        if stream.options.format != Some(Format::Raw) {
            stream.check_head()?;
        }
        if stream.ended {
            stream.end()?;
        }
        Ok(stream)
    }

    /// Refuses what cannot be read from a stream by its first bytes.
    fn check_head(&self) -> Result<()> {
        let raw = self.options.names.giving_format("raw");
        let or_raw = |error: Error| match (error.hint_text(), &raw) {
            (Some(hint), Some(raw)) => {
                let hint = format!("{hint}; {raw} takes it as a raw disk");
                error.hint(hint)
            }
            _ => error,
        };
        if self.held().starts_with(b"conectix") {
            let what = "a dynamic or differencing VHD cannot be read from a stream";
            let error = Error::new(ErrorKind::Unsupported, what).hint("store it in a file called .vhd and import that");
            return Err(or_raw(error));
        }
        if let Some(foreign) = Foreign::of(&self.held()[..HEAD.min(self.ahead)]) {
            return Err(or_raw(foreign.refused_in_stream()));
        }
        Ok(())
    }

    fn held(&self) -> &[u8] {
        &self.buf[..self.ahead]
    }

    /// [`Stream::read`], and checks the end where it is reached.
    fn fill(&mut self) -> Result<()> {
        let before = self.ended;
        self.read()?;
        if self.ended && !before { self.end() } else { Ok(()) }
    }

    /// Reads until a piece and a footer are there, or the stream has ended.
    fn read(&mut self) -> Result<()> {
        let failed = |e: io::Error| Error::io("cannot read the stream", e);
        while !self.ended && self.ahead < self.buf.len() {
            self.stop.check()?;
            // Not restarted after a signal, as a read would be.
            let mut ready = [PollFd::new(&self.from, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => continue,
                other => other.map_err(|errno| failed(errno.into()))?,
            };
            match rustix::io::read(&self.from, &mut self.buf[self.ahead..]) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(failed(errno.into())),
                // The same Ctrl-C may have ended whoever wrote: that is no end of the image.
                Ok(0) => {
                    self.stop.check()?;
                    self.ended = true;
                }
                Ok(read) => self.ahead += read,
            }
        }
        Ok(())
    }

    /// The stream has ended: takes its footer off, and checks its length.
    fn end(&mut self) -> Result<()> {
        let whole = self.at + self.ahead as u64;
        let end = self.held().last_chunk::<FOOTER>();
        match self.options.format {
            Some(Format::Raw) => {}
            None if end.is_some_and(|end| end.starts_with(b"conectix")) => {
                return Err(ambiguous("the stream ends in the footer of a VHD", &self.options).at_offset(whole));
            }
            None => {}
            Some(Format::Vhd) => {
                let footer = end.and_then(|end| Footer::parse(end).ok());
                if !footer.is_some_and(|footer| footer.is_fixed() && footer.size() == whole - FOOTER as u64) {
                    return Err(Error::new(ErrorKind::Io, "the stream ended without the footer of a fixed VHD")
                        .at_offset(whole)
                        .hint("it was cut off, or it is no fixed VHD"));
                }
                self.ahead -= FOOTER;
            }
        }
        let size = self.at + self.ahead as u64;
        if let Some(expected) = self.expected.filter(|&expected| expected != size) {
            let what = format!("the stream had an image of {size} bytes, and {expected} were expected");
            return Err(Error::new(ErrorKind::Io, what));
        }
        if !size.is_multiple_of(PAGE as u64) {
            let what = format!("the stream ended after {size} bytes: no whole number of 512-byte pages");
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        self.expected = Some(size);
        Ok(())
    }
}

impl<F: AsFd + Send> Pieces for Stream<F> {
    /// Before the end: what is expected.
    fn size(&self) -> Option<u64> {
        self.expected
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Option<(u64, usize)>> {
        debug_assert_eq!(at, self.at, "a stream is read in order");
        self.fill()?;
        let len = self.ahead.saturating_sub(if self.ended { 0 } else { FOOTER }).min(PIECE);
        if let Some(expected) = self.expected.filter(|&expected| self.at + len as u64 > expected) {
            let what = format!("the stream has more than the {expected} bytes that were expected");
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        if len == 0 {
            return Ok(None);
        }
        buf[..len].copy_from_slice(&self.buf[..len]);
        self.buf.copy_within(len..self.ahead, 0);
        self.ahead -= len;
        self.at += len as u64;
        Ok(Some((at, len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use uuid::Uuid;

    /// The image that comes of a stream of `bytes`.
    fn read(bytes: &[u8], format: Option<Format>, expected: Option<u64>) -> Result<Vec<u8>> {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let bytes = bytes.to_vec();
        // It fails where the reader has gone.
        let sender = std::thread::spawn(move || drop(writer.write_all(&bytes)));
        let image = (|| {
            let options = OpenOptions { format, ..OpenOptions::default() };
            let mut stream = Stream::open(&reader, options, expected, Stop::default())?;
            let (mut image, mut buf) = (Vec::new(), vec![0; PIECE]);
            while let Some((at, len)) = stream.next(image.len() as u64, &mut buf)? {
                assert_eq!(at, image.len() as u64);
                image.extend_from_slice(&buf[..len]);
            }
            assert_eq!(stream.size(), Some(image.len() as u64));
            Ok(image)
        })();
        drop(reader);
        sender.join().expect("the sender ends");
        image
    }

    #[test]
    fn a_raw_image_comes_as_it_is_and_a_fixed_one_without_its_footer() {
        for size in [512, PIECE - 512, PIECE, PIECE + 512, 2 * PIECE + 1024] {
            let image: Vec<u8> = (0..size).map(|n| (n / 512 + n) as u8).collect();
            assert_eq!(read(&image, None, None).expect("raw"), image);
            assert_eq!(read(&image, None, Some(size as u64)).expect("as expected"), image);
            let footer = Footer::fixed(size as u64, Uuid::nil(), 1 << 30).to_bytes();
            let fixed = [&image[..], &footer].concat();
            assert_eq!(read(&fixed, None, None).expect_err("not said").kind(), ErrorKind::InvalidInput);
            assert_eq!(read(&fixed, Some(Format::Vhd), None).expect("fixed"), image);
            assert_eq!(read(&fixed, Some(Format::Raw), None).expect("taken as it is"), fixed);
            for (bytes, format, expected) in [
                (&fixed[..size], Some(Format::Vhd), None),
                (&image[..], None, Some(size as u64 + 512)),
                (&image[..], None, Some(size as u64 - 512)),
                (&image[..size - 1], None, None),
            ] {
                read(bytes, format, expected).expect_err("cut off");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_from_a_stream_is_refused_at_its_beginning() {
        let mut image = vec![1; PIECE + 1024];
        for (start, kind) in [
            (&b"conectix"[..], ErrorKind::Unsupported),
            (b"QFI\xFB", ErrorKind::Unsupported),
            (b"\x1F\x8B\x08", ErrorKind::Unsupported),
        ] {
            image[..start.len()].copy_from_slice(start);
            assert_eq!(read(&image, None, None).expect_err("refused").kind(), kind);
            assert_eq!(read(&image, Some(Format::Raw), None).expect("asked for"), image);
        }
        assert_eq!(read(b"", None, None).expect_err("empty").kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_stop_is_heard_while_the_stream_is_silent() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        let stop = Stop::default();
        stop.0.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(
            Stream::open(&reader, OpenOptions::default(), None, stop).expect_err("stopped").kind(),
            ErrorKind::Cancelled
        );
    }
}
