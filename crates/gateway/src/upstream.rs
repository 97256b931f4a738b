//! The leg to a replica: choose, ask, ask once more when it fails before the first byte.
//!
//! HTTP/1.1 on sockets of our own: [`exchange`] sends and reads, [`pool`] keeps connections, [`head`] and [`chunked`] are what
//! they understand of it, pure functions of bytes, for any peer may lie. A connection from the pool may have been closed by
//! the replica meanwhile; that is no attempt.
//! INVARIANT: nothing is asked twice once a byte has gone to the client.
//! Deliberately absent: HTTP/2, proxies, redirects, content codings; servers of models need none of them.

mod address;
mod chunked;
mod exchange;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod head;
mod pool;
mod socket;

use std::fmt::Display;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use bytes::{BufMut as _, BytesMut};
use galerne_api::error::Code;
use galerne_core::routing::{self, Attempts, Ending, Next, Progress};
use galerne_model::ids::{ReplicaId, RequestId, TenantId};
use galerne_model::ledger::Operation;
use galerne_model::limits;
use galerne_model::snapshot::{ReplicaEnergy, ReplicaEntry};
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::refusal::{Refusal, Relayed};
use crate::route::{self, SeatGuard};
use crate::segments::Segments;
use crate::ticket::Ticket;

use exchange::{Failed, exchange};
use pool::{Connection, Pool};
use socket::Dialer;

pub(crate) use exchange::{Fault, Incoming, Reply};

/// Largest plain reply: embeddings of a full request.
const REPLY_MAX_BYTES: usize = 128 * 1024 * 1024;
/// Most of an engine's error that is read.
const ERROR_MAX_BYTES: usize = 64 * 1024;
/// Longest wait for the rest of an engine's error.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an engine's token count.
const TOKENIZE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest list of tokens that is read: a million of them.
const TOKENS_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Wait proposed when a replica failed or was full and did not say how long.
const FAILED_WAIT: Duration = Duration::from_secs(1);
/// Retries saved up: every request in flight when a replica dies may be asked again.
const RETRIES_SAVED_MAX: usize = limits::GATEWAY_IN_FLIGHT_MAX;
/// Requests that earn one retry: retries stay below a tenth of the traffic, so they cannot feed an overload.
const REQUESTS_PER_RETRY: usize = 10;

/// How soon a connection from the pool breaks that the replica had closed before it heard the request. One that breaks
/// later died at work, which is an attempt.
const STALE_WITHIN: Duration = Duration::from_secs(1);
/// Longest time from the first byte of a head to its last. The first may take as long as the answer does.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for the head of a request.
const HEAD_BYTES: usize = 384;

/// Connections to replicas.
pub(crate) struct Upstream {
    pool: Pool,
    dialer: Dialer,
    head_timeout: Duration,
    /// Retries saved up, in parts of [`REQUESTS_PER_RETRY`].
    savings: AtomicUsize,
}

/// What is asked of a replica.
pub(crate) struct Ask<'a> {
    pub(crate) operation: Operation,
    pub(crate) body: &'a Segments,
    pub(crate) stream: bool,
    pub(crate) deadline: Instant,
    /// What the deadline is counted from, for the error's text.
    pub(crate) longest: Duration,
    /// Attempts that reached a replica before.
    pub(crate) reached: u32,
    /// Ready replicas; never empty.
    pub(crate) replicas: &'a [ReplicaEntry],
}

/// An answer that has begun.
pub(crate) enum Answer {
    /// The whole reply.
    Plain { body: Bytes, seat: SeatGuard },
    /// A stream of which the first bytes are there.
    Stream { rest: Incoming, seat: SeatGuard },
}

struct Failure {
    ending: Ending,
    refusal: Refusal,
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self {
            pool: Pool::default(),
            dialer: Dialer::default(),
            head_timeout: HEAD_TIMEOUT,
            savings: AtomicUsize::new(RETRIES_SAVED_MAX * REQUESTS_PER_RETRY),
        }
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn keep_house(&self) {
        self.pool.keep_house(std::time::Instant::now());
    }

