//! The header of an adapter's file: pairs of small matrices, each for one matrix of the model.
//! llama.cpp checks names and shapes against the model and says so; here is what it would abort on instead.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::Path;

use super::{Parsed, Problem, Tensor, Value, broken, open, parse};

/// What the header of an adapter's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdapterHeader {
    pub architecture: String,
    pub tensor_bytes: u64,
    /// The largest rank of its pairs.
    pub rank: u64,
}

/// Types of the matrices: those that llama.cpp's converter writes (F32, F16, Q8_0, BF16).
const KINDS: [u32; 4] = [0, 1, 8, 30];
/// Largest rank; published adapters have 8 to 256.
const RANK_MAX: u64 = 1024;
const TOKEN_EMBEDDING: &str = "token_embd.weight";

/// Reads and checks the header of an adapter's file.
pub(crate) fn inspect_adapter(path: &Path) -> Result<AdapterHeader, Problem> {
    let (source, length) = open(path)?;
    read_adapter(source, length)
}

pub(super) fn read_adapter<R: Read + Seek>(source: R, length: u64) -> Result<AdapterHeader, Problem> {
    let Parsed { facts, tensors, tensor_bytes } = parse(source, length)?;
    let text = |key: &str| match facts.0.get(key) {
        Some(Value::Text(text)) => Ok(text.as_str()),
        _ => broken(format!("the key `{key}` is missing or no text")),
    };
    for (key, needed) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        let found = text(key)?;
        if found != needed {
            return broken(format!("its `{key}` is `{found}`; `{needed}` is needed"));
        }
    }
    match facts.0.get("adapter.lora.alpha") {
        None => {}
        Some(Value::Real(alpha)) if alpha.is_finite() => {}
        Some(_) => return broken("the key `adapter.lora.alpha` is no number in 32 bits".to_owned()),
    }
    if facts.0.keys().any(|key| key.starts_with("adapter.alora.")) {
        return broken("it is to begin at certain tokens (aLoRA), which this engine does not do".to_owned());
    }
    Ok(AdapterHeader { architecture: text("general.architecture")?.to_owned(), tensor_bytes, rank: rank(&tensors)? })
}

/// Checks that the tensors are pairs that can be multiplied; their largest rank.
fn rank(tensors: &[Tensor]) -> Result<u64, Problem> {
    let mut pairs: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    for tensor in tensors {
        let name = tensor.name.as_str();
        let (of, side) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(of), _) => (of, 0),
            (_, Some(of)) => (of, 1),
            (None, None) => return broken(format!("the tensor `{name}` is no part of an adapter's pair")),
        };
        if of == TOKEN_EMBEDDING {
            return broken("it adapts the embedding of tokens, which this engine does not do".to_owned());
        }
        if !KINDS.contains(&tensor.kind) {
            return broken(format!("the tensor `{name}` is of type {}; F32, F16, BF16 or Q8_0 is needed", tensor.kind));
        }
        if tensor.sizes[2..] != [1, 1] {
            return broken(format!(
                "the tensor `{name}` adapts several experts at once, which this engine does not do"
            ));
        }
        if pairs.entry(of).or_default()[side].replace(tensor).is_some() {
            return broken(format!("the tensor `{name}` is there twice"));
        }
    }
    if pairs.is_empty() {
        return broken("it has no tensors".to_owned());
    }
    let mut largest = 0;
    for (of, pair) in pairs {
        let [Some(a), Some(b)] = pair else {
            return broken(format!("of the pair for `{of}` one half is missing"));
        };
        let rank = a.sizes[1];
        if rank != b.sizes[0] || rank > RANK_MAX {
            return broken(format!(
                "the pair for `{of}` has ranks {rank} and {}; one up to {RANK_MAX} is needed",
                b.sizes[0]
            ));
        }
        largest = largest.max(rank);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests;
