//! Disks in a temporary directory and a server over them, in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sealdisk::base::{BaseImage, BaseRecord, BaseRun, Format, VisitRun};
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Options, Spec};
use sealdisk::io::real::RealDir;
use sealdisk::nbd::{Config, Server};
use sealdisk::serve::{Export, ExportInfo, Exports, Identity};
use sealdisk::{Error, ErrorKind, Result};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub(crate) const MIB: u64 = 1 << 20;

/// A base image whose every 8-byte word is its own offset, but for a hole from 1/4 to 1/2 of it.
#[derive(Debug)]
pub(crate) struct Counting(pub(crate) u64);

impl Counting {
    fn hole(&self) -> std::ops::Range<u64> {
        self.0 / 4..self.0 / 2
    }

    pub(crate) fn byte(&self, at: u64) -> u8 {
        if self.hole().contains(&at) { 0 } else { (at & !7).to_le_bytes()[(at % 8) as usize] }
    }
}

impl BaseImage for Counting {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = self.byte(at);
        }
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (kind, until) = match at {
                at if at < self.hole().start => (BaseRun::Data, self.hole().start),
                at if at < self.hole().end => (BaseRun::Zero, self.hole().end),
                _ => (BaseRun::Data, self.0),
            };
            visit(kind, until.min(end) - at)?;
            at = until.min(end);
        }
        Ok(())
    }
}

/// Disks by export name; they come and go.
pub(crate) struct Shelf {
    folder: TempDir,
    exports: Mutex<BTreeMap<String, Export>>,
}

impl Shelf {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { folder: TempDir::new().unwrap(), exports: Mutex::default() })
    }

    /// With one new disk called "disk", encryption on.
    pub(crate) fn with_disk(size: u64) -> (Arc<Self>, Arc<Disk>) {
        let shelf = Self::new();
        let disk = shelf.add("disk", size, None);
        (shelf, disk)
    }

    pub(crate) fn add(&self, name: &str, size: u64, base: Option<Counting>) -> Arc<Disk> {
        self.add_over(name, size, base.map(|base| Arc::new(base) as Arc<dyn BaseImage>))
    }

    pub(crate) fn add_over(&self, name: &str, size: u64, base: Option<Arc<dyn BaseImage>>) -> Arc<Disk> {
        let dir = self.folder.path().join(format!("{}", self.exports.lock().unwrap().len()));
        std::fs::create_dir(&dir).unwrap();
        let disk = Arc::new(make_disk(&dir, size, base));
        self.put(name, &disk, false);
        disk
    }

    pub(crate) fn put(&self, name: &str, disk: &Arc<Disk>, read_only: bool) {
        let description = format!("the disk {name}");
        let export = Export { name: name.into(), description, disk: Arc::clone(disk).into(), read_only };
        self.exports.lock().unwrap().insert(name.into(), export);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.exports.lock().unwrap().remove(name);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Exports for Shelf {
    fn list(&self, _: &Identity, after: Option<&str>, most: usize) -> Vec<ExportInfo> {
        let exports = self.exports.lock().unwrap();
        let rest = exports.values().filter(|export| after.is_none_or(|after| export.name.as_str() > after));
        let info = |e: &Export| ExportInfo { name: e.name.clone(), description: e.description.clone() };
        rest.take(most).map(info).collect()
    }

    fn open(&self, _: &Identity, name: &str) -> Result<Export> {
        let exports = self.exports.lock().unwrap();
        let found = match name {
            "" if exports.len() == 1 => exports.values().next(),
            name => exports.get(name),
        };
        found.cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such disk"))
    }
}

fn make_disk(dir: &Path, size: u64, base: Option<Arc<dyn BaseImage>>) -> Disk {
    let keys = DiskKeys::ephemeral().unwrap();
    let record = base.as_ref().map(|base| BaseRecord {
        path: "/counting".into(),
        format: Format::Raw,
        size: base.size(),
        recover: false,
        files: Vec::new(),
    });
    let spec = Spec { base: record, ..Spec::new(uuid::Uuid::new_v4(), "vhds/disk", size) };
    let dir = Arc::new(RealDir::open(dir).unwrap());
    Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).unwrap();
    Disk::open(dir, Some(keys), base, Access::ReadWrite, true, Options::default()).unwrap()
}

/// A running server on a unix socket. Stops, and waits for its end, when dropped.
pub(crate) struct ServerFixture {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ServerFixture {
    pub(crate) fn new(shelf: &Arc<Shelf>, config: Config) -> Self {
        Self::with_server(shelf, config, |_| {})
    }

    /// `bind` may bind it to more than its unix socket.
    pub(crate) fn with_server(shelf: &Arc<Shelf>, config: Config, bind: impl FnOnce(&mut Server)) -> Self {
        let socket = shelf.path("nbd.sock");
        let mut server = Server::new(Arc::clone(shelf) as Arc<dyn Exports>, config).unwrap();
        server.listen_unix(&socket).unwrap();
        bind(&mut server);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || run(server, stopped));
        Self { shelf: Arc::clone(shelf), socket, stop: Some(stop), thread: Some(thread) }
    }

    /// A server over one new disk of `size` bytes, with default limits.
    pub(crate) fn plain(size: u64) -> (Self, Arc<Disk>) {
        let (shelf, disk) = Shelf::with_disk(size);
        (Self::new(&shelf, Config::default()), disk)
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of a stopped server.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn run(server: Server, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(server.run_until(async { drop(stopped.await) })).unwrap();
}

impl Drop for ServerFixture {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}
