//! What an engine itself tells of its KV cache: blocks of tokens stored and removed, as vLLM's events name them.
//!
//! The engine's own hashes are names without meaning here; each is kept with our hash over the same tokens, under which
//! the prefix index holds it. A block of text is joined with the block of tokens that ends about where it does, once the
//! tokens of a prompt were asked for.

use std::collections::BTreeMap;

use super::index::Slot;
use super::prompt::Block;

/// Blocks known of one replica: 2 million tokens at 16 each, more than one replica's memory holds; past it what it has is
/// learnt anew.
const BLOCKS_MAX: usize = 131_072;

/// A change in the KV cache of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvEvent {
    /// Blocks were stored, in the order of the prompt.
    Stored {
        /// The engine's names for them.
        hashes: Vec<u64>,
        /// The block before the first of them; absent at the beginning of a prompt.
        parent: Option<u64>,
        /// The tokens of all of them.
        tokens: Vec<u32>,
        /// Tokens in a block.
        block_tokens: u32,
    },
    /// Blocks were given up.
    Removed {
        /// The engine's names for them.
        hashes: Vec<u64>,
    },
    /// All blocks were given up.
    Cleared,
}

/// The blocks one engine has told of.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) slot: Slot,
    pub(super) block_tokens: u32,
    blocks: BTreeMap<u64, Block>,
}

impl Told {
    pub(super) fn new(slot: Slot) -> Self {
        Self { slot, block_tokens: 0, blocks: BTreeMap::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.blocks.len() >= BLOCKS_MAX
    }

    pub(super) fn get(&self, hash: u64) -> Option<Block> {
        self.blocks.get(&hash).copied()
    }

    pub(super) fn insert(&mut self, hash: u64, block: Block) {
        self.blocks.insert(hash, block);
    }

    pub(super) fn remove(&mut self, hash: u64) -> Option<Block> {
        self.blocks.remove(&hash)
    }
}
