//! The regions of one space in order of address, in blocks that snapshots share.

use std::sync::Arc;

/// A region's number, as the index of its place in a snapshot.
pub(crate) type Slot = u16;

/// The range of addresses of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) base: u64,
    pub(crate) last: u64,
    pub(crate) slot: Slot,
}

/// Spans that do not overlap, sorted. Cloning copies one pointer per block, and an edit copies the
/// one block it touches: that keeps an edit among thousands of regions cheap.
#[derive(Clone, Default)]
pub(crate) struct Spans {
    /// Never empty blocks.
    blocks: Vec<Arc<Vec<Span>>>,
}

/// A block is split when it grows past this.
const BLOCK_MAX: usize = 32;

impl Spans {
    /// The first span that ends at or after `addr`.
    pub(crate) fn at_or_after(&self, addr: u64) -> Option<Span> {
        let block = self.blocks.get(self.block_of(addr))?;
        let i = block.partition_point(|span| span.last < addr);
        block.get(i).copied()
    }

    /// The span that contains `addr`.
    pub(crate) fn find(&self, addr: u64) -> Option<Span> {
        self.at_or_after(addr).filter(|span| span.base <= addr)
    }

    /// Adds a span, or says which one is in the way.
    pub(crate) fn insert(&mut self, span: Span) -> Result<(), Span> {
        if let Some(next) = self.at_or_after(span.base)
            && next.base <= span.last
        {
            return Err(next);
        }
        // A span past everything goes to the end of the last block.
        let at = self.block_of(span.base).min(self.blocks.len().saturating_sub(1));
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(Arc::new(vec![span]));
            return Ok(());
        };
        // Written anew and not in place: others hold the block, too.
        let (before, after) = block.split_at(block.partition_point(|other| other.last < span.base));
        let mut longer = Vec::with_capacity(block.len() + 1);
        longer.extend_from_slice(before);
        longer.push(span);
        longer.extend_from_slice(after);
        let upper = (longer.len() > BLOCK_MAX).then(|| longer.split_off(BLOCK_MAX / 2));
        *block = Arc::new(longer);
        if let Some(upper) = upper {
            self.blocks.insert(at + 1, Arc::new(upper));
        }
        Ok(())
    }

    /// Removes the span that starts at `base`.
    pub(crate) fn remove(&mut self, base: u64) {
        let at = self.block_of(base);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let block = Arc::make_mut(block);
        block.retain(|span| span.base != base);
        if block.is_empty() {
            self.blocks.remove(at);
        }
    }

    /// All spans in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> + Clone + '_ {
        self.blocks.iter().flat_map(|block| block.iter().copied())
    }

    /// The first block whose last span ends at or after `addr`.
    fn block_of(&self, addr: u64) -> usize {
        self.blocks.partition_point(|block| block.last().is_some_and(|span| span.last < addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_stay_sorted_and_findable_through_splits_and_removals() {
        let mut spans = Spans::default();
        for i in (0..500u64).rev() {
            let slot = u16::try_from(i).unwrap();
            spans.insert(Span { base: i * 16, last: i * 16 + 7, slot }).unwrap();
        }
        assert!(spans.iter().map(|span| span.base).eq((0..500).map(|i| i * 16)));
        for i in 0..500u64 {
            assert_eq!(spans.find(i * 16 + 7).map(|span| u64::from(span.slot)), Some(i));
            assert_eq!(spans.find(i * 16 + 8), None);
        }
        assert_eq!(spans.insert(Span { base: 5, last: 20, slot: 0 }).unwrap_err().base, 0);
        for i in (0..500u64).step_by(2) {
            spans.remove(i * 16);
        }
        assert_eq!(spans.at_or_after(0).map(|span| span.base), Some(16));
        assert_eq!(spans.at_or_after(499 * 16 + 8), None);
        assert!(spans.iter().map(|span| span.base).eq((0..250).map(|i| i * 32 + 16)));
    }
}
