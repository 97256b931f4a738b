//! Writing answers: plain replies and server-sent events, for chats and for text completions.
//! Events that are there at once become one write: one token per event as OpenAI sends them, few system calls.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use galerne_api::openai::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, Completion, CompletionChoice, Delta,
    FinishReason, TextLogprobs, Usage,
};
use serde::Serialize;
use tokio::sync::mpsc;

use super::logprobs;
use super::problem::Problem;
use super::speaker::{Reading, Speaker};
use crate::job::{Event, Piece};
use crate::reader::Part;
use crate::request::Route;
use crate::score::Scored;
use crate::vocabulary::Vocabulary;

/// The frame of one answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) fingerprint: String,
    pub(super) route: Route,
    pub(super) include_usage: bool,
    /// Choices that are written.
    pub(super) choices: usize,
    /// Choices that are computed, of which the likeliest are written; only plain answers have more.
    pub(super) best_of: usize,
    pub(super) logprobs: bool,
    /// What every choice begins with.
    pub(super) echo: Option<Echoed>,
    /// How chats are read; texts are handed on as they are.
    pub(super) reading: Option<Reading>,
    pub(super) vocabulary: Arc<dyn Vocabulary>,
}

/// The part of a prompt that belongs to the answer.
#[derive(Debug, Clone)]
pub(super) struct Echoed {
    pub(super) text: String,
    /// Its first token, if its tokens are scored: they follow as an event.
    pub(super) scored_from: Option<i32>,
}

/// What was gathered of a choice.
#[derive(Debug, Default)]
struct Choice {
    speaker: Option<Speaker>,
    message: AssistantMessage,
    text: String,
    scored: Vec<Scored>,
    reason: Option<FinishReason>,
    /// Sum of the tokens' log-probabilities, and their number.
    logprob: f64,
    tokens: usize,
}

/// Events taken from the channel at once.
const EVENTS_AT_ONCE: usize = 64;

