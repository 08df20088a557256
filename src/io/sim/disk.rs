//! A simulated disk as the tests hold it: its ends, its faults, what lies on it, and the begin of every call.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::content::SECTOR;
use super::dir::SimDir;
use super::fault::{Call, Fault, Faults, Fired};
use super::point;
use super::rng::SimRng;
use super::state::{RawFile, SimState, Tear};
use crate::io::Dir;

type Observer = Arc<dyn Fn(&SimDisk) + Send + Sync>;

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

struct Shared {
    world: Mutex<SimState>,
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
        Self::over(SimState::new(seed))
    }

    fn over(world: SimState) -> Self {
        Self(Arc::new(Shared { world: Mutex::new(world), observer: Mutex::new(None) }))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, SimState> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn root(&self) -> Arc<dyn Dir> {
        let opened = self.world().next_seq();
        Arc::new(SimDir::new(self.clone(), 0, PathBuf::from("sim"), opened))
    }

    /// One possible disk after a power cut now, chosen by `rng`. This one goes on.
    #[must_use]
    pub fn power_cut(&self, rng: &mut SimRng, tear: Tear) -> Self {
        Self::over(self.world().after_power_cut(rng, tear))
    }

    /// One possible disk after its device was reset now, which looks like a power cut to the device and is none to the
    /// kernel. This one goes on.
    #[must_use]
    pub fn reset(&self, rng: &mut SimRng, tear: Tear) -> Self {
        Self::over(self.world().after_reset(rng, tear))
    }

    /// The disk after the death of the process now. This one goes on.
    #[must_use]
    pub fn kill(&self, rng: &mut SimRng) -> Self {
        Self::over(self.world().after_kill(rng))
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

    /// Whether more is taken than there is, as no file system allows: a limit was set late, or a power cut brought back
    /// what was freed.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        let world = self.world();
        world.capacity.is_some_and(|capacity| world.used_blocks() > capacity)
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

    /// What lies in the blocks of files that lost their names, as someone finds it who reads the raw device later.
    /// Those of before the last kill or power cut are forgotten.
    #[must_use]
    pub fn freed_files(&self) -> Vec<RawFile> {
        self.world().freed_files()
    }

    /// The sectors that are not zeros of the files in the directory at `path`, with file name and number: what
    /// [`SimDisk::raw_files`] has copies of. `visit` must not use this disk.
    pub fn visit_stored(&self, path: &str, visit: &mut dyn FnMut(&str, usize, &[u8; SECTOR])) {
        self.world().visit_stored(path, visit);
    }

    /// A call begins: others may run, the observer looks, the call is counted and its fault drawn.
    pub(super) fn begin(
        &self,
        call: Call,
        what: impl Fn() -> String,
    ) -> io::Result<(MutexGuard<'_, SimState>, Option<Fault>)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Open;
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
            let mut rng = SimRng::new(1);
            let outcomes = |disk: &SimDisk, rng: &mut SimRng| {
                let cut = |_| read(&disk.power_cut(rng, Tear::Sector).root(), "a").map_err(|error| error.kind());
                (0..50).map(cut).collect::<Vec<_>>()
            };
            let before = outcomes(&disk, &mut rng);
            assert!(before.contains(&Err(io::ErrorKind::NotFound)) && before.contains(&Ok(vec![7; 700])));
            root.sync().unwrap();
            assert!(outcomes(&disk, &mut rng).iter().all(|read| *read == Ok(vec![7; 700])));
            assert_eq!(read(&disk.kill(&mut rng).root(), "a").unwrap(), [7; 700]);
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
