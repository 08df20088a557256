//! The disk under test: its size and limits by seed, its base, its keys, and how it is made and opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sealdisk::base::{BaseImage, BaseRecord, BaseRun, VisitRun};
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Options, Spec};
use sealdisk::io::Dir;
use sealdisk::io::sim::{SimDisk, SimRng, direct, seeded};
use sealdisk::{PAGE, Result};
use uuid::Uuid;

use crate::cells::{CELL, CELLS_A_PAGE, fill};
use crate::oracle::{BASE, Kinds, Oracle, ZERO};

/// The directory of the disk on the simulated one.
const HOME: &str = "disk";

/// A base whose cells tell their number; the last quarter is not allocated.
#[derive(Debug)]
struct SimBase {
    pages: u64,
}

impl SimBase {
    fn allocated(&self) -> u64 {
        (self.pages - self.pages / 4) * PAGE as u64
    }

    fn value(cell: u64) -> u64 {
        1 << 63 | cell
    }
}

impl BaseImage for SimBase {
    fn size(&self) -> u64 {
        self.pages * PAGE as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        for (cell, bytes) in (offset / CELL as u64..).zip(buf.chunks_exact_mut(CELL)) {
            fill(bytes, if cell * (CELL as u64) < self.allocated() { Self::value(cell) } else { 0 });
        }
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        let border = self.allocated().clamp(offset, offset + len);
        for (run, len) in [(BaseRun::Data, border - offset), (BaseRun::Zero, offset + len - border)] {
            if len > 0 {
                visit(run, len)?;
            }
        }
        Ok(())
    }
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct Rig {
    /// Of a new disk, without the footer page.
    pub(crate) pages: usize,
    /// It never grows beyond.
    pub(crate) most_pages: usize,
    keys: DiskKeys,
    base: Option<Arc<SimBase>>,
    options: Options,
    /// The kernel has a name for each boot.
    pub(crate) boots: bool,
    /// [`DiskAdmin::maintain`] has something to do.
    pub(crate) woken: Arc<AtomicBool>,
}

impl Rig {
    /// A disk of up to 24 pages with tiny limits.
    pub(crate) fn random(rng: &mut SimRng) -> Self {
        let pages = 2 + rng.index(23);
        let base = rng.coin().then(|| 1 + rng.below(pages as u64));
        let mut rig = Self::sized(rng.roll(), pages, base);
        rig.options.stripes = [1, 2, 4][rng.index(3)];
        rig.options.stripe_pages = [1, 2, 8][rng.index(3)];
        rig.options.log_bytes = [40, 48, 64][rng.index(3)] << 10;
        rig.options.pending_extents = [8, 12, 40][rng.index(3)];
        rig.boots = rng.coin();
        rig
    }

    /// A disk of up to three pages, so that everybody meets everybody.
    pub(crate) fn small(rng: &mut SimRng) -> Self {
        let pages = 1 + rng.index(3);
        let base = rng.coin().then(|| 1 + rng.below(pages as u64));
        let rig = Self::sized(rng.roll(), pages, base);
        rig.with_boots(rng.coin())
    }

    /// A disk of `pages` over a base of `base_pages`.
    pub(crate) fn sized(seed: u64, pages: usize, base_pages: Option<u64>) -> Self {
        let woken = Arc::new(AtomicBool::new(false));
        let wake = Arc::clone(&woken);
        let options = Options {
            stripes: 2,
            stripe_pages: 2,
            log_bytes: 36 << 10,
            least_log_bytes: 36 << 10,
            pending_extents: 12,
            wake: Arc::new(move || wake.store(true, Ordering::Relaxed)),
            recent_bytes: 32 << 10,
            boot: None,
            ..Options::default()
        };
        let base = base_pages.map(|pages| Arc::new(SimBase { pages }));
        Self {
            pages,
            most_pages: pages + 6,
            keys: seeded(seed, || DiskKeys::ephemeral().unwrap()),
            base,
            options,
            boots: false,
            woken,
        }
    }

    /// The same, with or without a name for each boot.
    pub(crate) fn with_boots(&self, boots: bool) -> Self {
        Self { boots, ..self.clone() }
    }

    /// The same, with a smaller log first and between two openings.
    pub(crate) fn with_small_log(&self, small: bool) -> Self {
        let mut rig = self.clone();
        if small {
            (rig.options.log_bytes, rig.options.pending_extents, rig.options.least_log_bytes) =
                (128 << 10, 120, 40 << 10);
        }
        rig
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.pages * PAGE) as u64
    }

    /// Makes the disk on an empty simulated one, as the account does: in a directory of its own that is then published.
    pub(crate) fn create(&self, world: &SimDisk, encryption: bool) -> Result<()> {
        let base = self.base.as_ref().map(|base| base_record(base.size()));
        let spec = Spec { base, ..Spec::new(Uuid::from_u128(7), "c/b", self.bytes()) };
        let root = world.root();
        let io = |error| sealdisk::Error::io("publishing", error);
        root.create_dir(".new").map_err(io)?;
        let dir = root.subdir(".new").map_err(io)?;
        Disk::create(dir, &spec, self.keys.clone(), encryption, &self.options)?;
        root.rename(".new", HOME).map_err(io)?;
        root.sync().map_err(io)
    }

    pub(crate) fn home(world: &SimDisk) -> std::io::Result<Arc<dyn Dir>> {
        world.root().subdir(HOME)
    }

    pub(crate) fn open(&self, world: &SimDisk, encryption: bool, access: Access) -> Result<Disk> {
        let dir = Self::home(world).map_err(|error| sealdisk::Error::io("opening the directory", error))?;
        let base = self.base.clone().map(|base| base as Arc<dyn BaseImage>);
        let mut options = self.options.clone();
        options.boot = self.boots.then(|| world.boot());
        Disk::open(dir, Some(self.keys.clone()), base, access, encryption, options)
    }

    /// A new disk and what it holds.
    pub(crate) fn fresh(&self, seed: u64, encryption: bool) -> (SimDisk, Oracle) {
        let world = SimDisk::new(seed);
        direct(|| self.create(&world, encryption)).expect("a disk is made where nothing fails");
        let (values, kinds) = self.initial();
        (world, Oracle::new(&values, &kinds, self.most_pages, encryption))
    }

    /// Values by cell and kinds by page of a new disk.
    pub(crate) fn initial(&self) -> (Vec<u64>, Vec<Kinds>) {
        let base_pages = self.base.as_ref().map_or(0, |base| base.pages as usize);
        let mut content = vec![0; self.pages.max(base_pages) * PAGE];
        if let Some(base) = &self.base {
            base.read_at(0, &mut content[..base_pages * PAGE]).expect("the base never fails");
        }
        let cells = content.chunks_exact(CELL).take(self.pages * CELLS_A_PAGE);
        let values = cells.map(|cell| crate::cells::parse(cell).expect("a base of values")).collect();
        let kinds = (0..self.pages).map(|page| if page < base_pages { BASE } else { ZERO }).collect();
        (values, kinds)
    }
}

fn base_record(size: u64) -> BaseRecord {
    toml::from_str(&format!("path = \"/base\"\nformat = \"raw\"\nsize = {size}\nfiles = []"))
        .expect("a record of a base")
}
