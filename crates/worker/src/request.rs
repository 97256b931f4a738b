//! From a request as sent to what the engine is asked to do; everything that cannot be done is refused by name.
//! INVARIANT: no parameter is dropped in silence. It has a field, or it is in `HARMLESS` with a value that asks for nothing,
//! or the answer is 400 with its name.

use galerne_api::nearest::distance;
use galerne_api::openai::{ChatMessage, MessageContent, Parameters, Stop};
use serde_json::Value;

use crate::limits;
use crate::sample::Sampling;

/// What a request asks for, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    pub sampling: Sampling,
    /// `None`: as much as the context holds.
    pub max_tokens: Option<usize>,
    pub stops: Vec<String>,
    pub ignore_end: bool,
    pub stream: bool,
    pub include_usage: bool,
}

/// A refused request: which parameter, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub param: Option<String>,
    pub code: &'static str,
    pub message: String,
}

impl Refused {
    pub(crate) fn new(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), code, message: message.into() }
    }
}

/// Checks the parameters. `random` is the seed when none is given.
pub(crate) fn wish(parameters: &Parameters, random: u64) -> Result<Wish, Refused> {
    check_other(parameters)?;
    if parameters.n.is_some_and(|n| n != 1) {
        return Err(Refused::new("n", "unsupported_parameter", "`n` must be 1: send one request per answer"));
    }
    let stream = parameters.stream.unwrap_or(false);
    if parameters.stream_options.is_some() && !stream {
        return Err(Refused::new("stream_options", "invalid_value", "`stream_options` needs `stream: true`"));
    }
    Ok(Wish {
        sampling: sampling(parameters, random)?,
        max_tokens: max_tokens(parameters)?,
        stops: stops(parameters.stop.clone())?,
        ignore_end: parameters.other.get("ignore_eos").and_then(Value::as_bool).unwrap_or(false),
        stream,
        include_usage: parameters.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
    })
}

/// The messages as a chat template sees them: text only, other keys as sent.
pub(crate) fn template_messages(messages: &[ChatMessage]) -> Result<Vec<Value>, Refused> {
    if messages.is_empty() {
        return Err(Refused::new("messages", "invalid_value", "`messages` is empty"));
    }
    if messages.len() > limits::MESSAGES {
        let message = format!("`messages` has {} entries; at most {} are taken", messages.len(), limits::MESSAGES);
        return Err(Refused::new("messages", "invalid_value", message));
    }
    messages.iter().enumerate().map(|(i, message)| template_message(i, message)).collect()
}

fn template_message(i: usize, message: &ChatMessage) -> Result<Value, Refused> {
    if !ROLES.contains(&message.role.as_str()) {
        let text = format!("role `{}` is not one of {}", message.role, ROLES.join(", "));
        return Err(Refused::new(&format!("messages[{i}].role"), "invalid_value", text));
    }
    let mut out = serde_json::Map::new();
    // Templates of models made before `developer` existed know `system` only.
    let role = if message.role == "developer" { "system" } else { &message.role };
    out.insert("role".into(), Value::from(role));
    let content = match &message.content {
        Some(content) => text_of(i, content)?,
        None if message.role == "assistant" => String::new(),
        None => {
            let param = format!("messages[{i}].content");
            return Err(Refused::new(&param, "invalid_value", format!("`{param}` is missing")));
        }
    };
    out.insert("content".into(), Value::from(content));
    for (key, value) in &message.other {
        let param = format!("messages[{i}].{key}");
        match key.as_str() {
            "name" | "tool_calls" | "tool_call_id" => {
                out.insert(key.clone(), value.clone());
            }
            "refusal" | "audio" | "annotations" | "reasoning_content" if value.is_null() => {}
            "prefix" if matches!(value, Value::Null | Value::Bool(false)) => {}
            _ => {
                let text = format!("`{param}` is not supported by this engine");
                return Err(Refused::new(&param, "unsupported_parameter", text));
            }
        }
    }
    Ok(Value::Object(out))
}

