//! A streamed answer, chunk by chunk.
//!
//! All chunks of a stream begin with the same bytes (`id`, `created`, `model`), up to their choices. The first one is parsed,
//! and how its beginning is told is remembered: a chunk with nothing else to mend is then two comparisons and a copy.

use std::borrow::Cow;

use bytes::Bytes;
use galerne_model::ids::RequestId;
use galerne_model::ledger::Operation;

use super::Voice;
use super::tools::Calls;
use crate::request::{Fields, List, ObjectWriter};
use crate::responses::Events;

const CHOICES: &str = "\"choices\":";
/// Choices of one answer that are remembered.
const BEGUN_MAX: usize = 1024;

/// Tells a stream's chunks.
#[derive(Debug)]
pub(crate) struct Teller {
    voice: Voice,
    /// Nothing to mend: the engine is our own and knows the model by its name.
    is_silent: bool,
    /// How chunks begin, and how that is told.
    head: Option<(String, String)>,
    calls: Calls,
    /// Choices that have begun.
    begun: Vec<u32>,
    /// Tells the chunks as a response, if one was asked for.
    events: Option<Events>,
}

impl Teller {
    /// `is_worker`: the engine is our own.
    pub(crate) fn new(voice: Voice, is_worker: bool, request_id: RequestId) -> Self {
        let events = voice.events(request_id);
        let is_silent = is_worker
            && !voice.renames
            && voice.named_tier.is_none()
            && voice.prefix.is_none()
            && voice.operation != Operation::Fim;
        Self { voice, is_silent, head: None, calls: Calls::default(), begun: Vec::new(), events }
    }

    pub(crate) fn voice(&self) -> &Voice {
        &self.voice
    }

    /// What is sent for whole events; all that is sent passes here once.
    pub(crate) fn sent(&mut self, part: Bytes) -> Bytes {
        match &mut self.events {
            Some(events) => Bytes::from(events.told(&part)),
            None => part,
        }
    }

    /// The chunk as its reader needs it.
    pub(crate) fn chunk<'a>(&mut self, data: &'a str) -> Cow<'a, str> {
        if self.is_silent {
            return Cow::Borrowed(data);
        }
        if let Some((head, told)) = &self.head
            && let Some(rest) = data.strip_prefix(head.as_str())
            && self.is_sound(rest)
        {
            return if head == told { Cow::Borrowed(data) } else { Cow::Owned([told, rest].concat()) };
        }
        match serde_json::from_str::<Fields<'_>>(data) {
            Ok(fields) if fields.has("choices") => Cow::Owned(self.whole(data, &fields)),
            // An error, or nothing we know.
            Ok(_) | Err(_) => Cow::Borrowed(data),
        }
    }

    /// Whether a chunk's choices, and what comes after them, can stay.
    fn is_sound(&self, rest: &str) -> bool {
        self.voice.operation != Operation::Fim
            && self.voice.prefix.is_none()
            && (rest.contains("\"finish_reason\":") || rest.starts_with("[]"))
            && !rest.contains("\"tool_calls\":[")
    }

    fn whole(&mut self, data: &str, fields: &Fields<'_>) -> String {
        let mut out = ObjectWriter::with_capacity(data.len() + 64);
        for (name, value) in &fields.0 {
            let value = value.get();
            match name.as_ref() {
                "model" => out.text(name, &self.voice.model),
                "object" if self.voice.operation == Operation::Fim => out.text(name, "chat.completion.chunk"),
                "service_tier" if self.voice.named_tier.is_some() => {}
                "choices" => {
                    if let Some(tier) = self.voice.named_tier {
                        out.text("service_tier", tier);
                    }
                    out.raw(name, &self.choices(value));
                }
                _ => out.raw(name, value),
            }
        }
        let told = out.into_text();
        let before = |text: &str| text.find(CHOICES).map(|at| text[..at + CHOICES.len()].to_owned());
        self.head = before(data).zip(before(&told)).filter(|(head, _)| head.contains("\"model\":"));
        told
    }

    fn choices(&mut self, choices: &str) -> String {
        let Ok(List(list)) = serde_json::from_str::<List<'_>>(choices) else { return choices.to_owned() };
        let told: Vec<String> = list.iter().map(|choice| self.choice(choice)).collect();
        format!("[{}]", told.join(","))
    }

    fn choice(&mut self, choice: &Fields<'_>) -> String {
        let index = choice.get("index").and_then(|index| index.get().parse().ok()).unwrap_or(0);
        let mut out = ObjectWriter::with_capacity(192);
        if !choice.has("index") {
            out.raw("index", "0");
        }
        for (name, value) in &choice.0 {
            let value = value.get();
            match (name.as_ref(), self.voice.operation) {
                ("delta", _) => out.raw(name, &self.delta(index, value)),
                ("text", Operation::Fim) => out.raw("delta", &self.middle(index, value)),
                ("logprobs", Operation::Fim) => {}
                _ => out.raw(name, value),
            }
        }
        for needed in ["logprobs", "finish_reason"] {
            if !choice.has(needed) && (self.voice.operation != Operation::Fim || needed == "finish_reason") {
                out.raw(needed, "null");
            }
        }
        out.into_text()
    }

    fn delta(&mut self, index: u32, delta: &str) -> String {
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(delta) else { return delta.to_owned() };
        let mut out = ObjectWriter::with_capacity(delta.len() + 64);
        for (name, value) in &fields.0 {
            let value = value.get();
            match name.as_ref() {
                "content" if value.starts_with('"') && self.begins(index) => {
                    out.raw(name, self.voice.after_prefix(value).as_deref().unwrap_or(value));
                }
                "tool_calls" if value.starts_with('[') => out.raw(name, &self.calls.told(index, value)),
                _ => out.raw(name, value),
            }
        }
        out.into_text()
    }

    /// A piece of the text between prompt and suffix, as Mistral tells it.
    fn middle(&mut self, index: u32, text: &str) -> String {
        if self.begins(index) {
            format!(r#"{{"role":"assistant","content":{text}}}"#)
        } else {
            format!(r#"{{"content":{text}}}"#)
        }
    }

    /// Whether this is the first text of a choice.
    fn begins(&mut self, index: u32) -> bool {
        let is_first = !self.begun.contains(&index);
        // More choices than anybody may ask for are lies, and cost no memory.
        if is_first && self.begun.len() < BEGUN_MAX {
            self.begun.push(index);
        }
        is_first
    }
}
