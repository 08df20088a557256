//! The two traits of the seam over a simulated world.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::content::SECTOR;
use super::dice::Dice;
use super::fault::{Call, Fault, Faults, Fired};
use super::names::Names;
use super::world::{FileNode, Node, RawFile, Tear, World};
use super::{is_direct, point};
use crate::io::{Dir, File, FileSystemId, Open};

type Observer = Arc<dyn Fn(&SimDisk) + Send + Sync>;

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

struct Shared {
    world: Mutex<World>,
    observer: Mutex<Option<Observer>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk. `seed` fixes every choice it makes by itself.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::over(World::new(seed))
    }

    fn over(world: World) -> Self {
        Self(Arc::new(Shared { world: Mutex::new(world), observer: Mutex::new(None) }))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn root(&self) -> Arc<dyn Dir> {
        let opened = self.world().next_seq();
        Arc::new(SimDir { disk: self.clone(), node: 0, path: PathBuf::from("sim"), opened })
    }

    /// One possible disk after a power cut now, chosen by `dice`. This one goes on.
    #[must_use]
    pub fn power_cut(&self, dice: &mut Dice, tear: Tear) -> Self {
        Self::over(self.world().after_power_cut(dice, tear))
    }

    /// The disk after the death of the process now. This one goes on.
    #[must_use]
    pub fn kill(&self, dice: &mut Dice) -> Self {
        Self::over(self.world().after_kill(dice))
    }

    /// The kernel's name of the boot it is in: another one after a power cut, the same after a kill.
    #[must_use]
    pub fn boot(&self) -> [u8; 16] {
        u128::from(self.world().boot).to_le_bytes()
    }

    /// Files of which a failed sync or write-back waits to be told to whoever syncs them next.
    #[must_use]
    pub fn untold_errors(&self) -> usize {
        self.world().untold_errors()
    }

    /// Turns every bit of a stored sector of the file at `path`, counted from the root, as a failing device might.
    pub fn damage(&self, path: &str, sector: usize) {
        self.world().damage(path, sector);
    }

    /// From now on every call fails: for the tasks that have not noticed yet that they are dead.
    pub fn switch_off(&self) {
        self.world().off = true;
        self.set_observer(None);
    }

    /// `observer` runs at the begin of every call, in the task that makes it.
    pub fn set_observer(&self, observer: Option<Observer>) {
        *self.0.observer.lock().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// The faults that have happened.
    #[must_use]
    pub fn fired(&self) -> Vec<Fired> {
        self.world().fired.clone()
    }

    /// Whether anything happened that may have lost content: any fault but the harmless ones.
    #[must_use]
    pub fn was_harmed(&self) -> bool {
        self.world().fired.iter().any(|fired| !matches!(fired.fault, Fault::Short | Fault::Eintr))
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// Blocks of 4,096 bytes in all; `None`: without end.
    pub fn set_capacity(&self, blocks: Option<u64>) {
        self.world().capacity = blocks;
    }

    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.world().capacity
    }

    /// Starts to note the calls for [`SimDisk::trace`].
    pub fn start_trace(&self) {
        self.world().trace = Some(String::new());
    }

    #[must_use]
    pub fn trace(&self) -> String {
        self.world().trace.clone().unwrap_or_default()
    }

    /// What someone finds who reads the raw device or the page cache.
    #[must_use]
    pub fn raw_files(&self) -> Vec<RawFile> {
        self.world().raw_files()
    }

    /// The sectors that are not zeros of the files in the directory at `path`, with file name and number: what
    /// [`SimDisk::raw_files`] has copies of. `visit` must not use this disk.
    pub fn visit_stored(&self, path: &str, visit: &mut dyn FnMut(&str, usize, &[u8; SECTOR])) {
        self.world().visit_stored(path, visit);
    }

    /// A call begins: others may run, the observer looks, the call is counted and its fault drawn.
    fn begin(&self, call: Call, what: impl Fn() -> String) -> io::Result<(MutexGuard<'_, World>, Option<Fault>)> {
        point();
        let observer = self.0.observer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(observer) = observer {
            observer(self);
        }
        let mut world = self.world();
        let fault = world.begin(call, &what)?;
        Ok((world, fault))
    }
}

/// What a write that stops half-way leaves whole in the page cache: less than a sector, more than a cipher's block.
const WHOLE: usize = 256;

fn first_part(len: usize, dice: &mut Dice) -> usize {
    let part = dice.index(len + 1);
    if len >= WHOLE { part / WHOLE * WHOLE } else { part }
}

fn eio() -> io::Error {
    Errno::IO.into()
}

fn enospc() -> io::Error {
    Errno::NOSPC.into()
}

/// The error of a call that does nothing when it fails.
fn plain(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None => Ok(()),
        Some(Fault::Enospc) => Err(enospc()),
        Some(Fault::Eintr) => Err(io::ErrorKind::Interrupted.into()),
        Some(_) => Err(eio()),
    }
}

