//! What a request asks, as far as admission and routing need it, and the body that goes to the engine.
//!
//! Only the top level is parsed; every field that is not named here goes to the engine byte for byte, so that it, and not
//! the gateway, refuses what it does not know. Fields that differ between dialects are translated: `random_seed` → `seed`,
//! `tool_choice: "any"` → `"required"`, `safe_prompt: false` (the default) is left out, `true` is refused.
//! These are not `galerne_api::openai`'s types, which the worker reads: those hold every field of a request parsed, which a
//! body of megabytes would pay for twice, and would send an engine what they made of it instead of what the caller wrote.
//! INVARIANT: no top-level name occurs twice, so engine and gateway cannot read two different requests.

use std::borrow::Cow;
use std::fmt;

use galerne_api::error::Code;
use galerne_core::rating::WorkBound;
use galerne_model::ledger::Operation;
use galerne_model::units::Tokens;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::refusal::Refusal;

/// Top-level fields of a body; OpenAI's largest request has about 40.
const FIELDS_MAX: usize = 256;
/// Tokens a chat template may add beyond the text: default system prompts of well-known models have up to 400.
const TEMPLATE_TOKENS_MAX: i64 = 512;
/// Special tokens an embedding model adds to each input, rounded up.
const INPUT_TOKENS_MAX: i64 = 8;
/// Most choices per prompt; as OpenAI's.
const CHOICES_MAX: u32 = 128;
/// Completion assumed by the rate limiter when the caller names no maximum; corrected when the request ends.
const COMPLETION_ESTIMATE: u32 = 256;
/// Bytes per token assumed by the rate limiter.
const BYTES_PER_TOKEN_ESTIMATE: usize = 4;

/// The top level of a JSON object, values unparsed, in order.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

/// A request, parsed as far as needed.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) operation: Operation,
    pub(crate) model: String,
    pub(crate) delivery: Delivery,
    max_tokens: Option<u32>,
    choices: u32,
    /// Prompts of a completion, inputs of an embedding; 1 for a chat.
    inputs: i64,
    body_bytes: usize,
    fields: Fields<'a>,
}

/// How the answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// As it is made.
    Stream(UsageShown),
}

/// Where a stream tells its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UsageShown {
    /// In the chunk with the finish reason, as Mistral does: nothing was said about it. OpenAI's clients read past it.
    WithLast,
    /// In a chunk of its own at the end, and `null` in every other: OpenAI's `include_usage`.
    Apart,
    /// Nowhere: `include_usage` is false.
    Never,
}

impl<'a> Asked<'a> {
    pub(crate) fn parse(operation: Operation, body: &'a str) -> Result<Self, Refusal> {
        let fields: Fields<'a> = serde_json::from_str(body).map_err(|error| malformed(&error))?;
        let model = fields
            .read::<String>("model")?
            .filter(|model| !model.is_empty())
            .ok_or_else(|| invalid("model", "`model` is missing: name one that GET /v1/models lists"))?;
        let wanted = if operation == Operation::Chat { "messages" } else { input_name(operation) };
        let input = fields.get(wanted).ok_or_else(|| invalid(wanted, format!("`{wanted}` is missing")))?;
        let inputs = if operation == Operation::Chat { message_list(input)? } else { count_inputs(wanted, input)? };
        let max_tokens = match fields.read::<u32>("max_completion_tokens")? {
            Some(most) => Some(most),
            None => fields.read::<u32>("max_tokens")?,
        };
        let n = fields.read::<u32>("n")?.unwrap_or(1);
        let choices = n.max(fields.read::<u32>("best_of")?.unwrap_or(1));
        if n == 0 || choices > CHOICES_MAX {
            return Err(invalid("n", format!("`n` is {n} and must be between 1 and {CHOICES_MAX}")));
        }
        let stream = fields.read::<bool>("stream")?.unwrap_or(false);
        if stream && operation == Operation::Embedding {
            return Err(invalid("stream", "embeddings are not streamed: leave `stream` out"));
        }
        let options = fields.read::<Fields<'a>>("stream_options")?;
        let shown = match options.as_ref().map(|options| options.read::<bool>("include_usage")).transpose()?.flatten() {
            Some(true) => UsageShown::Apart,
            Some(false) => UsageShown::Never,
            None => UsageShown::WithLast,
        };
        if fields.read::<bool>("safe_prompt")?.unwrap_or(false) {
            return Err(invalid(
                "safe_prompt",
                "`safe_prompt: true` is not served here: put the instruction into a system message",
            ));
        }
        if fields.get("seed").is_some() && fields.get("random_seed").is_some() {
            return Err(invalid("random_seed", "`seed` and `random_seed` mean the same: send one of them"));
        }
        Ok(Self {
            operation,
            model,
            delivery: if stream { Delivery::Stream(shown) } else { Delivery::Whole },
            max_tokens,
            choices,
            inputs,
            body_bytes: body.len(),
            fields,
        })
    }

    /// The most this request can use on an endpoint with `context` tokens.
    ///
    /// A token stands for at least one byte of the body (texts are longer as JSON, and a token in a list takes two bytes),
    /// so the body's length bounds the prompt, tools and schemas included.
    pub(crate) fn bound(&self, context: u32) -> WorkBound {
        let context = i64::from(context);
        let body = i64::try_from(self.body_bytes).unwrap_or(i64::MAX);
        let extra = match self.operation {
            Operation::Chat => TEMPLATE_TOKENS_MAX,
            Operation::Completion | Operation::Embedding => self.inputs.saturating_mul(INPUT_TOKENS_MAX),
        };
        let prompt_max = body.saturating_add(extra).min(context.saturating_mul(self.inputs));
        let answers = match self.operation {
            Operation::Embedding => 0,
            Operation::Chat | Operation::Completion => i64::from(self.choices).saturating_mul(self.inputs),
        };
        let each = self.max_tokens.map_or(context, |most| i64::from(most).min(context));
        WorkBound {
            prompt_max: Tokens(prompt_max),
            completion_max: Tokens(each.saturating_mul(answers)),
            total_max: Tokens(context.saturating_mul(answers.max(self.inputs))),
        }
    }

