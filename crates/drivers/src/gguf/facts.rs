//! From metadata entries and tensors to the facts a model card shows.

use std::collections::BTreeMap;

use super::quantisation::file_type;
use super::{Tensor, Value, shown};

/// Bytes of one element of the key-value cache: the worker keeps it in 16-bit floats.
const CACHE_ELEMENT_BYTES: u64 = 2;
/// What the head of a model file says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GgufFacts {
    /// Version of the format.
    pub format_version: u32,
    /// Network family as the engine names it, e.g. `llama`.
    pub architecture: String,
    /// Name the author gave.
    pub name: Option<String>,
    /// Licence the author stated, often an SPDX id.
    pub licence: Option<String>,
    /// Weights, all tensors together.
    pub parameter_count: u64,
    /// How the weights are packed, e.g. `Q4_1`.
    pub quantisation: String,
    /// Longest context the model was made for, in tokens.
    pub context_tokens: Option<u64>,
    /// Layers.
    pub block_count: Option<u64>,
    /// Width of the network; the length of its embeddings.
    pub embedding_length: Option<u64>,
    /// Query heads of the widest layer.
    pub head_count: Option<u64>,
    /// Key-value heads of the widest layer.
    pub kv_head_count: Option<u64>,
    /// Words of the tokenizer.
    pub vocabulary_count: Option<u64>,
    /// Experts of a mixture model.
    pub expert_count: Option<u64>,
    /// Jinja template that turns messages into a prompt.
    pub chat_template: Option<String>,
    /// True when the file is made for embeddings rather than for text generation.
    pub embedding_model: bool,
    /// Tensors in the table.
    pub tensor_count: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of key-value cache for one token of context, where the head says enough to know.
    pub cache_bytes_per_token: Option<u64>,
}

/// Puts the facts together; the error says what is missing.
pub(super) fn gather(
    format_version: u32,
    entries: &BTreeMap<String, Value>,
    tensors: &[Tensor],
    file_bytes: u64,
) -> Result<GgufFacts, String> {
    let text = |key: &str| match entries.get(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let architecture = text("general.architecture").map(|name| shown(&name)).filter(|name| !name.is_empty());
    let architecture = architecture.ok_or("`general.architecture` is missing")?;
    let own = |key: &str| number(entries.get(&format!("{architecture}.{key}")));
    let total = |pick: fn(&Tensor) -> u64| tensors.iter().map(pick).try_fold(0u64, u64::checked_add);
    let head_count = own("attention.head_count");
    let pooling = own("pooling_type").unwrap_or(0);
    let bidirectional = entries.get(&format!("{architecture}.attention.causal")) == Some(&Value::Bool(false));
    Ok(GgufFacts {
        format_version,
        name: text("general.name").map(|name| shown(&name)),
        licence: text("general.license").map(|name| shown(&name)),
        parameter_count: total(|tensor| tensor.elements).ok_or("the tensor sizes overflow")?,
        quantisation: quantisation(entries, tensors),
        context_tokens: own("context_length"),
        block_count: own("block_count"),
        embedding_length: own("embedding_length"),
        head_count,
        kv_head_count: own("attention.head_count_kv").or(head_count),
        vocabulary_count: vocabulary(entries).or_else(|| own("vocab_size")),
        expert_count: own("expert_count"),
        chat_template: text("tokenizer.chat_template"),
        embedding_model: pooling > 0 || bidirectional,
        tensor_count: tensors.len() as u64,
        tensor_bytes: total(|tensor| tensor.bytes).ok_or("the tensor sizes overflow")?,
        file_bytes,
        cache_bytes_per_token: cache_bytes_per_token(&architecture, entries),
        architecture,
    })
}

/// A number, or the largest of a per-layer list.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Unsigned(n) => Some(*n),
        Value::Signed(n) => u64::try_from(*n).ok(),
        Value::Integers(list) => list.iter().copied().max(),
        Value::Bool(_) | Value::Text(_) | Value::Counted(_) | Value::Skipped => None,
    }
}

fn vocabulary(entries: &BTreeMap<String, Value>) -> Option<u64> {
    match entries.get("tokenizer.ggml.tokens")? {
        Value::Counted(count) => Some(*count),
        _ => None,
    }
}

/// Per token and layer: one key and one value row for each key-value head.
fn cache_bytes_per_token(architecture: &str, entries: &BTreeMap<String, Value>) -> Option<u64> {
    let entry = |key: &str| entries.get(&format!("{architecture}.{key}"));
    let own = |key: &str| number(entry(key));
    let blocks = own("block_count")?;
    let heads = own("attention.head_count")?;
    let row = own("embedding_length")?.checked_div(heads)?;
    let key_value_row =
        own("attention.key_length").unwrap_or(row).checked_add(own("attention.value_length").unwrap_or(row))?;
    let kv_heads_of_all_layers = match entry("attention.head_count_kv") {
        Some(Value::Integers(list)) => list.iter().copied().try_fold(0u64, u64::checked_add)?,
        other => number(other).unwrap_or(heads).checked_mul(blocks)?,
    };
    kv_heads_of_all_layers.checked_mul(key_value_row)?.checked_mul(CACHE_ELEMENT_BYTES)
}

/// What the file says, or the type that holds most of the bytes.
fn quantisation(entries: &BTreeMap<String, Value>, tensors: &[Tensor]) -> String {
    let stated = number(entries.get("general.file_type")).and_then(file_type);
    if let Some(name) = stated {
        return name.to_owned();
    }
    let mut bytes_by_type: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in tensors {
        let bytes = bytes_by_type.entry(tensor.kind.name).or_default();
        *bytes = bytes.saturating_add(tensor.bytes);
    }
    let largest = bytes_by_type.into_iter().max_by_key(|(_, bytes)| *bytes);
    largest.map_or_else(String::new, |(name, _)| name.to_owned())
}