struct SimDir {
    disk: SimDisk,
    node: usize,
    path: PathBuf,
    /// Number of the last change before.
    opened: u64,
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDir({})", self.path.display())
    }
}

impl SimDir {
    fn begin(&self, call: Call, name: &str) -> io::Result<MutexGuard<'_, World>> {
        let (world, fault) = self.disk.begin(call, || format!("{}/{name}", self.path.display()))?;
        plain(fault)?;
        Ok(world)
    }
}

impl Dir for SimDir {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let call = if how == Open::New { Call::Create } else { Call::Open };
        let mut world = self.begin(call, name)?;
        let node = match (world.names(self.node).get(name), how) {
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::New) => {
                let seq = world.next_seq();
                let node = world.add(Node::File(FileNode::default()));
                world.names_mut(self.node).link(name, node, seq);
                node
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
            (Some(node), _) if matches!(world.node(node), Node::File(_)) => node,
            (Some(_), _) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        };
        let file = world.file_mut(node);
        file.open += 1;
        // Linux: an error that no one was told of is told to whoever opens the file next.
        let seen = AtomicU32::new(file.reported);
        drop(world);
        let path = self.path.join(name);
        Ok(Arc::new(SimFile { disk: self.disk.clone(), node, path, seen, writable: how != Open::Read }))
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        let mut world = self.begin(Call::OpenDir, name)?;
        let node = world.names(self.node).get(name).ok_or(io::ErrorKind::NotFound)?;
        if !matches!(world.node(node), Node::Dir(_)) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let opened = world.next_seq();
        Ok(Arc::new(Self { disk: self.disk.clone(), node, path: self.path.join(name), opened }))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let mut world = self.begin(Call::CreateDir, name)?;
        if world.names(self.node).get(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let seq = world.next_seq();
        let node = world.add(Node::Dir(Names::default()));
        world.names_mut(self.node).link(name, node, seq);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.begin(Call::Rename, &format!("{from} -> {to}"))?;
        world.names(self.node).get(from).ok_or(io::ErrorKind::NotFound)?;
        let seq = world.next_seq();
        world.names_mut(self.node).rename(from, to, seq);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.begin(Call::Remove, name)?;
        let node = world.names(self.node).get(name).ok_or(io::ErrorKind::NotFound)?;
        if let Node::Dir(names) = world.node(node)
            && names.iter().next().is_some()
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let seq = world.next_seq();
        world.names_mut(self.node).unlink(name, seq);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let world = self.begin(Call::List, "")?;
        Ok(world.names(self.node).iter().map(|(name, _)| name.to_owned()).collect())
    }

    fn sync(&self) -> io::Result<()> {
        let (world, fault) = self.disk.begin(Call::SyncDir, || self.path.display().to_string())?;
        let began = world.last_seq();
        drop(world);
        point();
        let mut world = self.disk.world();
        if fault.is_some() {
            let now = world.next_seq();
            world.names_mut(self.node).lose(began, now);
            return Err(eio());
        }
        world.names_mut(self.node).sync(began, self.opened);
        Ok(())
    }

    fn sync_file_system(&self) -> io::Result<Option<FileSystemId>> {
        let (world, fault) = self.disk.begin(Call::SyncFileSystem, String::new)?;
        let began = world.last_seq();
        drop(world);
        point();
        let mut world = self.disk.world();
        if fault.is_some() {
            let now = world.next_seq();
            world.all_names().for_each(|names| names.lose(began, now));
            return Err(eio());
        }
        world.all_names().for_each(|names| names.sync(began, self.opened));
        drop(world);
        self.file_system().map(Some)
    }

