//! Taking the keys of an open disk back, and giving them again.

use super::key_slots::KeySlots;
use super::settings::Kind;
use crate::Result;
use crate::crypto::keyring::DiskKeys;
use crate::disk::core::Core;
use crate::disk::open::unwrap_key;
use crate::io::Open;

impl Core {
    pub(crate) fn suspend(&self) {
        self.keys.revoke();
        // Whoever passed the check before holds one of these: wait for all of them.
        self.stack.await_requests();
    }

    pub(crate) fn forget_keys(&self) {
        let state = self.stack.state();
        for entry in &state.entries {
            entry.layer.set_key(None);
        }
        self.keys.forget();
    }

    pub(crate) fn resume(&self, keys: DiskKeys) -> Result<()> {
        let table = self.table.lock();
        let (_, slot_keys) = KeySlots::open(&*self.dir, table.settings.uuid, Open::Read)?;
        let state = self.stack.state();
        let layers: Vec<_> = state.entries.iter().map(|entry| entry.layer.clone()).collect();
        drop(state);
        let locked = layers.iter().filter(|layer| layer.kind == Kind::Xts);
        let opened: Vec<_> =
            locked.map(|layer| Ok((layer, unwrap_key(&slot_keys, &keys, layer.id)?))).collect::<Result<_>>()?;
        // All or none: what stays revoked holds no key.
        opened.into_iter().for_each(|(layer, key)| layer.set_key(Some(key)));
        self.keys.restore(keys);
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use crate::disk::Durability;
    use crate::disk::tests::{TestDisk, read};
    use crate::{ErrorKind, PAGE};

    /// As by a change that was under way when the keys were taken back, and goes on when all other layers have let go.
    #[test]
    fn a_layer_made_meanwhile_holds_no_key() {
        let place = TestDisk::new(1 << 20, 0, true);
        let disk = place.open(true);
        disk.write(0, &[1; PAGE], Durability::Fua).unwrap();
        disk.admin().rotate_key().unwrap();
        disk.admin().suspend();
        disk.core.make_layer().unwrap();
        let layer = disk.core.stack.state().entries.last().unwrap().layer.clone();
        assert_eq!((layer.id, layer.write(0, &[2; PAGE], true).unwrap_err().kind()), (2, ErrorKind::Revoked));
        disk.admin().forget_keys();
        disk.admin().resume(place.keys.clone()).unwrap();
        disk.write(512, &[2; PAGE], Durability::Fua).unwrap();
        drop(disk);
        assert_eq!(read(&place.open(true), 0, 1024), [[1; PAGE], [2; PAGE]].concat());
    }
}

#[cfg(all(test, sealdisk_sim))]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use crate::crypto::keyring::DiskKeys;
    use crate::disk::{Access, Disk, Durability, Options, Spec};
    use crate::io::Dir;
    use crate::io::sim::{SimDisk, direct};

    /// A flush that came while the keys were away made nothing durable, and says so though they are here again.
    #[test]
    fn no_flush_succeeds_that_met_no_keys() {
        let check = || {
            let (world, keys) = (SimDisk::new(1), DiskKeys::ephemeral().unwrap());
            let disk = direct(|| {
                let dir: Arc<dyn Dir> = world.root();
                let spec = Spec::new(Uuid::new_v4(), "a/b", 1 << 20);
                Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).unwrap();
                let disk =
                    Disk::open(dir, Some(keys.clone()), None, Access::ReadWrite, true, Options::default()).unwrap();
                disk.write(0, &[1; 512], Durability::Volatile).unwrap();
                Arc::new(disk)
            });
            disk.admin().suspend();
            let flushing = Arc::clone(&disk);
            let flusher = shuttle::thread::spawn(move || {
                let flushed = flushing.admin().final_flush();
                assert!(flushed.is_err() || !flushing.core.anything_dirty(), "flushed, and not durable");
            });
            disk.admin().forget_keys();
            disk.admin().resume(keys).unwrap();
            flusher.join().unwrap();
            disk.flush().unwrap();
        };
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 20;
        shuttle::Runner::new(shuttle::scheduler::RandomScheduler::new(300), config).run(check);
    }
}
