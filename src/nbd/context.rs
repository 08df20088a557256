//! Metadata contexts: what BLOCK_STATUS says about a run, in the words of each context.
//!
//! Every context is told from the same runs of the disk, so their answers agree with one another.

use crate::disk::{Change, Disk, PageState, Run, Snapshot};
use crate::{PAGE, Result};

use super::wire::handshake::Malformed;
use super::wire::transmission::state;

/// A metadata context this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// `base:allocation`, defined by the protocol.
    Allocation,
    /// `qemu:allocation-depth`: 0 where no layer holds the run, 1 the top layer, and so on downwards.
    Depth,
    /// `sealdisk:encryption`: how the run is stored ([`encryption`]).
    Encryption,
    /// `sealdisk:diff:SNAPSHOT`: what changed since that snapshot, by its [`Snapshot::id`] ([`diff`]).
    Diff(u32),
}

/// The name of every [`Context::Diff`], up to the name of its snapshot.
const DIFF: &str = "sealdisk:diff:";

const NAMESPACES: [&str; 3] = ["base:", "qemu:", "sealdisk:"];

/// Flags of `sealdisk:diff:SNAPSHOT`.
pub mod diff {
    /// It may differ from what the snapshot has.
    pub const CHANGED: u32 = 1;
    /// Together with [`CHANGED`]: it reads as zeros and is stored nowhere.
    pub const CLEARED: u32 = 2;
}

/// Values of `sealdisk:encryption`.
pub mod encryption {
    /// Stored nowhere: reads as zeros.
    pub const ZERO: u32 = 0;
    /// Under a layer's data key.
    pub const ENCRYPTED: u32 = 1;
    /// In plaintext, in a layer.
    pub const PLAIN: u32 = 2;
    /// In the base image, which stays as it is.
    pub const BASE: u32 = 3;
}

impl Context {
    const FIXED: [Self; 3] = [Self::Allocation, Self::Depth, Self::Encryption];

    /// What it is called; [`Context::Diff`] up to the name of its snapshot.
    fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::Depth => "qemu:allocation-depth",
            Self::Encryption => "sealdisk:encryption",
            Self::Diff(_) => DIFF,
        }
    }

    /// The id that stands for it in replies; never 0, which LIST_META_CONTEXT sends.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::Depth => 2,
            Self::Encryption => 3,
            Self::Diff(_) => 4,
        }
    }

    fn status(self, run: &Run) -> u32 {
        match (self, run.state) {
            (Self::Allocation, PageState::Zero | PageState::Base { allocated: false }) => state::HOLE | state::ZERO,
            (Self::Allocation, _) => 0,
            (Self::Depth, _) => run.depth,
            (Self::Encryption, PageState::Zero) => encryption::ZERO,
            (Self::Encryption, PageState::Encrypted | PageState::Inherited { encrypted: true, .. }) => {
                encryption::ENCRYPTED
            }
            (Self::Encryption, PageState::Plain | PageState::Inherited { .. }) => encryption::PLAIN,
            (Self::Encryption, PageState::Base { .. }) => encryption::BASE,
            // Told from changes.
            (Self::Diff(_), _) => 0,
        }
    }

    /// The extents of `[offset, offset + length)`, in bytes, as far as `runs` go. Neighbours differ.
    fn of_runs(self, runs: &[Run], offset: u64, length: u64) -> Vec<Extent> {
        let end = offset.saturating_add(length);
        let mut extents: Vec<Extent> = Vec::new();
        for run in runs {
            let from = (run.start * PAGE as u64).max(offset);
            let to = ((run.start + run.pages) * PAGE as u64).min(end);
            if from >= to {
                continue;
            }
            let status = self.status(run);
            match extents.last_mut() {
                Some(last) if last.status == status => last.length += to - from,
                _ => extents.push(Extent { length: to - from, status }),
            }
        }
        extents
    }
}

/// One descriptor of a block status reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes.
    pub(super) length: u64,
    pub(super) status: u32,
}

/// What a disk says of a range, for some contexts.
#[derive(Debug)]
pub(super) struct Status {
    runs: Vec<Run>,
    changes: Vec<Change>,
    /// There are no more changes in the range.
    all_changes: bool,
}

impl Status {
    /// Asks `disk` about `[offset, offset + length)` what `contexts` tell; at most `limit` runs of each kind.
    pub(super) fn of(disk: &Disk, contexts: Contexts, offset: u64, length: u64, limit: usize) -> Result<Self> {
        disk.check_served()?;
        let runs = if contexts.fixed == 0 { Vec::new() } else { disk.runs(offset, length, limit)? };
        let changes = match contexts.diff {
            None => Vec::new(),
            Some(since) => disk.changes(since, offset, length, limit)?,
        };
        Ok(Self { all_changes: changes.len() < limit, runs, changes })
    }

