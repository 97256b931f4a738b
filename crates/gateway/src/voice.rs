//! How an answer is told: in whose words, under which name, and with what its readers require.
//!
//! Our worker gives all of that; other engines leave fields out that OpenAI's clients require, repeat in a stream what belongs
//! into its first chunk only, and know the model by another name. What is right already passes byte for byte.

use galerne_api::surface::Dialect;
use galerne_model::ids::RequestId;
use galerne_model::ledger::Operation;
use galerne_model::snapshot::EndpointEntry;

use crate::request::Asked;
use crate::responses::{Events, Repeated};

mod chunk;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod tools;
mod vectors;
mod whole;

pub(crate) use chunk::Teller;

/// What of a request shapes its answer.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    pub(crate) dialect: Dialect,
    operation: Operation,
    /// The endpoint's name, which callers know.
    model: String,
    /// Whether the engine knows the model by another.
    renames: bool,
    /// The tier that was used, where it is named.
    named_tier: Option<&'static str>,
    /// Whether embeddings are wanted as base64.
    base64: bool,
    /// The beginning of the answer, as a JSON text, where the caller wrote it.
    prefix: Option<String>,
    /// What a response repeats of its request; a chat repeats nothing.
    repeated: Option<Repeated>,
}

impl Voice {
    pub(crate) fn new(
        asked: &Asked<'_>,
        endpoint: &EndpointEntry,
        dialect: Dialect,
        repeated: Option<Repeated>,
    ) -> Self {
        Self {
            dialect,
            operation: asked.operation,
            model: endpoint.name.clone(),
            renames: endpoint.upstream_model != endpoint.name,
            // Mistral's answers have no place for it.
            named_tier: (asked.tier_asked && dialect != Dialect::Mistral)
                .then(|| asked.tier.unwrap_or_default().as_str()),
            base64: asked.base64,
            prefix: asked.prefix(),
            repeated,
        }
    }

    /// The same for an answer of another endpoint, under `name`.
    pub(crate) fn under(&self, name: &str, upstream_model: &str) -> Self {
        Self { model: name.to_owned(), renames: upstream_model != name, ..self.clone() }
    }

    /// Whether the answer is about tokens alone, so that nothing was computed.
    pub(crate) fn is_of_tokens(&self) -> bool {
        match self.operation {
            Operation::Tokenise | Operation::Detokenise => true,
            Operation::Chat | Operation::Completion | Operation::Fim | Operation::Embedding => false,
        }
    }

    /// The teller of a response, if one was asked for.
    fn events(&self, request_id: RequestId) -> Option<Events> {
        self.repeated.as_ref().map(|repeated| Events::new(request_id, &self.model, repeated.clone()))
    }

    /// `text` with the beginning that the caller wrote; both are JSON texts.
    fn after_prefix(&self, text: &str) -> Option<String> {
        let (open, rest) = (self.prefix.as_deref()?.strip_suffix('"')?, text.strip_prefix('"')?);
        Some(format!("{open}{rest}"))
    }
}

#[cfg(test)]
mod tests;
