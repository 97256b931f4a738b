//! A response as it is made: the chat's chunks, as events of items.
//!
//! INVARIANT: an item is added before its parts, its parts before their deltas, and everything begun is done before the response is;
//! `sequence_number` counts every event.

use galerne_model::ids::RequestId;
use serde_json::{Value, json};

use super::Repeated;
use super::answer::{Frame, Status, call_item, message_item, reasoning_item, text_part};
use crate::sse::{self, Border};

/// Tells a stream of chunks as events; and a whole chat as a response, by the same way.
#[derive(Debug)]
pub(crate) struct Events {
    frame: Frame,
    /// What no event has ended in yet.
    pending: Vec<u8>,
    border: Border,
    sequence: u64,
    is_begun: bool,
    /// The response was told to its end: engines say `[DONE]` also behind an error.
    is_ended: bool,
    /// Items that are done.
    output: Vec<Value>,
    open: Option<Open>,
    finish: Option<String>,
    usage: Option<Value>,
    error: Option<Value>,
    out: Vec<u8>,
}

/// The item that is being told.
#[derive(Debug)]
struct Open {
    id: String,
    index: usize,
    kind: Kind,
    text: String,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Message,
    Reasoning,
    Call { index: u64, call_id: String, name: String },
}

impl Events {
    pub(crate) fn new(request_id: RequestId, model: &str, repeated: Repeated) -> Self {
        let id = format!("resp_{}", request_id.uuid().simple());
        let frame = Frame { id, created_at: json!(0), model: json!(model), repeated };
        Self {
            frame,
            pending: Vec::new(),
            border: Border::default(),
            sequence: 0,
            is_begun: false,
            is_ended: false,
            output: Vec::new(),
            open: None,
            finish: None,
            usage: None,
            error: None,
            out: Vec::new(),
        }
    }

    /// A whole chat as a response.
    pub(crate) fn whole(mut self, chat: &[u8]) -> Vec<u8> {
        let Ok(chat) = serde_json::from_slice::<Value>(chat) else { return chat.to_vec() };
        self.frame.created_at = chat["created"].clone();
        self.usage = chat.get("usage").cloned();
        self.tier(&chat);
        let choice = &chat["choices"][0];
        self.delta(&choice["message"]);
        self.finish = choice["finish_reason"].as_str().map(str::to_owned);
        self.close();
        let status = Status::of_finish(self.finish.as_deref());
        self.frame.object(&status, &self.output, self.usage.as_ref()).to_string().into_bytes()
    }

