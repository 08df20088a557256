//! Whole transfers over the file seam: short ones go on, interrupted ones are repeated.

use std::io::{self, ErrorKind};

use super::{File, mutant};

/// Fills `buf` from byte `offset`. Reading past the end is [`ErrorKind::UnexpectedEof`], never zeros.
pub fn read_full(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if read_up_to(file, buf, offset)? < buf.len() { Err(ended()) } else { Ok(()) }
}

/// Like [`read_full`], but `Ok(false)` where it would wait for a device.
pub(crate) fn try_read_full(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<bool> {
    match fill(buf, offset, |rest, at| file.try_read_at(rest, at)) {
        Ok(read) if read < buf.len() => Err(ended()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        read => read.map(|_| true),
    }
}

/// Fills `buf` from byte `offset` as far as the file goes; how many bytes that were.
pub(crate) fn read_up_to(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    fill(buf, offset, |rest, at| file.read_at(rest, at))
}

fn fill(buf: &mut [u8], offset: u64, read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at byte `offset`.
pub fn write_full(file: &dyn File, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.write_at(&buf[done..], offset + done as u64) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) if mutant!(ShortIsWhole) => return Ok(()),
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the file ends here")
}
