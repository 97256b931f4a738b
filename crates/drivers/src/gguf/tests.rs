use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// Writes a small file the way the format says.
#[derive(Default)]
struct Draft {
    entries: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data_bytes: usize,
}

impl Draft {
    fn entry(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.entries.push((key.to_owned(), kind, value));
        self
    }

    fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, value.to_le_bytes().to_vec())
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, text(value))
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push((name.to_owned(), dimensions.to_vec(), kind, offset));
        self
    }

    fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dimensions, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend(u32::try_from(dimensions.len()).expect("few dimensions").to_le_bytes());
            dimensions.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.data_bytes, 0);
        out
    }
}

fn text(value: &str) -> Vec<u8> {
    let mut out = (value.len() as u64).to_le_bytes().to_vec();
    out.extend(value.as_bytes());
    out
}

fn strings(values: &[&str]) -> Vec<u8> {
    let mut out = 8u32.to_le_bytes().to_vec();
    out.extend((values.len() as u64).to_le_bytes());
    values.iter().for_each(|value| out.extend(text(value)));
    out
}

/// A two-layer model of 64 × 32 weights in Q4_1 and one row of F32.
fn small() -> Draft {
    Draft { data_bytes: 64 * 20 + 128, ..Draft::default() }
        .text("general.architecture", "llama")
        .text("general.name", "tiny")
        .text("general.license", "apache-2.0")
        .number("general.file_type", 3)
        .number("llama.block_count", 2)
        .number("llama.context_length", 2048)
        .number("llama.embedding_length", 32)
        .number("llama.attention.head_count", 4)
        .number("llama.attention.head_count_kv", 2)
        .entry("llama.rope.freq_base", 6, 10_000f32.to_le_bytes().to_vec())
        .entry("tokenizer.ggml.tokens", 9, strings(&["<s>", "a", "b"]))
        .text("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", &[32, 64], 3, 0)
        .tensor("output_norm.weight", &[32], 0, 64 * 20)
}

