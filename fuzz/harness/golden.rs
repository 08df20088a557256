//! The golden account of `fixtures/format-0`, as directories in memory: see `fixtures/README.md`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sealdisk::account::settings::Settings;
use sealdisk::base::{BaseImage, BaseRun, VisitRun};
use sealdisk::crypto::kek::Kek;
use sealdisk::crypto::keyring::{DiskKeys, KeyRing};
use sealdisk::crypto::secret::SecretKey;
use sealdisk::disk::{Access, Disk, DiskSettings, Options};
use sealdisk::{ErrorKind, Result};
use uuid::Uuid;

use super::memory_dir::MemoryDir;

/// The boot of the kernel that the unclean disk was left by.
pub(crate) const BOOT: [u8; 16] = *b"the golden boot.";
pub(crate) const PLAIN: Uuid = Uuid::from_u128(0x10);
pub(crate) const SEALED: Uuid = Uuid::from_u128(0x20);
/// Over `base.raw`, with layers of both kinds and snapshots.
pub(crate) const MIXED: Uuid = Uuid::from_u128(0x30);
/// Of a snapshot of [`MIXED`].
pub(crate) const CLONE: Uuid = Uuid::from_u128(0x40);
/// Not closed: two logs, and changes that are noted in its recent file alone.
pub(crate) const ENDED: Uuid = Uuid::from_u128(0x50);
/// Of [`MIXED`] that [`CLONE`] reads.
pub(crate) const SNAPSHOT: &str = "kept";

#[derive(Debug, Clone)]
pub(crate) struct Golden {
    pub(crate) account: MemoryDir,
    pub(crate) kek: Kek,
    pub(crate) ring: KeyRing,
    pub(crate) base: Vec<u8>,
}

/// `fixtures/format-0`, from the crate and from the crate of the fuzz targets.
pub(crate) fn folder() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = [crate_folder.join("fixtures"), crate_folder.join("../fixtures")];
    beside.into_iter().find(|path| path.is_dir()).expect("the fixtures are there").join("format-0")
}

pub(crate) fn kek(hex: &str) -> Kek {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex digits");
    let key = SecretKey::fill_with(|key| {
        key.iter_mut().enumerate().for_each(|(at, key)| *key = byte(at));
        Ok(())
    });
    Kek::new(key.expect("memory for a key"))
}

pub(crate) fn golden() -> &'static Golden {
    static GOLDEN: OnceLock<Golden> = OnceLock::new();
    GOLDEN.get_or_init(|| {
        let read = |name: &str| std::fs::read(folder().join(name)).expect("a fixture");
        let account = MemoryDir::load(&folder().join("account")).expect("the golden account");
        let kek = kek(&String::from_utf8(read("kek")).expect("hex digits"));
        let ring = Settings::load(&account).and_then(|settings| settings.unlock(&kek)).expect("its keys");
        Golden { account, kek, ring, base: read("base.raw") }
    })
}

/// Small logs; and the boot that the unclean disk was left by, so that what it noted is believed.
pub(crate) fn options() -> Options {
    Options {
        stripes: 4,
        stripe_pages: 8,
        log_bytes: 48 << 10,
        pending_extents: 64,
        recent_bytes: 4 << 10,
        boot: Some(BOOT),
        clock: || 1_764_000_000,
        ..Options::default()
    }
}

impl Golden {
    pub(crate) fn keys(&self, disk: Uuid) -> DiskKeys {
        self.ring.disk_keys(disk).expect("memory for keys")
    }

    /// A copy of a disk's directory.
    pub(crate) fn disk(&self, disk: Uuid) -> MemoryDir {
        self.account.folder(&format!("disks/{disk}")).copy()
    }

    /// Opens what lies in `dir` as the disk `disk`, over what that has below it.
    pub(crate) fn open(&self, disk: Uuid, dir: &MemoryDir, access: Access) -> Result<Disk> {
        self.open_with(dir, Some(self.keys(disk)), access)
    }

    /// Without keys nothing can be read but what is not secret.
    pub(crate) fn open_with(&self, dir: &MemoryDir, keys: Option<DiskKeys>, access: Access) -> Result<Disk> {
        let settings = DiskSettings::load(dir, keys.as_ref())?;
        let base: Option<Arc<dyn BaseImage>> = match (&settings.base, &settings.parent) {
            (None, None) => None,
            (None, Some(_)) => Some(self.parent()),
            (Some(_), _) => Some(Arc::new(InMemory(self.base.clone()))),
        };
        Disk::open(Arc::new(dir.clone()), keys, base, access, true, options())
    }

    /// What the snapshot that the clone reads shows.
    fn parent(&self) -> Arc<dyn BaseImage> {
        static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
        let content = CONTENT.get_or_init(|| {
            let disk = self.open(MIXED, &self.disk(MIXED), Access::ReadOnly).expect("the golden disk");
            let view = disk.at_snapshot(SNAPSHOT).expect("its snapshot");
            let mut content = vec![0; view.size() as usize];
            view.read(0, &mut content).expect("it can be read");
            content
        });
        Arc::new(InMemory(content.clone()))
    }
}

/// A base in memory.
#[derive(Debug)]
pub(crate) struct InMemory(pub(crate) Vec<u8>);

impl InMemory {
    fn slice(&self, offset: u64, len: u64) -> Result<&[u8]> {
        let end = offset.checked_add(len).filter(|&end| end <= self.0.len() as u64);
        let past = || sealdisk::Error::new(ErrorKind::Io, "the base ends before");
        end.map(|end| &self.0[offset as usize..end as usize]).ok_or_else(past)
    }
}

impl BaseImage for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.copy_from_slice(self.slice(offset, buf.len() as u64)?);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        self.slice(offset, len).and_then(|_| visit(BaseRun::Data, len))
    }
}