    /// A guess of the tokens for rate limits on an endpoint with `context` tokens, never more than could be used there;
    /// the end of the request corrects it.
    pub(crate) fn estimate(&self, context: u32) -> u32 {
        let prompt = u32::try_from(self.body_bytes / BYTES_PER_TOKEN_ESTIMATE).unwrap_or(u32::MAX);
        let completion = match self.operation {
            Operation::Embedding => 0,
            Operation::Chat | Operation::Completion => {
                self.max_tokens.unwrap_or(COMPLETION_ESTIMATE).saturating_mul(self.choices)
            }
        };
        let most = u32::try_from(self.bound(context).total_max.0).unwrap_or(u32::MAX);
        prompt.saturating_add(completion).min(most)
    }

    /// The body for the engine: its own name for the model, usage always asked for, dialects translated.
    pub(crate) fn upstream_body(&self, upstream_model: &str) -> Vec<u8> {
        let mut out = ObjectWriter::with_capacity(self.body_bytes + 128);
        out.text("model", upstream_model);
        for (name, value) in &self.fields.0 {
            match name.as_ref() {
                "model" | "safe_prompt" => {}
                "stream_options" if self.delivery != Delivery::Whole => {}
                "random_seed" => out.raw("seed", value.get()),
                "tool_choice" if value.get() == r#""any""# => out.raw(name, r#""required""#),
                _ => out.raw(name, value.get()),
            }
        }
        if self.delivery != Delivery::Whole {
            out.raw("stream_options", &self.upstream_stream_options());
        }
        out.finish()
    }

    /// The body of a question how many tokens the prompt has; absent where engines have no such question.
    pub(crate) fn tokenize_body(&self, upstream_model: &str) -> Option<Vec<u8>> {
        let mut out = ObjectWriter::with_capacity(self.body_bytes + 64);
        out.text("model", upstream_model);
        match self.operation {
            Operation::Chat => out.raw("messages", self.fields.get("messages")?.get()),
            Operation::Completion if self.inputs == 1 => out.raw("content", self.fields.get("prompt")?.get()),
            Operation::Completion | Operation::Embedding => return None,
        }
        Some(out.finish())
    }

    fn upstream_stream_options(&self) -> String {
        let mut out = ObjectWriter::with_capacity(64);
        let asked = self.fields.read::<Fields<'a>>("stream_options").ok().flatten();
        for (name, value) in asked.iter().flat_map(|options| &options.0) {
            if name != "include_usage" {
                out.raw(name, value.get());
            }
        }
        out.raw("include_usage", "true");
        String::from_utf8(out.finish()).expect("made of texts")
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| *value).filter(|value| value.get() != "null")
    }

    /// Reads a field; `null` counts as absent.
    fn read<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|error| {
            let shown: String = value.get().chars().take(40).collect();
            invalid(name, format!("`{name}` cannot be `{shown}`: {}", without_place(&error)))
        })
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(16);
                while let Some(Name(name)) = map.next_key()? {
                    if fields.iter().any(|(field, _)| *field == name) {
                        return Err(A::Error::custom(format_args!("the field `{name}` occurs twice")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(A::Error::custom(format_args!("there are more than {FIELDS_MAX} fields")));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A field name, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Writes a JSON object from parts that are JSON already.
pub(crate) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.push(b'{');
        Self(out)
    }

    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut self.0, name).expect("texts serialise into memory");
        self.0.push(b':');
        self.0.extend_from_slice(json.as_bytes());
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        let json = serde_json::to_string(text).expect("texts serialise into memory");
        self.raw(name, &json);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

fn input_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Chat => "messages",
        Operation::Completion => "prompt",
        Operation::Embedding => "input",
    }
}

fn message_list(messages: &RawValue) -> Result<i64, Refusal> {
    match serde_json::from_str::<Vec<IgnoredAny>>(messages.get()) {
        Ok(list) if list.is_empty() => Err(invalid("messages", "`messages` is empty: send at least one")),
        Ok(_) => Ok(1),
        Err(_) => Err(invalid("messages", "`messages` must be a list of messages")),
    }
}

/// A text or a list of tokens is one input; a list of texts or of token lists is as many as it has.
fn count_inputs(name: &str, value: &RawValue) -> Result<i64, Refusal> {
    let text = value.get();
    let Some(inside) = text.strip_prefix('[') else {
        return if text.starts_with('"') {
            Ok(1)
        } else {
            Err(invalid(name, format!("`{name}` must be a text or a list")))
        };
    };
    match inside.trim_start().as_bytes().first() {
        Some(b'"' | b'[') => {
            let list: Vec<IgnoredAny> = serde_json::from_str(text).map_err(|error| malformed(&error))?;
            Ok(i64::try_from(list.len()).unwrap_or(i64::MAX))
        }
        Some(b']') | None => Err(invalid(name, format!("`{name}` is empty"))),
        Some(_) => Ok(1),
    }
}

fn malformed(error: &serde_json::Error) -> Refusal {
    let (line, column) = (error.line(), error.column());
    Refusal::new(
        Code::MalformedJson,
        format!("the body is not a JSON object: {} at line {line}, column {column}", without_place(error)),
    )
}

fn invalid(param: &str, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidBody, message).param(param)
}

/// Serde's sentence without its line and column, which count from the start of the field.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
