//! Whether what is on disk says what the open disk believes: settings, keys, checkpoint and logs are read again, every
//! checksum and MAC is checked, and the state that they give is compared with the live one. Changes nothing.

use crate::disk::Access;
use crate::disk::core::Core;
use crate::disk::open::{Names, recover};
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
            let _turn = self.commit.lock_commit();
            // Held from here on: what clients change after the look would pass for a difference.
            let state = self.stack.state();
            if !state.pending.is_empty() && !read_only {
                continue;
            }
            let settings = DiskSettings::load(&*self.dir, Some(&keys))?;
            let differs = |what: String| Err(Error::new(ErrorKind::Corrupt, what).at_path(self.dir.path()));
            if settings != *table.settings() {
                return differs("disk.toml is not what the open disk has as its settings".to_owned());
            }
            KeySlots::open(&*self.dir, self.uuid, Open::Read)?;
            let names = Names::of(
                self.dir.list().map_err(|error| Error::io("cannot be listed", error).at_path(self.dir.path()))?,
            );
            let entries = state.entries.iter().map(|entry| Entry::new(entry.layer.clone())).collect();
            let noted = match boot {
                Some(boot) => volatile::replay(&*self.dir, &*self.layers_dir, names.recent(), &boot, &keys, true)?.0,
                None => Vec::new(),
            };
            let stored = recover(&*self.dir, &names, &settings, entries, Some(&keys), &noted)?.state;
            return match difference(&state, &stored) {
                None => Ok(()),
                Some(what) => differs(format!("checkpoint and logs do not give the state of the open disk: {what}")),
            };
        }
        Err(Error::new(ErrorKind::InUse, "clients change the disk faster than it can be verified")
            .at_path(self.dir.path()))
    }
}

fn difference(live: &State, stored: &State) -> Option<String> {
    if (live.size, live.base_limit, &live.snapshots) != (stored.size, stored.base_limit, &stored.snapshots) {
        return Some("size, base limit or snapshots differ".to_owned());
    }
    let differs = |entry: &&Entry| match stored.index_of(entry.layer.id) {
        // A layer that a rollback emptied, and that upkeep has still to remove.
        None => !entry.holds_nothing(),
        Some(index) => {
            let other = &stored.entries[index];
            !entry.held().same(other.held()) || !entry.zero().same(other.zero())
        }
    };
    live.entries.iter().find(differs).map(|entry| format!("layer {} holds other pages", entry.layer.id))
}
