//! One look at everything that is measured.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::process::{Process, ProcessSample};
use crate::account::admission::Admission;
use crate::account::health::HealthSample;
use crate::account::registry::Registry;
use crate::account::watch::{AccountStats, Condition, Watched};
use crate::disk::DiskStats;
use crate::serve::{Counts, Stats, StatsSample};

/// A look at all disks takes no longer, however many are stuck.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug)]
pub struct Observed {
    pub registry: Arc<Registry>,
    pub stats: Arc<Stats>,
}

/// Takes samples, and remembers of each disk what it said last.
#[derive(Debug)]
pub(super) struct Sampler {
    source: Observed,
    process: Process,
    last: HashMap<Uuid, DiskStats>,
    taken: u64,
    took: Duration,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) account: AccountStats,
    pub(super) disks: Vec<DiskSample>,
    pub(super) nbd: StatsSample,
    /// Whom the server lets in.
    pub(super) admission: Option<Arc<Admission>>,
    pub(super) process: ProcessSample,
    /// Lines that wait for the audit log.
    pub(super) audit_lines: usize,
    /// Samples before this one, and how long the last of them took.
    pub(super) taken: u64,
    pub(super) took: Duration,
}

/// A disk by its name.
#[derive(Debug)]
pub(super) struct DiskSample {
    pub(super) name: String,
    /// Could not be looked at now; `disk_stats` are then older ones.
    pub(super) busy: bool,
    /// `None`: closed.
    pub(super) disk_stats: Option<DiskStats>,
    pub(super) health: HealthSample,
    pub(super) counts: Counts,
}

impl Sampler {
    pub(super) fn new(source: Observed, process: Process) -> Self {
        Self { source, process, last: HashMap::new(), taken: 0, took: Duration::ZERO }
    }

    pub(super) fn sample(&mut self) -> Sample {
        let began = Instant::now();
        let mut account = self.source.registry.stats(began + LONGEST_LOOK);
        let watched = account.disks.take();
        if let Some(watched) = &watched {
            let known: HashMap<_, _> = watched.iter().map(|disk| (disk.uuid, ())).collect();
            self.source.stats.retain(|disk| known.contains_key(disk));
            self.last.retain(|disk, _| known.contains_key(disk));
        }
        let mut nbd = self.source.stats.read();
        let disks = watched.iter().flatten().map(|disk| self.disk(disk, &mut nbd.disks)).collect();
        let sample = Sample {
            account: AccountStats { disks: watched, ..account },
            disks,
            nbd,
            admission: self.source.registry.admission().cloned(),
            process: self.process.sample(),
            audit_lines: self.source.registry.audit_lines_kept(),
            taken: self.taken,
            took: self.took,
        };
        self.taken += 1;
        self.took = began.elapsed();
        sample
    }

    /// How long the last sample took.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    fn disk(&mut self, disk: &Watched, counts: &mut BTreeMap<Uuid, Counts>) -> DiskSample {
        let disk_stats = match disk.condition {
            Condition::Open(disk_stats) => {
                self.last.insert(disk.uuid, disk_stats);
                Some(disk_stats)
            }
            Condition::Busy => self.last.get(&disk.uuid).copied(),
            Condition::Closed => {
                self.last.remove(&disk.uuid);
                None
            }
        };
        let busy = disk.condition == Condition::Busy;
        DiskSample {
            name: disk.name.clone(),
            busy,
            disk_stats,
            health: disk.health,
            counts: counts.remove(&disk.uuid).unwrap_or_default(),
        }
    }
}
