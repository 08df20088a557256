//! A directory of a simulated disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use super::disk::SimDisk;
use super::fault::{Call, eio, plain};
use super::file::SimFile;
use super::names::Names;
use super::point;
use super::state::{FileNode, Node, SimState};
use crate::io::{Dir, File, FileSystemId, Open};

pub(super) struct SimDir {
    disk: SimDisk,
    node: usize,
    path: PathBuf,
    /// Number of the last change before.
    opened: u64,
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDir({})", self.path.display())
    }
}

impl SimDir {
    pub(super) fn new(disk: SimDisk, node: usize, path: PathBuf, opened: u64) -> Self {
        Self { disk, node, path, opened }
    }

    fn begin(&self, call: Call, name: &str) -> io::Result<MutexGuard<'_, SimState>> {
        let (world, fault) = self.disk.begin(call, || format!("{}/{name}", self.path.display()))?;
        plain(fault)?;
        Ok(world)
    }

    /// Makes durable what `each` gives when the call begins, or loses it.
    fn sync_names(&self, call: Call, each: impl Fn(&mut SimState, &mut dyn FnMut(&mut Names))) -> io::Result<()> {
        let (world, fault) = self.disk.begin(call, || self.path.display().to_string())?;
        let began = world.last_seq();
        drop(world);
        point();
        let mut world = self.disk.world();
        if fault.is_some() {
            let now = world.next_seq();
            each(&mut world, &mut |names| names.lose(began, now));
            return Err(eio());
        }
        each(&mut world, &mut |names| names.sync(began, self.opened));
        Ok(())
    }
}

impl Dir for SimDir {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let call = if how == Open::New { Call::Create } else { Call::Open };
        let mut world = self.begin(call, name)?;
        let node = match (world.names(self.node).get(name), how) {
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::New) => {
                let seq = world.next_seq();
                let node = world.add(Node::File(FileNode::default()));
                world.names_mut(self.node).link(name, node, seq);
                node
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
            (Some(node), _) if matches!(world.node(node), Node::File(_)) => node,
            (Some(_), _) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        };
        drop(world);
        Ok(Arc::new(SimFile::open(self.disk.clone(), node, self.path.join(name), how != Open::Read)))
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        let mut world = self.begin(Call::OpenDir, name)?;
        let node = world.names(self.node).get(name).ok_or(io::ErrorKind::NotFound)?;
        if !matches!(world.node(node), Node::Dir(_)) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let opened = world.next_seq();
        Ok(Arc::new(Self { disk: self.disk.clone(), node, path: self.path.join(name), opened }))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let mut world = self.begin(Call::CreateDir, name)?;
        if world.names(self.node).get(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let seq = world.next_seq();
        let node = world.add(Node::Dir(Names::default()));
        world.names_mut(self.node).link(name, node, seq);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.begin(Call::Rename, &format!("{from} -> {to}"))?;
        world.names(self.node).get(from).ok_or(io::ErrorKind::NotFound)?;
        let seq = world.next_seq();
        world.names_mut(self.node).rename(from, to, seq);
        Ok(())
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let mut world = self.begin(Call::Rename, &format!("{one} <-> {other}"))?;
        for name in [one, other] {
            world.names(self.node).get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        let seq = world.next_seq();
        world.names_mut(self.node).exchange(one, other, seq);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.begin(Call::Remove, name)?;
        let node = world.names(self.node).get(name).ok_or(io::ErrorKind::NotFound)?;
        if let Node::Dir(names) = world.node(node)
            && names.iter().next().is_some()
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let seq = world.next_seq();
        world.names_mut(self.node).unlink(name, seq);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let world = self.begin(Call::List, "")?;
        Ok(world.names(self.node).iter().map(|(name, _)| name.to_owned()).collect())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_names(Call::SyncDir, |world, apply| apply(world.names_mut(self.node)))
    }

    fn sync_file_system(&self) -> io::Result<Option<FileSystemId>> {
        self.sync_names(Call::SyncFileSystem, |world, apply| world.all_names().for_each(apply))?;
        self.file_system().map(Some)
    }

    fn file_system(&self) -> io::Result<FileSystemId> {
        Ok(0)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = self.begin(Call::FreeBytes, "")?;
        Ok(world.free_blocks().map_or(1 << 40, |blocks| blocks * 4096))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
