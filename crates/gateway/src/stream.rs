//! A streamed answer: a task passes events on, counts, and settles before `[DONE]` or at the cut.
//!
//! Between the task and the client is a short channel, so a slow client slows the replica down and, past a limit, is cut.
//! INVARIANT: the usage record is in the spool before the client can read the end of the stream.
//! A cut stream is metered up to the cut: by the last usage the engine reported; without one, each chunk with content
//! counts as one token, which it has at least, and the prompt is counted by asking the replica.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::stream;
use galerne_api::error::Code;
use galerne_core::rating::Charge;
use galerne_core::routing;
use galerne_model::ledger::Outcome;
use galerne_model::snapshot::ReplicaEntry;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Place, Shared};
use crate::meter::{self, Counted};
use crate::refusal::Refusal;
use crate::request::{Fields, ObjectWriter};
use crate::sse::{self, Event, Parser};
use crate::ticket::{Ending, Energy, Ticket};
use crate::upstream::{self, SeatGuard};

/// Parts on their way to the client; each is at most what one read from the replica brought.
const PARTS_IN_CHANNEL: usize = 8;
/// Time given to the replica to close its stream after `[DONE]`, so that the connection can be used again.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
const DONE: &[u8] = b"data: [DONE]\n\n";

/// A stream that has begun.
pub(crate) struct Opened {
    pub(crate) ticket: Ticket,
    pub(crate) seat: SeatGuard,
    pub(crate) replica: Option<ReplicaEntry>,
    pub(crate) first: Bytes,
    pub(crate) rest: reqwest::Response,
    pub(crate) deadline: Instant,
    /// The client asked for the usage chunk.
    pub(crate) include_usage: bool,
    /// How to ask for the prompt's tokens.
    pub(crate) tokenize_body: Option<Vec<u8>>,
    /// The request's place in this process.
    pub(crate) place: Place,
}

