//! Facts in the form that a model resource keeps.

use galerne_model::inference::ModelFacts;

use super::GgufFacts;

impl From<&GgufFacts> for ModelFacts {
    fn from(facts: &GgufFacts) -> Self {
        Self {
            architecture: facts.architecture.clone(),
            parameters: held(Some(facts.parameter_count)),
            quantisation: facts.quantisation.clone(),
            context_tokens: held(facts.context_tokens),
            blocks: held(facts.block_count),
            embedding_length: held(facts.embedding_length),
            vocabulary: held(facts.vocabulary_count),
            kv_bytes_per_token: held(facts.cache_bytes_per_token),
            has_chat_template: facts.chat_template.is_some(),
            is_embedding: facts.embedding_model,
        }
    }
}

/// A number of the file inside the range of `i64`; 0 when the file does not say.
fn held(number: Option<u64>) -> i64 {
    i64::try_from(number.unwrap_or(0)).unwrap_or(i64::MAX)
}
