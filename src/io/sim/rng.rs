//! The one source of chance of a simulated run: SplitMix64 (Steele, Lea and Flood, 2014).

/// Cheap to copy: a copy gives the same numbers again.
#[derive(Debug, Clone, Copy)]
pub struct SimRng(u64);

impl SimRng {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Any of `0..n`; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.roll() % n }
    }

    /// Any of `0..n`, as an index.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True once in `n`; never for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n != 0 && self.below(n) == 0
    }

    /// True `per_mille` times in 1,000.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille != 0 && self.below(1000) < u64::from(per_mille)
    }

    pub fn coin(&mut self) -> bool {
        self.roll() & 1 == 1
    }

    /// Random numbers of their own, for a part whose number of rolls must not move the rest.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.roll())
    }
}
