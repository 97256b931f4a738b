//! Models that are known to work, as data.

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
    /// Size of the file.
    pub size_bytes: i64,
    /// Memory needed to serve it with its default context.
    pub memory_bytes: i64,
    /// Longest context in tokens.
    pub context_tokens: i64,
    /// Whether it makes embeddings rather than text.
    pub is_embedding: bool,
}