    /// The extents of `[offset, offset + length)`, in bytes, as far as was asked. Neighbours differ.
    pub(super) fn extents(&self, context: Context, offset: u64, length: u64) -> Vec<Extent> {
        if !matches!(context, Context::Diff(_)) {
            return context.of_runs(&self.runs, offset, length);
        }
        let end = offset.saturating_add(length);
        let mut extents = Vec::new();
        let mut at = offset;
        let mut push = |to: u64, status| {
            if to > at {
                extents.push(Extent { length: to - at, status });
                at = to;
            }
        };
        for change in &self.changes {
            push((change.start * PAGE as u64).min(end), 0);
            let status = if change.cleared { diff::CHANGED | diff::CLEARED } else { diff::CHANGED };
            push(((change.start + change.pages) * PAGE as u64).min(end), status);
        }
        if self.all_changes {
            push(end, 0);
        }
        extents
    }
}

/// A set of contexts, in the order of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Contexts {
    /// Bits of [`Context::FIXED`], by their place there.
    fixed: u8,
    /// The snapshot to compare with: one at a time.
    diff: Option<u32>,
}

/// Contexts, and what each is called.
type Selected = (Contexts, Vec<(Context, String)>);

impl Contexts {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn len(self) -> usize {
        self.iter().count()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Context> {
        let fixed = Context::FIXED.into_iter().enumerate().filter(move |(place, _)| self.fixed & (1 << place) != 0);
        fixed.map(|(_, context)| context).chain(self.diff.map(Context::Diff))
    }

    fn insert(&mut self, context: Context) {
        match context {
            Context::Diff(line) => self.diff = Some(line),
            context => self.fixed |= 1 << (context.id() - 1),
        }
    }

    fn contains(self, context: Context) -> bool {
        self.iter().any(|own| own == context)
    }

    /// Those of `self` whose ids are listed; `None` when one is listed twice or is not in `self`.
    pub(super) fn filter(self, ids: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut wanted = Self::default();
        for id in ids {
            let context = self.iter().find(|context| context.id() == id)?;
            if wanted.contains(context) {
                return None;
            }
            wanted.insert(context);
        }
        Some(wanted)
    }

    /// What SET_META_CONTEXT selects, and the names of that: exact names only. `snapshots` are those that the export
    /// can be compared with. More than one of them is too many.
    pub(super) fn selected(queries: &[&str], snapshots: &[Snapshot]) -> std::result::Result<Selected, Malformed> {
        let named = asked_for(queries, snapshots, |query, name| query == name)?;
        if named.iter().filter(|(context, _)| matches!(context, Context::Diff(_))).count() > 1 {
            return Err(Malformed::TooMany);
        }
        let mut set = Self::default();
        named.iter().for_each(|&(context, _)| set.insert(context));
        Ok((set, named))
    }

