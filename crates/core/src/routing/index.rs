//! The prefix index: which replicas have computed which block of a prompt, as far as was predicted or told.
//!
//! A table of fixed entries in many small parts; each part doubles by itself until the cap in bytes, and from then on a
//! new block takes the place of the one of eight that was seen longest ago. Nothing is ever scanned, no step waits for
//! another, and what a replica had is forgotten by giving it another slot: no entry names the old one's number again
//! before they all have aged out.
//! INVARIANT: never more than the cap in bytes; a part that grows has its old and new place for a moment.
//! Deliberately absent: text of prompts, tenants (they are in the hashes).

use super::prompt::Block;

/// Parts that grow by themselves: at 64 MiB each has 256 KiB at most, so that growing one takes microseconds.
const PARTS: usize = 256;
/// Entries that may take one another's place.
const WAYS: usize = 8;
/// Replicas remembered of one block, those of the latest use. A block that more have is one that all soon have.
const HOLDERS: usize = 6;
/// Bytes of an entry.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// Blocks in a row that may be missing before a prompt counts as unknown from there: others may have taken the place of
/// a few.
const GAP_MAX: usize = 4;
/// Most replicas told of one prompt.
pub(super) const MATCHES_MAX: usize = 16;

/// A replica's number in the index; 0 is nobody.
pub(super) type Slot = u16;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    key: u64,
    /// The block of tokens that ends where this block of text does, where that was learnt.
    anchor: u64,
    seen_second: u32,
    holders: [Slot; HOLDERS],
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    parts: Vec<Vec<Entry>>,
    ways_max: usize,
    ttl_seconds: u32,
}

/// How much of a prompt a replica has: its deepest block, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) slot: Slot,
    pub(super) blocks: u32,
}

/// What the index knows of one prompt.
#[derive(Debug, Clone, Default)]
pub(super) struct Matches(Vec<Match>);

impl PrefixIndex {
    pub(super) fn new(bytes_max: usize, ttl_seconds: u32) -> Self {
        let sets = bytes_max / PARTS / ENTRY_BYTES / WAYS;
        // Whole powers of two, so that the bits of a hash choose the set.
        let ways_max = if sets == 0 { 0 } else { WAYS << sets.ilog2() };
        Self { parts: vec![Vec::new(); PARTS], ways_max, ttl_seconds }
    }

    /// What is held for entries now.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len() * ENTRY_BYTES).sum()
    }

    /// Who has how much of a prompt. A replica that has a block has all before it: engines forget the end first.
    pub(super) fn matches(&self, blocks: &[Block], now_second: u32) -> Matches {
        let mut found = Matches::default();
        let mut gap = 0;
        for (depth, block) in (1..).zip(blocks) {
            let Some(entry) = self.find(block.0, now_second) else {
                gap += 1;
                if gap > GAP_MAX {
                    break;
                }
                continue;
            };
            gap = 0;
            found.note(&entry.holders, depth);
            if entry.anchor != 0
                && let Some(told) = self.find(entry.anchor, now_second)
            {
                found.note(&told.holders, depth);
            }
        }
        found
    }

    /// These blocks were used; `slot` has, or is about to compute, them.
    pub(super) fn record(&mut self, blocks: &[Block], slot: Option<Slot>, now_second: u32) {
        for block in blocks {
            let Some(entry) = self.place(block.0, now_second) else { return };
            if let Some(slot) = slot {
                entry.hold(slot);
            }
            let anchor = entry.anchor;
            if anchor != 0
                && let Some(tokens) = self.find_mut(anchor)
            {
                tokens.seen_second = now_second;
            }
        }
    }

    /// `slot` no longer has this block.
    pub(super) fn remove(&mut self, block: Block, slot: Slot) {
        if let Some(entry) = self.find_mut(block.0)
            && let Some(at) = entry.holders.iter().position(|holder| *holder == slot)
        {
            entry.holders[at..].rotate_left(1);
            entry.holders[HOLDERS - 1] = 0;
        }
    }

    /// Says which block of tokens ends where `block` of text does.
    pub(super) fn anchor(&mut self, block: Block, tokens: Block, now_second: u32) {
        if let Some(entry) = self.place(block.0, now_second) {
            entry.anchor = tokens.0;
        }
    }

    /// Whether `block` of text is joined with a block of tokens.
    pub(super) fn is_anchored(&self, block: Block, now_second: u32) -> bool {
        self.find(block.0, now_second).is_some_and(|entry| entry.anchor != 0)
    }

    fn find(&self, key: u64, now_second: u32) -> Option<&Entry> {
        let part = &self.parts[part_of(key)];
        let set = part.get(set_of(key, part.len())..)?.get(..WAYS)?;
        set.iter().find(|entry| entry.key == key && entry.is_alive(now_second, self.ttl_seconds))
    }

    fn find_mut(&mut self, key: u64) -> Option<&mut Entry> {
        let part = &mut self.parts[part_of(key)];
        let at = set_of(key, part.len());
        part.get_mut(at..)?.get_mut(..WAYS)?.iter_mut().find(|entry| entry.key == key)
    }

    /// The entry of `key`, made where there is none; nothing when the index has no room at all.
    fn place(&mut self, key: u64, now_second: u32) -> Option<&mut Entry> {
        let (ways_max, ttl) = (self.ways_max, self.ttl_seconds);
        if ways_max == 0 {
            return None;
        }
        let part = &mut self.parts[part_of(key)];
        loop {
            let at = set_of(key, part.len());
            let set = part.get(at..at + WAYS).unwrap_or_default();
            let known = set.iter().position(|entry| entry.key == key);
            let free = || set.iter().position(|entry| entry.key == 0 || !entry.is_alive(now_second, ttl));
            let way = match known.or_else(free) {
                Some(way) => way,
                None if part.len() < ways_max => {
                    grow(part, now_second, ttl);
                    continue;
                }
                None => (0..WAYS).min_by_key(|way| set[*way].seen_second).unwrap_or(0),
            };
            let entry = &mut part[at + way];
            if entry.key != key || !entry.is_alive(now_second, ttl) {
                *entry = Entry { key, ..Entry::default() };
            }
            entry.seen_second = now_second;
            return Some(entry);
        }
    }
}

