use super::*;
use proptest::prelude::*;
use std::io::Cursor;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, key: &str, value: u32) {
    text(out, key);
    out.extend(4_u32.to_le_bytes());
    out.extend(value.to_le_bytes());
}

/// A header with one F32 tensor of `row` numbers, and its data.
fn model(row: u64) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend(8_u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(STRING.to_le_bytes());
    text(&mut out, "llama");
    number(&mut out, "llama.block_count", 30);
    number(&mut out, "llama.embedding_length", 576);
    number(&mut out, "llama.attention.head_count", 9);
    number(&mut out, "llama.attention.head_count_kv", 3);
    number(&mut out, "llama.context_length", 8192);
    number(&mut out, "llama.feed_forward_length", 1536);
    text(&mut out, "tokenizer.ggml.tokens");
    out.extend(ARRAY.to_le_bytes());
    out.extend(STRING.to_le_bytes());
    out.extend(2_u64.to_le_bytes());
    text(&mut out, "a");
    text(&mut out, "b");
    text(&mut out, "w");
    out.extend(1_u32.to_le_bytes());
    out.extend(row.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    out.resize(out.len() + 64 * 4, 0);
    out
}

fn check(bytes: &[u8]) -> Result<Header, Problem> {
    read(Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn a_sound_header_is_read() {
    let header = check(&model(64)).expect("sound");
    assert_eq!((header.layers, header.vocabulary, header.context_length), (30, 2, 8192));
    assert_eq!(header.cache_values_per_token, 30 * 3 * (64 + 64));
    assert_eq!(header.tensor_bytes, 256);
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let whole = model(64);
    for end in 0..whole.len() {
        assert!(check(&whole[..end]).is_err(), "accepted {end} of {} bytes", whole.len());
    }
}

#[test]
fn a_tensor_beyond_the_file_is_refused() {
    for row in [65, 1 << 40, u64::MAX] {
        let problem = check(&model(row)).expect_err("too large").to_string();
        assert!(problem.contains('w'), "{problem}");
    }
}

#[test]
fn other_files_are_named_as_such() {
    assert_eq!(
        check(b"PK\x03\x04rest").expect_err("zip").to_string(),
        "it begins with [50, 4b, 03, 04] instead of `GGUF`"
    );
}

proptest! {
    #[test]
    fn no_damage_panics_or_reads_beyond(at in 0_usize..500, byte in any::<u8>(), more in 0_usize..500, other in any::<u8>()) {
        let mut bytes = model(64);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes[more % length] = other;
        drop(check(&bytes));
    }
}