fn parse(bytes: &[u8]) -> Result<GgufFacts, GgufError> {
    read(Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn a_well_formed_head_gives_every_fact_of_the_card() {
    let facts = parse(&small().build()).expect("the draft follows the format");
    assert_eq!(facts.architecture, "llama");
    assert_eq!(facts.name.as_deref(), Some("tiny"));
    assert_eq!(facts.licence.as_deref(), Some("apache-2.0"));
    assert_eq!(facts.quantisation, "Q4_1");
    assert_eq!(facts.parameter_count, 64 * 32 + 32);
    assert_eq!(facts.tensor_bytes, 64 * 20 + 128);
    assert_eq!(facts.vocabulary_count, Some(3));
    assert_eq!(facts.chat_template.as_deref(), Some("{{ messages }}"));
    // 2 layers × 2 heads × (8 + 8) elements × 2 bytes.
    assert_eq!(facts.cache_bytes_per_token, Some(128));
    assert!(!facts.embedding_model);
}

#[test]
fn per_layer_head_counts_are_summed_for_the_cache() {
    let mut list = 4u32.to_le_bytes().to_vec();
    list.extend(2u64.to_le_bytes());
    list.extend([1u32, 3].iter().flat_map(|n| n.to_le_bytes()));
    let mut draft = small();
    draft.entries.retain(|(key, _, _)| key != "llama.attention.head_count_kv");
    let facts = parse(&draft.entry("llama.attention.head_count_kv", 9, list).build()).expect("lists are allowed");
    assert_eq!(facts.kv_head_count, Some(3));
    assert_eq!(facts.cache_bytes_per_token, Some((1 + 3) * 16 * 2));
}

#[test]
fn every_shorter_prefix_is_refused_as_truncated_or_not_a_model() {
    let whole = small().build();
    for length in 0..whole.len() {
        let error = parse(&whole[..length]).expect_err("a prefix is not a model");
        let is_named =
            if length < 4 { matches!(error, GgufError::NotGguf) } else { matches!(error, GgufError::Truncated { .. }) };
        assert!(is_named, "prefix of {length} bytes: {error}");
    }
}

#[test]
fn a_truncated_file_says_both_lengths() {
    let whole = small().build();
    let error = parse(&whole[..whole.len() - 1]).expect_err("one byte is missing");
    let wanted =
        format!("the GGUF file is truncated: it has {} bytes and needs at least {}", whole.len() - 1, whole.len());
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused_before_any_allocation() {
    let mut claims = b"GGUF".to_vec();
    claims.extend(3u32.to_le_bytes());
    claims.extend(u64::MAX.to_le_bytes());
    claims.extend(0u64.to_le_bytes());
    assert!(parse(&claims).expect_err("too many tensors").to_string().contains("18446744073709551615 tensors"));

    let mut array = 8u32.to_le_bytes().to_vec();
    array.extend((u64::MAX / 16).to_le_bytes());
    let hostile = small().entry("x", 9, array).build();
    assert!(matches!(parse(&hostile).expect_err("an endless array"), GgufError::Truncated { .. }));

    let huge_text = small().entry("x", 8, u64::MAX.to_le_bytes().to_vec()).build();
    assert!(matches!(parse(&huge_text).expect_err("an endless text"), GgufError::Truncated { .. }));
}

#[test]
fn a_tensor_outside_the_file_is_refused() {
    let far = small().tensor("far", &[32], 0, 1 << 40).build();
    assert!(matches!(parse(&far).expect_err("offset past the end"), GgufError::Truncated { .. }));
    let overflow = small().tensor("wide", &[u64::MAX, 2], 0, 0).build();
    assert!(parse(&overflow).expect_err("sizes overflow").to_string().contains("overflow"));
    let uneven = small().tensor("uneven", &[33], 3, 0).build();
    assert!(parse(&uneven).expect_err("33 is no multiple of 32").to_string().contains("`uneven`"));
}

#[test]
fn other_files_and_other_versions_are_named_for_what_they_are() {
    assert!(matches!(parse(b"PK\x03\x04 and so on"), Err(GgufError::NotGguf)));
    let mut big_endian = b"GGUF".to_vec();
    big_endian.extend(3u32.to_be_bytes());
    assert!(matches!(parse(&big_endian), Err(GgufError::BigEndian)));
    let mut future = b"GGUF".to_vec();
    future.extend(9u32.to_le_bytes());
    assert!(matches!(parse(&future), Err(GgufError::Version(9))));
}

#[test]
fn a_vocabulary_file_without_tensors_is_not_a_model() {
    let mut draft = small();
    draft.tensors.clear();
    assert!(parse(&draft.build()).expect_err("no weights").to_string().contains("no tensor"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn changed_bytes_never_panic_nor_invent_facts(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small().build();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(facts) = parse(&bytes) {
            prop_assert!(facts.tensor_bytes <= facts.file_bytes.saturating_mul(2), "overlapping tensors stay inside the file");
        }
    }

    #[test]
    fn noise_after_a_valid_start_never_panics(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(noise);
        prop_assert!(parse(&bytes).is_err());
    }
}

#[test]
fn the_worker_knows_the_same_tensor_types() {
    // The worker has a reader of its own (decision 0019); block sizes decide in both whether a file is whole.
    let worker = include_str!("../../../worker/src/gguf.rs");
    let table = worker.split("let (block, bytes) = match kind {").nth(1).and_then(|text| text.split("_ =>").next());
    let mut theirs = BTreeMap::new();
    for line in table.expect("the worker's table").lines().filter(|line| line.contains("=>")) {
        let (ids, sizes) = line.split_once("=>").expect("just looked");
        let sizes: Vec<u64> = sizes
            .split(|c: char| !c.is_ascii_digit())
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().expect("a number"))
            .collect();
        for id in ids.split('|') {
            theirs.insert(id.trim().parse::<u32>().expect("a type"), (sizes[0], sizes[1]));
        }
    }
    assert!(theirs.len() >= 30, "{theirs:?}: the pattern no longer fits the source");
    let ours: BTreeMap<u32, (u64, u64)> = (0..256)
        .filter_map(|id| Some((id, TensorType::from_id(id)?)))
        .map(|(id, kind)| (id, (kind.block_elements, kind.block_bytes)))
        .collect();
    assert_eq!(theirs, ours);
}
