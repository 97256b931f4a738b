//! Embeddings as base64, where the engine gave numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::request::{Fields, List, ObjectWriter};

/// The list of embeddings with every vector as little-endian `f32` in base64; what is so already stays.
pub(super) fn as_base64(data: &str) -> String {
    let Ok(List(list)) = serde_json::from_str::<List<'_>>(data) else { return data.to_owned() };
    let told: Vec<String> = list.iter().map(one).collect();
    format!("[{}]", told.join(","))
}

fn one(embedding: &Fields<'_>) -> String {
    let mut out = ObjectWriter::with_capacity(4096);
    for (name, value) in &embedding.0 {
        let numbers = if name == "embedding" { serde_json::from_str::<Vec<f32>>(value.get()).ok() } else { None };
        match numbers {
            Some(numbers) => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                out.text(name, &STANDARD.encode(bytes));
            }
            None => out.raw(name, value.get()),
        }
    }
    out.into_text()
}
