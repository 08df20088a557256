//! An open file of a simulated disk.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::content::SECTOR;
use super::digest;
use super::disk::SimDisk;
use super::fault::{Call, Fault, eio, enospc, plain};
use super::rng::SimRng;
use super::state::SimState;
use super::{is_direct, point};
use crate::io::File;

/// What a write that stops half-way leaves whole in the page cache: less than a sector, more than a cipher's block.
const WHOLE: usize = 256;

fn first_part(len: usize, rng: &mut SimRng) -> usize {
    let part = rng.index(len + 1);
    if len >= WHOLE { part / WHOLE * WHOLE } else { part }
}

pub(super) struct SimFile {
    disk: SimDisk,
    node: usize,
    path: PathBuf,
    /// Errors of the file that this open file has reported.
    seen: AtomicU32,
    writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.world().file_mut(self.node).open -= 1;
    }
}

impl SimFile {
    /// Opens file `node`.
    pub(super) fn open(disk: SimDisk, node: usize, path: PathBuf, writable: bool) -> Self {
        let reported = {
            let mut world = disk.world();
            let file = world.file_mut(node);
            file.open += 1;
            file.reported
        };
        // Linux: an error that no one was told of is told to whoever opens the file next.
        Self { disk, node, path, seen: AtomicU32::new(reported), writable }
    }

    fn begin(&self, call: Call, offset: u64, len: u64) -> io::Result<(MutexGuard<'_, SimState>, Option<Fault>)> {
        self.disk.begin(call, || format!("{} {offset}+{len}", self.path.display()))
    }

    /// For the calls that change the file.
    fn begin_change(&self, call: Call, offset: u64, len: u64) -> io::Result<(MutexGuard<'_, SimState>, Option<Fault>)> {
        let begun = self.begin(call, offset, len)?;
        if self.writable { Ok(begun) } else { Err(Errno::BADF.into()) }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut world, fault) = self.begin(Call::Read, offset, buf.len() as u64)?;
        let mut len = buf.len();
        match fault {
            Some(Fault::Short) if len > 1 => len = 1 + world.rng.index(len - 1),
            Some(Fault::Short) | None => {}
            fault => plain(fault)?,
        }
        Ok(world.file(self.node).content.read(&mut buf[..len], offset))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.world().rng.one_in(4) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut world, fault) = self.begin_change(Call::Write, offset, buf.len() as u64)?;
        digest::note(|digest| digest.add(&format!("{:08x}", crc32c::crc32c(buf))));
        let mut len = buf.len();
        match fault {
            Some(Fault::Short) => len = first_part(len, &mut world.rng).max(len.min(WHOLE)),
            Some(Fault::Eio) => {
                // Any first part may have reached the cache.
                let part = first_part(len, &mut world.rng);
                let seq = world.next_seq();
                world.file_mut(self.node).content.write(&buf[..part], offset, seq);
                return Err(eio());
            }
            Some(Fault::WriteBack) => {
                let (seq, mut rng) = (world.last_seq(), world.rng.fork());
                let file = world.file_mut(self.node);
                file.content.lose(seq, &mut rng);
                file.errors += 1;
            }
            None => {}
            fault => plain(fault)?,
        }
        if let Some(free) = world.free_blocks() {
            let fits = |len: &usize| world.file(self.node).content.blocks_wanted(offset, *len as u64) <= free;
            let whole = (1..=len).rev().step_by(SECTOR).find(fits);
            len = whole.ok_or_else(enospc)?;
        }
        let seq = world.next_seq();
        // A reader without a lock may see half of a write: the copy into the page cache is not atomic.
        let half = if is_direct() || len < 2 * WHOLE { len } else { len / (2 * WHOLE) * WHOLE };
        world.file_mut(self.node).content.write(&buf[..half], offset, seq);
        if half < len {
            drop(world);
            point();
            let mut world = self.disk.world();
            let seq = world.next_seq();
            world.file_mut(self.node).content.write(&buf[half..len], offset + half as u64, seq);
        }
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut world, fault) = self.begin(Call::SyncData, 0, 0)?;
        let began = world.last_seq();
        if fault.is_some() {
            let mut rng = world.rng.fork();
            let file = world.file_mut(self.node);
            file.content.lose(began, &mut rng);
            file.errors += 1;
        }
        drop(world);
        point();
        let mut world = self.disk.world();
        if world.off {
            return Err(eio());
        }
        let file = world.file_mut(self.node);
        file.content.sync(began);
        if self.seen.swap(file.errors, Ordering::Relaxed) < file.errors {
            file.reported = file.errors;
            return Err(if fault == Some(Fault::Enospc) { enospc() } else { eio() });
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let (world, fault) = self.begin(Call::Size, 0, 0)?;
        plain(fault)?;
        Ok(world.file(self.node).content.size())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let (mut world, fault) = self.begin_change(Call::SetSize, size, 0)?;
        plain(fault)?;
        let seq = world.next_seq();
        world.file_mut(self.node).content.set_size(size, seq);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut world, fault) = self.begin_change(Call::Punch, offset, len)?;
        // Any first part may be gone.
        let done = if fault.is_some() { world.rng.below(len + 1) / SECTOR as u64 * SECTOR as u64 } else { len };
        let seq = world.next_seq();
        world.file_mut(self.node).content.punch(offset, done, seq);
        plain(fault)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut world, fault) = self.begin_change(Call::Allocate, offset, len)?;
        plain(fault)?;
        let wanted = world.file(self.node).content.blocks_wanted(offset, len);
        if world.free_blocks().is_some_and(|free| free < wanted) {
            return Err(enospc());
        }
        let seq = world.next_seq();
        world.file_mut(self.node).content.allocate(offset, len, seq);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let (world, fault) = self.begin(Call::NextData, offset, 0)?;
        plain(fault)?;
        Ok(world.file(self.node).content.next_data(offset))
    }

    fn read_ahead(&self, offset: u64, len: u64) -> io::Result<()> {
        let (_world, fault) = self.begin(Call::ReadAhead, offset, len)?;
        plain(fault)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((0, self.node as u64))
    }

    fn mounted_as(&self) -> io::Result<u32> {
        Ok(self.disk.world().mounts)
    }

    fn drop_cache(&self) -> io::Result<()> {
        let (mut world, fault) = self.begin(Call::DropCache, 0, 0)?;
        plain(fault)?;
        world.file_mut(self.node).content.drop_cache();
        Ok(())
    }
}
