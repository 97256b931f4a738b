use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Keys with texts, then `alpha` as what it is; tensors with their sizes and types.
fn file(keys: &[(&str, &str)], alpha: Option<(u32, [u8; 4])>, tensors: &[(&str, [u64; 3], u32)]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64 + u64::from(alpha.is_some())).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        out.extend(8_u32.to_le_bytes());
        text(&mut out, value);
    }
    if let Some((kind, bytes)) = alpha {
        text(&mut out, "adapter.lora.alpha");
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }
    for (name, sizes, kind) in tensors {
        text(&mut out, name);
        out.extend(3_u32.to_le_bytes());
        sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + (1 << 20), 0);
    out
}

const KEYS: [(&str, &str); 3] =
    [("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")];
const PAIR: [(&str, [u64; 3], u32); 2] =
    [("blk.0.attn_q.weight.lora_a", [64, 4, 1], 0), ("blk.0.attn_q.weight.lora_b", [4, 32, 1], 1)];

fn read(bytes: &[u8]) -> Result<AdapterHeader, Problem> {
    read_adapter(Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn a_sound_pair_is_read() {
    let header = read(&file(&KEYS, Some((6, 16_f32.to_le_bytes())), &PAIR)).expect("sound");
    assert_eq!((header.architecture.as_str(), header.rank, header.tensor_bytes), ("llama", 4, 64 * 4 * 4 + 4 * 32 * 2));
}

#[test]
fn what_llama_cpp_would_abort_on_or_cannot_do_is_refused_with_its_reason() {
    let [a, b] = PAIR;
    let refused = |keys: &[(&str, &str)], alpha, tensors: &[(&str, [u64; 3], u32)], reason: &str| {
        let problem = read(&file(keys, alpha, tensors)).expect_err(reason).to_string();
        assert!(problem.contains(reason), "{problem}");
    };
    refused(&KEYS[1..], None, &PAIR, "`general.type` is missing");
    refused(&[("general.type", "model"), KEYS[1], KEYS[2]], None, &PAIR, "is `model`");
    // As a number where llama.cpp reads a float without asking.
    refused(&KEYS, Some((4, [1, 0, 0, 0])), &PAIR, "alpha");
    refused(&KEYS, Some((6, f32::NAN.to_le_bytes())), &PAIR, "alpha");
    refused(&KEYS, None, &[], "no tensors");
    refused(&KEYS, None, &[a], "one half is missing");
    refused(&KEYS, None, &[a, a, b], "twice");
    refused(&KEYS, None, &[a, b, ("blk.0.attn_norm.weight", [64, 1, 1], 0)], "no part");
    refused(&KEYS, None, &[a, (b.0, [8, 32, 1], 0)], "ranks 4 and 8");
    refused(&KEYS, None, &[(a.0, [64, 2048, 1], 0), (b.0, [2048, 32, 1], 0)], "one up to 1024");
    refused(&KEYS, None, &[(a.0, [64, 4, 2], 0), b], "experts");
    refused(&KEYS, None, &[(a.0, [64, 4, 1], 24), b], "type 24");
    let embedding = [("token_embd.weight.lora_a", [4, 64, 1], 0), ("token_embd.weight.lora_b", [4, 32, 1], 0)];
    refused(&KEYS, None, &embedding, "embedding");
    let alora = [KEYS[0], KEYS[1], KEYS[2], ("adapter.alora.invocation_tokens", "x")];
    refused(&alora, None, &PAIR, "aLoRA");
}

proptest! {
    #[test]
    fn no_change_of_a_byte_breaks_the_reader(at in 0_usize..400, to in any::<u8>()) {
        let mut bytes = file(&KEYS, Some((6, 1_f32.to_le_bytes())), &PAIR);
        bytes[at] = to;
        if let Ok(header) = read(&bytes) {
            prop_assert!(header.rank <= RANK_MAX && header.tensor_bytes <= bytes.len() as u64);
        }
    }
}
