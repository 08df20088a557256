//! What a round will make durable: changes of presence, and everything else that a batch records.

use std::collections::BTreeMap;
use std::ops::Range;

use super::log::{Batch, Extent, Op};
use crate::disk::stack::extent_map::ExtentMap;
use crate::io::mutant;

/// Changes not durable yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    pub(crate) extents: BTreeMap<u32, ExtentMap>,
    pub(crate) ops: Vec<Op>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.ops.is_empty()
    }

    /// Pages that it names.
    pub(crate) fn pages(&self) -> u64 {
        self.extents.values().flat_map(ExtentMap::iter).map(|(pages, _)| pages.end - pages.start).sum()
    }

    /// Number of extent records it will take.
    pub(crate) fn count(&self) -> usize {
        self.extents.values().map(ExtentMap::len).sum()
    }

    /// Whether the durable state of any page of `pages` may differ from the live one.
    pub(crate) fn touches(&self, pages: &Range<u64>) -> bool {
        (!self.ops.is_empty() && !mutant!(PendingLineNotLookedAt))
            || self.extents.values().any(|map| map.intersects(pages.clone()))
    }

    pub(crate) fn batch(&self, generation: u64) -> Batch {
        let extents = self
            .extents
            .iter()
            .flat_map(|(&layer, map)| map.iter().map(move |(pages, mark)| Extent { pages, layer, mark }))
            .collect();
        Batch { generation, extents, ops: self.ops.clone() }
    }
}
