//! Sorted prices with access by rank.

/// Prices in one block. A full block is 4 KiB, which fits the L1 cache. A window of 100,000 has up
/// to 800 blocks; finding a rank sums up their lengths.
const BLOCK_MAX: usize = 512;

/// A multiset of prices: an ordered list of ordered blocks. One sorted list would move up to 800 KB
/// for each change, and a tree with counts would be more code. `benches/prices.rs` measures this.
#[derive(Default)]
pub struct SortedPrices {
    /// No block is empty, and none is longer than [`BLOCK_MAX`].
    blocks: Vec<Vec<u64>>,
    len: usize,
}

impl SortedPrices {
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns the price with this rank, counted from 0.
    pub fn at(&self, mut rank: usize) -> Option<u64> {
        for block in &self.blocks {
            match rank.checked_sub(block.len()) {
                None => return block.get(rank).copied(),
                Some(rest) => rank = rest,
            }
        }
        None
    }

    pub fn insert(&mut self, price: u64) {
        self.len += 1;
        let Some(last) = self.blocks.len().checked_sub(1) else {
            self.blocks.push(vec![price]);
            return;
        };
        let at = self.block_of(price).min(last);
        let block = &mut self.blocks[at];
        block.insert(block.partition_point(|other| *other < price), price);
        if block.len() > BLOCK_MAX {
            let upper = block.split_off(BLOCK_MAX / 2);
            self.blocks.insert(at + 1, upper);
        }
    }

    /// Removes one price equal to `price`, if there is one.
    pub fn remove(&mut self, price: u64) {
        let at = self.block_of(price);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Ok(place) = block.binary_search(&price) else { return };
        block.remove(place);
        self.len -= 1;
        self.merge(at);
    }

    /// Returns the first block that may hold `price`, or the number of blocks if all prices are
    /// lower.
    fn block_of(&self, price: u64) -> usize {
        self.blocks.partition_point(|block| block.last().is_some_and(|last| *last < price))
    }

    /// Merges two neighbours that fit into half a block. So there are at most about
    /// `4 * len / BLOCK_MAX` blocks after any sequence of changes.
    fn merge(&mut self, at: usize) {
        let len_of = |at: usize| self.blocks.get(at).map_or(BLOCK_MAX, Vec::len);
        let with_next = len_of(at) + len_of(at + 1) <= BLOCK_MAX / 2;
        let with_former = at > 0 && len_of(at - 1) + len_of(at) <= BLOCK_MAX / 2;
        if with_next || with_former {
            let first = if with_next { at } else { at - 1 };
            let mut second = self.blocks.remove(first + 1);
            self.blocks[first].append(&mut second);
        } else if len_of(at) == 0 {
            self.blocks.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(prices: &SortedPrices) -> Vec<u64> {
        (0..prices.len()).filter_map(|rank| prices.at(rank)).collect()
    }

    proptest! {
        #[test]
        fn each_rank_is_that_of_a_sorted_list(
            changes in prop::collection::vec((prop::bool::weighted(0.8), 0_u64..500), 0..3_000),
        ) {
            let (mut prices, mut model) = (SortedPrices::default(), Vec::new());
            for (is_insert, price) in changes {
                if is_insert {
                    prices.insert(price);
                    model.push(price);
                } else {
                    prices.remove(price);
                    if let Some(at) = model.iter().position(|other| *other == price) {
                        model.swap_remove(at);
                    }
                }
            }
            model.sort_unstable();
            prop_assert_eq!(prices.at(model.len()), None);
            prop_assert_eq!(all(&prices), model);
        }
    }

    /// Full blocks that shrink to one price each would make each rank as slow as before.
    #[test]
    fn what_was_taken_out_leaves_no_blocks_behind() {
        let mut prices = SortedPrices::default();
        (0..100_000).for_each(|price| prices.insert(price));
        assert!(prices.blocks.iter().all(|block| (1..=BLOCK_MAX).contains(&block.len())));
        (0..100_000).filter(|price| price % 100 != 0).for_each(|price| prices.remove(price));
        assert_eq!(all(&prices), (0..100_000).step_by(100).collect::<Vec<_>>());
        assert!(prices.blocks.len() <= 4 * prices.len().div_ceil(BLOCK_MAX), "{} blocks", prices.blocks.len());
        (0..100_000).for_each(|price| prices.remove(price));
        assert_eq!((prices.len(), prices.blocks.len()), (0, 0));
    }
}
