//! Metadata contexts: what BLOCK_STATUS says about a run, in the words of each context.
//!
//! Every context is told from the same runs of the disk, so their answers agree with one another.

use crate::PAGE;
use crate::disk::{PageState, Run};

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
    pub(super) const ALL: [Self; 3] = [Self::Allocation, Self::Depth, Self::Encryption];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::Depth => "qemu:allocation-depth",
            Self::Encryption => "sealdisk:encryption",
        }
    }

    /// The id that stands for it in replies; never 0, which LIST_META_CONTEXT sends.
    pub(super) fn id(self) -> u32 {
        self as u32 + 1
    }

    fn bit(self) -> u8 {
        1 << self as u8
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
        }
    }

    /// The extents of `[offset, offset + length)`, in bytes, as far as `runs` go. Neighbours differ.
    pub(super) fn extents(self, runs: &[Run], offset: u64, length: u64) -> Vec<Extent> {
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

/// A set of contexts, in the order of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Contexts(u8);

impl Contexts {
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Context> {
        Context::ALL.into_iter().filter(move |context| self.0 & context.bit() != 0)
    }

    /// Those of `self` whose ids are listed; `None` when one is listed twice or is not in `self`.
    pub(super) fn filter(self, ids: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut wanted = Self::default();
        for id in ids {
            let context = self.iter().find(|context| context.id() == id)?;
            if wanted.0 & context.bit() != 0 {
                return None;
            }
            wanted.0 |= context.bit();
        }
        Some(wanted)
    }

    /// What LIST_META_CONTEXT lists: no query asks for all, a bare namespace for all in it.
    pub(super) fn listed(queries: &[&str]) -> Result<Self, Malformed> {
        if queries.is_empty() {
            return Ok(Self(Context::ALL.iter().fold(0, |bits, context| bits | context.bit())));
        }
        Self::matching(queries, true)
    }

    /// What SET_META_CONTEXT selects: exact names only.
    pub(super) fn selected(queries: &[&str]) -> Result<Self, Malformed> {
        Self::matching(queries, false)
    }

    fn matching(queries: &[&str], wildcards: bool) -> Result<Self, Malformed> {
        let mut found = Self::default();
        for query in queries {
            let (namespace, leaf) = query.split_once(':').ok_or(Malformed::Text)?;
            for context in Context::ALL {
                let whole = context.name() == *query;
                let wildcard = wildcards && leaf.is_empty() && context.name().split(':').next() == Some(namespace);
                if whole || wildcard {
                    found.0 |= context.bit();
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(contexts: Contexts) -> Vec<&'static str> {
        contexts.iter().map(Context::name).collect()
    }

    #[test]
    fn wildcards_list_but_do_not_select() {
        assert_eq!(names(Contexts::listed(&[]).unwrap()).len(), 3);
        assert_eq!(names(Contexts::listed(&["base:"]).unwrap()), ["base:allocation"]);
        assert_eq!(names(Contexts::listed(&["x-other:", "base:nothing"]).unwrap()), [""; 0]);
        assert!(Contexts::selected(&["base:", "qemu:", "sealdisk:"]).unwrap().is_empty());
        assert!(Contexts::selected(&[]).unwrap().is_empty());
        let both = Contexts::selected(&["sealdisk:encryption", "base:allocation", "base:allocation"]).unwrap();
        assert_eq!(names(both), ["base:allocation", "sealdisk:encryption"]);
    }

    #[test]
    fn a_query_without_a_namespace_is_refused() {
        assert!(Contexts::listed(&["base"]).is_err());
        assert!(Contexts::selected(&[""]).is_err());
    }

    #[test]
    fn filters_refuse_duplicates_and_strangers() {
        let set = Contexts::selected(&["sealdisk:encryption", "base:allocation"]).unwrap();
        assert_eq!(names(set.filter([3]).unwrap()), ["sealdisk:encryption"]);
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
            context.extents(&runs, offset, length).iter().map(|extent| (extent.length, extent.status)).collect()
        };
        assert_eq!(of(Context::Allocation, 0, 40 * 512), [(16 * 512, 0), (16 * 512, 3), (8 * 512, 0)]);
        assert_eq!(of(Context::Allocation, 100, 200), [(200, 0)]);
        assert_eq!(of(Context::Depth, 4 * 512, 8 * 512), [(4 * 512, 1), (4 * 512, 2)]);
        let stored = [(8 * 512, 1), (8 * 512, 2), (8 * 512, 0), (16 * 512, 3)];
        assert_eq!(of(Context::Encryption, 0, u64::MAX), stored);
    }
}
