//! A set of page numbers: which pages a layer holds, holds as zero, or has left behind.
//!
//! Compressed bitmaps (`roaring`) of [`PART`] pages each, with parts that are wholly in or out kept as a word: so a
//! uniform run costs nothing whatever its length (a trim of 8 TiB touches 4,096 words), a mixed 32 MiB region 8 KiB,
//! and no operation moves more than one part's containers about.

use std::ops::Range;

use roaring::RoaringBitmap;

mod codec;

/// Pages in a part: 2 GiB.
const PART: u64 = 1 << 22;

#[derive(Debug, Clone, Default)]
enum Part {
    #[default]
    Empty,
    Full,
    Mixed(RoaringBitmap),
}

/// How much of a range is in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Nothing,
    Some,
    All,
}

/// See the module documentation. Ranges are in pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageSet {
    parts: Vec<Part>,
}

fn local(range: &Range<u64>, base: u64) -> Range<u32> {
    (range.start - base) as u32..(range.end - base) as u32
}

/// The pieces of `range` by part: part index, first page of the part, piece.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (usize, u64, Range<u64>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let base = at / PART * PART;
            let piece = at..range.end.min(base + PART);
            at = piece.end;
            ((base / PART) as usize, base, piece)
        })
    })
}

impl PageSet {
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn part(&self, index: usize) -> &Part {
        self.parts.get(index).unwrap_or(&Part::Empty)
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        for (index, base, piece) in pieces(range) {
            if self.parts.len() <= index {
                self.parts.resize(index + 1, Part::Empty);
            }
            let part = &mut self.parts[index];
            if piece.end - piece.start == PART {
                *part = Part::Full;
            }
            match part {
                Part::Full => {}
                Part::Mixed(bits) => {
                    bits.insert_range(local(&piece, base));
                }
                Part::Empty => {
                    let mut bits = RoaringBitmap::new();
                    bits.insert_range(local(&piece, base));
                    *part = Part::Mixed(bits);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, range: Range<u64>) {
        for (index, base, piece) in pieces(range) {
            let Some(part) = self.parts.get_mut(index) else { return };
            if piece.end - piece.start == PART {
                *part = Part::Empty;
                continue;
            }
            if let Part::Full = part {
                let mut bits = RoaringBitmap::new();
                bits.insert_range(0..PART as u32);
                *part = Part::Mixed(bits);
            }
            if let Part::Mixed(bits) = part {
                bits.remove_range(local(&piece, base));
                if bits.is_empty() {
                    *part = Part::Empty;
                }
            }
        }
    }

    /// Whether every page of `range` is in.
    #[must_use]
    pub(crate) fn contains_all(&self, range: Range<u64>) -> bool {
        pieces(range).all(|(index, base, piece)| match self.part(index) {
            Part::Empty => false,
            Part::Full => true,
            Part::Mixed(bits) => bits.contains_range(local(&piece, base)),
        })
    }

    #[must_use]
    pub(crate) fn intersects(&self, range: Range<u64>) -> bool {
        self.next_run(range).is_some()
    }

    /// How much of `range` is in; nothing of an empty one. What a read asks each layer: the first page settles most of
    /// it.
    #[must_use]
    pub(crate) fn share(&self, range: Range<u64>) -> Share {
        let mut shares = pieces(range).map(|(index, base, piece)| match self.part(index) {
            Part::Empty => Share::Nothing,
            Part::Full => Share::All,
            Part::Mixed(bits) => {
                let piece = local(&piece, base);
                if bits.contains(piece.start) {
                    if bits.contains_range(piece) { Share::All } else { Share::Some }
                } else if bits.range(piece).next().is_some() {
                    Share::Some
                } else {
                    Share::Nothing
                }
            }
        });
        let first = shares.next().unwrap_or(Share::Nothing);
        if shares.all(|share| share == first) { first } else { Share::Some }
    }

    /// The first run of pages inside `range`, clipped to it.
    #[must_use]
    pub(crate) fn next_run(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut found: Option<Range<u64>> = None;
        let end = range.end.min(self.parts.len() as u64 * PART);
        for (index, base, piece) in pieces(range.start..end) {
            let mut at = piece.start;
            while at < piece.end {
                let run = match self.part(index) {
                    Part::Empty => None,
                    Part::Full => Some(piece.clone()),
                    Part::Mixed(bits) => bits
                        .range(local(&(at..piece.end), base))
                        .next_range()
                        .map(|run| base + u64::from(*run.start())..(base + u64::from(*run.end()) + 1).min(piece.end)),
                };
                match (&mut found, run) {
                    (None, None) => break,
                    (Some(_), None) => return found,
                    (None, Some(run)) => {
                        at = run.end;
                        found = Some(run);
                    }
                    (Some(known), Some(run)) if known.end == run.start => {
                        at = run.end;
                        known.end = run.end;
                    }
                    (Some(_), Some(_)) => return found,
                }
            }
        }
        found
    }

    /// All runs inside `range`, in order.
    pub(crate) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let run = self.next_run(at..range.end)?;
            at = run.end;
            Some(run)
        })
    }

