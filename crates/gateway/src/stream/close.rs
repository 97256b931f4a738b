//! The end of a stream: what was used is counted and settled, and what the client reads last is made.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use galerne_api::error::Code;
use galerne_api::surface::Dialect;
use galerne_core::routing;
use galerne_model::ledger::Outcome;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::End;
use super::chunk::{apart, with_usage, write_data};
use super::pump::{Pump, Tally};
use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::refusal::Refusal;
use crate::request::UsageShown;
use crate::ticket::{ACCOUNT_PATIENCE, Ending};
use crate::upstream::{self, Incoming};

/// Time given to the replica to close its stream after `[DONE]`, so that the connection can be used again.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a worker may take to say what it had done while the client waits for the last words.
const WATCHED_PATIENCE: Duration = Duration::from_secs(2);
const DONE: &[u8] = b"data: [DONE]\n\n";

/// What the client reads last; it is settled by then.
pub(super) enum Words {
    Known(Bytes),
    /// The replica is being asked what it had done.
    Awaited(oneshot::Receiver<Bytes>),
}

impl Words {
    /// Them, or nothing when there are none.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let words = match self {
            Self::Known(words) => std::mem::take(words),
            // Gone with the runtime.
            Self::Awaited(words) => ready!(Pin::new(words).poll(cx)).unwrap_or_default(),
        };
        Poll::Ready((!words.is_empty()).then_some(words))
    }
}

impl Pump {
    /// Ends the stream; `unsent` is what the client has not been given yet.
    pub(super) fn close(self: Box<Self>, end: End, unsent: Bytes) -> Words {
        let Self { mut tally, rest, .. } = *self;
        // Before the count, which may wait for the replica: a stream nobody reads stops the engine by closing.
        let rest = (end == End::Done).then_some(rest);
        if let Some((counted, _)) = tally.reported.as_ref().filter(|_| !tally.failed) {
            tally.seat.counted(*counted);
        }
        tally.seat.end(end.of_seat(tally.failed));
        // Asking for what was used takes time in which nothing is worked on.
        tally.ticket.worked();
        let shared = Arc::clone(&tally.shared);
        let known = tally.reported.as_ref().filter(|_| end == End::Done).map(|_| tally.known(end));
        // At the very end of the process there is no runtime left to ask in.
        let may_ask = tokio::runtime::Handle::try_current().is_ok();
        let words = match known {
            Some(counted) => Words::Known(tally.settle(end, counted, &unsent)),
            None if !may_ask => {
                let counted = tally.known(end);
                Words::Known(tally.settle(end, counted, &unsent))
            }
            None => {
                let (tell, told) = oneshot::channel();
                shared.tasks.spawn(Box::pin(async move {
                    let mut tally = tally;
                    let counted = tally.count(end).await;
                    // A client that is gone by now has nothing to lose: the record is written.
                    drop(tell.send(tally.settle(end, counted, &unsent)));
                }));
                Words::Awaited(told)
            }
        };
        if let Some(mut rest) = rest {
            rest.take(rest.bytes().len());
            if may_ask && !rest.is_read() {
                shared.tasks.spawn(read_end(rest));
            }
        }
        words
    }
}

/// Reads what follows `[DONE]`: the end of the body, behind which the connection can be used again.
async fn read_end(mut rest: Incoming) {
    // Not ending in time costs one connection, nothing else.
    let ended = timeout(CLOSE_TIMEOUT, rest.part()).await.is_ok();
    tracing::trace!(ended, "replica's stream ended");
}

impl Tally {
    /// What was used, from whoever knows it best.
    async fn count(&mut self, end: End) -> Counted {
        let replica = self.replica.take();
        if let (Some(replica), true) = (&replica, end != End::Done) {
            let patience = if end.is_watched() { WATCHED_PATIENCE } else { ACCOUNT_PATIENCE };
            let request_id = self.ticket.request_id();
            if let Some(done) = upstream::account(&self.shared, replica, request_id, patience).await {
                return done;
            }
        }
        let mut counted = self.known(end);
        // The prompt was worked through once there is content.
        if self.reported.is_none()
            && self.content_chunks > 0
            && let Some((replica, body)) = replica.zip(self.tokenize_body.take())
        {
            counted.prompt = upstream::count_prompt(&self.shared, &replica, &body).await.unwrap_or(0);
        }
        counted
    }

