//! A streamed answer: a task passes events on, counts, and settles before `[DONE]` or at the cut.
//!
//! Between the task and the client is a short channel, so a slow client slows the replica down and, past a limit, is cut.
//! INVARIANT: the usage record is in the spool before the client can read the end of the stream.
//! A cut stream is metered up to the cut: by what a worker says it had done, else by the last usage the engine reported, else
//! each chunk with content counts as one token, which it has at least, and the prompt is counted by asking the replica.
//! The chunk with the finish reason waits for the end of the stream, which follows it at once, where it is to carry usage.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::stream;
use galerne_api::error::Code;
use galerne_core::rating::Charge;
use galerne_core::routing;
use galerne_model::ledger::Outcome;
use galerne_model::snapshot::{ReplicaEnergy, ReplicaEntry};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::refusal::Refusal;
use crate::request::{Fields, ObjectWriter, UsageShown};
use crate::route::SeatGuard;
use crate::segments::Segments;
use crate::sse::{self, Event, Parser};
use crate::ticket::{ACCOUNT_PATIENCE, Ending, Energy, Ticket};
use crate::upstream::{self, Incoming};
use crate::voice::{Teller, Voice};

/// Parts on their way to the client; each is at most what one read from the replica brought.
const PARTS_IN_CHANNEL: usize = 8;
/// Time given to the replica to close its stream after `[DONE]`, so that the connection can be used again.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a worker may take to say what it had done while the client waits for the last words.
const WATCHED_PATIENCE: Duration = Duration::from_secs(2);
const DONE: &[u8] = b"data: [DONE]\n\n";

/// A stream that has begun.
pub(crate) struct Opened {
    pub(crate) ticket: Ticket,
    pub(crate) seat: SeatGuard,
    pub(crate) replica: Option<ReplicaEntry>,
    pub(crate) first: Bytes,
    pub(crate) rest: Incoming,
    pub(crate) deadline: Instant,
    /// Where the client is told the usage.
    pub(crate) shown: UsageShown,
    pub(crate) voice: Voice,
    /// How to ask for the prompt's tokens.
    pub(crate) tokenize_body: Option<Segments>,
}

/// Starts the task and gives the response whose body it feeds.
pub(crate) fn reply(shared: &Arc<Shared>, opened: Opened) -> Response<Body> {
    let (parts, mut received) = mpsc::channel::<Bytes>(PARTS_IN_CHANNEL);
    let Opened { ticket, seat, replica, first, rest, deadline, shown, voice, tokenize_body } = opened;
    let is_worker = replica.as_ref().is_some_and(|replica| replica.energy == ReplicaEnergy::CpuTime);
    let teller = Teller::new(voice, is_worker, ticket.request_id());
    let pump = Pump {
        shared: Arc::clone(shared),
        ticket,
        seat,
        replica,
        deadline,
        shown,
        teller,
        tokenize_body,
        parts,
        parser: Parser::default(),
        reported: None,
        last: None,
        content_chunks: 0,
        failed: false,
    };
    shared.tasks.spawn(Box::pin(pump.run(first, rest)));
    let body =
        stream::poll_fn(move |ctx| received.poll_recv(ctx).map(|part| part.map(Ok::<_, std::convert::Infallible>)));
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx in front would collect the stream otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Pump {
    shared: Arc<Shared>,
    ticket: Ticket,
    seat: SeatGuard,
    replica: Option<ReplicaEntry>,
    deadline: Instant,
    shown: UsageShown,
    teller: Teller,
    tokenize_body: Option<Segments>,
    parts: mpsc::Sender<Bytes>,
    parser: Parser,
    /// The last usage the engine reported, counted and in its own words.
    reported: Option<(Counted, String)>,
    /// The chunk that will carry the usage: the one with the finish reason, or the engine's own for usage.
    last: Option<String>,
    content_chunks: i64,
    /// The engine put an error into the stream.
    failed: bool,
}

/// Why the stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The replica said `[DONE]`.
    Done,
    ClientLeft,
    ClientSlow,
    ReplicaBroke,
    Deadline,
    ShuttingDown,
}

