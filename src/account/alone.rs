//! A disk for one verb alone: to delete it, to roll it back. Those who hold it for moments are waited for; for others
//! no longer than a client takes that is leaving, and then the error names them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::attachment::{Held, Sees, Use};
use super::entry::{Entry, EntryState};
use super::registry::no_disk;
use crate::disk::Disk;
use crate::{Error, ErrorKind, Result};

/// How long a verb waits for those who let go of the disk by themselves.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How long it waits for a client that may be leaving.
const LEAVING: Duration = Duration::from_millis(500);
/// Holders that an error names.
const NAMED: usize = 3;

impl Entry {
    /// Locks the state of the disk once no holder is there that is `barring`; none comes while it is locked.
    /// [`ErrorKind::InUse`]: who is in the way.
    pub(super) fn lock_free(&self, barring: impl Fn(&Held) -> bool) -> Result<MutexGuard<'_, EntryState>> {
        self.lock_free_within(LEAVING, barring)
    }

    /// The same, with another time for clients that are leaving.
    pub(super) fn lock_free_within(
        &self,
        leaving: Duration,
        barring: impl Fn(&Held) -> bool,
    ) -> Result<MutexGuard<'_, EntryState>> {
        let began = Instant::now();
        loop {
            let state = self.state.lock();
            // Those who still hold a disk that was closed under them, as its keys were erased, get errors alone.
            let open = matches!(&*state, EntryState::Open(_));
            let in_the_way = if open { self.attachments.barring(&barring) } else { Vec::new() };
            if in_the_way.is_empty() {
                return Ok(state);
            }
            drop(state);
            if began.elapsed() >= TIMEOUT {
                return Err(self.in_use(&in_the_way));
            }
            let waited = self.attachments.wait_until_free(began + leaving, began + TIMEOUT, &barring);
            waited.map_err(|in_the_way| self.in_use(&in_the_way))?;
        }
    }

    /// Marks the disk as gone once no holder is left, and gives what it was.
    pub(super) fn take_alone(&self) -> Result<EntryState> {
        let mut state = self.lock_free(|_| true)?;
        debug_assert!(
            !matches!(&*state, EntryState::Open(disk) if Arc::strong_count(disk) > 1),
            "a holder is not listed"
        );
        Ok(std::mem::replace(&mut *state, EntryState::Gone))
    }

    /// Calls `body` with the open disk once no holder is there that is `barring`. None comes meanwhile.
    pub(super) fn with_alone<T>(
        &self,
        barring: impl Fn(&Held) -> bool,
        body: impl FnOnce(&Disk) -> Result<T>,
    ) -> Result<T> {
        let state = self.lock_free(barring)?;
        match &*state {
            EntryState::Open(disk) => body(disk),
            EntryState::Closed => {
                let what = format!("the disk \"{}\" was closed meanwhile", self.name);
                Err(Error::new(ErrorKind::InUse, what).hint("ask again"))
            }
            EntryState::Gone => Err(no_disk(&self.name)),
        }
    }

    /// Refuses, without waiting, while a holder is there that is `barring`. The caller has the lock of the state.
    pub(super) fn check_free(&self, barring: impl Fn(&Held) -> bool) -> Result<()> {
        let in_the_way = self.attachments.barring(barring);
        if in_the_way.is_empty() { Ok(()) } else { Err(self.in_use(&in_the_way)) }
    }

    /// Names who is in the way: those first who stay.
    fn in_use(&self, in_the_way: &[Held]) -> Error {
        let (lasting, passing): (Vec<_>, Vec<_>) = in_the_way.iter().partition(|held| held.what.is_lasting());
        let holders: Vec<&Held> = lasting.into_iter().chain(passing).collect();
        let first = holders.first();
        let subject = match first.map(|held| &held.sees) {
            Some(Sees::Snapshot(snapshot)) => format!("the snapshot \"{}@{snapshot}\"", self.name),
            _ => format!("the disk \"{}\"", self.name),
        };
        let of_subject = || holders.iter().filter(|held| first.is_some_and(|first| held.sees == first.sees));
        let mut names: Vec<_> = of_subject().take(NAMED).map(|held| held.what.to_string()).collect();
        match of_subject().count().saturating_sub(NAMED) {
            0 => {}
            more => names.push(format!("{more} more")),
        }
        let by = match names.split_last() {
            Some((last, [])) => format!(" by {last}"),
            Some((last, others)) => format!(" by {} and {last}", others.join(", ")),
            None => String::new(),
        };
        let hint = match first.map(|held| &held.what) {
            Some(Use::Client(_)) => "detach its clients first: `sealdisk status` shows them",
            Some(Use::CopyOut | Use::CopyInto) => "end that copy first, or wait until it has ended",
            _ => "ask again when that has ended",
        };
        Error::new(ErrorKind::InUse, format!("{subject} is in use{by}")).hint(hint)
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_error_names_those_first_who_stay_and_not_all_of_a_crowd() {
        let name = "disk".parse().expect("a name");
        let entry = Entry::new(Uuid::from_u128(1), name, EntryState::Closed);
        let said = |held: &[(Use, Sees)]| {
            let held: Vec<_> = held.iter().cloned().map(|(what, sees)| Held { what, sees }).collect();
            let error = entry.in_use(&held);
            (error.what().to_owned(), error.hint_text().unwrap_or_default().to_owned())
        };
        let client = |pid: u32| (Use::Client(format!("unix:uid=0,pid={pid}")), Sees::Disk);
        let (what, hint) = said(&[(Use::Reencryption, Sees::Disk)]);
        assert_eq!(what, "the disk \"disk\" is in use by a re-encryption");
        assert!(hint.contains("ended"), "{hint}");
        let (what, hint) = said(&[(Use::Maintenance, Sees::Disk), client(1)]);
        assert_eq!(what, "the disk \"disk\" is in use by client unix:uid=0,pid=1 and its background work");
        assert!(hint.contains("sealdisk status"), "{hint}");
        let (what, _) = said(&(1..=9).map(client).collect::<Vec<_>>());
        assert!(
            what.ends_with("by client unix:uid=0,pid=1, client unix:uid=0,pid=2, client unix:uid=0,pid=3 and 6 more")
        );
        let snapshot = || Sees::Snapshot("monday".into());
        let (what, hint) = said(&[(Use::CopyOut, snapshot()), (Use::Verb("map"), Sees::Disk)]);
        assert_eq!(what, "the snapshot \"disk@monday\" is in use by a copy out of it");
        assert!(hint.contains("copy"), "{hint}");
    }
}
