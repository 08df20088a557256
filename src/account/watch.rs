//! What the registry says of its disks to whoever watches the server. It opens no disk, and waits for none: one that is
//! stuck, or being opened, is said to be so.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::disk_ref::DiskRef;
use super::entry::EntryState;
use super::health::HealthSample;
use super::registry::{Keys, Registry, Shared};
use crate::disk::DiskStats;

/// How long a lock that is held only for moments is waited for.
const MOMENT: Duration = Duration::from_millis(100);
/// How long a disk that is being changed is waited for.
const TIMEOUT: Duration = Duration::from_millis(10);

/// A disk as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub uuid: Uuid,
    /// Of a deleted disk `@UUID`.
    pub name: String,
    pub condition: Condition,
    pub health: HealthSample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has asked for it yet, or not for a while.
    Closed,
    Open(DiskStats),
    /// Being opened or closed, or stuck.
    Busy,
}

/// The account as it is now; what could not be looked at in time is `None`.
#[derive(Debug, Clone, Default)]
pub struct AccountStats {
    pub encryption: Option<bool>,
    pub revoked: Option<bool>,
    pub keys_held: Option<bool>,
    /// Folders that cannot be read as disks.
    pub damaged: usize,
    /// A change of names failed half-way: see [`super::folder`].
    pub in_doubt: bool,
    /// Deleted disks that clones still read from are among them.
    pub disks: Option<Vec<Watched>>,
}

impl Registry {
    /// Looks at all disks until `deadline`; those it does not come to are [`Condition::Busy`].
    #[must_use]
    pub fn stats(&self, deadline: Instant) -> AccountStats {
        let settings = self.shared.settings.try_read_for(MOMENT);
        AccountStats {
            encryption: settings.as_ref().map(|settings| settings.encryption()),
            revoked: settings.as_ref().map(|settings| settings.revoked()),
            keys_held: self.shared.keys.try_read_for(MOMENT).map(|keys| matches!(&*keys, Keys::Unlocked(_))),
            damaged: self.damaged().len(),
            in_doubt: self.shared.folder.is_in_doubt(),
            disks: self.shared.watch(deadline),
        }
    }
}

impl Shared {
    fn watch(&self, deadline: Instant) -> Option<Vec<Watched>> {
        let mut entries: Vec<_> =
            self.disks.try_read_for(MOMENT)?.values().map(|entry| (entry.clone(), false)).collect();
        entries.extend(self.hidden.try_read_for(MOMENT)?.iter().map(|entry| (entry.clone(), true)));
        let watched = entries.iter().filter_map(|(entry, hidden)| {
            let until = deadline.min(Instant::now() + TIMEOUT);
            let condition = loop {
                // The disk is looked at under the lock: with a handle of its own this would be one who has it attached.
                match entry.state.try_lock().as_deref() {
                    Some(EntryState::Gone) => return None,
                    Some(EntryState::Closed) => break Condition::Closed,
                    Some(EntryState::Open(disk)) => {
                        if let Some(disk_stats) = disk.admin().try_stats() {
                            break Condition::Open(disk_stats);
                        }
                    }
                    None => {}
                }
                if Instant::now() >= until {
                    break Condition::Busy;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            let health = entry.health.sample();
            // Another disk may have the name of a deleted one.
            let name = if *hidden { DiskRef::Uuid(entry.uuid).to_string() } else { entry.name.to_string() };
            Some(Watched { uuid: entry.uuid, name, condition, health })
        });
        Some(watched.collect())
    }
}
