//! Writing answers: plain replies and server-sent events, for chats and for text completions.
//! Events that are there at once become one write: one token per event as OpenAI sends them, few system calls.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use galerne_api::openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, Completion, CompletionChoice, Delta,
    FinishReason, Usage,
};
use serde::Serialize;
use tokio::sync::mpsc;

use super::problem::Problem;
use crate::job::{Done, Event};

/// The frame of one answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) shape: Shape,
    pub(super) include_usage: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Text,
}

/// Events taken from the channel at once.
const EVENTS_AT_ONCE: usize = 64;

impl Answer {
    /// Collects the whole answer.
    pub(super) async fn plain(&self, mut events: mpsc::Receiver<Event>) -> Result<Response, Problem> {
        let mut text = String::new();
        let mut taken = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            if events.recv_many(&mut taken, EVENTS_AT_ONCE).await == 0 {
                return Err(Problem::engine_gone());
            }
            for event in taken.drain(..) {
                match event {
                    Event::Text(more) => text.push_str(&more),
                    Event::Failed(failure) => return Err(failure.into()),
                    Event::Done(done) => return Ok(self.whole(text, &done)),
                }
            }
        }
    }

    /// Streams the answer. Headers wait for the first event: what fails before is a plain error with its own status.
    pub(super) async fn streamed(self, mut events: mpsc::Receiver<Event>) -> Result<Response, Problem> {
        let mut taken = Vec::with_capacity(EVENTS_AT_ONCE);
        if events.recv_many(&mut taken, EVENTS_AT_ONCE).await == 0 {
            return Err(Problem::engine_gone());
        }
        if let Some(Event::Failed(failure)) = taken.first() {
            return Err((*failure).into());
        }
        let mut first = Vec::new();
        if self.shape == Shape::Chat {
            let role = Delta { role: Some("assistant".into()), content: Some(String::new()), tool_calls: None };
            self.chunk(&mut first, role, None);
        }
        let state = Some(Writer { answer: self, events, taken, out: first });
        let body = stream::unfold(state, |state| async move {
            let (bytes, state) = state?.next().await;
            Some((Ok::<_, Infallible>(bytes), state))
        });
        let headers = [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
        Ok((headers, Body::from_stream(body)).into_response())
    }

    fn whole(&self, text: String, done: &Done) -> Response {
        let finish_reason = Some(done.reason);
        match self.shape {
            Shape::Chat => {
                let message =
                    AssistantMessage { role: "assistant".into(), content: Some(text), refusal: None, tool_calls: None };
                axum::Json(ChatCompletion {
                    id: self.id.clone(),
                    object: "chat.completion".into(),
                    created: self.created,
                    model: self.model.clone(),
                    choices: vec![ChatChoice { index: 0, message, logprobs: None, finish_reason }],
                    usage: done.spent().usage(),
                    system_fingerprint: None,
                })
                .into_response()
            }
            Shape::Text => {
                let choice = CompletionChoice { index: 0, text, logprobs: None, finish_reason };
                axum::Json(self.completion(vec![choice], Some(done.spent().usage()))).into_response()
            }
        }
    }

    fn event(&self, out: &mut Vec<u8>, event: Event) {
        match event {
            Event::Text(text) => self.piece(out, text, None),
            Event::Done(done) => {
                self.piece(out, String::new(), Some(done.reason));
                if self.include_usage {
                    self.usage(out, done.spent().usage());
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            // The status is out already: an error event, and no `[DONE]`.
            Event::Failed(failure) => data(out, Problem::from(failure).body()),
        }
    }

    fn piece(&self, out: &mut Vec<u8>, text: String, finish_reason: Option<FinishReason>) {
        match self.shape {
            Shape::Chat => {
                let content = finish_reason.is_none().then_some(text);
                self.chunk(out, Delta { role: None, content, tool_calls: None }, finish_reason);
            }
            Shape::Text => {
                let choice = CompletionChoice { index: 0, text, logprobs: None, finish_reason };
                data(out, &self.completion(vec![choice], None));
            }
        }
    }

    fn usage(&self, out: &mut Vec<u8>, usage: Usage) {
        match self.shape {
            Shape::Chat => data(out, &ChatChunk { usage: Some(usage), ..self.empty_chunk() }),
            Shape::Text => data(out, &self.completion(vec![], Some(usage))),
        }
    }

    fn chunk(&self, out: &mut Vec<u8>, delta: Delta, finish_reason: Option<FinishReason>) {
        let choice = ChunkChoice { index: 0, delta, logprobs: None, finish_reason };
        data(out, &ChatChunk { choices: vec![choice], ..self.empty_chunk() });
    }

    fn empty_chunk(&self) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: None,
            choices: vec![],
            usage: None,
        }
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: None,
            choices,
            usage,
        }
    }
}

/// A stream being written.
struct Writer {
    answer: Answer,
    events: mpsc::Receiver<Event>,
    taken: Vec<Event>,
    out: Vec<u8>,
}

impl Writer {
    /// The next bytes, and itself unless they were the last.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        let mut is_last = false;
        if self.taken.is_empty() && self.events.recv_many(&mut self.taken, EVENTS_AT_ONCE).await == 0 {
            data(&mut self.out, Problem::engine_gone().body());
            is_last = true;
        }
        for event in self.taken.drain(..) {
            is_last |= matches!(event, Event::Done(_) | Event::Failed(_));
            self.answer.event(&mut self.out, event);
        }
        let bytes = Bytes::from(std::mem::take(&mut self.out));
        (bytes, (!is_last).then_some(self))
    }
}

fn data<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *out, value).expect("wire types serialise");
    out.extend_from_slice(b"\n\n");
}
