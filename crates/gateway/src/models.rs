//! `/v1/models`: the endpoints a key may call, in the union of OpenAI's and Mistral's shapes; on an exact surface in its own.

use galerne_api::error::Code;
use galerne_api::nearest::distance;
use galerne_api::surface::Dialect;
use galerne_model::snapshot::{EndpointEntry, KeyEntry, Snapshot};
use serde::Serialize;

use crate::admit::visible;
use crate::refusal::Refusal;

/// Names offered when one is not found.
const SUGGESTIONS_MAX: usize = 3;
/// Longest name shown.
const SHOWN_MAX_CHARS: usize = 64;

#[derive(Debug, Serialize)]
pub(crate) struct ModelList<'a> {
    object: &'static str,
    data: Vec<Card<'a>>,
}

/// A model, as a surface tells it: what OpenAI has, and what Mistral and engines have beyond.
#[derive(Debug, Serialize)]
pub(crate) struct Card<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: String,
    #[serde(flatten)]
    mistral: Option<MistralCard<'a>>,
    #[serde(flatten)]
    engine: Option<EngineCard<'a>>,
}

#[derive(Debug, Serialize)]
struct MistralCard<'a> {
    max_context_length: u32,
    capabilities: Capabilities,
    aliases: [&'a str; 0],
    deprecation: Option<&'a str>,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Debug, Serialize)]
struct EngineCard<'a> {
    max_model_len: u32,
    root: &'a str,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "Mistral's shape")]
struct Capabilities {
    completion_chat: bool,
    completion_fim: bool,
    function_calling: bool,
    fine_tuning: bool,
    vision: bool,
    classification: bool,
}

/// Everything this key may call; of several endpoints of one name, the one that would answer.
pub(crate) fn list<'a>(dialect: Dialect, snapshot: &'a Snapshot, key: &'a KeyEntry) -> ModelList<'a> {
    let mut data: Vec<Card<'a>> = Vec::new();
    for endpoint in visible(snapshot, key) {
        if !data.iter().any(|card| card.id == endpoint.name) {
            data.push(card(dialect, endpoint));
        }
    }
    ModelList { object: "list", data }
}

/// One model by name.
pub(crate) fn find<'a>(
    dialect: Dialect,
    snapshot: &'a Snapshot,
    key: &'a KeyEntry,
    name: &str,
) -> Result<Card<'a>, Refusal> {
    let found = visible(snapshot, key).find(|endpoint| endpoint.name == name);
    found.map(|endpoint| card(dialect, endpoint)).ok_or_else(|| not_found(snapshot, key, name))
}

/// The refusal for a name nobody has, with the nearest ones this key may see.
pub(crate) fn not_found(snapshot: &Snapshot, key: &KeyEntry, name: &str) -> Refusal {
    let shown: String = name.chars().take(SHOWN_MAX_CHARS).collect();
    let mut near: Vec<(usize, &str)> =
        visible(snapshot, key).map(|endpoint| (distance(&shown, &endpoint.name), endpoint.name.as_str())).collect();
    near.sort_unstable();
    near.dedup();
    let names: Vec<String> = near.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| format!("`{name}`")).collect();
    let hint = match names.as_slice() {
        [] => "there is no endpoint yet; hint: galerne endpoint create".to_owned(),
        names => format!("nearest: {}", names.join(", ")),
    };
    Refusal::new(Code::ModelNotFound, format!("no endpoint is named `{shown}`; {hint}")).param("model")
}

fn card(dialect: Dialect, endpoint: &EndpointEntry) -> Card<'_> {
    let mistral = MistralCard {
        max_context_length: endpoint.context_tokens,
        capabilities: Capabilities {
            completion_chat: endpoint.can_chat,
            completion_fim: endpoint.abilities.fills_gaps,
            function_calling: endpoint.abilities.calls_functions,
            fine_tuning: false,
            vision: false,
            classification: false,
        },
        aliases: [],
        deprecation: None,
        name: &endpoint.name,
        kind: "base",
    };
    let engine = EngineCard { max_model_len: endpoint.context_tokens, root: &endpoint.name };
    Card {
        id: &endpoint.name,
        object: "model",
        created: endpoint.created_at.as_second(),
        owned_by: endpoint.tenant_id.to_string(),
        mistral: (dialect != Dialect::OpenAi).then_some(mistral),
        engine: (dialect == Dialect::Union).then_some(engine),
    }
}
