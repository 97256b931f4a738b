//! A prompt as routing sees it: hashes of the blocks of its text, each over all that came before.
//!
//! The gateway has no tokeniser, so a block is [`BLOCK_BYTES`] of text: four of an engine's blocks of 16 tokens in English.
//! INVARIANT: the hash of a block depends on every byte before it, on the tenant, on the endpoint and on a secret of the
//! process; two tenants with the same prompt share no hash, and no text can be read or tried from outside.

use galerne_model::ids::{EndpointId, TenantId};

use super::siphash::{self, Secret};

/// Bytes of text in a block: fine enough that a shared system prompt counts, coarse enough that 32 KiB are 128 look-ups.
pub const BLOCK_BYTES: usize = 256;
/// Most blocks of one prompt that are looked at: 256 KiB of text. What two longer prompts share is found by these.
pub(super) const BLOCKS_MAX: usize = 1_024;

/// The hash of a block and of all before it; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub(super) u64);

/// What routing knows of a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    pub(super) blocks: Vec<Block>,
    pub(super) bytes: u64,
}

impl Prompt {
    /// Takes the parts of a prompt in the order in which an engine sees them, such as tools and then messages.
    pub fn new(secret: Secret, tenant_id: TenantId, endpoint_id: EndpointId, parts: &[&[u8]]) -> Self {
        let mut chain = siphash::hash(secret, 1, tenant_id.uuid().as_bytes());
        chain = siphash::hash(secret, chain, endpoint_id.uuid().as_bytes());
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut blocks = Vec::with_capacity((bytes / BLOCK_BYTES + parts.len()).min(BLOCKS_MAX));
        for (index, part) in parts.iter().enumerate() {
            let (whole, rest) = part.as_chunks::<BLOCK_BYTES>();
            // The rest of the last part is no block: the next turn of a conversation would go on within it.
            let rest = Some(rest).filter(|rest| !rest.is_empty() && index + 1 < parts.len());
            for text in whole.iter().map(<[u8; BLOCK_BYTES]>::as_slice).chain(rest) {
                if blocks.len() == BLOCKS_MAX {
                    break;
                }
                chain = siphash::hash(secret, chain, text);
                blocks.push(block(chain));
            }
        }
        Self { blocks, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
    }

    /// A prompt of which only the length is known.
    pub fn of_length(bytes: u64) -> Self {
        Self { blocks: Vec::new(), bytes }
    }

    /// Its length in bytes of text.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

/// The hash of a block of tokens and of all before it; 0 begins a chain.
pub(super) fn tokens(secret: Secret, endpoint_id: EndpointId, parent: Option<Block>, tokens: &[u32]) -> Block {
    let before = parent.map_or_else(|| siphash::hash(secret, 2, endpoint_id.uuid().as_bytes()), |Block(parent)| parent);
    // At most an engine's block, 16 to 128 tokens, so this is small.
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    block(siphash::hash(secret, before ^ TOKENS, &bytes))
}

/// Keeps chains of tokens apart from chains of text.
const TOKENS: u64 = 0x746f_6b65_6e73_0000;

fn block(hash: u64) -> Block {
    Block(hash.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn of(tenant: u128, parts: &[&[u8]]) -> Prompt {
        let tenant_id = TenantId::from_uuid(Uuid::from_u128(tenant));
        Prompt::new(Secret([3, 5]), tenant_id, EndpointId::from_uuid(Uuid::from_u128(9)), parts)
    }

    fn shared(a: &Prompt, b: &Prompt) -> usize {
        a.blocks.iter().zip(&b.blocks).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn prompts_share_the_blocks_before_the_first_byte_that_differs() {
        let text = vec![b'x'; 10 * BLOCK_BYTES];
        let mut other = text.clone();
        other[4 * BLOCK_BYTES] = b'y';
        assert_eq!(shared(&of(1, &[&text]), &of(1, &[&other])), 4);
        other[0] = b'y';
        assert_eq!(shared(&of(1, &[&text]), &of(1, &[&other])), 0, "a hash is over all that came before");
    }

    #[test]
    fn two_tenants_with_the_same_prompt_share_nothing() {
        let text = vec![b'x'; 4 * BLOCK_BYTES];
        let (one, other) = (of(1, &[&text]), of(2, &[&text]));
        assert!(one.blocks.iter().all(|block| !other.blocks.contains(block)));
    }

    #[test]
    fn the_next_turn_of_a_conversation_begins_with_the_blocks_of_the_last() {
        let tools = vec![b't'; BLOCK_BYTES + 7];
        let turn = vec![b'm'; 3 * BLOCK_BYTES + 11];
        let longer = [turn.as_slice(), &[b'n'; 900]].concat();
        let (first, second) = (of(1, &[&tools, &turn]), of(1, &[&tools, &longer]));
        assert_eq!((first.blocks.len(), shared(&first, &second)), (5, 5));
        assert_eq!(of(1, &[b"short"]).blocks, []);
    }

    #[test]
    fn a_very_long_prompt_has_a_bounded_number_of_blocks() {
        let text = vec![b'x'; (BLOCKS_MAX + 50) * BLOCK_BYTES];
        let prompt = of(1, &[&text, &text]);
        assert_eq!((prompt.blocks.len(), prompt.bytes), (BLOCKS_MAX, 2 * 1_074 * 256));
    }
}
