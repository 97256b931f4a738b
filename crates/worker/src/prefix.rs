//! Slots of the attention cache: who holds which tokens, whose beginning can be reused, who is overwritten.
//! Every slot has cells of its own for one whole context. One pool for all (llama.cpp's unified cache) would share prefixes
//! without copying, but there each token looks at every cell in use, its own or not: with eight finished answers in the pool
//! prompts ran at half speed. Here a prefix is shared by copying a slot, which costs about as much as two prompt tokens.
//! llama.cpp computes slots with consecutive numbers in one pass over the weights, so live slots are kept together.
//! INVARIANT: a live slot is never given to another sequence.
//! INVARIANT: what one scope's prompts left is never reused for another's: who sees how many tokens were cached could guess
//! another's prompt, token by token.
//! INVARIANT: what was computed with one adapter, or with none, is never reused with another.
//! Deliberately absent: the cache itself; the engine performs what is decided here.

use crate::adapter::AdapterId;
use crate::limits;

/// The slots, with what each holds.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    reuses: bool,
    now: u64,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// What its cells hold, kept after the sequence has ended for those who begin alike.
    tokens: Vec<i32>,
    /// Whose prompt began them.
    scope: Option<String>,
    /// What they were computed with.
    adapter: Option<AdapterId>,
    is_live: bool,
    used_at: u64,
}

/// Where a new sequence goes, and what its slot begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub slot: usize,
    pub reuse: Reuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// What the slot holds is of no use: free its cells.
    Nothing,
    /// The slot itself holds the prefix: keep this many tokens, free the rest.
    InPlace { keep: usize },
    /// Copy this many first tokens of another slot.
    Copy { from: usize, keep: usize },
}

impl Reuse {
    /// Prompt tokens that need not be computed.
    #[must_use]
    pub(crate) fn tokens(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::InPlace { keep } | Self::Copy { keep, .. } => keep,
        }
    }
}

impl Slots {
    #[must_use]
    pub(crate) fn new(count: usize) -> Self {
        Self { slots: vec![Slot::default(); count], reuses: true, now: 0 }
    }

    /// For models whose state cannot be cut at a token: every prompt is computed whole.
    #[must_use]
    pub(crate) fn without_reuse(count: usize) -> Self {
        Self { reuses: false, ..Self::new(count) }
    }

    /// Places a prompt of `scope` for `adapter`; `None` when all slots are live and it has to wait.
    pub(crate) fn place(
        &mut self,
        prompt: &[i32],
        scope: Option<&str>,
        adapter: Option<AdapterId>,
    ) -> Option<Placement> {
        let best = (0..self.slots.len()).filter(|&i| !self.slots[i].is_live).min_by_key(|&i| self.cost(i))?;
        let placement = match self.donor(prompt, scope, adapter) {
            Some((from, keep)) if !self.slots[from].is_live && self.runs_with(from) <= self.runs_with(best) => {
                Placement { slot: from, reuse: Reuse::InPlace { keep } }
            }
            Some((from, keep)) if from == best => Placement { slot: best, reuse: Reuse::InPlace { keep } },
            Some((from, keep)) if keep >= limits::PREFIX_TOKENS_MIN => {
                Placement { slot: best, reuse: Reuse::Copy { from, keep } }
            }
            _ => Placement { slot: best, reuse: Reuse::Nothing },
        };
        self.now += 1;
        let tokens = prompt[..placement.reuse.tokens()].to_vec();
        let scope = scope.map(str::to_owned);
        self.slots[placement.slot] = Slot { tokens, scope, adapter, is_live: true, used_at: self.now };
        Some(placement)
    }

    /// Gives another sequence all that a slot holds; `None` when all slots are live, or what one holds cannot be copied.
    pub(crate) fn fork(&mut self, from: usize) -> Option<usize> {
        if !self.reuses {
            return None;
        }
        let free = (0..self.slots.len()).filter(|&i| !self.slots[i].is_live);
        let slot = free.min_by_key(|&i| self.cost(i))?;
        self.now += 1;
        self.slots[slot] = Slot { is_live: true, used_at: self.now, ..self.slots[from].clone() };
        Some(slot)
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

    /// The sequence ended.
    pub(crate) fn finish(&mut self, slot: usize) {
        self.now += 1;
        let ended = &mut self.slots[slot];
        ended.is_live = false;
        ended.used_at = self.now;
        if !self.reuses {
            ended.tokens.clear();
        }
    }

    /// The slot turned out to hold nothing.
    pub(crate) fn empty(&mut self, slot: usize) {
        self.slots[slot].tokens.clear();
    }

    /// Slots that hold what an adapter computed: nobody will ask for it again once it is gone.
    pub(crate) fn of_adapter(&self, adapter: AdapterId) -> Vec<usize> {
        (0..self.slots.len()).filter(|&i| self.slots[i].adapter == Some(adapter)).collect()
    }

    /// Cells held by live and finished sequences.
    #[must_use]
    pub(crate) fn used_cells(&self) -> usize {
        self.slots.iter().map(|slot| slot.tokens.len()).sum()
    }

    /// The slot with the longest common beginning, and its length; ties to one that need not be copied, then to the latest.
    /// The last prompt token is always computed: its logits are where the answer starts.
    fn donor(&self, prompt: &[i32], scope: Option<&str>, adapter: Option<AdapterId>) -> Option<(usize, usize)> {
        if !self.reuses {
            return None;
        }
        let most = prompt.len().saturating_sub(1);
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.scope.as_deref() == scope && slot.adapter == adapter)
            .map(|(i, slot)| {
                let keep = slot.tokens.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
                (keep, !slot.is_live, slot.used_at, i)
            })
            .max()
            .filter(|(keep, ..)| *keep > 0)
            .map(|(keep, _, _, i)| (i, keep))
    }

    /// Cheapest first: together with the other live slots, then empty, then used longest ago, then the lowest.
    fn cost(&self, slot: usize) -> (usize, bool, u64, usize) {
        (self.runs_with(slot), !self.slots[slot].tokens.is_empty(), self.slots[slot].used_at, slot)
    }

    /// Groups of consecutive live slots if this one were live too.
    fn runs_with(&self, slot: usize) -> usize {
        let is_live = |i: usize| self.slots[i].is_live || i == slot;
        (0..self.slots.len()).filter(|&i| is_live(i) && (i == 0 || !is_live(i - 1))).count()
    }
}

#[cfg(test)]
mod tests;