impl Answer {
    /// Collects the whole answer.
    pub(super) async fn plain(&self, mut events: mpsc::Receiver<Event>) -> Result<Response, Problem> {
        let mut choices: Vec<Choice> = (0..self.best_of).map(|_| Choice::new(self.reading.as_ref())).collect();
        let mut prompt = vec![];
        let mut taken = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            if events.recv_many(&mut taken, EVENTS_AT_ONCE).await == 0 {
                return Err(Problem::engine_gone());
            }
            for event in taken.drain(..) {
                match event {
                    Event::Prompt(scored) => prompt = scored,
                    Event::Text(piece) => choices[piece.choice].take(piece),
                    Event::Ended { choice, reason, logprob } => {
                        choices[choice].end(reason);
                        choices[choice].logprob = logprob;
                    }
                    Event::Failed(failure) => return Err(failure.into()),
                    Event::Done(spent) => {
                        let reasoning = choices.iter().filter_map(|choice| choice.speaker.as_ref());
                        let usage =
                            with_reasoning(spent.usage(), reasoning.map(|speaker| speaker.reasoning_tokens).sum());
                        return Ok(self.whole(choices, &prompt, usage));
                    }
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
        let speakers = (0..self.choices).filter_map(|_| self.reading.as_ref().map(Speaker::new)).collect();
        let (offsets, unscored) = (vec![0; self.choices], vec![vec![]; self.choices]);
        let mut writer = Writer { offsets, unscored, speakers, answer: self, events, taken, out: vec![] };
        writer.begin();
        let body = stream::unfold(Some(writer), |state| async move {
            let (bytes, state) = state?.next().await;
            Some((Ok::<_, Infallible>(bytes), state))
        });
        let headers = [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
        Ok((headers, Body::from_stream(body)).into_response())
    }

    fn whole(&self, mut choices: Vec<Choice>, prompt: &[Scored], usage: Usage) -> Response {
        if self.best_of > self.choices {
            // Stable: of equally likely ones the earlier.
            choices.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
            choices.truncate(self.choices);
        }
        let choices = (0_u32..).zip(choices);
        match self.route {
            Route::Chat => axum::Json(ChatCompletion {
                id: self.id.clone(),
                object: "chat.completion".into(),
                created: self.created,
                model: self.model.clone(),
                choices: choices.map(|(index, choice)| self.chat_choice(index, choice)).collect(),
                usage,
                system_fingerprint: Some(self.fingerprint.clone()),
            })
            .into_response(),
            Route::Text => {
                let choices = choices.map(|(index, choice)| self.text_choice(index, &choice, prompt)).collect();
                axum::Json(self.completion(choices, Some(usage))).into_response()
            }
        }
    }

    fn chat_choice(&self, index: u32, choice: Choice) -> ChatChoice {
        let logprobs = self.logprobs.then(|| logprobs::chat(&*self.vocabulary, &choice.scored));
        let mut message = choice.message;
        message.role = "assistant".into();
        // A message of nothing but calls has no content.
        if let Some(echo) = &self.echo {
            message.content = Some(echo.text.clone() + &message.content.unwrap_or_default());
        } else if message.tool_calls.is_none() {
            message.content.get_or_insert_default();
        }
        ChatChoice { index, message, logprobs, finish_reason: choice.reason }
    }

    fn text_choice(&self, index: u32, choice: &Choice, prompt: &[Scored]) -> CompletionChoice {
        let logprobs = self.logprobs.then(|| {
            let (mut lists, mut offset) = (TextLogprobs::default(), 0);
            self.echo_logprobs(prompt, &mut lists, &mut offset);
            logprobs::text(&*self.vocabulary, &choice.scored, &mut lists, &mut offset);
            lists
        });
        let text = self.echo_text().to_owned() + &choice.text;
        CompletionChoice { index, text, logprobs, finish_reason: choice.reason }
    }

    fn echo_text(&self) -> &str {
        self.echo.as_ref().map_or("", |echo| &echo.text)
    }

    fn echo_logprobs(&self, prompt: &[Scored], lists: &mut TextLogprobs, offset: &mut usize) {
        if let Some(first) = self.echo.as_ref().and_then(|echo| echo.scored_from) {
            logprobs::unscored(&*self.vocabulary, first, lists, offset);
            logprobs::text(&*self.vocabulary, prompt, lists, offset);
        }
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: Some(self.fingerprint.clone()),
            choices,
            usage,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: Some(self.fingerprint.clone()),
            choices,
            usage,
        }
    }
}

impl Choice {
    fn new(reading: Option<&Reading>) -> Self {
        Self { speaker: reading.map(Speaker::new), ..Self::default() }
    }

    fn end(&mut self, reason: FinishReason) {
        self.reason = Some(reason);
        if let Some(speaker) = &mut self.speaker {
            let parts = speaker.finish();
            parts.into_iter().for_each(|part| speaker.add(&mut self.message, part));
            self.reason = Some(speaker.reason(reason));
        }
    }

    fn take(&mut self, piece: Piece) {
        match &mut self.speaker {
            Some(speaker) => {
                let parts = speaker.push(&piece);
                parts.into_iter().for_each(|part| speaker.add(&mut self.message, part));
            }
            None => self.text.push_str(&piece.text),
        }
        self.scored.extend(piece.scored);
        self.tokens += piece.tokens;
    }

    fn mean_logprob(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an answer has far fewer than 2^52 tokens")]
        let tokens = self.tokens.max(1) as f64;
        self.logprob / tokens
    }
}

/// A stream being written.
struct Writer {
    answer: Answer,
    events: mpsc::Receiver<Event>,
    taken: Vec<Event>,
    out: Vec<u8>,
    /// Of each choice, the characters whose tokens were told.
    offsets: Vec<usize>,
    /// Of each choice, the scores of tokens whose text is held back.
    unscored: Vec<Vec<Scored>>,
    /// Of each choice, in chats.
    speakers: Vec<Speaker>,
}

impl Writer {
    /// What comes before anything the engine says.
    fn begin(&mut self) {
        for index in 0..self.answer.choices {
            if self.answer.route == Route::Chat {
                let role = Delta { role: Some("assistant".into()), content: Some(String::new()), ..Delta::default() };
                self.delta(index, role, &[], None);
            }
            if self.answer.echo.as_ref().is_some_and(|echo| echo.scored_from.is_none()) {
                let text = self.answer.echo_text().to_owned();
                self.offsets[index] = text.chars().count();
                match self.answer.route {
                    Route::Chat => self.delta(index, Delta { content: Some(text), ..Delta::default() }, &[], None),
                    Route::Text => self.text(index, text, None, None),
                }
            }
        }
    }

    /// The next bytes, and itself unless they were the last.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        let mut is_last = false;
        if self.taken.is_empty() && self.events.recv_many(&mut self.taken, EVENTS_AT_ONCE).await == 0 {
            data(&mut self.out, Problem::engine_gone().body());
            is_last = true;
        }
        for event in std::mem::take(&mut self.taken) {
            is_last |= matches!(event, Event::Done(_) | Event::Failed(_));
            self.event(event);
        }
        let bytes = Bytes::from(std::mem::take(&mut self.out));
        (bytes, (!is_last).then_some(self))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Prompt(scored) => self.prompt(&scored),
            Event::Text(piece) => self.piece(piece),
            Event::Ended { choice, reason, .. } => self.ended(choice, reason),
            Event::Done(spent) => {
                if self.answer.include_usage {
                    let reasoning = self.speakers.iter().map(|speaker| speaker.reasoning_tokens).sum();
                    self.usage(with_reasoning(spent.usage(), reasoning));
                }
                self.out.extend_from_slice(b"data: [DONE]\n\n");
            }
            // The status is out already: an error event, and no `[DONE]`.
            Event::Failed(failure) => data(&mut self.out, Problem::from(failure).body()),
        }
    }

