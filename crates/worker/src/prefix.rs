//! Slots of the attention cache: who holds which tokens, whose beginning can be reused, who is evicted.
//! The cache is one pool of cells shared by all slots (llama.cpp's unified cache): only there can a *part* of a sequence be
//! shared with another one, and at no cost in memory or time.
//! INVARIANT: reserved cells of live slots plus cells of cached slots never exceed the pool; shared cells are counted once
//! per slot, so the count errs on the safe side.
//! Deliberately absent: the cache itself; the engine performs what is decided here.

use crate::limits;

/// The slots, with what each holds.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    cells: usize,
    live_max: usize,
    reuses: bool,
    now: u64,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    tokens: Vec<i32>,
    state: State,
    used_at: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Empty,
    /// Being computed; may grow up to `reserved` cells.
    Live {
        reserved: usize,
    },
    /// Finished, kept for its prefix.
    Cached,
}

/// Where a new sequence goes and what the engine must do first, in this order: evict, then reuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub slot: usize,
    /// Slots whose cells must be freed.
    pub evict: Vec<usize>,
    pub reuse: Reuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Nothing,
    /// The slot itself holds the prefix: keep this many tokens, free the rest.
    InPlace {
        keep: usize,
    },
    /// Share this many first tokens of another slot.
    Share {
        from: usize,
        keep: usize,
    },
}

impl Reuse {
    /// Prompt tokens that need not be computed.
    #[must_use]
    pub(crate) fn tokens(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::InPlace { keep } | Self::Share { keep, .. } => keep,
        }
    }
}

impl Slots {
    /// `live_max` sequences at once, twice as many slots, `cells` in the pool.
    #[must_use]
    pub(crate) fn new(live_max: usize, cells: usize) -> Self {
        Self { slots: vec![Slot::default(); Self::count(live_max)], cells, live_max, reuses: true, now: 0 }
    }

    /// For models whose state cannot be cut at a token: every prompt is computed whole.
    #[must_use]
    pub(crate) fn without_reuse(live_max: usize, cells: usize) -> Self {
        Self { reuses: false, ..Self::new(live_max, cells) }
    }

    /// Slots for this many live sequences: as many again keep finished ones for their prefix.
    #[must_use]
    pub(crate) fn count(live_max: usize) -> usize {
        live_max * 2
    }

    /// Places a prompt that may grow to `reserve` cells; `None` when it has to wait.
    pub(crate) fn place(&mut self, prompt: &[i32], reserve: usize) -> Option<Placement> {
        let reserved = self.reserved() + reserve;
        if self.live_count() >= self.live_max || reserved > self.cells {
            return None;
        }
        self.now += 1;
        let donor = self.donor(prompt);
        let (slot, reuse) = match donor {
            Some((from, keep)) if self.is_taken_over(from, keep, reserved) => (from, Reuse::InPlace { keep }),
            Some((from, keep)) => (self.room_beside(Some(from))?, Reuse::Share { from, keep }),
            None => (self.room_beside(None)?, Reuse::Nothing),
        };
        let mut evict = vec![];
        if self.is_cached(slot) && !matches!(reuse, Reuse::InPlace { .. }) {
            evict.push(slot);
        }
        self.slots[slot] = Slot {
            tokens: prompt[..reuse.tokens()].to_vec(),
            state: State::Live { reserved: reserve },
            used_at: self.now,
        };
        let donor = donor.map(|(from, _)| from);
        while self.reserved() + self.cached_cells() > self.cells {
            let oldest = self.oldest_cached(donor).expect("a donor that does not fit beside the sequence is taken over");
            self.clear(oldest);
            evict.push(oldest);
        }
        Some(Placement { slot, evict, reuse })
    }

    /// Whether a cached slot becomes the new sequence instead of lending its prefix: when nothing of it is lost by that, when
    /// there is no other slot, or when the pool cannot hold both.
    fn is_taken_over(&self, from: usize, keep: usize, reserved: usize) -> bool {
        let held = self.slots[from].tokens.len();
        self.is_cached(from)
            && (keep == held || reserved + held > self.cells || self.room_beside(Some(from)).is_none())
    }

    fn room_beside(&self, donor: Option<usize>) -> Option<usize> {
        self.empty().or_else(|| self.oldest_cached(donor))
    }

    /// Tokens were computed into the slot.
    pub(crate) fn push(&mut self, slot: usize, tokens: &[i32]) {
        self.slots[slot].tokens.extend_from_slice(tokens);
    }

    /// Tokens the slot holds.
    #[must_use]
    pub(crate) fn len(&self, slot: usize) -> usize {
        self.slots[slot].tokens.len()
    }

    /// The sequence ended. Its tokens are kept for those who begin alike; false when there is nothing to keep and the slot's
    /// cells must be freed.
    pub(crate) fn finish(&mut self, slot: usize) -> bool {
        self.now += 1;
        let ended = &mut self.slots[slot];
        if !self.reuses || ended.tokens.is_empty() {
            self.clear(slot);
            return false;
        }
        ended.state = State::Cached;
        ended.used_at = self.now;
        true
    }

    /// Only the first `keep` tokens of the slot are really there.
    pub(crate) fn truncate(&mut self, slot: usize, keep: usize) {
        self.slots[slot].tokens.truncate(keep);
    }

    /// The slot's cells are freed.
    pub(crate) fn clear(&mut self, slot: usize) {
        self.slots[slot] = Slot::default();
    }

    /// Gives up the cached slot that was used longest ago.
    pub(crate) fn evict_oldest(&mut self) -> Option<usize> {
        let slot = self.oldest_cached(None)?;
        self.clear(slot);
        Some(slot)
    }

    /// Cells held, counting shared ones once per slot, at most the pool.
    #[must_use]
    pub(crate) fn used_cells(&self) -> usize {
        self.slots.iter().map(|slot| slot.tokens.len()).sum::<usize>().min(self.cells)
    }

    /// Cells in the pool.
    #[must_use]
    pub(crate) fn cells(&self) -> usize {
        self.cells
    }

    /// The slot with the longest common beginning, and its length. The last prompt token is always computed: its logits are
    /// where the answer starts.
    fn donor(&self, prompt: &[i32]) -> Option<(usize, usize)> {
        if !self.reuses {
            return None;
        }
        let most = prompt.len().saturating_sub(1);
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.state != State::Empty)
            .map(|(i, slot)| {
                let keep = slot.tokens.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
                (keep, slot.state == State::Cached, slot.used_at, i)
            })
            .max()
            .filter(|(keep, ..)| *keep >= limits::PREFIX_TOKENS_MIN)
            .map(|(keep, _, _, i)| (i, keep))
    }

    fn empty(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.state == State::Empty)
    }

    fn oldest_cached(&self, but: Option<usize>) -> Option<usize> {
        (0..self.slots.len()).filter(|&i| self.is_cached(i) && Some(i) != but).min_by_key(|&i| self.slots[i].used_at)
    }

    fn is_cached(&self, slot: usize) -> bool {
        self.slots[slot].state == State::Cached
    }

    fn live_count(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.state, State::Live { .. })).count()
    }

    fn reserved(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| match slot.state {
                State::Live { reserved } => reserved,
                State::Empty | State::Cached => 0,
            })
            .sum()
    }

    fn cached_cells(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state == State::Cached).map(|slot| slot.tokens.len()).sum()
    }
}

#[cfg(test)]
mod tests;