impl Pump {
    async fn run(mut self, first: Bytes, mut rest: Incoming) {
        let (end, mut unsent) = self.pass_on(first, &mut rest).await;
        // Before the count, which may wait for the replica: a stream nobody reads stops the engine by closing.
        let rest = (end == End::Done).then_some(rest);
        if let Some((counted, _)) = &self.reported {
            self.seat.counted(*counted);
        }
        self.seat.end(end.of_seat());
        let counted = self.count(end).await;
        let Self { shared, mut ticket, shown, mut teller, parts, reported, last, failed, .. } = self;
        let (energy, charge) = (ticket.energy(counted), ticket.charge(counted));
        let request_id = ticket.request_id();
        let (outcome, http_status) = end.outcome(failed);
        ticket.settle(Ending { outcome, http_status, counted });
        shared.metrics.answered(counted);
        let usage = reported.map(|(_, json)| meter::shown_usage(&json, Some(energy)));
        if let Some(last) = last_chunk(end, shown, last, usage) {
            write_data(&mut unsent, last.as_bytes());
        }
        let tail = match end {
            End::Done => done_tail(unsent, energy, charge),
            End::ClientLeft | End::ClientSlow => return,
            // The engine has said what went wrong.
            End::ReplicaBroke if failed => unsent,
            End::ReplicaBroke | End::Deadline | End::ShuttingDown => {
                let error = cut_refusal(end, shared.bounds.request).json(teller.voice().dialect, request_id);
                write_data(&mut unsent, &error);
                unsent
            }
        };
        let tail = Bytes::from(teller.sent(tail));
        // A client that is gone by now has nothing to lose: the record is written.
        let sent = tokio::select! {
            sent = timeout(shared.bounds.client, parts.send(tail)) => sent.is_ok_and(|sent| sent.is_ok()),
            () = shared.last_words() => false,
        };
        drop(parts);
        if let Some(rest) = rest {
            close(rest).await;
        }
        tracing::debug!(%request_id, ?end, sent, "stream ended");
    }

    /// What was used, from whoever knows it best.
    async fn count(&mut self, end: End) -> Counted {
        let reported = self.reported.as_ref().map(|(counted, _)| *counted);
        if let (End::Done, Some(reported)) = (end, reported) {
            return reported;
        }
        let replica = self.replica.take();
        if let (Some(replica), true) = (&replica, end != End::Done) {
            let patience = if end.is_watched() { WATCHED_PATIENCE } else { ACCOUNT_PATIENCE };
            let request_id = self.ticket.request_id();
            if let Some(done) = upstream::account(&self.shared, replica, request_id, patience).await {
                return done;
            }
        }
        match reported {
            Some(reported) => reported_until(end, reported, self.content_chunks),
            None => count_chunks(&self.shared, self.content_chunks, replica.zip(self.tokenize_body.take())).await,
        }
    }

    /// Passes events on until the stream ends; what must be sent last is given back.
    async fn pass_on(&mut self, first: Bytes, rest: &mut Incoming) -> (End, Vec<u8>) {
        let mut part = first;
        loop {
            self.parser.feed(&part);
            let mut out = Vec::with_capacity(part.len());
            match self.take_events(&mut out) {
                Ok(Seen::More) => {}
                Ok(Seen::Done) => return (End::Done, out),
                Err(sse::EventTooLong) => return (End::ReplicaBroke, out),
            }
            let out = self.teller.sent(out);
            if !out.is_empty()
                && let Err(end) = self.send(Bytes::from(out)).await
            {
                return (end, Vec::new());
            }
            part = tokio::select! {
                biased;
                () = self.parts.closed() => return (End::ClientLeft, Vec::new()),
                () = self.shared.cut.cancelled() => return (End::ShuttingDown, Vec::new()),
                next = timeout_at(self.deadline, rest.part()) => match next {
                    Ok(Ok(Some(part))) => part,
                    Ok(Ok(None) | Err(_)) => return (End::ReplicaBroke, Vec::new()),
                    Err(_) => return (End::Deadline, Vec::new()),
                },
            };
        }
    }

