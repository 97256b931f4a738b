//! What a request asks, as far as admission and routing need it, and the body that goes to the engine.
//!
//! Only the top level is parsed. Each field is looked up in the surface's table (`galerne_api::surface`), which says what
//! becomes of it: an unknown one is refused by name, one without effect is left out, the others' values go to the engine byte
//! for byte, so that it, and not the gateway, refuses values that it cannot do.
//! These are not `galerne_api::openai`'s types, which the worker reads: those hold every field of a request parsed, which a
//! body of megabytes would pay for twice, and would send an engine what they made of it instead of what the caller wrote.
//! INVARIANT: no top-level name occurs twice, so engine and gateway cannot read two different requests.

use bytes::Bytes;
use galerne_api::error::Code;
use galerne_api::surface::{Call, Dialect, Fate, Field};
use galerne_core::rating::WorkBound;
use galerne_model::identity::ServiceTier;
use galerne_model::ledger::{BatchTerms, Operation};
use galerne_model::units::Tokens;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

mod check;
mod fields;
mod messages;

pub(crate) use fields::{Fields, LIST_MAX, List, ObjectWriter};

use crate::refusal::Refusal;
use crate::segments::{SegmentWriter, Segments};
use messages::Turn;

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

/// A request, parsed as far as needed.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) operation: Operation,
    pub(crate) model: String,
    pub(crate) delivery: Delivery,
    /// Whether a service tier was named; the answer then names the one that was used.
    pub(crate) tier_asked: bool,
    /// The tier it asks for, later the one it is served in; nothing and `auto` leave it to the key.
    pub(crate) tier: Option<ServiceTier>,
    /// Whether embeddings are wanted as base64.
    pub(crate) base64: bool,
    /// The batch it is made for; nobody can say so in a request.
    pub(crate) batch: Option<BatchTerms>,
    max_tokens: Option<u32>,
    choices: u32,
    /// Prompts of a completion, inputs of an embedding; 1 for a chat.
    inputs: i64,
    body_bytes: usize,
    /// How a chat ends.
    turn: Turn,
    /// Tokens after which each choice ends because a budget does: only where the caller named no maximum.
    cut: Option<u32>,
    fields: Fields<'a>,
    /// What becomes of each field, in their order.
    rows: Vec<&'static Field>,
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
    pub(crate) fn parse(dialect: Dialect, call: Call, body: &'a str) -> Result<Self, Refusal> {
        let fields: Fields<'a> = serde_json::from_str(body).map_err(|error| malformed(&error))?;
        let rows = check::rows(dialect, call, &fields)?;
        let model = fields
            .read::<String>("model")?
            .filter(|model| !model.is_empty())
            .ok_or_else(|| invalid("model", "`model` is missing: name one that GET /v1/models lists"))?;
        let wanted = input_name(call, &fields);
        let input = fields.get(wanted).ok_or_else(|| invalid(wanted, format!("`{wanted}` is missing")))?;
        let inputs = if wanted == "messages" { message_list(input)? } else { count_inputs(wanted, input)? };
        let turn = if call == Call::Chat { messages::turn(dialect, input)? } else { Turn::New };
        let max_tokens = match fields.read::<u32>("max_completion_tokens")? {
            Some(most) => Some(most),
            None => fields.read::<u32>("max_tokens")?,
        };
        let (tier_asked, tier) = check::tier(dialect, &fields)?;
        Ok(Self {
            operation: operation(call),
            model,
            delivery: delivery(dialect, &fields)?,
            tier_asked,
            tier,
            base64: check::base64(&fields)?,
            batch: None,
            max_tokens,
            choices: choices(&fields)?,
            inputs,
            body_bytes: body.len(),
            turn,
            cut: None,
            fields,
            rows,
        })
    }

    /// Whether it is the stream of a chat that may end anywhere: the caller named no maximum.
    pub(crate) fn is_open_ended(&self) -> bool {
        // Of a text to be completed engines write 16 tokens: a cut where the budget ends would ask for more.
        self.max_tokens.is_none() && self.operation == Operation::Chat && self.delivery != Delivery::Whole
    }

    /// Answers it asks for: choices of each prompt.
    pub(crate) fn answers(&self) -> i64 {
        i64::from(self.choices).saturating_mul(self.inputs)
    }

    /// Ends each answer after so many tokens.
    pub(crate) fn cut_at(&mut self, tokens: u32) {
        self.cut = Some(tokens);
    }

    /// Notes the tier it is served in, which the answer names.
    pub(crate) fn serve_in(&mut self, tier: ServiceTier) {
        self.tier = Some(tier);
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
            Operation::Completion | Operation::Fim | Operation::Embedding => {
                self.inputs.saturating_mul(INPUT_TOKENS_MAX)
            }
            // Nothing is computed.
            Operation::Tokenise | Operation::Detokenise => {
                return WorkBound { prompt_max: Tokens(0), completion_max: Tokens(0), total_max: Tokens(0) };
            }
        };
        let prompt_max = body.saturating_add(extra).min(context.saturating_mul(self.inputs));
        let answers = if self.is_written() { self.answers() } else { 0 };
        let each = self.max_tokens.or(self.cut).map_or(context, |most| i64::from(most).min(context));
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
        let completion = if self.is_written() {
            let answers = u32::try_from(self.answers()).unwrap_or(u32::MAX);
            self.max_tokens.unwrap_or(COMPLETION_ESTIMATE).saturating_mul(answers)
        } else {
            0
        };
        let most = u32::try_from(self.bound(context).total_max.0).unwrap_or(u32::MAX);
        prompt.saturating_add(completion).min(most)
    }

    /// Whether the model writes an answer.
    fn is_written(&self) -> bool {
        match self.operation {
            Operation::Chat | Operation::Completion | Operation::Fim => true,
            Operation::Embedding | Operation::Tokenise | Operation::Detokenise => false,
        }
    }

    /// The body for the engine: its own name for the model, usage always asked for, dialects translated.
    /// `source` is the body that was parsed.
    pub(crate) fn upstream_body(&self, source: &Bytes, upstream_model: &str) -> Segments {
        let mut out = SegmentWriter::new(source);
        out.text("model", upstream_model);
        for ((name, value), row) in self.fields.0.iter().zip(&self.rows) {
            if value.get() == "null" {
                continue;
            }
            match row.fate {
                Fate::NoEffect | Fate::Only(_) | Fate::Refused => {}
                // Both names with one value: it is sent once.
                Fate::Renamed(to) if self.fields.get(to).is_some() => {}
                Fate::Renamed(to) => out.raw(to, value.get()),
                Fate::Engine if name == "tool_choice" && value.get() == r#""any""# => out.raw(name, r#""required""#),
                Fate::Engine => out.raw(name, value.get()),
                Fate::Gateway => self.write_own(&mut out, name, value.get()),
            }
        }
        self.write_turn(&mut out);
        if let Some(cut) = self.cut {
            // The engine then ends the answer as any other that has become long enough: `finish_reason: "length"`.
            out.raw("max_tokens", &cut.to_string());
        }
        if self.delivery != Delivery::Whole {
            out.raw("stream_options", &self.upstream_stream_options());
        }
        out.finish()
    }

    /// The beginning of the answer as a JSON text, where the caller wrote it.
    pub(crate) fn prefix(&self) -> Option<String> {
        match self.turn {
            Turn::New => None,
            Turn::GoesOn => messages::last_text(self.fields.get("messages")?.get()),
        }
    }

    /// A field that the gateway acts by, as far as the engine needs it too.
    fn write_own(&self, out: &mut SegmentWriter<'_>, name: &str, value: &str) {
        match name {
            "model" | "service_tier" => {}
            "stream_options" if self.delivery != Delivery::Whole => {}
            "messages" if self.turn == Turn::GoesOn => out.raw(name, &messages::without_prefix(value)),
            _ => out.raw(name, value),
        }
    }

    /// Tells the engine to go on with the last message, where that is its beginning.
    fn write_turn(&self, out: &mut SegmentWriter<'_>) {
        if self.turn == Turn::GoesOn {
            out.raw("continue_final_message", "true");
            out.raw("add_generation_prompt", "false");
        }
    }

    /// All of it, as the caller wrote it.
    pub(crate) fn fields(&self) -> &Fields<'a> {
        &self.fields
    }

    /// The body of a question how many tokens the prompt has; absent where engines have no such question.
    pub(crate) fn tokenize_body(&self, source: &Bytes, upstream_model: &str) -> Option<Segments> {
        let mut out = SegmentWriter::new(source);
        out.text("model", upstream_model);
        match self.operation {
            Operation::Chat => {
                self.write_own(&mut out, "messages", self.fields.get("messages")?.get());
                self.write_turn(&mut out);
                let turn: &[&str] = match self.turn {
                    Turn::New => &["add_generation_prompt", "continue_final_message"],
                    Turn::GoesOn => &[],
                };
                // Templates write them into the prompt.
                for name in ["tools", "chat_template_kwargs"].iter().chain(turn) {
                    if let Some(value) = self.fields.get(name) {
                        out.raw(name, value.get());
                    }
                }
            }
            Operation::Completion | Operation::Fim if self.inputs == 1 => {
                out.raw("prompt", self.fields.get("prompt")?.get());
            }
            Operation::Embedding if self.inputs == 1 => {
                out.raw("prompt", self.fields.get("input").or_else(|| self.fields.get("inputs"))?.get());
            }
            Operation::Completion
            | Operation::Fim
            | Operation::Embedding
            | Operation::Tokenise
            | Operation::Detokenise => return None,
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

/// Refuses a body by its fields alone.
pub(crate) fn check(dialect: Dialect, call: Call, body: &str) -> Result<(), Refusal> {
    let fields: Fields<'_> = serde_json::from_str(body).map_err(|error| malformed(&error))?;
    check::rows(dialect, call, &fields).map(drop)
}

/// What the ledger calls it.
const fn operation(call: Call) -> Operation {
    match call {
        Call::Chat | Call::Response => Operation::Chat,
        Call::Completion => Operation::Completion,
        Call::Fim => Operation::Fim,
        Call::Embedding => Operation::Embedding,
        Call::Tokenise => Operation::Tokenise,
        Call::Detokenise => Operation::Detokenise,
    }
}

/// The field that holds what the model reads.
fn input_name(call: Call, fields: &Fields<'_>) -> &'static str {
    let either =
        |first, second| if fields.get(first).is_none() && fields.get(second).is_some() { second } else { first };
    match call {
        Call::Chat => "messages",
        Call::Response => "input",
        Call::Completion | Call::Fim => "prompt",
        Call::Embedding => either("input", "inputs"),
        Call::Tokenise if fields.get("messages").is_some() => "messages",
        Call::Tokenise => either("prompt", "content"),
        Call::Detokenise => "tokens",
    }
}

fn choices(fields: &Fields<'_>) -> Result<u32, Refusal> {
    let n = fields.read::<u32>("n")?.unwrap_or(1);
    let choices = n.max(fields.read::<u32>("best_of")?.unwrap_or(1));
    if n == 0 || choices > CHOICES_MAX {
        return Err(invalid("n", format!("`n` is {n} and must be between 1 and {CHOICES_MAX}")));
    }
    Ok(choices)
}

fn delivery(dialect: Dialect, fields: &Fields<'_>) -> Result<Delivery, Refusal> {
    let stream = fields.read::<bool>("stream")?.unwrap_or(false);
    let options = fields.read::<Fields<'_>>("stream_options")?;
    let shown = match options.as_ref().map(|options| options.read::<bool>("include_usage")).transpose()?.flatten() {
        Some(true) => UsageShown::Apart,
        Some(false) => UsageShown::Never,
        // OpenAI tells it to those who ask; Mistral to everybody.
        None if dialect == Dialect::OpenAi => UsageShown::Never,
        None => UsageShown::WithLast,
    };
    Ok(if stream { Delivery::Stream(shown) } else { Delivery::Whole })
}

fn message_list(messages: &RawValue) -> Result<i64, Refusal> {
    match serde_json::from_str::<Vec<IgnoredAny>>(messages.get()) {
        Ok(list) if list.is_empty() => Err(invalid("messages", "`messages` is empty: send at least one")),
        Ok(list) if list.len() > LIST_MAX => {
            Err(invalid("messages", format!("`messages` has {} entries; at most {LIST_MAX} are taken", list.len())))
        }
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

pub(crate) fn malformed(error: &serde_json::Error) -> Refusal {
    let (line, column) = (error.line(), error.column());
    Refusal::new(
        Code::MalformedJson,
        format!("the body is not a JSON object: {} at line {line}, column {column}", without_place(error)),
    )
}

pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Refusal {
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