impl Entry {
    /// The latest is the first; the one before all others is forgotten when there are too many.
    fn hold(&mut self, slot: Slot) {
        let at = self.holders.iter().position(|holder| *holder == slot).unwrap_or(HOLDERS - 1);
        self.holders[..=at].rotate_right(1);
        self.holders[0] = slot;
    }

    fn is_alive(&self, now_second: u32, ttl_seconds: u32) -> bool {
        now_second.saturating_sub(self.seen_second) <= ttl_seconds
    }
}

impl Matches {
    /// The replica's number and the depth of its deepest block.
    pub(super) fn iter(&self) -> impl Iterator<Item = Match> + '_ {
        self.0.iter().copied()
    }

    fn note(&mut self, holders: &[Slot; HOLDERS], depth: u32) {
        for slot in holders.iter().take_while(|slot| **slot != 0) {
            if let Some(known) = self.0.iter_mut().find(|known| known.slot == *slot) {
                known.blocks = depth;
            } else if self.0.len() < MATCHES_MAX {
                self.0.push(Match { slot: *slot, blocks: depth });
            } else if let Some(least) = self.0.iter_mut().min_by_key(|known| known.blocks) {
                *least = Match { slot: *slot, blocks: depth };
            }
        }
    }
}

fn part_of(key: u64) -> usize {
    usize::from(key.to_le_bytes()[7])
}

/// Where the set of `key` begins in a part of `len` entries.
fn set_of(key: u64, len: usize) -> usize {
    let sets = len / WAYS;
    if sets == 0 { 0 } else { WAYS * (usize::try_from(key & 0xffff_ffff).unwrap_or(0) & (sets - 1)) }
}