    /// Hands a part to the client, who may be slow, but neither for long nor beyond the request's own time.
    async fn send(&mut self, part: Bytes) -> Result<(), End> {
        let patience = Instant::now() + self.shared.bounds.client;
        let until = patience.min(self.deadline);
        tokio::select! {
            biased;
            () = self.shared.cut.cancelled() => Err(End::ShuttingDown),
            sent = timeout_at(until, self.parts.send(part)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::ClientLeft),
                Err(_) if until < patience => Err(End::Deadline),
                Err(_) => Err(End::ClientSlow),
            },
        }
    }

    /// Moves whole events from the parser to `out`.
    fn take_events(&mut self, out: &mut Vec<u8>) -> Result<Seen, sse::EventTooLong> {
        while let Some(event) = self.parser.next_event()? {
            let data = event.data();
            match data.as_deref().map(str::trim_end) {
                Some("[DONE]") => return Ok(Seen::Done),
                Some(data) => self.chunk(&event, data, out),
                None => out.extend_from_slice(&event.0),
            }
        }
        Ok(Seen::More)
    }

    fn chunk(&mut self, event: &Event, data: &str, out: &mut Vec<u8>) {
        if sse::carries_content(data) {
            self.content_chunks += 1;
            self.ticket.first_content();
            self.seat.first_token();
        }
        let is_error = data.starts_with("{\"error\"");
        self.failed |= is_error;
        let usage = if has_usage(data) { self.note_usage(data) } else { None };
        let shown = self.shown;
        let told = self.teller.chunk(data);
        let (passes, data) = (matches!(told, Cow::Borrowed(_)), told.as_ref());
        if usage == Some(UsagePlace::Apart) {
            if shown == UsageShown::Apart {
                self.last = Some(data.to_owned());
            }
            return;
        }
        if shown == UsageShown::WithLast {
            // A further choice goes on: the one that was held back was not the last.
            if let Some(held) = self.last.take() {
                write_data(out, held.as_bytes());
            }
        }
        match (shown, usage) {
            (UsageShown::WithLast, _) if sse::finishes(data) => {
                self.last = Some(if usage.is_some() { with_usage(data, None) } else { data.to_owned() });
            }
            (UsageShown::Apart, _) if sse::finishes(data) && !is_error => {
                let chunk = with_usage(data, Some("null"));
                write_data(out, chunk.as_bytes());
                // In case the engine makes no chunk of its own for the usage.
                self.last.get_or_insert(chunk);
            }
            (UsageShown::Apart, None) if !is_error && !data.contains("\"usage\":") => with_null_usage(data, out),
            (UsageShown::Apart, Some(_)) => write_data(out, with_usage(data, Some("null")).as_bytes()),
            (UsageShown::WithLast | UsageShown::Never, Some(_)) => write_data(out, with_usage(data, None).as_bytes()),
            (UsageShown::WithLast | UsageShown::Apart | UsageShown::Never, None) if passes => {
                out.extend_from_slice(&event.0);
            }
            (UsageShown::WithLast | UsageShown::Apart | UsageShown::Never, None) => write_data(out, data.as_bytes()),
        }
    }

    /// Notes the usage in a chunk and says where the engine put it.
    fn note_usage(&mut self, data: &str) -> Option<UsagePlace> {
        let fields: Fields<'_> = serde_json::from_str(data).ok()?;
        let usage = fields.get("usage")?.get();
        if let Some(counted) = meter::read_usage(usage) {
            self.reported = Some((counted, usage.to_owned()));
        }
        let is_apart =
            fields.get("choices").is_none_or(|choices| choices.get().trim_start_matches('[').trim_start() == "]");
        Some(if is_apart { UsagePlace::Apart } else { UsagePlace::Within })
    }
}

/// Where an engine put its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsagePlace {
    /// In a chunk without choices.
    Apart,
    /// In a chunk of the answer.
    Within,
}

impl End {
    /// What the replica is credited or blamed with.
    fn of_seat(self) -> routing::Ending {
        match self {
            Self::Done => routing::Ending::Answered,
            Self::ClientLeft | Self::ClientSlow | Self::ShuttingDown => routing::Ending::Cancelled,
            Self::ReplicaBroke => routing::Ending::Broken,
            Self::Deadline => routing::Ending::TimedOut,
        }
    }

    /// Outcome and status of the usage record; `failed`: the engine told of an error.
    fn outcome(self, failed: bool) -> (Outcome, u16) {
        match self {
            Self::Done if !failed => (Outcome::Completed, 200),
            Self::ClientLeft | Self::ClientSlow => (Outcome::Cancelled, 499),
            Self::Done | Self::ReplicaBroke | Self::Deadline | Self::ShuttingDown => (Outcome::Failed, 200),
        }
    }

    /// Whether somebody waits for the last words.
    fn is_watched(self) -> bool {
        match self {
            Self::ClientLeft | Self::ClientSlow => false,
            Self::Done | Self::ReplicaBroke | Self::Deadline | Self::ShuttingDown => true,
        }
    }
}