    /// Sends a request to the replica at `url` and gives what it answers, whatever its status.
    async fn send(&self, url: &str, call: &Call<'_>) -> Result<Reply, Fault> {
        let origin = self.pool.origin(url)?;
        let pieces = call.pieces(&origin.address.prefix, &origin.address.head_lines);
        if let Some(connection) = origin.take() {
            let begun = Instant::now();
            match exchange(&origin, connection, &pieces, self.head_timeout).await {
                Ok(reply) => return Ok(reply),
                Err(Failed { fault: Fault::Broken(_) | Fault::EndedEarly, was_heard: false })
                    if begun.elapsed() < STALE_WITHIN =>
                {
                    tracing::trace!("an idle connection had been closed; a fresh one is made");
                }
                Err(failed) => return Err(failed.fault),
            }
        }
        let socket = self.dialer.connect(&origin.address).await.map_err(Fault::Unreachable)?;
        let connection = Connection { socket, read: BytesMut::new() };
        exchange(&origin, connection, &pieces, self.head_timeout).await.map_err(|failed| failed.fault)
    }

    fn earn(&self) {
        let most = RETRIES_SAVED_MAX * REQUESTS_PER_RETRY;
        // Two requests at the brim may both see room; one part more does no harm.
        if self.savings.load(Ordering::Relaxed) < most {
            self.savings.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn spend_retry(&self) -> bool {
        let take = |saved: usize| saved.checked_sub(REQUESTS_PER_RETRY);
        self.savings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// No replica gave an answer.
pub(crate) struct Unanswered {
    pub(crate) refusal: Refusal,
    /// The last attempt did not reach its replica, so nothing of the request was worked on there.
    pub(crate) unreachable: bool,
    /// Attempts that did reach one, earlier ones included.
    pub(crate) reached: u32,
    /// The last attempt's replica may have worked on it before it failed.
    pub(crate) worked: bool,
}

/// Asks a replica, and another one (or the same, when there is no other) if the first fails.
pub(crate) async fn ask(shared: &Arc<Shared>, ticket: &mut Ticket, ask: &Ask<'_>) -> Result<Answer, Unanswered> {
    shared.upstream.earn();
    let mut tried: Vec<ReplicaId> = Vec::new();
    let mut reached = ask.reached;
    loop {
        let Some((seat, replica)) = route::choose(shared, ticket, ask.replicas, &tried) else {
            let refusal = Refusal::new(Code::NoReadyReplica, "no replica is ready").retry_after(FAILED_WAIT);
            return Err(Unanswered { refusal, unreachable: false, reached, worked: false });
        };
        ticket.on_replica(replica);
        let failure = match Box::pin(attempt(shared, ticket, ask, replica)).await {
            Ok(Begun::Plain(body)) => return Ok(Answer::Plain { body, seat }),
            Ok(Begun::Stream(rest)) => return Ok(Answer::Stream { rest, seat }),
            Err(failure) => failure,
        };
        seat.release(failure.ending);
        let unreachable = failure.ending == Ending::ConnectFailed;
        reached += u32::from(!unreachable);
        tried.push(replica.id);
        let is_one_left = ask.replicas.iter().any(|replica| !tried.contains(&replica.id));
        let unreached = u32::try_from(tried.len()).unwrap_or(u32::MAX).saturating_sub(reached - ask.reached);
        let attempts = Attempts { reached, unreached, is_one_left };
        let other = ask.replicas.len() > 1;
        let again = routing::after_attempt(attempts, Progress::BeforeFirstByte, failure.ending) == Next::Retry
            && (other || failure.ending != Ending::Busy)
            && shared.upstream.spend_retry();
        if !again {
            let worked = may_have_worked(failure.ending);
            return Err(Unanswered { refusal: failure.refusal, unreachable, reached, worked });
        }
        shared.metrics.retries.inc();
        let request_id = ticket.request_id();
        tracing::warn!(%request_id, replica_id = %replica.id, reason = %failure.refusal.message, "attempt failed; asked again");
    }
}

fn may_have_worked(ending: Ending) -> bool {
    match ending {
        Ending::Broken | Ending::TimedOut | Ending::ServerError(_) | Ending::Cancelled => true,
        // A refusal comes before the work.
        Ending::Answered | Ending::Busy | Ending::ConnectFailed => false,
    }
}

/// A request before it is bytes.
struct Call<'a> {
    method: &'static str,
    path: &'a str,
    /// Lines of the head, each with its end.
    lines: &'a (dyn Fn(&mut BytesMut) + Sync),
    body: Option<&'a Segments>,
}

impl Call<'_> {
    fn pieces(&self, prefix: &str, host_lines: &str) -> Vec<Bytes> {
        let mut head = BytesMut::with_capacity(HEAD_BYTES);
        for text in [self.method, " ", prefix, self.path, " HTTP/1.1\r\n", host_lines, "accept: */*\r\n"] {
            head.extend_from_slice(text.as_bytes());
        }
        (self.lines)(&mut head);
        if let Some(body) = self.body {
            head.extend_from_slice(b"content-type: application/json\r\n");
            line(&mut head, "content-length", body.length());
        }
        head.extend_from_slice(b"\r\n");
        let parts = self.body.map_or(&[][..], Segments::parts);
        let mut pieces = Vec::with_capacity(1 + parts.len());
        pieces.push(head.freeze());
        pieces.extend_from_slice(parts);
        pieces
    }
}

/// One header. The values are ours: numbers and ids.
fn line(head: &mut BytesMut, name: &str, value: impl Display) {
    write!(head.writer(), "{name}: {value}\r\n").expect("a buffer in memory takes everything");
}

enum Begun {
    Plain(Bytes),
    Stream(Incoming),
}

async fn attempt(shared: &Shared, ticket: &Ticket, ask: &Ask<'_>, replica: &ReplicaEntry) -> Result<Begun, Failure> {
    // At least one: none at all would be refused as nonsense where it is only late.
    let left_ms = ask.deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
    let lines = |head: &mut BytesMut| {
        let request_id = ticket.request_id();
        match replica.energy {
            ReplicaEnergy::CpuTime => line(head, "x-request-id", request_id),
            // Servers that know the header at all take a UUID: llama-cpp-python refuses everything else.
            ReplicaEnergy::StatedPower(_) | ReplicaEnergy::Unknown => line(head, "x-request-id", request_id.uuid()),
        }
        // Tells a worker when nobody will want the answer any more.
        line(head, "x-galerne-deadline-ms", left_ms);
        // Tells a worker with whom cached prompts may be shared: what a tenant is told of cached tokens must not depend on
        // another's prompts. Other servers are not told who asks.
        if replica.energy == ReplicaEnergy::CpuTime {
            line(head, "x-galerne-cache-scope", ticket.tenant_id());
        }
    };
    let call = Call { method: "POST", path: path(ask.operation), lines: &lines, body: Some(ask.body) };
    let late = |_| out_of_time(ask.longest);
    let mut reply =
        timeout_at(ask.deadline, shared.upstream.send(&replica.url, &call)).await.map_err(late)?.map_err(failure)?;
    if !(200..300).contains(&reply.status) {
        return Err(Box::pin(refused(reply, ask.longest)).await);
    }
    if ask.stream {
        if !reply.facts.is_event_stream {
            return Err(broken("it did not answer with an event stream"));
        }
        let more = timeout_at(ask.deadline, reply.body.more()).await.map_err(late)?;
        return match more.map_err(failure)? {
            true => Ok(Begun::Stream(reply.body)),
            false => Err(broken("its stream ended before the first event")),
        };
    }
    let body = timeout_at(ask.deadline, reply.body.whole(REPLY_MAX_BYTES)).await.map_err(late)?;
    body.map(Begun::Plain).map_err(failure)
}

/// What a worker did for a request that was cut off, once it has stopped: tokens and CPU time. Nothing when the replica is
/// no worker of ours, cannot be reached, or never began.
pub(crate) async fn account(
    shared: &Shared,
    replica: &ReplicaEntry,
    request_id: RequestId,
    patience: Duration,
) -> Option<Counted> {
    if replica.energy != ReplicaEnergy::CpuTime {
        return None;
    }
    let path = format!("/usage/{request_id}");
    let call = Call { method: "GET", path: &path, lines: &|_| {}, body: None };
    let body = timeout(patience, Box::pin(read_small(shared, &replica.url, &call, ERROR_MAX_BYTES))).await.ok()??;
    meter::read_usage(std::str::from_utf8(&body).ok()?)
}

/// The whole answer to a request that nobody waits for, at most `most` bytes of it. Nothing when it fails in any way.
pub(crate) async fn whole(
    shared: &Shared,
    replica: &ReplicaEntry,
    operation: Operation,
    tenant_id: TenantId,
    body: &Segments,
    most: usize,
    patience: Duration,
) -> Option<Bytes> {
    let left_ms = patience.as_millis().max(1);
    let lines = |head: &mut BytesMut| {
        line(head, "x-galerne-deadline-ms", left_ms);
        if replica.energy == ReplicaEnergy::CpuTime {
            line(head, "x-galerne-cache-scope", tenant_id);
        }
    };
    let call = Call { method: "POST", path: path(operation), lines: &lines, body: Some(body) };
    timeout(patience, Box::pin(read_small(shared, &replica.url, &call, most))).await.ok()?
}

/// What a replica answers to GET at `path`, at most `most` bytes of it. Nothing when it does not in time, or refuses.
pub(crate) async fn fetch(
    shared: &Shared,
    replica: &ReplicaEntry,
    path: &str,
    most: usize,
    patience: Duration,
) -> Option<Bytes> {
    let call = Call { method: "GET", path, lines: &|_| {}, body: None };
    timeout(patience, Box::pin(read_small(shared, &replica.url, &call, most))).await.ok()?
}

/// The tokens of a prompt as a replica makes them. Nothing when it cannot say.
pub(crate) async fn tokens(shared: &Shared, replica: &ReplicaEntry, body: &Segments) -> Option<Vec<u32>> {
    #[derive(Deserialize)]
    struct Tokens {
        tokens: Vec<u32>,
    }
    let call = Call { method: "POST", path: "/tokenize", lines: &|_| {}, body: Some(body) };
    let body =
        timeout(TOKENIZE_TIMEOUT, Box::pin(read_small(shared, &replica.url, &call, TOKENS_MAX_BYTES))).await.ok()??;
    serde_json::from_slice::<Tokens>(&body).ok().map(|said| said.tokens)
}

/// How many tokens a prompt has, asked of the replica that worked on it. Nothing when it cannot say.
pub(crate) async fn count_prompt(shared: &Shared, replica: &ReplicaEntry, body: &Segments) -> Option<i64> {
    #[derive(Deserialize)]
    struct Count {
        count: i64,
    }
    let call = Call { method: "POST", path: "/tokenize", lines: &|_| {}, body: Some(body) };
    let body =
        timeout(TOKENIZE_TIMEOUT, Box::pin(read_small(shared, &replica.url, &call, ERROR_MAX_BYTES))).await.ok()??;
    let Count { count } = serde_json::from_slice(&body).ok()?;
    (count >= 0).then_some(count)
}

/// The answer to a question on the side, of at most `most` bytes; nothing when there is none.
async fn read_small(shared: &Shared, url: &str, call: &Call<'_>, most: usize) -> Option<Bytes> {
    let asked = async {
        let reply = shared.upstream.send(url, call).await?;
        if !(200..300).contains(&reply.status) {
            return Ok(None);
        }
        reply.body.whole(most).await.map(Some)
    };
    asked.await.unwrap_or_else(|fault: Fault| {
        tracing::debug!(path = call.path, error = %chain(&fault), "a replica could not be asked");
        None
    })
}

fn path(operation: Operation) -> &'static str {
    match operation {
        Operation::Chat => "/v1/chat/completions",
        Operation::Completion | Operation::Fim => "/v1/completions",
        Operation::Embedding => "/v1/embeddings",
        Operation::Tokenise => "/tokenize",
        Operation::Detokenise => "/detokenize",
    }
}

/// What an engine said instead of an answer. The caller's mistakes are handed on in the engine's words.
async fn refused(reply: Reply, longest: Duration) -> Failure {
    #[derive(Deserialize)]
    struct Said {
        error: SaidError,
    }
    #[derive(Deserialize)]
    struct SaidError {
        message: String,
        #[serde(default, rename = "type")]
        kind: Option<String>,
        #[serde(default)]
        param: Option<String>,
        #[serde(default)]
        code: Option<serde_json::Value>,
    }
    let number = reply.status;
    let wait = reply.facts.retry_after.unwrap_or(FAILED_WAIT);
    let body = timeout(ERROR_TIMEOUT, reply.body.whole(ERROR_MAX_BYTES)).await;
    let said = body
        .ok()
        .and_then(Result::ok)
        .and_then(|body| serde_json::from_slice::<Said>(&body).ok())
        .map(|said| said.error);
    let message = said.as_ref().map_or_else(|| format!("the replica answered {number}"), |said| said.message.clone());
    let code = said.as_ref().and_then(|said| said.code.as_ref()).and_then(|code| code.as_str());
    if number == 504 && code == Some(Code::DeadlineExceeded.as_str()) {
        // It was told our deadline and its clock was the faster one.
        return out_of_time(longest);
    }
    let ending = routing::ending_of_status(number);
    let refusal = match number {
        400 | 413 | 422 => {
            let mut refusal = Refusal::new(Code::InvalidBody, message);
            refusal.param = said.as_ref().and_then(|said| said.param.clone());
            let code = code.map(str::to_owned);
            let kind = said.and_then(|said| said.kind);
            let status = if number == 413 { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
            refusal.relayed = Some(Box::new(Relayed { status, kind, code }));
            refusal
        }
        429 | 503 => Refusal::new(Code::Overloaded, format!("the replica takes no more requests now: {message}"))
            .retry_after(wait),
        _ => Refusal::new(Code::ReplicaFailed, format!("the replica answered {number}: {message}"))
            .retry_after(FAILED_WAIT),
    };
    Failure { ending, refusal }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the end of the fault")]
fn failure(fault: Fault) -> Failure {
    let ending = match fault {
        Fault::Address(_) | Fault::Unreachable(_) => Ending::ConnectFailed,
        Fault::Broken(_)
        | Fault::EndedEarly
        | Fault::Head(_)
        | Fault::SlowHead
        | Fault::Body(_)
        | Fault::TooLarge(_) => Ending::Broken,
    };
    tracing::debug!(error = %chain(&fault), "replica failed");
    Failure { ending, refusal: failed(&fault.to_string()) }
}

fn broken(text: &str) -> Failure {
    Failure { ending: Ending::Broken, refusal: failed(text) }
}

fn failed(text: &str) -> Refusal {
    Refusal::new(Code::ReplicaFailed, format!("the replica failed: {text}")).retry_after(FAILED_WAIT)
}

fn out_of_time(longest: Duration) -> Failure {
    let seconds = longest.as_secs();
    let refusal = Refusal::new(Code::DeadlineExceeded, format!("the answer was not ready after {seconds} seconds"));
    Failure { ending: Ending::TimedOut, refusal: refusal.retry_after(FAILED_WAIT) }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
