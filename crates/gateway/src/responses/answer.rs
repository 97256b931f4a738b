//! The response object, whole or so far.

use serde_json::{Map, Value, json};

use super::Repeated;

/// How a response stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// It ran into a limit.
    Incomplete(&'static str),
    /// With the error as OpenAI tells it.
    Failed(Value),
}

impl Status {
    /// By a chat's finish reason.
    pub(super) fn of_finish(reason: Option<&str>) -> Self {
        match reason {
            Some("length" | "model_length") => Self::Incomplete("max_output_tokens"),
            Some("content_filter") => Self::Incomplete("content_filter"),
            _ => Self::Completed,
        }
    }

    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Failed(_) => "failed",
        }
    }
}

/// Who answers, and what is repeated of the request.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) created_at: Value,
    pub(super) model: Value,
    pub(super) repeated: Repeated,
}

impl Frame {
    pub(super) fn object(&self, status: &Status, output: &[Value], usage: Option<&Value>) -> Value {
        let mut out = self.repeated.clone();
        let (error, details) = match status {
            Status::InProgress | Status::Completed => (Value::Null, Value::Null),
            Status::Incomplete(reason) => (Value::Null, json!({"reason": reason})),
            Status::Failed(error) => (error.clone(), Value::Null),
        };
        let completed_at = if *status == Status::Completed { self.created_at.clone() } else { Value::Null };
        let own = json!({
            "id": self.id, "object": "response", "created_at": self.created_at, "completed_at": completed_at,
            "status": status.word(), "error": error, "incomplete_details": details, "model": self.model,
            "output": output, "usage": usage.map(usage_of),
        });
        out.extend(own.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
        Value::Object(out)
    }
}

/// A chat's usage in the words of responses; what we add (energy) stays.
fn usage_of(usage: &Value) -> Value {
    let mut out: Map<String, Value> = Map::new();
    let count = |name: &str| usage.get(name).cloned().unwrap_or_else(|| json!(0));
    let detail = |of: &str, name: &str| usage.get(of).and_then(|of| of.get(name)).cloned().unwrap_or_else(|| json!(0));
    out.insert("input_tokens".to_owned(), count("prompt_tokens"));
    let cached = detail("prompt_tokens_details", "cached_tokens");
    out.insert("input_tokens_details".to_owned(), json!({"cached_tokens": cached}));
    out.insert("output_tokens".to_owned(), count("completion_tokens"));
    let reasoning = detail("completion_tokens_details", "reasoning_tokens");
    out.insert("output_tokens_details".to_owned(), json!({"reasoning_tokens": reasoning}));
    let chats = ["prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"];
    let others = usage.as_object().into_iter().flatten().filter(|(name, _)| !chats.contains(&name.as_str()));
    out.extend(others.map(|(name, value)| (name.clone(), value.clone())));
    Value::Object(out)
}

/// The item of a message.
pub(super) fn message_item(id: &str, status: &str, content: &[Value]) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn call_item(id: &str, status: &str, call_id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments})
}

pub(super) fn reasoning_item(id: &str, text: &str) -> Value {
    json!({"id": id, "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]})
}