/// What the engine reported. Running usage may lag behind the chunks of a stream that was cut.
fn reported_until(end: End, reported: Counted, content_chunks: i64) -> Counted {
    let completion = if end == End::Done { reported.completion } else { reported.completion.max(content_chunks) };
    Counted { completion, ..reported }
}

/// A lower bound of what was used, where the engine did not report it.
async fn count_chunks(shared: &Shared, content_chunks: i64, ask: Option<(ReplicaEntry, Segments)>) -> Counted {
    let mut counted = Counted { completion: content_chunks, ..Counted::default() };
    // The prompt was worked through once there is content.
    if content_chunks > 0
        && let Some((replica, body)) = ask
    {
        counted.prompt = upstream::count_prompt(shared, &replica, &body).await.unwrap_or(0);
    }
    counted
}

enum Seen {
    More,
    Done,
}

/// Whether a chunk has a `usage` that is not null.
fn has_usage(data: &str) -> bool {
    data.split("\"usage\":").skip(1).any(|rest| !rest.trim_start().starts_with("null"))
}

/// The chunk that ends the answer, with the usage where the client looks for it.
fn last_chunk(end: End, shown: UsageShown, last: Option<String>, usage: Option<String>) -> Option<String> {
    let usage = usage.filter(|_| end == End::Done);
    match (shown, usage) {
        (UsageShown::WithLast, Some(usage)) => last.map(|last| with_usage(&last, Some(&usage))),
        (UsageShown::WithLast, None) => last,
        (UsageShown::Apart, Some(usage)) => last.map(|last| apart(&last, &usage)),
        (UsageShown::Apart, None) | (UsageShown::Never, _) => None,
    }
}

/// A chunk with `usage` in place of its own, or without any.
fn with_usage(data: &str, usage: Option<&str>) -> String {
    rewritten(data, |name, value| if name == "usage" { None } else { Some(value) }, usage)
}

/// A chunk of the same answer that has no choices and the usage.
fn apart(data: &str, usage: &str) -> String {
    let keep = |name: &str, value| match name {
        "usage" => None,
        "choices" => Some("[]"),
        _ => Some(value),
    };
    rewritten(data, keep, Some(usage))
}

fn rewritten<'a>(data: &'a str, keep: impl Fn(&str, &'a str) -> Option<&'a str>, usage: Option<&str>) -> String {
    let Ok(fields) = serde_json::from_str::<Fields<'a>>(data) else { return data.to_owned() };
    let mut chunk = ObjectWriter::with_capacity(data.len() + 96);
    for (name, value) in &fields.0 {
        if let Some(value) = keep(name, value.get()) {
            chunk.raw(name, value);
        }
    }
    if let Some(usage) = usage {
        chunk.raw("usage", usage);
    }
    String::from_utf8(chunk.finish()).expect("made of texts")
}

/// Writes a chunk of an answer with `usage: null` at its end; these are most chunks, so it is not parsed.
fn with_null_usage(data: &str, out: &mut Vec<u8>) {
    match data.strip_suffix('}') {
        Some(open) if open.len() > 1 => {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(open.as_bytes());
            out.extend_from_slice(b",\"usage\":null}\n\n");
        }
        Some(_) | None => write_data(out, data.as_bytes()),
    }
}

fn write_data(out: &mut Vec<u8>, data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

fn done_tail(mut unsent: Vec<u8>, energy: Energy, charge: Charge) -> Vec<u8> {
    unsent.extend_from_slice(meter::energy_comment(energy, charge).as_bytes());
    unsent.extend_from_slice(DONE);
    unsent
}

fn cut_refusal(end: End, longest: Duration) -> Refusal {
    match end {
        End::Deadline => {
            let seconds = longest.as_secs();
            Refusal::new(Code::DeadlineExceeded, format!("the answer took longer than {seconds} seconds and was cut"))
        }
        End::ShuttingDown => Refusal::new(Code::Draining, "the server shuts down; the answer was cut"),
        End::ReplicaBroke | End::Done | End::ClientLeft | End::ClientSlow => {
            Refusal::new(Code::ReplicaFailed, "the replica failed in the middle of its answer, which ends here")
        }
    }
}

async fn close(mut rest: Incoming) {
    // Not closing in time costs one connection, nothing else.
    let closed = timeout(CLOSE_TIMEOUT, rest.part()).await.is_ok();
    tracing::trace!(closed, "replica's stream closed");
}
