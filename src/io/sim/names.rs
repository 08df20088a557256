//! The names in one directory: those a process sees, those that are durable, and the changes between the two.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::Keep;
use super::rng::SimRng;

#[derive(Debug, Clone)]
enum Change {
    Link(Arc<str>, usize),
    Unlink(Arc<str>),
    Rename(Arc<str>, Arc<str>),
    Exchange(Arc<str>, Arc<str>),
}

impl Change {
    fn touches(&self, name: &str) -> bool {
        match self {
            Self::Link(of, _) | Self::Unlink(of) => &**of == name,
            Self::Rename(from, to) | Self::Exchange(from, to) => &**from == name || &**to == name,
        }
    }

    fn shares_a_name(&self, other: &Self) -> bool {
        match self {
            Self::Link(name, _) | Self::Unlink(name) => other.touches(name),
            Self::Rename(from, to) | Self::Exchange(from, to) => other.touches(from) || other.touches(to),
        }
    }
}

#[derive(Debug, Clone)]
struct Pending {
    seq: u64,
    change: Change,
    /// When a sync that covered it failed.
    lost: Option<u64>,
}

type Table = BTreeMap<Arc<str>, usize>;

/// See the module documentation. Values are numbers of files and directories.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    seen: Arc<Table>,
    durable: Arc<Table>,
    pending: Vec<Pending>,
}

impl Names {
    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.seen.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.seen.iter().map(|(name, node)| (&**name, *node))
    }

    /// Also the durable names that no process sees any more.
    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> {
        let linked = self.pending.iter().filter_map(|pending| match pending.change {
            Change::Link(_, node) => Some(node),
            _ => None,
        });
        self.seen.values().chain(self.durable.values()).copied().chain(linked)
    }

    pub(super) fn link(&mut self, name: &str, node: usize, seq: u64) {
        self.change(Change::Link(name.into(), node), seq);
    }

    pub(super) fn unlink(&mut self, name: &str, seq: u64) {
        self.change(Change::Unlink(name.into()), seq);
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, seq: u64) {
        self.change(Change::Rename(from.into(), to.into()), seq);
    }

    pub(super) fn exchange(&mut self, one: &str, other: &str, seq: u64) {
        self.change(Change::Exchange(one.into(), other.into()), seq);
    }

    fn change(&mut self, change: Change, seq: u64) {
        apply(Arc::make_mut(&mut self.seen), &change);
        self.pending.push(Pending { seq, change, lost: None });
    }

    /// Makes durable what is numbered up to `seq`, for who has the directory open since `opened`. What an earlier sync
    /// failed to is not made good for who had it open then and could know; who opens it later can not.
    pub(super) fn sync(&mut self, seq: u64, opened: u64) {
        let counts = |pending: &Pending| pending.seq <= seq && pending.lost.is_none_or(|lost| lost < opened);
        let wanted: Vec<bool> = self.pending.iter().map(counts).collect();
        let keep = self.closed(wanted);
        self.keep_chosen(&keep);
        let mut kept = keep.iter();
        self.pending.retain(|_| !kept.next().is_some_and(|kept| *kept));
    }

    /// A sync that fails.
    pub(super) fn lose(&mut self, seq: u64, now: u64) {
        self.pending.iter_mut().filter(|pending| pending.seq <= seq).for_each(|pending| pending.lost = Some(now));
    }

    pub(super) fn after_power_cut(&self, keep: Keep, rng: &mut SimRng) -> Self {
        let wanted = self.pending.iter().map(|pending| match keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::UpTo(seq) => pending.seq <= seq,
            Keep::Any { .. } => rng.coin(),
        });
        let keep = self.closed(wanted.collect());
        let mut after = self.clone();
        after.keep_chosen(&keep);
        after.seen = Arc::clone(&after.durable);
        after.pending.clear();
        after
    }

    /// A kept change brings along the earlier ones of its names.
    fn closed(&self, mut keep: Vec<bool>) -> Vec<bool> {
        for later in (0..keep.len()).rev().filter(|later| keep[*later]).collect::<Vec<_>>() {
            self.close(&mut keep, later);
        }
        keep
    }

    fn close(&self, keep: &mut [bool], later: usize) {
        for earlier in (0..later).rev() {
            if self.pending[earlier].change.shares_a_name(&self.pending[later].change) && !keep[earlier] {
                keep[earlier] = true;
                self.close(keep, earlier);
            }
        }
    }

    fn keep_chosen(&mut self, keep: &[bool]) {
        if keep.iter().any(|keep| *keep) {
            let durable = Arc::make_mut(&mut self.durable);
            for (pending, _) in self.pending.iter().zip(keep).filter(|(_, keep)| **keep) {
                apply(durable, &pending.change);
            }
        }
    }
}

fn apply(table: &mut Table, change: &Change) {
    match change {
        Change::Link(name, node) => drop(table.insert(Arc::clone(name), *node)),
        Change::Unlink(name) => drop(table.remove(name)),
        Change::Rename(from, to) => {
            if let Some(node) = table.remove(from) {
                table.insert(Arc::clone(to), node);
            }
        }
        Change::Exchange(one, other) => {
            if let (Some(first), Some(second)) = (table.get(one).copied(), table.get(other).copied()) {
                table.insert(Arc::clone(one), second);
                table.insert(Arc::clone(other), first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &Names) -> Vec<(String, usize)> {
        names.iter().map(|(name, node)| (name.to_owned(), node)).collect()
    }

    #[test]
    fn a_kept_rename_brings_the_creation_along_and_nothing_else() {
        let mut names = Names::default();
        names.link("a", 1, 1);
        names.sync(1, 0);
        names.link("a.tmp", 2, 2);
        names.link("b", 3, 3);
        names.rename("a.tmp", "a", 4);
        let mut seen = std::collections::BTreeSet::new();
        let mut rng = SimRng::new(3);
        for _ in 0..100 {
            seen.insert(listed(&names.after_power_cut(Keep::Any { whole: 0 }, &mut rng)));
        }
        let a = |node: usize| ("a".to_owned(), node);
        let (b, tmp) = (("b".to_owned(), 3), ("a.tmp".to_owned(), 2));
        let expected = [
            vec![a(1)],
            vec![a(1), tmp.clone()],
            vec![a(1), tmp, b.clone()],
            vec![a(1), b.clone()],
            vec![a(2)],
            vec![a(2), b],
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let mut names = Names::default();
        names.link("a", 1, 1);
        names.lose(1, 2);
        names.sync(2, 0);
        let mut rng = SimRng::new(0);
        assert!(listed(&names.after_power_cut(Keep::Nothing, &mut rng)).is_empty());
        assert_eq!(listed(&names.after_power_cut(Keep::Everything, &mut rng)).len(), 1);
        names.sync(3, 3);
        assert_eq!(listed(&names.after_power_cut(Keep::Nothing, &mut rng)).len(), 1);
    }
}
