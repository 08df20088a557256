//! All files and directories of a simulated disk, the calls made so far, and the end by power cut or kill.

use std::fmt::Write as _;
use std::sync::Arc;

use super::content::{BLOCK, Content, Keep, SECTOR};
use super::digest;
use super::fault::{Call, Fault, Faults, Fired};
use super::names::Names;
use super::rng::SimRng;

/// The unit that a power cut leaves whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// 512 bytes.
    Sector,
    /// 4,096 bytes.
    Block,
}

/// A file as it is stored.
#[derive(Debug, Clone)]
pub struct RawFile {
    /// From the root.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Each sector that is not zeros, by its number: cached and durable versions, so that one may be listed twice.
    pub sectors: Vec<(usize, [u8; SECTOR])>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) content: Content,
    /// Failed syncs and write-backs so far, and how many of them some open file has reported.
    pub(super) errors: u32,
    pub(super) reported: u32,
    /// Open files.
    pub(super) open: u32,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(Names),
    /// No name leads here any more.
    Gone,
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(super) struct SimState {
    /// Node 0 is the root.
    nodes: Vec<Arc<Node>>,
    /// Number of the last change.
    seq: u64,
    pub(super) calls: u64,
    pub(super) rng: SimRng,
    pub(super) faults: Faults,
    pub(super) fired: Vec<Fired>,
    /// Blocks of the file system in all.
    pub(super) capacity: Option<u64>,
    /// Power cuts so far.
    pub(super) boot: u64,
    /// How often the device was reset, and mounted again, under a kernel that runs on.
    pub(super) mounts: u32,
    /// After this no call succeeds.
    pub(super) off: bool,
    /// The calls made, for people, where asked for.
    pub(super) trace: Option<String>,
}

