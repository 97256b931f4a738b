//! Models that can be pulled by name, as data.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A model that can be pulled by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueEntry {
    /// Name to give to `galerne model pull`.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Where it is fetched from.
    pub source: String,
    /// SHA-256 of the file, when it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SPDX identifier of the licence.
    pub licence: String,
    /// Size of the file, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Memory needed to serve one conversation of 4,096 tokens, when enough is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// Longest context in tokens, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<i64>,
    /// What the makers of Galerne tried of it. Absent: its facts are recorded from its pages, and it was never fetched by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<String>,
    /// Whether it makes embeddings rather than text.
    pub is_embedding: bool,
}
