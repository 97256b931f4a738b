//! Parameters by name: those with a field, those that may be left alone, and what a misspelt one was meant to be.

use galerne_api::nearest::distance;
use galerne_api::openai::Parameters;
use serde_json::Value;

use super::{Refused, Route};

type AsksNothing = fn(&Value) -> bool;

/// Parameters without a field, and the values under which they ask for nothing this engine does not do anyway.
const HARMLESS: [(&str, AsksNothing); 26] = [
    ("ignore_eos", Value::is_boolean),
    ("user", Value::is_string),
    ("safety_identifier", Value::is_string),
    ("prompt_cache_key", Value::is_string),
    ("prompt_cache_retention", Value::is_string),
    ("metadata", Value::is_object),
    ("store", |v| *v == Value::Bool(false)),
    ("service_tier", |v| matches!(v.as_str(), Some("auto" | "default"))),
    ("tools", |v| v.as_array().is_some_and(Vec::is_empty)),
    ("functions", |v| v.as_array().is_some_and(Vec::is_empty)),
    ("tool_choice", |v| matches!(v.as_str(), Some("none" | "auto"))),
    ("function_call", |v| matches!(v.as_str(), Some("none" | "auto"))),
    ("parallel_tool_calls", Value::is_boolean),
    ("response_format", |v| v.get("type").and_then(Value::as_str) == Some("text")),
    ("modalities", |v| v.as_array().is_some_and(|list| list.iter().all(|m| m == "text"))),
    ("safe_prompt", |v| *v == Value::Bool(false)),
    ("audio", |_| false),
    ("prediction", |_| false),
    ("guardrails", |_| false),
    ("prompt_mode", |_| false),
    ("reasoning_effort", |_| false),
    ("verbosity", |_| false),
    ("web_search_options", |_| false),
    ("echo", |v| *v == Value::Bool(false)),
    ("best_of", |v| v.as_u64() == Some(1)),
    ("suffix", |_| false),
];

/// Parameters with a field of their own; for the nearest name of an unknown one.
const FIELDS: [&str; 25] = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "random_seed",
    "stop",
    "n",
    "logprobs",
    "top_logprobs",
    "min_tokens",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
];

/// Those of them that are read from `Parameters::other`; chats have more than text completions.
const READ: [&str; 3] = ["logprobs", "top_logprobs", "min_tokens"];
const READ_OF_CHATS: [&str; 7] = [
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
];

pub(super) fn check_other(parameters: &Parameters, route: Route) -> Result<(), Refused> {
    for (name, value) in &parameters.other {
        if READ.contains(&name.as_str()) || route == Route::Chat && READ_OF_CHATS.contains(&name.as_str()) {
            continue;
        }
        match HARMLESS.iter().find(|(known, _)| known == name) {
            Some(_) if value.is_null() => {}
            Some((_, harmless)) if harmless(value) => {}
            Some(_) => {
                let shown = shorten(&value.to_string());
                let text = format!("`{name}` with the value {shown} is not supported by this engine");
                return Err(Refused::new(name, "unsupported_parameter", text));
            }
            None => return Err(unknown(name)),
        }
    }
    Ok(())
}

/// Refuses what is no parameter of a chat's prompt.
pub(crate) fn check_rendering(parameters: &Parameters) -> Result<(), Refused> {
    match parameters.other.keys().find(|name| !READ_OF_CHATS.contains(&name.as_str())) {
        Some(name) => Err(unknown(name)),
        None => Ok(()),
    }
}

fn unknown(name: &str) -> Refused {
    let known = FIELDS.iter().copied().chain(HARMLESS.iter().map(|(known, _)| *known));
    let nearest = known.map(|known| (distance(name, known), known)).min().filter(|(steps, _)| *steps <= 3);
    let hint = nearest.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default();
    Refused::new(name, "unknown_parameter", format!("unknown parameter `{}`{hint}", shorten(name)))
}

pub(super) fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(80).chain(['…']).collect() }
}
