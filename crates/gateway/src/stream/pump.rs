//! What passes from the replica to the client: each event is looked at once, counted, and passed on as it came unless the client
//! is to see something else.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use galerne_model::snapshot::ReplicaEntry;

use super::End;
use super::chunk::{with_null_usage, with_usage, write_data};
use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::request::{Fields, UsageShown};
use crate::route::SeatGuard;
use crate::segments::Segments;
use crate::sse::{self, Border, EventTooLong};
use crate::ticket::Ticket;
use crate::upstream::Incoming;
use crate::voice::Teller;

/// A stream that lives.
pub(super) struct Pump {
    pub(super) tally: Tally,
    pub(super) rest: Incoming,
    border: Border,
    /// Chunks written anew, on their way into a part.
    written: Vec<u8>,
}

/// What is known of a stream so far.
pub(super) struct Tally {
    pub(super) shared: Arc<Shared>,
    pub(super) ticket: Ticket,
    pub(super) seat: SeatGuard,
    pub(super) replica: Option<ReplicaEntry>,
    pub(super) shown: UsageShown,
    pub(super) teller: Teller,
    pub(super) tokenize_body: Option<Segments>,
    /// The last usage the engine reported, counted and in its own words.
    pub(super) reported: Option<(Counted, String)>,
    /// The chunk that will carry the usage: the one with the finish reason; where usage is told apart the engine's own for
    /// it, or one that it is made of.
    pub(super) last: Option<String>,
    pub(super) content_chunks: i64,
    /// The engine put an error into the stream.
    pub(super) failed: bool,
}

/// What came of looking for more.
pub(super) enum Passed {
    /// Events for the client.
    Part(Bytes),
    /// The stream ends, with these events before.
    End(End, Bytes),
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It goes on as it came.
    Passes,
    /// Something else goes on, or nothing.
    Replaced,
    /// It is the last.
    Done,
}

/// Where an engine put its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsagePlace {
    /// In a chunk without choices.
    Apart,
    /// In a chunk of the answer.
    Within,
}

impl Pump {
    pub(super) fn new(tally: Tally, rest: Incoming) -> Self {
        Self { tally, rest, border: Border::default(), written: Vec::new() }
    }

    /// The next events, as many as one read brought.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Passed> {
        loop {
            let (part, end) = self.pass();
            if let Some(end) = end {
                return Poll::Ready(Passed::End(end, part));
            }
            let part = self.tally.teller.sent(part);
            if !part.is_empty() {
                return Poll::Ready(Passed::Part(part));
            }
            match ready!(self.rest.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Passed::End(End::ReplicaBroke, Bytes::new())),
                Err(fault) => {
                    tracing::debug!(%fault, "a stream broke");
                    return Poll::Ready(Passed::End(End::ReplicaBroke, Bytes::new()));
                }
            }
        }
    }

    /// Takes the whole events of what was read. Where none is changed they go on without a copy.
    fn pass(&mut self) -> (Bytes, Option<End>) {
        let bytes = self.rest.bytes();
        let (mut at, mut run, mut end) = (0, 0, None);
        let mut changed = false;
        loop {
            let length = match self.border.find(&bytes[at..]) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                Err(EventTooLong) => {
                    end = Some(End::ReplicaBroke);
                    break;
                }
            };
            let before = self.written.len();
            let fate = self.tally.event(&bytes[at..at + length], &mut self.written);
            if fate == Fate::Done {
                end = Some(End::Done);
                break;
            }
            if fate == Fate::Replaced {
                changed = true;
                // What goes on unchanged before it belongs before it.
                let added = self.written.len() - before;
                self.written.extend_from_slice(&bytes[run..at]);
                self.written[before..].rotate_left(added);
                run = at + length;
            }
            at += length;
        }
        if changed {
            self.written.extend_from_slice(&bytes[run..at]);
            self.rest.take(at);
            (Bytes::from(std::mem::take(&mut self.written)), end)
        } else {
            (self.rest.take(at), end)
        }
    }
}

impl Tally {
    /// Counts an event; what goes on instead of it is added to `out`.
    fn event(&mut self, event: &[u8], out: &mut Vec<u8>) -> Fate {
        match sse::data(event).as_deref().map(str::trim_end) {
            Some("[DONE]") => Fate::Done,
            Some(data) => self.chunk(data, out),
            None => Fate::Passes,
        }
    }

    fn chunk(&mut self, data: &str, out: &mut Vec<u8>) -> Fate {
        let facts = sse::facts(data);
        if facts.has_content {
            if self.content_chunks == 0 {
                self.ticket.first_content();
                self.seat.first_token();
            }
            self.content_chunks += 1;
        }
        self.failed |= facts.is_error;
        let usage = if facts.has_usage {
            self.note_usage(data)
        } else {
            // The place of a usage that the engine does not know.
            (facts.names_usage && is_without_choices(data)).then_some(UsagePlace::Apart)
        };
        let shown = self.shown;
        let told = self.teller.chunk(data);
        let (passes, data) = (matches!(told, Cow::Borrowed(_)), told.as_ref());
        if usage == Some(UsagePlace::Apart) {
            if shown == UsageShown::Apart {
                self.last = Some(data.to_owned());
            }
            return Fate::Replaced;
        }
        if shown == UsageShown::Apart && !facts.is_error && self.last.is_none() {
            // In case the engine makes no chunk of its own for the usage: all of a stream begin alike.
            self.last = Some(data.to_owned());
        }
        // A further choice goes on: the one that was held back was not the last.
        let held = if shown == UsageShown::WithLast { self.last.take() } else { None };
        if let Some(held) = &held {
            write_data(out, held.as_bytes());
        }
        match (shown, usage) {
            (UsageShown::WithLast, _) if facts.finishes => {
                self.last = Some(if usage.is_some() { with_usage(data, None) } else { data.to_owned() });
            }
            (UsageShown::Apart, _) if facts.finishes && !facts.is_error => {
                write_data(out, with_usage(data, Some("null")).as_bytes());
            }
            (UsageShown::Apart, None) if !facts.is_error && !facts.names_usage => with_null_usage(data, out),
            (UsageShown::Apart, Some(_)) => write_data(out, with_usage(data, Some("null")).as_bytes()),
            (UsageShown::WithLast | UsageShown::Never, Some(_)) => write_data(out, with_usage(data, None).as_bytes()),
            (UsageShown::WithLast | UsageShown::Apart | UsageShown::Never, None) if passes && held.is_none() => {
                return Fate::Passes;
            }
            (UsageShown::WithLast | UsageShown::Apart | UsageShown::Never, None) => write_data(out, data.as_bytes()),
        }
        Fate::Replaced
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

/// Inside a JSON string the name would have escaped quotes.
fn is_without_choices(data: &str) -> bool {
    let after = data.split_once("\"choices\"").map(|(_, after)| after.trim_start());
    let list = after.and_then(|after| after.strip_prefix(':')).map(str::trim_start);
    list.and_then(|list| list.strip_prefix('[')).is_some_and(|inside| inside.trim_start().starts_with(']'))
}
