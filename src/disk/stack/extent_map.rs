//! Changes of presence that are not durable yet: disjoint runs of pages, each with its last state.

use std::collections::BTreeMap;
use std::ops::Range;

/// What an extent record says of its pages in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Held,
    Zero,
}

/// Disjoint runs in order; neighbours of equal mark are merged.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExtentMap {
    runs: BTreeMap<u64, (u64, Mark)>,
}

impl ExtentMap {
    /// Sets the mark of `range`, whatever it was.
    pub(crate) fn assign(&mut self, range: Range<u64>, mark: Mark) {
        let (mut start, mut end) = (range.start, range.end);
        if start >= end {
            return;
        }
        // A run that begins before the range and reaches into it, or touches it with the same mark.
        if let Some((&run_start, &(run_end, run_mark))) = self.runs.range(..start).next_back()
            && run_end >= start
        {
            if run_mark == mark {
                start = run_start;
                end = end.max(run_end);
            } else if run_end > start {
                self.runs.insert(run_start, (start, run_mark));
                if run_end > end {
                    self.runs.insert(end, (run_end, run_mark));
                }
            }
        }
        while let Some((&run_start, &(run_end, run_mark))) = self.runs.range(start..=end).next() {
            if run_start == end && run_mark != mark {
                break;
            }
            self.runs.remove(&run_start);
            if run_end > end {
                if run_mark == mark {
                    end = run_end;
                } else {
                    self.runs.insert(end, (run_end, run_mark));
                }
            }
        }
        self.runs.insert(start, (end, mark));
    }

    #[must_use]
    pub(crate) fn intersects(&self, range: Range<u64>) -> bool {
        self.runs.range(..range.end).next_back().is_some_and(|(_, &(end, _))| end > range.start)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Range<u64>, Mark)> {
        self.runs.iter().map(|(&start, &(end, mark))| (start..end, mark))
    }

    /// Number of runs.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_an_array(ops in prop::collection::vec((0u64..60, 0u64..20, any::<bool>()), 1..60)) {
            let mut map = ExtentMap::default();
            let mut model = [None; 100];
            for (start, len, held) in ops {
                let mark = if held { Mark::Held } else { Mark::Zero };
                map.assign(start..start + len, mark);
                model[start as usize..(start + len) as usize].fill(Some(mark));
            }
            let mut seen = [None; 100];
            let mut last: Option<(u64, Mark)> = None;
            for (run, mark) in map.iter() {
                prop_assert!(run.start < run.end);
                if let Some((end, before)) = last {
                    prop_assert!(end < run.start || (end == run.start && before != mark), "unmerged neighbours");
                }
                last = Some((run.end, mark));
                seen[run.start as usize..run.end as usize].fill(Some(mark));
            }
            prop_assert_eq!(seen, model);
            for start in 0..99u64 {
                for end in start + 1..100 {
                    let any = model[start as usize..end as usize].iter().any(Option::is_some);
                    prop_assert_eq!(map.intersects(start..end), any);
                }
            }
        }
    }
}