/// Twice the room; what has aged out stays behind. No entry loses its place: a set's entries go to two sets.
fn grow(part: &mut Vec<Entry>, now_second: u32, ttl_seconds: u32) {
    let len = (part.len() * 2).max(WAYS);
    let old = std::mem::replace(part, vec![Entry::default(); len]);
    for entry in old {
        if entry.key != 0 && entry.is_alive(now_second, ttl_seconds) {
            let at = set_of(entry.key, len);
            if let Some(free) = part[at..at + WAYS].iter_mut().find(|other| other.key == 0) {
                *free = entry;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(prompt: u64, count: u64) -> Vec<Block> {
        let mix = |n: u64| Block(super::super::siphash::hash(super::super::siphash::Secret([1, 2]), n, &[]));
        (0..count).map(|at| mix(prompt * 10_000 + at)).collect()
    }

    fn depth(index: &PrefixIndex, blocks: &[Block], slot: Slot, now: u32) -> u32 {
        index.matches(blocks, now).iter().find(|found| found.slot == slot).map_or(0, |found| found.blocks)
    }

    #[test]
    fn an_entry_is_half_a_cache_line() {
        assert_eq!(ENTRY_BYTES, 32);
    }

    #[test]
    fn each_replica_is_known_by_its_deepest_block() {
        let mut index = PrefixIndex::new(1 << 20, 600);
        let prompt = blocks(1, 20);
        index.record(&prompt[..5], Some(1), 100);
        index.record(&prompt[..12], Some(2), 100);
        assert_eq!([1, 2, 3].map(|slot| depth(&index, &prompt, slot, 100)), [5, 12, 0]);
        index.remove(prompt[4], 1);
        index.remove(prompt[4], 1);
        assert_eq!([1, 2].map(|slot| depth(&index, &prompt, slot, 100)), [4, 12]);
        assert_eq!(depth(&index, &blocks(2, 20), 2, 100), 0);
    }

    #[test]
    fn what_was_not_seen_for_the_time_to_live_is_forgotten() {
        let mut index = PrefixIndex::new(1 << 20, 600);
        let prompt = blocks(1, 4);
        index.record(&prompt, Some(1), 100);
        assert_eq!((depth(&index, &prompt, 1, 700), depth(&index, &prompt, 1, 701)), (4, 0));
        index.record(&prompt, Some(2), 701);
        assert_eq!((depth(&index, &prompt, 1, 701), depth(&index, &prompt, 2, 701)), (0, 4));
        assert_eq!(depth(&index, &prompt, 2, 50), 4, "a clock that jumps back forgets nothing");
    }

    #[test]
    fn a_block_that_many_have_remembers_the_latest() {
        let mut index = PrefixIndex::new(1 << 20, 600);
        let prompt = blocks(1, 3);
        for slot in 1..=9 {
            index.record(&prompt, Some(slot), 100);
        }
        index.record(&prompt, Some(4), 100);
        let known: Vec<Slot> = index.matches(&prompt, 100).iter().map(|found| found.slot).collect();
        assert_eq!(known, [4, 9, 8, 7, 6, 5]);
    }

    #[test]
    fn a_million_distinct_prompts_take_no_more_than_the_cap_and_the_popular_one_stays() {
        let cap = 1 << 20;
        let mut index = PrefixIndex::new(cap, 600);
        assert_eq!(index.bytes(), 0, "an idle index holds nothing");
        let popular = blocks(0, 8);
        for n in 1..1_000_000u64 {
            index.record(&blocks(n, 1), Some(1), u32::try_from(n / 1_000).expect("small"));
            if n % 500 == 0 {
                index.record(&popular, Some(2), u32::try_from(n / 1_000).expect("small"));
            }
            if n == 100_000 {
                assert!(index.bytes() <= cap && index.bytes() >= cap / 2, "{} bytes", index.bytes());
            }
        }
        assert!(index.bytes() <= cap);
        assert_eq!(depth(&index, &popular, 2, 1_000), 8);
    }

    #[test]
    fn without_room_nothing_is_known_and_nothing_breaks() {
        let mut index = PrefixIndex::new(0, 600);
        let prompt = blocks(1, 3);
        index.record(&prompt, Some(1), 100);
        assert_eq!((depth(&index, &prompt, 1, 100), index.bytes()), (0, 0));
    }

    #[test]
    fn a_block_of_text_is_also_found_by_the_tokens_it_is_joined_with() {
        let mut index = PrefixIndex::new(1 << 20, 600);
        let (text, tokens) = (blocks(1, 3), blocks(2, 3));
        for (text, tokens) in text.iter().zip(&tokens) {
            index.anchor(*text, *tokens, 100);
        }
        index.record(&tokens[..2], Some(7), 100);
        assert_eq!(depth(&index, &text, 7, 100), 2);
        index.remove(tokens[1], 7);
        assert_eq!(depth(&index, &text, 7, 100), 1);
        assert!(index.is_anchored(text[2], 100) && !index.is_anchored(tokens[2], 100));
    }
}