fn text_of(i: usize, content: &MessageContent) -> Result<String, Refused> {
    let parts = match content {
        MessageContent::Text(text) => return Ok(text.clone()),
        MessageContent::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (j, part) in parts.iter().enumerate() {
        match (&part.text, part.kind.as_str()) {
            (Some(text), "text") => texts.push(text.as_str()),
            (_, kind) => {
                let text = format!("content of type `{kind}` is not supported: this model reads text only");
                return Err(Refused::new(&format!("messages[{i}].content[{j}]"), "unsupported_parameter", text));
            }
        }
    }
    Ok(texts.join("\n"))
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

type AsksNothing = fn(&Value) -> bool;

/// Parameters without a field, and the values under which they ask for nothing this engine does not do anyway.
const HARMLESS: [(&str, AsksNothing); 29] = [
    ("ignore_eos", Value::is_boolean),
    ("user", Value::is_string),
    ("safety_identifier", Value::is_string),
    ("prompt_cache_key", Value::is_string),
    ("prompt_cache_retention", Value::is_string),
    ("metadata", Value::is_object),
    ("store", |v| *v == Value::Bool(false)),
    ("service_tier", |v| matches!(v.as_str(), Some("auto" | "default"))),
    ("logprobs", |v| *v == Value::Bool(false)),
    ("top_logprobs", |v| v.as_u64() == Some(0)),
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
    ("min_tokens", |v| v.as_u64() == Some(0)),
];

/// Parameters with a field of their own; for the nearest name of an unknown one.
const FIELDS: [&str; 19] = [
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
];

fn check_other(parameters: &Parameters) -> Result<(), Refused> {
    for (name, value) in &parameters.other {
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

fn unknown(name: &str) -> Refused {
    let known = FIELDS.iter().copied().chain(HARMLESS.iter().map(|(known, _)| *known));
    let nearest = known.map(|known| (distance(name, known), known)).min().filter(|(steps, _)| *steps <= 3);
    let hint = nearest.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default();
    Refused::new(name, "unknown_parameter", format!("unknown parameter `{}`{hint}", shorten(name)))
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(80).chain(['…']).collect() }
}

fn sampling(parameters: &Parameters, random: u64) -> Result<Sampling, Refused> {
    let p = parameters;
    let seed = match (p.seed, p.random_seed) {
        (Some(a), Some(b)) if a != b => {
            return Err(Refused::new("random_seed", "invalid_value", "`seed` and `random_seed` differ"));
        }
        (Some(seed), _) | (None, Some(seed)) => seed.cast_unsigned(),
        (None, None) => random,
    };
    let top_k = match p.top_k {
        None | Some(-1) => 0,
        Some(k) => usize::try_from(k)
            .map_err(|_| Refused::new("top_k", "invalid_value", format!("`top_k` is {k}; it must be -1, 0 or more")))?,
    };
    Ok(Sampling {
        temperature: within("temperature", p.temperature, 1.0, 0.0, 2.0)?,
        top_p: within("top_p", p.top_p, 1.0, 0.0, 1.0)?,
        top_k,
        min_p: within("min_p", p.min_p, 0.0, 0.0, 1.0)?,
        repetition_penalty: within("repetition_penalty", p.repetition_penalty, 1.0, 0.01, 10.0)?,
        frequency_penalty: within("frequency_penalty", p.frequency_penalty, 0.0, -2.0, 2.0)?,
        presence_penalty: within("presence_penalty", p.presence_penalty, 0.0, -2.0, 2.0)?,
        bias: biases(p)?,
        seed,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the engine computes in f32; the range is checked before")]
fn within(name: &str, value: Option<f64>, default: f64, low: f64, high: f64) -> Result<f32, Refused> {
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        return Ok(value as f32);
    }
    Err(Refused::new(name, "invalid_value", format!("`{name}` is {value}; it must be between {low} and {high}")))
}

fn biases(parameters: &Parameters) -> Result<Vec<(i32, f32)>, Refused> {
    let Some(map) = &parameters.logit_bias else { return Ok(vec![]) };
    if map.len() > limits::BIASES {
        let text = format!("`logit_bias` has {} entries; at most {} are taken", map.len(), limits::BIASES);
        return Err(Refused::new("logit_bias", "invalid_value", text));
    }
    map.iter()
        .map(|(token, bias)| {
            let param = format!("logit_bias.{}", shorten(token));
            let token: i32 = token
                .parse()
                .map_err(|_| Refused::new(&param, "invalid_value", "keys of `logit_bias` are token numbers"))?;
            let bias = bias
                .as_f64()
                .ok_or_else(|| Refused::new(&param, "invalid_value", "values of `logit_bias` are numbers"))?;
            Ok((token, within(&param, Some(bias), 0.0, -100.0, 100.0)?))
        })
        .collect()
}

fn max_tokens(parameters: &Parameters) -> Result<Option<usize>, Refused> {
    let (name, value) = match (parameters.max_completion_tokens, parameters.max_tokens) {
        (Some(a), Some(b)) if a != b => {
            let text = "`max_tokens` and `max_completion_tokens` differ";
            return Err(Refused::new("max_tokens", "invalid_value", text));
        }
        (Some(value), _) => ("max_completion_tokens", value),
        (None, Some(value)) => ("max_tokens", value),
        (None, None) => return Ok(None),
    };
    if value == 0 {
        return Err(Refused::new(name, "invalid_value", format!("`{name}` must be at least 1")));
    }
    Ok(Some(value as usize))
}

fn stops(stop: Option<Stop>) -> Result<Vec<String>, Refused> {
    let stops = stop.map(Stop::into_strings).unwrap_or_default();
    if stops.len() > limits::STOPS {
        let text = format!("`stop` has {} strings; at most {} are taken", stops.len(), limits::STOPS);
        return Err(Refused::new("stop", "invalid_value", text));
    }
    match stops.iter().find(|stop| stop.is_empty() || stop.len() > limits::STOP_BYTES) {
        Some(stop) => {
            let text = format!("a stop string has {} bytes; it must have 1 to {}", stop.len(), limits::STOP_BYTES);
            Err(Refused::new("stop", "invalid_value", text))
        }
        None => Ok(stops),
    }
}

/// Fits the answer into the context: the number of tokens to generate at most, or the numbers that do not fit.
pub(crate) fn fit(
    prompt_tokens: usize,
    max_tokens: Option<usize>,
    context: usize,
    field: &str,
) -> Result<usize, Refused> {
    let wanted = max_tokens.unwrap_or(1);
    if prompt_tokens + wanted <= context {
        return Ok(max_tokens.unwrap_or(context - prompt_tokens));
    }
    let total = prompt_tokens.saturating_add(wanted);
    let message = format!(
        "this model's maximum context length is {context} tokens; the request needs {total} ({prompt_tokens} in the \
         prompt, {wanted} for the answer): shorten the prompt or lower `max_tokens`"
    );
    Err(Refused::new(field, "context_length_exceeded", message))
}

/// Refuses a text that cannot fit whatever its tokens are, before time is spent on them.
pub(crate) fn fit_bytes(bytes: usize, longest_token: usize, context: usize, field: &str) -> Result<(), Refused> {
    let least = bytes / longest_token.max(1);
    if least <= context {
        return Ok(());
    }
    let message = format!(
        "this model's maximum context length is {context} tokens; the request needs at least {least} for its {bytes} bytes \
         of text: shorten the prompt"
    );
    Err(Refused::new(field, "context_length_exceeded", message))
}

#[cfg(test)]
mod tests;