    /// Pages of `range` that are in.
    #[must_use]
    pub(crate) fn count(&self, range: Range<u64>) -> u64 {
        let end = range.end.min(self.parts.len() as u64 * PART);
        pieces(range.start..end)
            .map(|(index, base, piece)| match self.part(index) {
                Part::Empty => 0,
                Part::Full => piece.end - piece.start,
                Part::Mixed(bits) => bits.range_cardinality(local(&piece, base)),
            })
            .sum()
    }

    #[must_use]
    pub(crate) fn len(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Empty => 0,
                Part::Full => PART,
                Part::Mixed(bits) => bits.len(),
            })
            .sum()
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub(crate) fn memory_bytes(&self) -> u64 {
        let of = |part: &Part| match part {
            Part::Mixed(bits) => {
                let containers = bits.statistics();
                containers.n_bytes_array_containers
                    + containers.n_bytes_run_containers
                    + containers.n_bytes_bitset_containers
            }
            _ => 0,
        };
        (self.parts.len() * size_of::<Part>()) as u64 + self.parts.iter().map(of).sum::<u64>()
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Empty))
    }

    fn combine(
        &mut self,
        other: &PageSet,
        parts: usize,
        mixed: impl Fn(&RoaringBitmap, &RoaringBitmap) -> RoaringBitmap,
        uniform: impl Fn(bool, bool) -> bool,
    ) {
        let full = || {
            let mut bits = RoaringBitmap::new();
            bits.insert_range(0..PART as u32);
            bits
        };
        self.parts.resize(parts, Part::Empty);
        for (index, part) in self.parts.iter_mut().enumerate() {
            let bits = match (&*part, other.part(index)) {
                (Part::Mixed(a), Part::Mixed(b)) => mixed(a, b),
                (Part::Mixed(a), Part::Empty) => mixed(a, &RoaringBitmap::new()),
                (Part::Mixed(a), Part::Full) => mixed(a, &full()),
                (Part::Empty, Part::Mixed(b)) => mixed(&RoaringBitmap::new(), b),
                (Part::Full, Part::Mixed(b)) => mixed(&full(), b),
                (a, b) => {
                    let both = uniform(matches!(a, Part::Full), matches!(b, Part::Full));
                    *part = if both { Part::Full } else { Part::Empty };
                    continue;
                }
            };
            *part = match bits.len() {
                0 => Part::Empty,
                PART => Part::Full,
                _ => Part::Mixed(bits),
            };
        }
    }

    pub(crate) fn union_with(&mut self, other: &PageSet) {
        self.combine(other, self.parts.len().max(other.parts.len()), |a, b| a | b, |a, b| a || b);
    }

    pub(crate) fn subtract(&mut self, other: &PageSet) {
        self.combine(other, self.parts.len(), |a, b| a - b, |a, b| a && !b);
    }

    pub(crate) fn intersect_with(&mut self, other: &PageSet) {
        self.combine(other, self.parts.len().min(other.parts.len()), |a, b| a & b, |a, b| a && b);
    }

    #[must_use]
    pub(crate) fn is_disjoint(&self, other: &PageSet) -> bool {
        self.parts.iter().zip(&other.parts).all(|parts| match parts {
            (Part::Empty, _) | (_, Part::Empty) => true,
            (Part::Full, Part::Full) => false,
            (Part::Full, Part::Mixed(bits)) | (Part::Mixed(bits), Part::Full) => bits.is_empty(),
            (Part::Mixed(a), Part::Mixed(b)) => a.is_disjoint(b),
        })
    }

    /// Whether both hold the same pages, in whatever form.
    #[must_use]
    pub(crate) fn same(&self, other: &PageSet) -> bool {
        let less = |a: &PageSet, b: &PageSet| {
            let mut rest = a.clone();
            rest.subtract(b);
            rest.is_empty()
        };
        less(self, other) && less(other, self)
    }

    /// The part of the set inside `range`.
    #[must_use]
    pub(crate) fn clipped(&self, range: Range<u64>) -> PageSet {
        let mut window = PageSet::new();
        window.insert(range);
        window.intersect_with(self);
        window
    }

    /// Moves each container to its smallest form.
    pub(crate) fn compact(&mut self) {
        for part in &mut self.parts {
            if let Part::Mixed(bits) = part {
                bits.optimize();
                if bits.len() == PART {
                    *part = Part::Full;
                }
            }
        }
        while matches!(self.parts.last(), Some(Part::Empty)) {
            self.parts.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Small ranges around the border of a part, and some that cover whole parts.
    fn range() -> impl Strategy<Value = Range<u64>> {
        let near = (PART - 40..PART + 40, 0u64..60).prop_map(|(start, len)| start..start + len);
        let low = (0u64..80, 0u64..60).prop_map(|(start, len)| start..start + len);
        prop_oneof![near, low]
    }

    fn elements(set: &PageSet) -> BTreeSet<u64> {
        set.runs(0..3 * PART).flatten().collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(ops in prop::collection::vec((any::<bool>(), range()), 1..40), probe in range()) {
            let (mut set, mut model) = (PageSet::new(), BTreeSet::new());
            for (insert, range) in ops {
                if insert { set.insert(range.clone()); model.extend(range) }
                else { set.remove(range.clone()); model.retain(|page| !range.contains(page)) }
            }
            prop_assert_eq!(&elements(&set), &model);
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert_eq!(set.count(probe.clone()), model.range(probe.clone()).count() as u64);
            prop_assert_eq!(set.contains_all(probe.clone()), probe.clone().all(|page| model.contains(&page)));
            let share = match model.range(probe.clone()).count() as u64 {
                0 => Share::Nothing,
                some if some == probe.end - probe.start => Share::All,
                _ => Share::Some,
            };
            prop_assert_eq!(set.share(probe.clone()), share);
            let mut stored = Vec::new();
            set.encode(&mut stored);
            let mut input = &stored[..];
            let again = PageSet::decode(&mut input, 3 * PART)?;
            prop_assert!(input.is_empty());
            prop_assert_eq!(elements(&again), model.clone());
            set.compact();
            prop_assert_eq!(elements(&set), model);
        }

        #[test]
        fn set_algebra(a in prop::collection::vec(range(), 0..8), b in prop::collection::vec(range(), 0..8)) {
            let build = |ranges: &[Range<u64>]| {
                let mut set = PageSet::new();
                ranges.iter().for_each(|range| set.insert(range.clone()));
                (elements(&set), set)
            };
            let ((ma, sa), (mb, sb)) = (build(&a), build(&b));
            let with = |op: fn(&mut PageSet, &PageSet)| { let mut set = sa.clone(); op(&mut set, &sb); elements(&set) };
            prop_assert_eq!(with(PageSet::union_with), &ma | &mb);
            prop_assert_eq!(with(PageSet::subtract), &ma - &mb);
            prop_assert_eq!(with(PageSet::intersect_with), &ma & &mb);
            prop_assert_eq!(sa.is_disjoint(&sb), ma.is_disjoint(&mb));
        }
    }

    #[test]
    fn whole_disk_ranges_cost_no_containers() {
        let mut set = PageSet::new();
        set.insert(0..1 << 34);
        set.remove(5..6);
        assert_eq!(set.len(), (1 << 34) - 1);
        assert_eq!(set.next_run(0..u64::MAX), Some(0..5));
        assert_eq!(set.next_run(5..u64::MAX), Some(6..1 << 34));
        let mut stored = Vec::new();
        set.encode(&mut stored);
        assert!(stored.len() < 8192, "{}", stored.len());
        assert!(PageSet::decode(&mut &stored[..], 1 << 33).is_err());
    }

    #[test]
    fn whole_parts_go_with_mixed_ones() {
        let of = |ranges: &[Range<u64>]| {
            let mut set = PageSet::new();
            ranges.iter().for_each(|range| set.insert(range.clone()));
            set
        };
        let with = |a: &PageSet, b: &PageSet, op: fn(&mut PageSet, &PageSet)| {
            let mut set = a.clone();
            op(&mut set, b);
            set
        };
        let (whole, mixed) = (of(&[0..PART, PART..2 * PART]), of(&[5..7, PART + 3..PART + 4]));
        let rest = of(&[0..5, 7..PART + 3, PART + 4..2 * PART]);
        for set in [with(&whole, &mixed, PageSet::union_with), with(&mixed, &whole, PageSet::union_with)] {
            assert!(set.same(&whole));
        }
        assert!(with(&whole, &mixed, PageSet::subtract).same(&rest));
        assert!(with(&mixed, &whole, PageSet::subtract).is_empty());
        assert!(with(&whole, &mixed, PageSet::intersect_with).same(&mixed));
        assert!(with(&mixed, &rest, PageSet::union_with).same(&whole), "two halves make a whole part");
        assert!(!whole.is_disjoint(&mixed) && !mixed.is_disjoint(&whole) && !whole.is_disjoint(&whole));
        assert!(mixed.is_disjoint(&rest) && mixed.is_disjoint(&of(&[2 * PART..2 * PART + 9, 2 * PART + 9..3 * PART])));
        assert!(whole.contains_all(7..PART + 9) && !mixed.contains_all(5..8));
        assert_eq!((whole.count(9..PART + 9), mixed.count(0..PART)), (PART, 2));
        let mut filled = of(&[0..PART - 1, PART - 1..PART]);
        filled.compact();
        assert!(matches!(filled.parts[..], [Part::Full]));
        filled.remove(0..PART);
        assert!(filled.is_empty());
    }
}
