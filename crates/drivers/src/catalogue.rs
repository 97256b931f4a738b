//! The catalogue: open-weight models that can be pulled by name. Data, not program: `catalogue/*.toml`, compiled in.
//!
//! Every entry says where its facts come from; a fact that is not known is absent. INVARIANT: names and aliases are
//! unique, and every source reads as one (a test holds both).
//! Deliberately absent: judgement of what a model is good for.

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use galerne_api::nearest::nearest;
use galerne_model::inference::Quantisation;
use serde::Deserialize;

use crate::fetch::{FetchError, Sha256Digest, Source};

/// Files of the catalogue, in the order they are listed.
const FILES: [&str; 5] = [
    include_str!("../../../catalogue/smollm.toml"),
    include_str!("../../../catalogue/mistral.toml"),
    include_str!("../../../catalogue/qwen.toml"),
    include_str!("../../../catalogue/others.toml"),
    include_str!("../../../catalogue/embeddings.toml"),
];

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let read = |text: &&str| {
        let file: File = toml::from_str(text).expect("the compiled-in files are read by a test");
        file.model
    };
    let raw = FILES.iter().flat_map(read);
    raw.map(|raw| raw.entry().expect("the compiled-in files are read by a test")).collect()
});

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Conversation and text.
    Chat,
    /// Vectors from texts.
    Embedding,
}

/// One model that can be pulled by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name to pull it by; also the name its model resource gets.
    pub name: String,
    /// Other names it is found by.
    pub aliases: Vec<String>,
    /// Name for people.
    pub title: String,
    /// Who trained it.
    pub publisher: String,
    /// What it is for.
    pub task: Task,
    /// SPDX identifier of the licence of the weights.
    pub licence: String,
    /// Places with the same bytes, best first.
    pub sources: Vec<Source>,
    /// Digest of the file, where it is known; `facts_from` says by whom.
    pub sha256: Option<Sha256Digest>,
    /// Size of the file.
    pub size_bytes: Option<u64>,
    /// Whether the size is exact; else it is rounded as its page lists it.
    pub size_is_exact: bool,
    /// How the weights are packed.
    pub quantisation: String,
    /// Weights in all, as exact as its card states them.
    pub parameter_count: Option<u64>,
    /// Longest context in tokens.
    pub context_tokens: Option<u64>,
    /// Key-value cache of one token at 16 bits.
    pub cache_bytes_per_token: Option<u64>,
    /// Where its prompt template is.
    pub template: Option<String>,
    /// A requantisation at import that makes it faster here.
    pub requantise: Option<Quantisation>,
    /// Sentences for the model card.
    pub notes: Vec<String>,
    /// Where these facts come from.
    pub facts_from: Vec<String>,
    /// What this project tried of it, in words. Absent: its facts are recorded from elsewhere, nobody here fetched it.
    pub tried: Option<String>,
}

impl Entry {
    /// Memory for `sequences` conversations of `context_tokens` each: weights and cache; nothing when too little is known.
    pub fn memory_bytes(&self, context_tokens: u64, sequences: u64) -> Option<u64> {
        let cache = self.cache_bytes_per_token?.checked_mul(context_tokens)?.checked_mul(sequences)?;
        self.size_bytes?.checked_add(cache)
    }
}

/// What to pull, after a person has said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// An entry of the catalogue; its sources are tried in order.
    Listed(&'static Entry),
    /// A place.
    Place(Source),
}

/// Why there is nothing to pull.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// No entry has this name.
    #[error("the catalogue has no model `{name}`{}", question(.nearest))]
    Unknown {
        /// The name given.
        name: String,
        /// Names that are near it.
        nearest: Vec<String>,
    },
    /// It is a source, and not a sound one.
    #[error(transparent)]
    Source(#[from] FetchError),
}

impl CatalogueError {
    /// Public error code; each has a page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "source_invalid",
            Self::Source(error) => error.code(),
        }
    }

    /// The next step for a person.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unknown { .. } => {
                Some("`galerne model catalogue` lists them; a source such as `hf://owner/repo/file` works too")
            }
            Self::Source(error) => error.hint(),
        }
    }
}

/// Every entry.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// The entry with this name or alias, in any case.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| names(entry).any(|known| known.eq_ignore_ascii_case(name)))
}

/// Reads what a person typed: a name of the catalogue or a source.
pub fn resolve(text: &str) -> Result<Wanted, CatalogueError> {
    if text.contains("://") {
        return Ok(Wanted::Place(text.parse()?));
    }
    find(text).map(Wanted::Listed).ok_or_else(|| CatalogueError::Unknown {
        name: text.chars().filter(|c| !c.is_control()).take(80).collect(),
        nearest: nearest(text, ENTRIES.iter().flat_map(names)).into_iter().map(str::to_owned).collect(),
    })
}

/// `; did you mean …?` for the end of a message.
fn question(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; did you mean `{}`?", nearest.join("` or `")) }
}

fn names(entry: &Entry) -> impl Iterator<Item = &str> {
    std::iter::once(entry.name.as_str()).chain(entry.aliases.iter().map(String::as_str))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Vec<RawEntry>,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    title: String,
    publisher: String,
    task: Task,
    licence: String,
    sources: Vec<String>,
    sha256: Option<String>,
    size_bytes: Option<u64>,
    /// Size as a page lists it, in megabytes (10⁶ bytes).
    size_listed_mb: Option<u64>,
    quantisation: String,
    parameter_count: Option<u64>,
    context_tokens: Option<u64>,
    cache_bytes_per_token: Option<u64>,
    template: Option<String>,
    requantise: Option<Quantisation>,
    #[serde(default)]
    notes: Vec<String>,
    facts_from: Vec<String>,
    tried: Option<String>,
}

impl RawEntry {
    fn entry(self) -> Result<Entry, CatalogueError> {
        let sources = self.sources.iter().map(|text| text.parse()).collect::<Result<_, FetchError>>()?;
        let sha256 = self.sha256.as_deref().map(str::parse::<Sha256Digest>).transpose();
        let sha256 =
            sha256.map_err(|error| FetchError::BadSource { text: self.name.clone(), why: error.to_string() })?;
        Ok(Entry {
            name: self.name,
            aliases: self.aliases,
            title: self.title,
            publisher: self.publisher,
            task: self.task,
            licence: self.licence,
            sources,
            sha256,
            size_bytes: self.size_bytes.or_else(|| self.size_listed_mb?.checked_mul(1_000_000)),
            size_is_exact: self.size_bytes.is_some(),
            quantisation: self.quantisation,
            parameter_count: self.parameter_count,
            context_tokens: self.context_tokens,
            cache_bytes_per_token: self.cache_bytes_per_token,
            template: self.template,
            requantise: self.requantise,
            notes: self.notes,
            facts_from: self.facts_from,
            tried: self.tried,
        })
    }
}
