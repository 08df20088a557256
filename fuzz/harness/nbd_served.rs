//! One server for all inputs of a process, on a unix socket in a temporary directory.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Options, Spec};
use sealdisk::io::real::RealDir;
use sealdisk::nbd::{Config, Server};
use sealdisk::serve::{Export, ExportInfo, Exports, Identity};
use sealdisk::{Error, ErrorKind, Result};
use tempfile::TempDir;

pub(crate) const DISK: usize = 64 << 10;
pub(crate) const MAX_REQUEST: u32 = 32 << 10;

pub(crate) struct Served {
    #[allow(dead_code, reason = "one of the two harnesses looks at the disk itself")]
    pub(crate) disk: Arc<Disk>,
    socket: PathBuf,
    _folder: TempDir,
}

/// The disk as "rw", and read-only as "ro".
struct Both(Arc<Disk>);

impl Exports for Both {
    fn list(&self, _: &Identity, after: Option<&str>, most: usize) -> Vec<ExportInfo> {
        let names = ["ro", "rw"].into_iter().filter(|name| after.is_none_or(|after| *name > after));
        names.take(most).map(|name| ExportInfo { name: name.into(), description: String::new() }).collect()
    }

    fn open(&self, _: &Identity, name: &str) -> Result<Export> {
        match name {
            "rw" | "ro" => {
                let (name, read_only) = (name.to_owned(), name == "ro");
                Ok(Export { name, description: "text".into(), disk: Arc::clone(&self.0).into(), read_only })
            }
            _ => Err(Error::new(ErrorKind::NotFound, "there is no such disk")),
        }
    }
}

pub(crate) fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary directory");
        let keys = DiskKeys::ephemeral().expect("keys");
        let spec = Spec::new(uuid::Uuid::nil(), "vhds/fuzz", DISK as u64);
        std::fs::create_dir(folder.path().join("disk")).expect("a directory");
        let dir = Arc::new(RealDir::open(folder.path().join("disk")).expect("a directory"));
        Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).expect("a disk");
        let disk = Disk::open(dir, Some(keys), None, Access::ReadWrite, true, Options::default()).expect("a disk");
        let disk = Arc::new(disk);
        let config = Config { max_request: MAX_REQUEST, ..Config::default() };
        let mut server = Server::new(Arc::new(Both(Arc::clone(&disk))), config).expect("a server");
        let socket = folder.path().join("nbd.sock");
        server.listen_unix(&socket).expect("a socket");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime").block_on(server.run_until(std::future::pending()))
        });
        Served { disk, socket, _folder: folder }
    })
}

impl Served {
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        stream
    }
}