    /// What was used as far as the stream told, a lower bound where the engine did not report it. Running usage may lag
    /// behind the chunks of a stream that was cut.
    fn known(&self, end: End) -> Counted {
        match &self.reported {
            // An engine that says nothing of what it wrote, or nothing yet, has written what passed.
            Some((reported, _)) if end == End::Done && reported.completion > 0 => *reported,
            Some((reported, _)) => Counted { completion: reported.completion.max(self.content_chunks), ..*reported },
            None => Counted { completion: self.content_chunks, ..Counted::default() },
        }
    }

    /// Writes the record and makes the last words.
    fn settle(self, end: End, counted: Counted, unsent: &[u8]) -> Bytes {
        let Self { shared, mut ticket, shown, mut teller, reported, last, failed, .. } = self;
        let (energy, charge) = (ticket.energy(counted), ticket.charge(counted));
        let (request_id, operation) = (ticket.request_id(), ticket.operation());
        let (outcome, http_status) = end.outcome(failed);
        ticket.settle(Ending { outcome, http_status, counted });
        shared.metrics.answered(counted);
        tracing::debug!(%request_id, ?end, "stream ended");
        // An exact surface has no other fields than the original's; the comment tells there too.
        let told = (teller.voice().dialect == Dialect::Union).then_some(energy);
        let said = reported.as_ref().map(|(_, json)| json.as_str());
        let usage = (end == End::Done && shown != UsageShown::Never)
            .then(|| meter::shown_usage(said, counted, operation, told));
        let mut words = unsent.to_vec();
        if let Some(last) = last_chunk(shown, last, usage) {
            write_data(&mut words, last.as_bytes());
        }
        match end {
            End::Done => {
                words.extend_from_slice(meter::energy_comment(energy, charge).as_bytes());
                words.extend_from_slice(DONE);
            }
            End::ClientLeft | End::ClientSlow => return Bytes::new(),
            // The engine has said what went wrong.
            End::ReplicaBroke if failed => {}
            End::ReplicaBroke | End::Deadline | End::ShuttingDown => {
                let error = cut_refusal(end, &shared).json(teller.voice().dialect, request_id);
                write_data(&mut words, &error);
            }
        }
        teller.sent(Bytes::from(words))
    }
}

/// The chunk that ends the answer, with the usage where the client looks for it.
fn last_chunk(shown: UsageShown, last: Option<String>, usage: Option<String>) -> Option<String> {
    match (shown, usage) {
        (UsageShown::WithLast, Some(usage)) => last.map(|last| with_usage(&last, Some(&usage))),
        (UsageShown::WithLast, None) => last,
        (UsageShown::Apart, Some(usage)) => last.map(|last| apart(&last, &usage)),
        (UsageShown::Apart, None) | (UsageShown::Never, _) => None,
    }
}

fn cut_refusal(end: End, shared: &Shared) -> Refusal {
    match end {
        End::Deadline => {
            let seconds = shared.bounds.request.as_secs();
            Refusal::new(Code::DeadlineExceeded, format!("the answer took longer than {seconds} seconds and was cut"))
        }
        End::ShuttingDown => Refusal::new(Code::Draining, "the server shuts down; the answer was cut"),
        End::ReplicaBroke | End::Done | End::ClientLeft | End::ClientSlow => {
            Refusal::new(Code::ReplicaFailed, "the replica failed in the middle of its answer, which ends here")
        }
    }
}

impl End {
    /// What the replica is credited or blamed with; `failed`: it told of an error, as a reply of status 500 would have.
    fn of_seat(self, failed: bool) -> routing::Ending {
        match self {
            Self::Done if failed => routing::Ending::ServerError(500),
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