    /// What a piece of the chat's stream is told as; events may be cut anywhere.
    pub(crate) fn told(&mut self, part: &[u8]) -> Vec<u8> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(part);
        let mut at = 0;
        while let Ok(Some(length)) = self.border.find(&pending[at..]) {
            let event = &pending[at..at + length];
            match sse::data(event).as_deref() {
                _ if self.is_ended => {}
                Some("[DONE]") => self.end(),
                Some(data) => self.chunk(data),
                // Comments: the energy.
                None => self.out.extend_from_slice(event),
            }
            at += length;
        }
        self.pending = pending.split_off(at);
        std::mem::take(&mut self.out)
    }

    fn chunk(&mut self, data: &str) {
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { return };
        if let Some(error) = chunk.get("error") {
            self.error = Some(json!({"code": "server_error", "message": error["message"]}));
            self.end();
            return;
        }
        if !self.is_begun {
            self.is_begun = true;
            self.frame.created_at = chunk["created"].clone();
            self.tell_response("response.created", &Status::InProgress);
            self.tell_response("response.in_progress", &Status::InProgress);
        }
        self.tier(&chunk);
        if chunk["usage"].is_object() {
            self.usage = Some(chunk["usage"].clone());
        }
        let choice = &chunk["choices"][0];
        self.delta(&choice["delta"]);
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish = Some(reason.to_owned());
        }
    }

    /// The tier that served it, where the chat tells.
    fn tier(&mut self, chat: &Value) {
        if chat["service_tier"].is_string() {
            self.frame.repeated.insert("service_tier".to_owned(), chat["service_tier"].clone());
        }
    }

    /// A piece of the answer.
    fn delta(&mut self, delta: &Value) {
        let text = |name: &str| delta.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(thought) = text("reasoning_content").or_else(|| text("reasoning")) {
            self.item(Kind::Reasoning);
            self.add(thought);
        }
        if let Some(text) = text("content").or_else(|| text("refusal")) {
            self.item(Kind::Message);
            self.add(text);
        }
        for (at, call) in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let index = call["index"].as_u64().unwrap_or(at as u64);
            let function = &call["function"];
            let is_open =
                matches!(&self.open, Some(Open { kind: Kind::Call { index: open, .. }, .. }) if *open == index);
            if !is_open {
                let given = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                self.item(Kind::Call { index, call_id: given(&call["id"]), name: given(&function["name"]) });
            }
            if let Some(arguments) = function["arguments"].as_str().filter(|text| !text.is_empty()) {
                self.add(arguments);
            }
        }
    }

    /// Goes on with an item of this kind, or begins one.
    fn item(&mut self, kind: Kind) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close();
        let index = self.output.len();
        let prefix = match kind {
            Kind::Message => "msg",
            Kind::Reasoning => "rs",
            Kind::Call { .. } => "fc",
        };
        let id = format!("{prefix}_{}_{index}", self.frame.id.trim_start_matches("resp_"));
        let open = Open { id, index, kind, text: String::new() };
        let item = match &open.kind {
            Kind::Message => message_item(&open.id, "in_progress", &[]),
            Kind::Reasoning => json!({"id": open.id, "type": "reasoning", "summary": [], "content": []}),
            Kind::Call { call_id, name, .. } => call_item(&open.id, "in_progress", call_id, name, ""),
        };
        self.tell("response.output_item.added", json!({"output_index": index, "item": item}));
        if let Some(part) = open.part() {
            let event = json!({"item_id": open.id, "output_index": index, "content_index": 0, "part": part});
            self.tell("response.content_part.added", event);
        }
        self.open = Some(open);
    }

    fn add(&mut self, text: &str) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let (mut event, name) =
            (json!({"item_id": open.id, "output_index": open.index, "delta": text}), open.delta_name());
        if open.kind == Kind::Message {
            event["logprobs"] = json!([]);
        }
        if open.part().is_some() {
            event["content_index"] = json!(0);
        }
        self.tell(name, event);
    }

    /// Ends the item that is open.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let (id, index, text) = (&open.id, open.index, &open.text);
        let done = match &open.kind {
            Kind::Message | Kind::Reasoning => {
                json!({"item_id": id, "output_index": index, "content_index": 0, "text": text})
            }
            Kind::Call { name, .. } => json!({"item_id": id, "output_index": index, "name": name, "arguments": text}),
        };
        let (done, name) = match &open.kind {
            Kind::Message => (with(done, "logprobs", json!([])), "response.output_text.done"),
            Kind::Reasoning => (done, "response.reasoning_text.done"),
            Kind::Call { .. } => (done, "response.function_call_arguments.done"),
        };
        self.tell(name, done);
        if let Some(part) = open.part() {
            let event = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
            self.tell("response.content_part.done", event);
        }
        let is_cut = self.error.is_some() || matches!(Status::of_finish(self.finish.as_deref()), Status::Incomplete(_));
        let status = if is_cut { "incomplete" } else { "completed" };
        let item = match &open.kind {
            Kind::Message => message_item(id, status, &[text_part(text)]),
            Kind::Reasoning => reasoning_item(id, text),
            Kind::Call { call_id, name, .. } => call_item(id, status, call_id, name, text),
        };
        self.tell("response.output_item.done", json!({"output_index": index, "item": item}));
        self.output.push(item);
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.close();
        let status = match self.error.take() {
            Some(error) => Status::Failed(error),
            None => Status::of_finish(self.finish.as_deref()),
        };
        let name = match status {
            Status::InProgress | Status::Completed => "response.completed",
            Status::Incomplete(_) => "response.incomplete",
            Status::Failed(_) => "response.failed",
        };
        self.tell_response(name, &status);
        // A stream that was cut has no such end.
        if !matches!(status, Status::Failed(_)) {
            self.out.extend_from_slice(b"data: [DONE]\n\n");
        }
    }

    fn tell_response(&mut self, name: &str, status: &Status) {
        let response = self.frame.object(status, &self.output, self.usage.as_ref());
        self.tell(name, json!({"response": response}));
    }

    fn tell(&mut self, name: &str, event: Value) {
        let event = with(with(event, "type", json!(name)), "sequence_number", json!(self.sequence));
        self.sequence += 1;
        self.out.extend_from_slice(format!("event: {name}\ndata: {event}\n\n").as_bytes());
    }
}

impl Open {
    /// The part that its text is in; calls have none.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Message => Some(text_part(&self.text)),
            Kind::Reasoning => Some(json!({"type": "reasoning_text", "text": self.text})),
            Kind::Call { .. } => None,
        }
    }

    const fn delta_name(&self) -> &'static str {
        match self.kind {
            Kind::Message => "response.output_text.delta",
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Call { .. } => "response.function_call_arguments.delta",
        }
    }
}

fn with(mut event: Value, name: &str, value: Value) -> Value {
    event[name] = value;
    event
}
