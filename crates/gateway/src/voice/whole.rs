//! An answer in one piece.

use std::borrow::Cow;

use galerne_model::ids::RequestId;
use galerne_model::ledger::Operation;

use super::{Voice, vectors};
use crate::request::{Fields, List, ObjectWriter};

impl Voice {
    /// The answer for the caller; `usage` is what is shown, whether the engine reported any or not.
    pub(crate) fn whole(&self, fields: &Fields<'_>, usage: &str, request_id: RequestId) -> Vec<u8> {
        let bytes: usize = fields.0.iter().map(|(name, value)| name.len() + value.get().len() + 4).sum();
        let mut out = ObjectWriter::with_capacity(bytes + 160);
        if self.operation == Operation::Embedding && fields.get("id").is_none() {
            // Mistral's clients require one.
            out.text("id", &format!("embd-{request_id}"));
        }
        for (name, value) in &fields.0 {
            let value = value.get();
            match name.as_ref() {
                // OpenAI's document has texts there, or nothing.
                "id" | "system_fingerprint" if value == "null" => {}
                "model" => out.text(name, &self.model),
                "usage" => out.raw(name, usage),
                "choices" => out.raw(name, &self.choices(value)),
                "data" if self.base64 => out.raw(name, &vectors::as_base64(value)),
                "object" if self.operation == Operation::Fim => out.text(name, "chat.completion"),
                "service_tier" if self.named_tier.is_some() => {}
                _ => out.raw(name, value),
            }
        }
        if !fields.has("usage") {
            out.raw("usage", usage);
        }
        if let Some(tier) = self.named_tier {
            out.text("service_tier", tier);
        }
        let told = out.finish();
        match self.events(request_id) {
            Some(events) => events.whole(&told),
            None => told,
        }
    }

    fn choices<'a>(&self, choices: &'a str) -> Cow<'a, str> {
        let is_whole = match self.operation {
            Operation::Chat => choices.contains("\"refusal\":") && choices.contains("\"logprobs\":null"),
            Operation::Completion => choices.contains("\"logprobs\":"),
            Operation::Fim => false,
            Operation::Embedding | Operation::Tokenise | Operation::Detokenise => true,
        };
        if is_whole && self.prefix.is_none() {
            return Cow::Borrowed(choices);
        }
        let Ok(List(list)) = serde_json::from_str::<List<'_>>(choices) else { return Cow::Borrowed(choices) };
        let told: Vec<String> = list.iter().map(|choice| self.choice(choice)).collect();
        Cow::Owned(format!("[{}]", told.join(",")))
    }

    fn choice(&self, choice: &Fields<'_>) -> String {
        let mut out = ObjectWriter::with_capacity(256);
        for (name, value) in &choice.0 {
            match name.as_ref() {
                "message" => out.raw(name, &self.message(value.get())),
                "text" if self.operation == Operation::Fim => {
                    let text = value.get();
                    out.raw("message", &format!(r#"{{"role":"assistant","content":{text},"tool_calls":null}}"#));
                }
                "logprobs" if self.operation == Operation::Fim => {}
                _ => out.raw(name, value.get()),
            }
        }
        if self.operation != Operation::Fim && !choice.has("logprobs") {
            out.raw("logprobs", "null");
        }
        out.into_text()
    }

    fn message(&self, message: &str) -> String {
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(message) else { return message.to_owned() };
        let mut out = ObjectWriter::with_capacity(message.len() + 64);
        for (name, value) in &fields.0 {
            let value = value.get();
            match self.after_prefix(value).filter(|_| name == "content") {
                Some(whole) => out.raw(name, &whole),
                None => out.raw(name, value),
            }
        }
        for needed in ["content", "refusal"] {
            if !fields.has(needed) {
                out.raw(needed, "null");
            }
        }
        out.into_text()
    }
}
