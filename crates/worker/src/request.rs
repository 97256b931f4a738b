//! From a request as sent to what the engine is asked to do; everything that cannot be done is refused by name.
//! INVARIANT: no parameter is dropped in silence. It has a field, or it is in `names::HARMLESS` with a value that asks for nothing,
//! or the answer is 400 with its name.

mod messages;
mod names;
mod tools;

use galerne_api::openai::{Parameters, Stop};
use serde_json::Value;

pub(crate) use messages::{Ending, Rendering, rendering, template_messages};
pub(crate) use names::check_rendering;
use names::{check_other, shorten};
pub(crate) use tools::{Called, ToolUse, response_format, tool_use};

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
    /// Answers wanted; at least one.
    pub choices: usize,
    pub min_tokens: usize,
    /// Log-probabilities of the answer's tokens, with this many of the likeliest ones.
    pub logprobs: Option<usize>,
}

/// Which of the two routes a request came by; their parameters differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Chat,
    Text,
}

/// Whether the prompt is part of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    Nothing,
    Prompt,
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
pub(crate) fn wish(parameters: &Parameters, route: Route, echo: Echo, random: u64) -> Result<Wish, Refused> {
    check_other(parameters, route)?;
    let stream = parameters.stream.unwrap_or(false);
    if parameters.stream_options.is_some() && !stream {
        return Err(Refused::new("stream_options", "invalid_value", "`stream_options` needs `stream: true`"));
    }
    let max_tokens = max_tokens(parameters, echo == Echo::Prompt)?;
    let min_tokens = whole(parameters, "min_tokens", usize::MAX)?.unwrap_or(0);
    if max_tokens.is_some_and(|most| most < min_tokens) {
        let text = format!("`min_tokens` is {min_tokens}, more than the `max_tokens` of the request");
        return Err(Refused::new("min_tokens", "invalid_value", text));
    }
    Ok(Wish {
        sampling: sampling(parameters, random)?,
        max_tokens,
        min_tokens,
        choices: choices("n", parameters.n)?,
        logprobs: logprobs(parameters, route)?,
        stops: stops(parameters.stop.clone())?,
        ignore_end: parameters.other.get("ignore_eos").and_then(Value::as_bool).unwrap_or(false),
        stream,
        include_usage: parameters.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
    })
}

/// How many answers a parameter asks for.
pub(crate) fn choices(name: &str, asked: Option<u32>) -> Result<usize, Refused> {
    let asked = asked.unwrap_or(1) as usize;
    if (1..=limits::CHOICES).contains(&asked) {
        return Ok(asked);
    }
    let text = format!("`{name}` is {asked}; it must be between 1 and {}", limits::CHOICES);
    Err(Refused::new(name, "invalid_value", text))
}

/// OpenAI's two forms: chats say whether and how many more, text completions how many.
fn logprobs(parameters: &Parameters, route: Route) -> Result<Option<usize>, Refused> {
    let top = whole(parameters, "top_logprobs", limits::TOP_LOGPROBS)?;
    if route == Route::Text {
        if top.is_some() {
            let text = "`top_logprobs` is a parameter of chats; here `logprobs` is the number";
            return Err(Refused::new("top_logprobs", "unsupported_parameter", text));
        }
        return whole(parameters, "logprobs", limits::TOP_LOGPROBS);
    }
    let is_wanted = flag(parameters, "logprobs")?.unwrap_or(false);
    if top.is_some_and(|top| top > 0) && !is_wanted {
        return Err(Refused::new("top_logprobs", "invalid_value", "`top_logprobs` needs `logprobs: true`"));
    }
    Ok(is_wanted.then(|| top.unwrap_or(0)))
}

/// A parameter that is a whole number from 0 to `most`.
fn whole(parameters: &Parameters, name: &str, most: usize) -> Result<Option<usize>, Refused> {
    let Some(value) = parameters.other.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    let Some(number) = number else {
        let text = format!("`{name}` is {}; it must be a whole number", shorten(&value.to_string()));
        return Err(Refused::new(name, "invalid_type", text));
    };
    if number > most {
        return Err(Refused::new(name, "invalid_value", format!("`{name}` is {number}; at most {most} is taken")));
    }
    Ok(Some(number))
}

/// A parameter that is true or false.
pub(crate) fn flag(parameters: &Parameters, name: &str) -> Result<Option<bool>, Refused> {
    match parameters.other.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(value) => {
            let text = format!("`{name}` is {}; it must be true or false", shorten(&value.to_string()));
            Err(Refused::new(name, "invalid_type", text))
        }
    }
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

fn max_tokens(parameters: &Parameters, may_be_none: bool) -> Result<Option<usize>, Refused> {
    let (name, value) = match (parameters.max_completion_tokens, parameters.max_tokens) {
        (Some(a), Some(b)) if a != b => {
            let text = "`max_tokens` and `max_completion_tokens` differ";
            return Err(Refused::new("max_tokens", "invalid_value", text));
        }
        (Some(value), _) => ("max_completion_tokens", value),
        (None, Some(value)) => ("max_tokens", value),
        (None, None) => return Ok(None),
    };
    // An echoed prompt alone, scored, is what text completions are asked for in evaluations.
    if value == 0 && !may_be_none {
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