/// Starts the task and gives the response whose body it feeds.
pub(crate) fn reply(shared: &Arc<Shared>, opened: Opened) -> Response<Body> {
    let (parts, mut received) = mpsc::channel::<Bytes>(PARTS_IN_CHANNEL);
    let pump = Pump {
        shared: Arc::clone(shared),
        parts,
        parser: Parser::default(),
        reported: None,
        content_chunks: 0,
        failed: false,
        opened,
    };
    shared.tasks.spawn(Box::pin(pump.run()));
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
    opened: Opened,
    parts: mpsc::Sender<Bytes>,
    parser: Parser,
    /// The last usage the engine reported.
    reported: Option<Counted>,
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
    async fn run(mut self) {
        let (end, unsent) = self.pass_on().await;
        let Self { shared, parts, opened, reported, content_chunks, failed, .. } = self;
        let Opened { mut ticket, seat, replica, rest, tokenize_body, place: _place, .. } = opened;
        let (outcome, http_status, seat_ending) = match end {
            End::Done if !failed => (Outcome::Completed, 200, routing::Ending::Answered),
            End::Done => (Outcome::Failed, 200, routing::Ending::Answered),
            End::ClientLeft | End::ClientSlow => (Outcome::Cancelled, 499, routing::Ending::Cancelled),
            End::ReplicaBroke => (Outcome::Failed, 200, routing::Ending::Broken),
            End::Deadline => (Outcome::Failed, 200, routing::Ending::TimedOut),
            End::ShuttingDown => (Outcome::Failed, 200, routing::Ending::Cancelled),
        };
        // Before the count, which may wait for the replica: a stream nobody reads stops the engine by closing.
        let rest = (end == End::Done).then_some(rest);
        seat.release(seat_ending);
        let counted = match reported {
            Some(reported) => reported_until(end, reported, content_chunks),
            None => count(&shared, content_chunks, replica.zip(tokenize_body)).await,
        };
        let (energy, charge) = (ticket.energy(counted), ticket.charge(counted));
        let request_id = ticket.request_id();
        ticket.settle(Ending { outcome, http_status, counted });
        shared.metrics.answered(counted);
        let last = match end {
            End::Done => done_tail(unsent, energy, charge),
            End::ClientLeft | End::ClientSlow => return,
            End::ReplicaBroke | End::Deadline | End::ShuttingDown => {
                error_tail(unsent, &cut_refusal(end, shared.bounds.request), request_id)
            }
        };
        // A client that is gone by now has nothing to lose: the record is written.
        let sent = timeout(shared.bounds.client, parts.send(last)).await.is_ok_and(|sent| sent.is_ok());
        drop(parts);
        if let Some(rest) = rest {
            close(rest).await;
        }
        tracing::debug!(%request_id, ?end, sent, "stream ended");
    }

    /// Passes events on until the stream ends; what must be sent last is given back.
    async fn pass_on(&mut self) -> (End, Vec<u8>) {
        let mut part = std::mem::take(&mut self.opened.first);
        loop {
            self.parser.feed(&part);
            let mut out = Vec::with_capacity(part.len());
            match self.take_events(&mut out) {
                Ok(Seen::More) => {}
                Ok(Seen::Done) => return (End::Done, out),
                Err(sse::EventTooLong) => return (End::ReplicaBroke, out),
            }
            if !out.is_empty() {
                match timeout(self.shared.bounds.client, self.parts.send(Bytes::from(out))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return (End::ClientLeft, Vec::new()),
                    Err(_) => return (End::ClientSlow, Vec::new()),
                }
            }
            part = tokio::select! {
                biased;
                () = self.parts.closed() => return (End::ClientLeft, Vec::new()),
                () = self.shared.cut.cancelled() => return (End::ShuttingDown, Vec::new()),
                next = timeout_at(self.opened.deadline, self.opened.rest.chunk()) => match next {
                    Ok(Ok(Some(part))) => part,
                    Ok(Ok(None) | Err(_)) => return (End::ReplicaBroke, Vec::new()),
                    Err(_) => return (End::Deadline, Vec::new()),
                },
            };
        }
    }

    /// Moves whole events from the parser to `out`.
    fn take_events(&mut self, out: &mut Vec<u8>) -> Result<Seen, sse::EventTooLong> {
        while let Some(event) = self.parser.next_event()? {
            let data = event.data();
            match data.as_deref().map(str::trim_end) {
                Some("[DONE]") => return Ok(Seen::Done),
                Some(data) if has_usage(data) => self.usage_event(&event, data, out),
                Some(data) => {
                    if sse::carries_content(data) {
                        self.content_chunks += 1;
                        self.opened.ticket.first_content();
                    }
                    self.failed |= data.starts_with("{\"error\"");
                    out.extend_from_slice(&event.0);
                }
                None => out.extend_from_slice(&event.0),
            }
        }
        Ok(Seen::More)
    }

    /// A chunk with usage: noted; shown with energy in the final one, dropped or stripped when nobody asked for it.
    fn usage_event(&mut self, event: &Event, data: &str, out: &mut Vec<u8>) {
        let parsed: Option<Fields<'_>> = serde_json::from_str(data).ok();
        let Some((fields, usage)) = parsed.and_then(|fields| fields.get("usage").map(|usage| (fields, usage.get())))
        else {
            out.extend_from_slice(&event.0);
            return;
        };
        let counted = meter::read_usage(usage);
        self.reported = counted.or(self.reported);
        let last =
            fields.get("choices").is_none_or(|choices| choices.get().trim_start_matches('[').trim_start() == "]");
        if !last && sse::carries_content(data) {
            self.content_chunks += 1;
            self.opened.ticket.first_content();
        }
        if last && !self.opened.include_usage {
            return;
        }
        let energy = counted.filter(|_| last).map(|counted| self.opened.ticket.energy(counted));
        let mut chunk = ObjectWriter::with_capacity(data.len() + 96);
        for (name, value) in &fields.0 {
            if name != "usage" {
                chunk.raw(name, value.get());
            } else if self.opened.include_usage {
                chunk.raw(name, &meter::shown_usage(usage, energy));
            }
        }
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&chunk.finish());
        out.extend_from_slice(b"\n\n");
    }
}

/// What the engine reported. Running usage may lag behind the chunks of a stream that was cut.
fn reported_until(end: End, reported: Counted, content_chunks: i64) -> Counted {
    let completion = if end == End::Done { reported.completion } else { reported.completion.max(content_chunks) };
    Counted { completion, ..reported }
}

/// A lower bound of what was used, where the engine did not report it.
async fn count(shared: &Shared, content_chunks: i64, ask: Option<(ReplicaEntry, Vec<u8>)>) -> Counted {
    let mut counted = Counted { completion: content_chunks, ..Counted::default() };
    // The prompt was worked through once there is content.
    if content_chunks > 0
        && let Some((replica, body)) = ask
    {
        counted.prompt = upstream::count_prompt(shared, &replica, body).await.unwrap_or(0);
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

fn done_tail(mut unsent: Vec<u8>, energy: Energy, charge: Charge) -> Bytes {
    unsent.extend_from_slice(meter::energy_comment(energy, charge).as_bytes());
    unsent.extend_from_slice(DONE);
    Bytes::from(unsent)
}

fn error_tail(mut unsent: Vec<u8>, refusal: &Refusal, request_id: galerne_model::ids::RequestId) -> Bytes {
    unsent.extend_from_slice(b"data: ");
    unsent.extend_from_slice(&refusal.json(request_id));
    unsent.extend_from_slice(b"\n\n");
    Bytes::from(unsent)
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

async fn close(mut rest: reqwest::Response) {
    // Not closing in time costs one connection, nothing else.
    let closed = timeout(CLOSE_TIMEOUT, rest.chunk()).await.is_ok();
    tracing::trace!(closed, "replica's stream closed");
}