    fn file_system(&self) -> io::Result<FileSystemId> {
        Ok(0)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = self.begin(Call::FreeBytes, "")?;
        Ok(world.free_blocks().map_or(1 << 40, |blocks| blocks * 4096))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

struct SimFile {
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
    fn begin(&self, call: Call, offset: u64, len: u64) -> io::Result<(MutexGuard<'_, World>, Option<Fault>)> {
        self.disk.begin(call, || format!("{} {offset}+{len}", self.path.display()))
    }

    /// For the calls that change the file.
    fn begin_change(&self, call: Call, offset: u64, len: u64) -> io::Result<(MutexGuard<'_, World>, Option<Fault>)> {
        let begun = self.begin(call, offset, len)?;
        if self.writable { Ok(begun) } else { Err(Errno::BADF.into()) }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut world, fault) = self.begin(Call::Read, offset, buf.len() as u64)?;
        let mut len = buf.len();
        match fault {
            Some(Fault::Short) if len > 1 => len = 1 + world.dice.index(len - 1),
            Some(Fault::Short) | None => {}
            fault => plain(fault)?,
        }
        Ok(world.file(self.node).content.read(&mut buf[..len], offset))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.world().dice.one_in(4) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut world, fault) = self.begin_change(Call::Write, offset, buf.len() as u64)?;
        let mut len = buf.len();
        match fault {
            Some(Fault::Short) => len = first_part(len, &mut world.dice).max(len.min(WHOLE)),
            Some(Fault::Eio) => {
                // Any first part may have reached the cache.
                let part = first_part(len, &mut world.dice);
                let seq = world.next_seq();
                world.file_mut(self.node).content.write(&buf[..part], offset, seq);
                return Err(eio());
            }
            Some(Fault::WriteBack) => {
                let (seq, mut dice) = (world.last_seq(), world.dice.fork());
                let file = world.file_mut(self.node);
                file.content.lose(seq, &mut dice);
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
            let mut dice = world.dice.fork();
            let file = world.file_mut(self.node);
            file.content.lose(began, &mut dice);
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
        let done = if fault.is_some() { world.dice.below(len + 1) / SECTOR as u64 * SECTOR as u64 } else { len };
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

    fn drop_cache(&self) -> io::Result<()> {
        let (mut world, fault) = self.begin(Call::DropCache, 0, 0)?;
        plain(fault)?;
        world.file_mut(self.node).content.drop_cache();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::direct;

    fn read(dir: &Arc<dyn Dir>, name: &str) -> io::Result<Vec<u8>> {
        let file = dir.open(name, Open::Read)?;
        let mut buf = vec![0; file.size()? as usize];
        assert_eq!(file.read_at(&mut buf, 0)?, buf.len());
        Ok(buf)
    }

    #[test]
    fn a_name_needs_its_directory_synced_and_content_its_file() {
        direct(|| {
            let disk = SimDisk::new(1);
            let root = disk.root();
            let file = root.open("a", Open::New).unwrap();
            assert_eq!(file.write_at(&[7; 700], 0).unwrap(), 700);
            file.sync_data().unwrap();
            let mut dice = Dice::new(1);
            let outcomes = |disk: &SimDisk, dice: &mut Dice| {
                let cut = |_| read(&disk.power_cut(dice, Tear::Sector).root(), "a").map_err(|error| error.kind());
                (0..50).map(cut).collect::<Vec<_>>()
            };
            let before = outcomes(&disk, &mut dice);
            assert!(before.contains(&Err(io::ErrorKind::NotFound)) && before.contains(&Ok(vec![7; 700])));
            root.sync().unwrap();
            assert!(outcomes(&disk, &mut dice).iter().all(|read| *read == Ok(vec![7; 700])));
            assert_eq!(read(&disk.kill(&mut dice).root(), "a").unwrap(), [7; 700]);
        });
    }

    #[test]
    fn an_error_is_reported_once_per_open_file() {
        direct(|| {
            let disk = SimDisk::new(1);
            let root = disk.root();
            let (one, other) = (root.open("a", Open::New).unwrap(), root.open("a", Open::ReadWrite).unwrap());
            one.write_at(&[7; 512], 0).unwrap();
            disk.set_faults(Faults { once: Some((0, Fault::Eio)), ..Faults::default() });
            assert!(one.sync_data().is_err());
            assert!(one.sync_data().is_ok());
            assert!(other.sync_data().is_err());
            assert!(other.sync_data().is_ok());
            assert!(root.open("a", Open::Read).unwrap().sync_data().is_ok());
            assert_eq!(disk.fired().len(), 1);
        });
    }

    #[test]
    fn a_full_disk_refuses_new_blocks_and_takes_overwrites() {
        direct(|| {
            let disk = SimDisk::new(1);
            disk.set_capacity(Some(2));
            let file = disk.root().open("a", Open::New).unwrap();
            assert_eq!(file.write_at(&[7; 12288], 0).unwrap(), 8192);
            assert_eq!(file.write_at(&[7; 1], 8192).unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(file.write_at(&[8; 8192], 0).unwrap(), 8192);
            file.punch(0, 4096).unwrap();
            assert_eq!(disk.root().free_bytes().unwrap(), 4096);
            assert_eq!(file.write_at(&[7; 1], 8192).unwrap(), 1);
        });
    }
}
