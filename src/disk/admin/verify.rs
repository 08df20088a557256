//! Whether what is on disk says what the open disk believes: settings, keys, checkpoint and logs are read again, every
//! checksum and MAC is checked, and the state that they give is compared with the live one. Changes nothing.

use crate::disk::Access;
use std::sync::Arc;

use crate::disk::commit::log::Snapshot;
use crate::disk::core::Core;
use crate::disk::open::{Names, recover};
use crate::disk::stack::layer::Layer;
use crate::disk::stack::page_set::PageSet;
use crate::disk::stack::state::{Entry, State};
use crate::disk::table::key_slots::KeySlots;
use crate::disk::table::settings::DiskSettings;
use crate::disk::volatile;
use crate::io::Open;
use crate::{Error, ErrorKind, Result};

/// Rounds tried until one leaves nothing pending: clients go on writing.
const TRIES: usize = 100;

impl Core {
    /// [`ErrorKind::Corrupt`]: what differs, and where.
    pub(crate) fn verify(&self) -> Result<()> {
        self.check_admitted()?;
        // Nothing below `dir` is replaced, appended or removed while these are held.
        let _upkeep = self.upkeep.lock();
        let table = self.table.lock();
        let keys = self.keys()?;
        // Who may not write goes on believing what a killed process noted.
        let read_only = self.access == Access::ReadOnly;
        let boot = self.options.boot.filter(|_| read_only && !self.commit.is_clean());
        for _ in 0..TRIES {
            self.flush()?;
            // What is durable stays as it is from here on, whatever clients change.
            let _turn = self.commit.lock_commit();
            let live = {
                let state = self.stack.state();
                if !state.pending.is_empty() && !read_only {
                    continue;
                }
                Live::of(&state)
            };
            let settings = DiskSettings::load(&*self.dir, Some(&keys))?;
            let differs = |what: String| Err(Error::new(ErrorKind::Corrupt, what).at_path(self.dir.path()));
            if settings != *table.settings() {
                return differs("disk.toml is not what the open disk has as its settings".to_owned());
            }
            KeySlots::open(&*self.dir, self.uuid, Open::Read)?;
            let names = Names::of(
                self.dir.list().map_err(|error| Error::io("cannot be listed", error).at_path(self.dir.path()))?,
            );
            let entries = live.layers.iter().map(|(layer, ..)| Entry::new(Arc::clone(layer))).collect();
            let noted = match boot {
                Some(boot) => volatile::replay(&*self.dir, &*self.layers_dir, names.recent(), &boot, &keys, true)?.0,
                None => Vec::new(),
            };
            let stored = recover(&*self.dir, &names, &settings, entries, Some(&keys), &noted)?.state;
            return match live.difference(&stored) {
                None => Ok(()),
                Some(what) => differs(format!("checkpoint and logs do not give the state of the open disk: {what}")),
            };
        }
        Err(Error::new(ErrorKind::InUse, "clients change the disk faster than it can be verified")
            .at_path(self.dir.path()))
    }
}

/// What the open disk believes at a moment at which nothing is pending.
struct Live {
    size: u64,
    base_limit: u64,
    snapshots: Vec<Snapshot>,
    /// Bottom to top, with what each holds and holds as zero.
    layers: Vec<(Arc<Layer>, PageSet, PageSet)>,
}

impl Live {
    fn of(state: &State) -> Self {
        let layers = state.entries.iter();
        Self {
            size: state.size,
            base_limit: state.base_limit,
            snapshots: state.snapshots.clone(),
            layers: layers.map(|e| (Arc::clone(&e.layer), e.held().clone(), e.zero().clone())).collect(),
        }
    }

    fn difference(&self, stored: &State) -> Option<String> {
        if (self.size, self.base_limit, &self.snapshots) != (stored.size, stored.base_limit, &stored.snapshots) {
            return Some("size, base limit or snapshots differ".to_owned());
        }
        let differs = |(layer, held, zero): &&(Arc<Layer>, PageSet, PageSet)| match stored.index_of(layer.id) {
            // A layer that a rollback emptied, and that upkeep has still to remove.
            None => !held.is_empty() || !zero.is_empty(),
            Some(index) => {
                let other = &stored.entries[index];
                !held.same(other.held()) || !zero.same(other.zero())
            }
        };
        self.layers.iter().find(differs).map(|(layer, ..)| format!("layer {} holds other pages", layer.id))
    }
}

#[cfg(all(test, sealdisk_sim))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use uuid::Uuid;

    use crate::PAGE;
    use crate::crypto::keyring::DiskKeys;
    use crate::disk::{Access, Disk, Durability, Options, Spec};
    use crate::io::Dir;
    use crate::io::sim::{SimDisk, direct};

    /// A new page is written between two reads of a verification, which finds nothing wrong with that.
    #[test]
    fn writes_go_on_while_a_disk_is_verified() {
        direct(|| {
            let (world, keys) = (SimDisk::new(1), DiskKeys::ephemeral().unwrap());
            let dir: Arc<dyn Dir> = world.root();
            let spec = Spec::new(Uuid::new_v4(), "a/b", 1 << 20);
            Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).unwrap();
            let disk = Disk::open(dir, Some(keys), None, Access::ReadWrite, true, Options::default()).unwrap();
            let disk = Arc::new(disk);
            disk.write(0, &[1; PAGE], Durability::Fua).unwrap();
            let (other, wrote) = (Arc::clone(&disk), Arc::new(AtomicBool::new(false)));
            let once = Arc::clone(&wrote);
            world.set_observer(Some(Arc::new(move |_| {
                if !once.swap(true, Ordering::Relaxed) {
                    other.write(4096, &[2; PAGE], Durability::Volatile).unwrap();
                }
            })));
            disk.admin().verify().unwrap();
            world.set_observer(None);
            assert!(wrote.load(Ordering::Relaxed));
            disk.admin().verify().unwrap();
        });
    }
}
