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
use crate::account::watch::{AccountVitals, Condition, Watched};
use crate::disk::Vitals;
use crate::nbd::{self, Counts, Stats};

/// A look at all disks takes no longer, however many are stuck.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug)]
pub struct Source {
    pub registry: Arc<Registry>,
    pub stats: Arc<Stats>,
}

/// Takes samples, and remembers of each disk what it said last.
#[derive(Debug)]
pub(super) struct Sampler {
    source: Source,
    process: Process,
    last: HashMap<Uuid, Vitals>,
    taken: u64,
    took: Duration,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) account: AccountVitals,
    pub(super) disks: Vec<DiskSample>,
    pub(super) nbd: nbd::Snapshot,
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
    /// Could not be looked at now; `vitals` are then older ones.
    pub(super) busy: bool,
    /// `None`: closed.
    pub(super) vitals: Option<Vitals>,
    pub(super) health: HealthSample,
    pub(super) counts: Counts,
}

impl Sampler {
    pub(super) fn new(source: Source, process: Process) -> Self {
        Self { source, process, last: HashMap::new(), taken: 0, took: Duration::ZERO }
    }

    pub(super) fn sample(&mut self) -> Sample {
        let began = Instant::now();
        let mut account = self.source.registry.vitals(began + LONGEST_LOOK);
        let watched = account.disks.take();
        if let Some(watched) = &watched {
            let known: HashMap<_, _> = watched.iter().map(|disk| (disk.uuid, ())).collect();
            self.source.stats.retain(|disk| known.contains_key(disk));
            self.last.retain(|disk, _| known.contains_key(disk));
        }
        let mut nbd = self.source.stats.read();
        let disks = watched.iter().flatten().map(|disk| self.disk(disk, &mut nbd.disks)).collect();
        let sample = Sample {
            account: AccountVitals { disks: watched, ..account },
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
        let vitals = match disk.condition {
            Condition::Open(vitals) => {
                self.last.insert(disk.uuid, vitals);
                Some(vitals)
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
            vitals,
            health: disk.health,
            counts: counts.remove(&disk.uuid).unwrap_or_default(),
        }
    }
}
