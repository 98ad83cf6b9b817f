//! Chance, from a seed.

/// The same numbers from the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From `FLOWSTREAM_SEED`, or a seed that nobody had before; says which.
    pub(crate) fn new(who: &str) -> Self {
        let given = std::env::var("FLOWSTREAM_SEED").ok();
        let seed = match given {
            Some(seed) => seed.parse().expect("FLOWSTREAM_SEED is a number"),
            None => flowstream::storage::Id::random().0 as u64,
        };
        println!("{who}: FLOWSTREAM_SEED={seed}");
        Self(seed)
    }

    /// Any number below this one.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// One of these.
    pub(crate) fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.below(all.len() as u64) as usize].clone())
    }

    /// All of these, in any order.
    pub(crate) fn shuffle<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        let mut left = all.to_vec();
        let mut shuffled = Vec::new();
        while !left.is_empty() {
            shuffled.push(left.swap_remove(self.below(left.len() as u64) as usize));
        }
        shuffled
    }
}