    /// What LIST_META_CONTEXT lists: no query asks for all, a bare namespace for all in it, and `sealdisk:diff:` for
    /// all of that kind.
    pub(super) fn listed(queries: &[&str], snapshots: &[Snapshot]) -> std::result::Result<Vec<String>, Malformed> {
        let matches = |query: &str, name: &str| {
            let all = query == DIFF || query.split_once(':').is_some_and(|(_, leaf)| leaf.is_empty());
            query == name || (all && name.starts_with(query))
        };
        let named = asked_for(if queries.is_empty() { &NAMESPACES } else { queries }, snapshots, matches)?;
        Ok(named.into_iter().map(|(_, name)| name).collect())
    }
}

/// Those of all contexts that some query `matches`, in the order of their ids.
fn asked_for(
    queries: &[&str],
    snapshots: &[Snapshot],
    matches: impl Fn(&str, &str) -> bool,
) -> std::result::Result<Vec<(Context, String)>, Malformed> {
    if queries.iter().any(|query| !query.contains(':')) {
        return Err(Malformed::Text);
    }
    let fixed = Context::FIXED.into_iter().map(|context| (context, context.name().to_owned()));
    let diffs = snapshots.iter().map(|line| (Context::Diff(line.id), format!("{DIFF}{}", line.name)));
    Ok(fixed.chain(diffs).filter(|(_, name)| queries.iter().any(|query| matches(query, name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(queries: &[&str]) -> Vec<String> {
        let (set, named) = Contexts::selected(queries, &snapshots()).unwrap();
        assert!(named.iter().all(|&(context, _)| set.contains(context)) && set.len() == named.len());
        named.into_iter().map(|(_, name)| name).collect()
    }

    fn snapshots() -> Vec<Snapshot> {
        let line = |id, name: &str| Snapshot { id, name: name.into(), created: 0, sees: id, size: 1, base_limit: 0 };
        vec![line(3, "a"), line(9, "b:c")]
    }

    #[test]
    fn wildcards_list_but_do_not_select() {
        let listed = |queries: &[&str]| Contexts::listed(queries, &snapshots()).unwrap();
        let fixed = ["base:allocation", "qemu:allocation-depth", "sealdisk:encryption"];
        let diffs = ["sealdisk:diff:a", "sealdisk:diff:b:c"];
        assert_eq!(listed(&[]), [&fixed[..], &diffs].concat());
        assert_eq!(listed(&["base:"]), ["base:allocation"]);
        assert_eq!(listed(&["sealdisk:diff:"]), diffs);
        assert_eq!(listed(&["sealdisk:diff:b:c", "sealdisk:"]), [&fixed[2..], &diffs].concat());
        assert_eq!(listed(&["x-other:", "base:nothing", "sealdisk:diff:x"]), [""; 0]);
        assert_eq!(names(&["base:", "qemu:", "sealdisk:", "sealdisk:diff:"]), [""; 0]);
        assert_eq!(names(&[]), [""; 0]);
        let several = ["sealdisk:encryption", "base:allocation", "base:allocation", "sealdisk:diff:b:c"];
        assert_eq!(names(&several), ["base:allocation", "sealdisk:encryption", "sealdisk:diff:b:c"]);
        let two = Contexts::selected(&["sealdisk:diff:a", "sealdisk:diff:b:c"], &snapshots());
        assert!(matches!(two, Err(Malformed::TooMany)));
    }

    #[test]
    fn a_query_without_a_namespace_is_refused() {
        assert!(Contexts::listed(&["base"], &[]).is_err());
        assert!(Contexts::selected(&[""], &[]).is_err());
    }

    #[test]
    fn changes_are_cut_to_the_request_with_what_is_between_them() {
        let change = |start, pages, cleared| Change { start, pages, cleared };
        let changes = vec![change(2, 2, false), change(4, 1, true), change(8, 8, false)];
        let mut status = Status { runs: Vec::new(), changes, all_changes: true };
        let of = |status: &Status, offset, length| -> Vec<(u64, u32)> {
            status.extents(Context::Diff(1), offset, length).iter().map(|e| (e.length, e.status)).collect()
        };
        let all = [(1024, 0), (1024, 1), (512, 3), (1536, 0), (4096, 1), (2048, 0)];
        assert_eq!(of(&status, 0, 10240), all);
        assert_eq!(of(&status, 1100, 500), [(500, 1)]);
        assert_eq!(of(&status, 3000, 2000), [(1096, 0), (904, 1)]);
        status.all_changes = false;
        assert_eq!(of(&status, 0, 10240), all[..5]);
    }

    #[test]
    fn filters_refuse_duplicates_and_strangers() {
        let queries = ["sealdisk:encryption", "base:allocation", "sealdisk:diff:a"];
        let (set, _) = Contexts::selected(&queries, &snapshots()).unwrap();
        let filtered = set.filter([4, 3]).unwrap();
        assert_eq!(filtered.iter().collect::<Vec<_>>(), [Context::Encryption, Context::Diff(3)]);
        assert_eq!(set.filter([1, 1]), None);
        assert_eq!(set.filter([2]), None);
        assert!(set.filter([]).unwrap().is_empty());
    }

    #[test]
    fn extents_are_cut_to_the_request_and_merged() {
        let run = |start, pages, state, depth| Run { start, pages, state, layer: None, depth };
        let runs = [
            run(0, 8, PageState::Encrypted, 1),
            run(8, 8, PageState::Plain, 2),
            run(16, 8, PageState::Zero, 0),
            run(24, 8, PageState::Base { allocated: false }, 0),
            run(32, 8, PageState::Base { allocated: true }, 0),
        ];
        let of = |context: Context, offset, length| -> Vec<(u64, u32)> {
            context.of_runs(&runs, offset, length).iter().map(|extent| (extent.length, extent.status)).collect()
        };
        assert_eq!(of(Context::Allocation, 0, 40 * 512), [(16 * 512, 0), (16 * 512, 3), (8 * 512, 0)]);
        assert_eq!(of(Context::Allocation, 100, 200), [(200, 0)]);
        assert_eq!(of(Context::Depth, 4 * 512, 8 * 512), [(4 * 512, 1), (4 * 512, 2)]);
        let stored = [(8 * 512, 1), (8 * 512, 2), (8 * 512, 0), (16 * 512, 3)];
        assert_eq!(of(Context::Encryption, 0, u64::MAX), stored);
    }
}