impl SimState {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: vec![Arc::new(Node::Dir(Names::default()))],
            seq: 0,
            calls: 0,
            rng: SimRng::new(seed),
            faults: Faults::default(),
            fired: Vec::new(),
            capacity: None,
            boot: 0,
            mounts: 0,
            off: false,
            trace: None,
        }
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn add(&mut self, node: Node) -> usize {
        self.nodes.push(Arc::new(node));
        self.nodes.len() - 1
    }

    pub(super) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub(super) fn file(&self, node: usize) -> &FileNode {
        match &*self.nodes[node] {
            Node::File(file) => file,
            other => panic!("node {node} is no file: {other:?}"),
        }
    }

    pub(super) fn file_mut(&mut self, node: usize) -> &mut FileNode {
        match Arc::make_mut(&mut self.nodes[node]) {
            Node::File(file) => file,
            other => panic!("node {node} is no file: {other:?}"),
        }
    }

    pub(super) fn names(&self, node: usize) -> &Names {
        match &*self.nodes[node] {
            Node::Dir(names) => names,
            other => panic!("node {node} is no directory: {other:?}"),
        }
    }

    pub(super) fn names_mut(&mut self, node: usize) -> &mut Names {
        match Arc::make_mut(&mut self.nodes[node]) {
            Node::Dir(names) => names,
            other => panic!("node {node} is no directory: {other:?}"),
        }
    }

    /// Of every directory.
    pub(super) fn all_names(&mut self) -> impl Iterator<Item = &mut Names> {
        self.nodes.iter_mut().filter(|node| matches!(***node, Node::Dir(_))).map(|node| match Arc::make_mut(node) {
            Node::Dir(names) => names,
            other => unreachable!("{other:?}"),
        })
    }

    /// Counts the call and draws its fault.
    pub(super) fn begin(&mut self, call: Call, what: &dyn Fn() -> String) -> std::io::Result<Option<Fault>> {
        self.calls += 1;
        if self.off {
            return Err(std::io::Error::other("the power is off"));
        }
        let fault = self.faults.draw(self.calls, call, &mut self.rng);
        self.fired.extend(fault.map(|fault| Fired { at: self.calls, call, fault, on: what() }));
        digest::note(|digest| digest.add(&format!("{call:?} {} {fault:?}", what())));
        if let Some(trace) = &mut self.trace {
            let fault = fault.map(|fault| format!(" !{fault:?}")).unwrap_or_default();
            let _ = writeln!(trace, "{:6} {call:?} {}{fault}", self.calls, what());
        }
        Ok(fault)
    }

    /// Blocks that are free; `None`: without end.
    pub(super) fn free_blocks(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used_blocks()))
    }

    pub(super) fn used_blocks(&self) -> u64 {
        let mut reached = vec![false; self.nodes.len()];
        self.reach(0, &mut reached);
        self.nodes
            .iter()
            .zip(reached)
            .map(|(node, reached)| match &**node {
                Node::File(file) if reached || file.open > 0 => file.content.blocks(),
                _ => 0,
            })
            .sum()
    }

    /// Marks what a process can reach by name.
    fn reach(&self, node: usize, reached: &mut [bool]) {
        reached[node] = true;
        if let Node::Dir(names) = &*self.nodes[node] {
            for (_, child) in names.iter() {
                self.reach(child, reached);
            }
        }
    }

    /// One possible disk after a power cut now. Random choices come from `rng`, not from the world's own.
    pub(super) fn after_power_cut(&self, rng: &mut SimRng, tear: Tear) -> Self {
        let unit = match tear {
            Tear::Sector => 1,
            Tear::Block => BLOCK,
        };
        let style = rng.below(8);
        let whole = [0, 0, 500, 900][rng.index(4)];
        let up_to = self.seq - rng.below(24.min(self.seq + 1));
        let choose = |rng: &mut SimRng| match style {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            2 => Keep::UpTo(up_to),
            // File by file, everything or nothing: what tells an order between files.
            3..=5 => [Keep::Nothing, Keep::Everything][rng.index(2)],
            _ => Keep::Any { whole },
        };
        let mut nodes: Vec<Arc<Node>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            nodes.push(match &**node {
                Node::File(file) => {
                    let keep = choose(rng);
                    if file.content.pending() == 0 && file.open == 0 && file.errors == 0 {
                        Arc::clone(node)
                    } else {
                        let content = file.content.after_power_cut(keep, unit, rng);
                        Arc::new(Node::File(FileNode { content, ..FileNode::default() }))
                    }
                }
                Node::Dir(names) => {
                    let keep = choose(rng);
                    Arc::new(Node::Dir(names.after_power_cut(keep, rng)))
                }
                Node::Gone => Arc::clone(node),
            });
        }
        Self { boot: self.boot + 1, ..self.restarted(nodes, rng) }
    }

    /// One possible disk after its device was reset, as by a power cut, while the kernel runs on.
    pub(super) fn after_reset(&self, rng: &mut SimRng, tear: Tear) -> Self {
        Self { boot: self.boot, mounts: self.mounts + 1, ..self.after_power_cut(rng, tear) }
    }

    /// The disk after the death of the process: all is as it looked, and what was volatile still is. Errors that no one
    /// was told of may have been forgotten.
    pub(super) fn after_kill(&self, rng: &mut SimRng) -> Self {
        let revived = |node: &Arc<Node>| match &**node {
            Node::File(file) => {
                let reported = if rng.coin() { file.errors } else { file.reported };
                Arc::new(Node::File(FileNode { reported, open: 0, ..file.clone() }))
            }
            _ => Arc::clone(node),
        };
        let nodes = self.nodes.iter().map(revived).collect();
        self.restarted(nodes, rng)
    }

    fn restarted(&self, nodes: Vec<Arc<Node>>, rng: &mut SimRng) -> Self {
        let mut world = Self {
            nodes,
            seq: self.seq,
            calls: 0,
            rng: rng.fork(),
            faults: Faults::default(),
            fired: Vec::new(),
            capacity: self.capacity,
            boot: self.boot,
            mounts: self.mounts,
            off: false,
            trace: None,
        };
        world.forget_unreachable();
        world
    }

    fn forget_unreachable(&mut self) {
        let mut reached = vec![false; self.nodes.len()];
        let mut todo = vec![0];
        while let Some(node) = todo.pop() {
            if !std::mem::replace(&mut reached[node], true)
                && let Node::Dir(names) = &*self.nodes[node]
            {
                todo.extend(names.nodes());
            }
        }
        for (node, _) in reached.iter().enumerate().filter(|(_, reached)| !**reached) {
            self.nodes[node] = Arc::new(Node::Gone);
        }
    }

    pub(super) fn untold_errors(&self) -> usize {
        let untold = |node: &&Arc<Node>| matches!(&***node, Node::File(file) if file.reported < file.errors);
        self.nodes.iter().filter(untold).count()
    }

    pub(super) fn damage(&mut self, path: &str, sector: usize) {
        let mut node = 0;
        for name in path.split('/') {
            node = self.names(node).get(name).unwrap_or_else(|| panic!("no file {path}"));
        }
        let seq = self.next_seq();
        let content = &mut self.file_mut(node).content;
        let mut bytes = [0; SECTOR];
        let len = content.read(&mut bytes, (sector * SECTOR) as u64);
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        content.write(&bytes[..len], (sector * SECTOR) as u64, seq);
        content.sync(seq);
    }

    /// Every file a process can reach, in the order of their paths.
    pub(super) fn raw_files(&self) -> Vec<RawFile> {
        let mut files = Vec::new();
        let mut todo = vec![(String::new(), 0)];
        while let Some((path, node)) = todo.pop() {
            match &*self.nodes[node] {
                Node::Dir(names) => {
                    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                    todo.extend(names.iter().map(|(name, node)| (join(name), node)));
                }
                Node::File(file) => {
                    let mut sectors = Vec::new();
                    file.content.visit_stored(&mut |index, bytes| sectors.push((index, *bytes)));
                    files.push(RawFile { path, size: file.content.size(), sectors });
                }
                Node::Gone => {}
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// Every file that no process can reach, with no path.
    pub(super) fn freed_files(&self) -> Vec<RawFile> {
        let mut reached = vec![false; self.nodes.len()];
        self.reach(0, &mut reached);
        let freed = |(node, reached): (&Arc<Node>, bool)| match &**node {
            Node::File(file) if !reached => {
                let mut sectors = Vec::new();
                file.content.visit_stored(&mut |index, bytes| sectors.push((index, *bytes)));
                Some(RawFile { path: String::new(), size: file.content.size(), sectors })
            }
            _ => None,
        };
        self.nodes.iter().zip(reached).filter_map(freed).collect()
    }

    /// The sectors of the files in the directory at `path`, as in [`RawFile::sectors`], file by file in the order of
    /// their names. Nothing is copied.
    pub(super) fn visit_stored(&self, path: &str, visit: &mut dyn FnMut(&str, usize, &[u8; SECTOR])) {
        let down = |node: usize, name: &str| match &*self.nodes[node] {
            Node::Dir(names) => names.get(name),
            _ => None,
        };
        let Some(dir) = path.split('/').try_fold(0, down) else { return };
        for (name, node) in self.names(dir).iter() {
            if let Node::File(file) = &*self.nodes[node] {
                file.content.visit_stored(&mut |index, bytes| visit(name, index, bytes));
            }
        }
    }
}