    /// The echoed prompt with its scores, for every choice.
    fn prompt(&mut self, scored: &[Scored]) {
        for index in 0..self.answer.choices {
            let mut lists = TextLogprobs::default();
            self.answer.echo_logprobs(scored, &mut lists, &mut self.offsets[index]);
            self.text(index, self.answer.echo_text().to_owned(), Some(lists), None);
        }
    }

    fn piece(&mut self, piece: Piece) {
        match self.answer.route {
            Route::Chat => {
                let parts = self.speakers[piece.choice].push(&piece);
                self.unscored[piece.choice].extend(piece.scored);
                self.parts(piece.choice, parts);
            }
            Route::Text => {
                let lists = self.answer.logprobs.then(|| {
                    let mut lists = TextLogprobs::default();
                    let offset = &mut self.offsets[piece.choice];
                    logprobs::text(&*self.answer.vocabulary, &piece.scored, &mut lists, offset);
                    lists
                });
                self.text(piece.choice, piece.text, lists, None);
            }
        }
    }

    fn ended(&mut self, choice: usize, reason: FinishReason) {
        match self.answer.route {
            Route::Chat => {
                let parts = self.speakers[choice].finish();
                self.parts(choice, parts);
                let scored = std::mem::take(&mut self.unscored[choice]);
                let reason = self.speakers[choice].reason(reason);
                self.delta(choice, Delta::default(), &scored, Some(reason));
            }
            Route::Text => self.text(choice, String::new(), None, Some(reason)),
        }
    }

    /// The first part carries the scores of all tokens that it and the others are made of.
    fn parts(&mut self, choice: usize, parts: Vec<Part>) {
        for part in parts {
            let scored = std::mem::take(&mut self.unscored[choice]);
            let delta = self.speakers[choice].delta(part);
            self.delta(choice, delta, &scored, None);
        }
    }

    fn usage(&mut self, usage: Usage) {
        match self.answer.route {
            Route::Chat => data(&mut self.out, &self.answer.chunk(vec![], Some(usage))),
            Route::Text => data(&mut self.out, &self.answer.completion(vec![], Some(usage))),
        }
    }

    fn delta(&mut self, choice: usize, delta: Delta, scored: &[Scored], finish_reason: Option<FinishReason>) {
        let has_scores = self.answer.logprobs && !scored.is_empty();
        let logprobs = has_scores.then(|| logprobs::chat(&*self.answer.vocabulary, scored));
        let choice = ChunkChoice { index: number(choice), delta, logprobs, finish_reason };
        data(&mut self.out, &self.answer.chunk(vec![choice], None));
    }

    fn text(
        &mut self,
        choice: usize,
        text: String,
        logprobs: Option<TextLogprobs>,
        finish_reason: Option<FinishReason>,
    ) {
        let choice = CompletionChoice { index: number(choice), text, logprobs, finish_reason };
        data(&mut self.out, &self.answer.completion(vec![choice], None));
    }
}

fn with_reasoning(mut usage: Usage, reasoning_tokens: u64) -> Usage {
    if let Some(details) = &mut usage.completion_tokens_details {
        details.reasoning_tokens = reasoning_tokens;
    }
    usage
}

fn number(choice: usize) -> u32 {
    u32::try_from(choice).expect("a request has few choices")
}

fn data<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *out, value).expect("wire types serialise");
    out.extend_from_slice(b"\n\n");
}
