//! Changes of a disk: sent without waiting, and waited for together.

use super::super::wire::transmission::{HeaderStyle, ReplyHeader, command, command_flag};
use super::status::Status;
use super::{Client, DEPTH};
use crate::Result;
use crate::copy::target::TargetDisk;

impl TargetDisk for Client {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let flags = if self.style == HeaderStyle::Extended { command_flag::PAYLOAD_LEN } else { 0 };
        let mut at = offset;
        for part in data.chunks(self.most) {
            while self.changes.len() >= DEPTH {
                self.hear_change()?;
            }
            let cookie = self.request(command::WRITE, flags, at, part.len() as u64)?;
            self.changes.push((cookie, at));
            self.transport.send(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let cookie = self.request(command::WRITE_ZEROES, 0, offset, len)?;
        self.changes.push((cookie, offset));
        Ok(())
    }

    fn await_writes(&mut self) -> Result<()> {
        while !self.changes.is_empty() {
            self.hear_change()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.await_writes()?;
        let cookie = self.request(command::FLUSH, 0, 0, 0)?;
        self.changes.push((cookie, 0));
        self.await_writes()
    }

    fn set_size(&mut self, size: u64) {
        self.size = size;
        self.status = Status::default();
    }
}

impl Client {
    fn hear_change(&mut self) -> Result<()> {
        let header = self.reply()?;
        let (ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. }) = header;
        let index = self.changes.iter().position(|&(change, _)| change == cookie).ok_or_else(|| self.unasked())?;
        let offset = self.changes[index].1;
        match header {
            ReplyHeader::Simple { error: 0, .. } => {}
            ReplyHeader::Simple { error, .. } => return Err(self.refused(error, "", offset)),
            ReplyHeader::Chunk { kind, done, length, .. } => self.plain_chunk(kind, done, length, offset)?,
        }
        self.changes.swap_remove(index);
        self.answered += 1;
        Ok(())
    }
}
