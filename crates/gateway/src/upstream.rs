//! The leg to a replica: choose, ask, ask once more when it fails before the first byte.
//!
//! The first attempt may use a pooled connection, which the replica may have closed meanwhile; the second never does.
//! INVARIANT: nothing is asked twice once a byte has gone to the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderName, StatusCode, header};
use bytes::BytesMut;
use galerne_api::error::Code;
use galerne_core::routing::{self, Ending, Next, Progress};
use galerne_model::ids::RequestId;
use galerne_model::ledger::Operation;
use galerne_model::limits;
use galerne_model::snapshot::{ReplicaEnergy, ReplicaEntry};
use reqwest::{Client, Response};
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::refusal::{Refusal, Relayed, X_REQUEST_ID};
use crate::route::{self, SeatGuard};
use crate::ticket::Ticket;

/// Tells a worker with whom cached prompts may be shared.
const X_CACHE_SCOPE: HeaderName = HeaderName::from_static("x-galerne-cache-scope");
/// Tells a worker when nobody will want the answer any more.
const X_DEADLINE_MS: HeaderName = HeaderName::from_static("x-galerne-deadline-ms");
/// Longest connect; replicas are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle connections are kept shorter than engines keep theirs (uvicorn: 5 s), so that few are found closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Largest plain reply: embeddings of a full request.
const REPLY_MAX_BYTES: usize = 128 * 1024 * 1024;
/// Most of an engine's error that is read.
const ERROR_MAX_BYTES: usize = 64 * 1024;
/// Longest wait for the rest of an engine's error.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an engine's token count.
const TOKENIZE_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait proposed when a replica failed or was full and did not say how long.
const FAILED_WAIT: Duration = Duration::from_secs(1);
/// Retries saved up: every request in flight when a replica dies may be asked again.
const RETRIES_SAVED_MAX: usize = limits::GATEWAY_IN_FLIGHT_MAX;
/// Requests that earn one retry: retries stay below a tenth of the traffic, so they cannot feed an overload.
const REQUESTS_PER_RETRY: usize = 10;

/// Connections to replicas.
pub(crate) struct Upstream {
    pooled: Client,
    fresh: Client,
    /// Retries saved up, in parts of [`REQUESTS_PER_RETRY`].
    savings: AtomicUsize,
}

/// What is asked of a replica.
pub(crate) struct Ask<'a> {
    pub(crate) operation: Operation,
    pub(crate) body: Bytes,
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
    /// The first bytes of a stream, and where the others come from.
    Stream { first: Bytes, rest: Response, seat: SeatGuard },
}

struct Failure {
    ending: Ending,
    refusal: Refusal,
}

impl Upstream {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http1_only()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
        };
        Ok(Self {
            pooled: builder().pool_idle_timeout(POOL_IDLE_TIMEOUT).build()?,
            fresh: builder().pool_max_idle_per_host(0).build()?,
            savings: AtomicUsize::new(RETRIES_SAVED_MAX * REQUESTS_PER_RETRY),
        })
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
    let mut avoid = None;
    let mut attempts = ask.reached;
    let mut reached = ask.reached;
    loop {
        attempts += 1;
        let Some((seat, replica)) = route::choose(shared, ticket, ask.replicas, avoid) else {
            let refusal = Refusal::new(Code::NoReadyReplica, "no replica is ready").retry_after(FAILED_WAIT);
            return Err(Unanswered { refusal, unreachable: false, reached, worked: false });
        };
        ticket.on_replica(replica);
        let client = if attempts == 1 { &shared.upstream.pooled } else { &shared.upstream.fresh };
        let failure = match Box::pin(attempt(client, ticket, ask, replica)).await {
            Ok(Begun::Plain(body)) => return Ok(Answer::Plain { body, seat }),
            Ok(Begun::Stream(first, rest)) => return Ok(Answer::Stream { first, rest, seat }),
            Err(failure) => failure,
        };
        seat.release(failure.ending);
        let unreachable = failure.ending == Ending::ConnectFailed;
        reached += u32::from(!unreachable);
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
        avoid = Some(replica.id);
    }
}

fn may_have_worked(ending: Ending) -> bool {
    match ending {
        Ending::Broken | Ending::TimedOut | Ending::ServerError(_) | Ending::Cancelled => true,
        // A refusal comes before the work.
        Ending::Answered | Ending::Busy | Ending::ConnectFailed => false,
    }
}

enum Begun {
    Plain(Bytes),
    Stream(Bytes, Response),
}

async fn attempt(client: &Client, ticket: &Ticket, ask: &Ask<'_>, replica: &ReplicaEntry) -> Result<Begun, Failure> {
    let url = format!("{}{}", replica.url.trim_end_matches('/'), path(ask.operation));
    // At least one: none at all would be refused as nonsense where it is only late.
    let left_ms = ask.deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
    let request = client
        .post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(X_REQUEST_ID, ticket.request_id().to_string())
        .header(X_DEADLINE_MS, left_ms.to_string())
        .body(ask.body.clone());
    // What a tenant is told of cached tokens must not depend on another's prompts. Other servers are not told who asks.
    let request = match replica.energy {
        ReplicaEnergy::CpuTime => request.header(X_CACHE_SCOPE, ticket.tenant_id().to_string()),
        ReplicaEnergy::StatedPower(_) | ReplicaEnergy::Unknown => request,
    };
    let mut response = timeout_at(ask.deadline, request.send())
        .await
        .map_err(|_| out_of_time(ask.longest))?
        .map_err(|error| transport(&error))?;
    if !response.status().is_success() {
        return Err(Box::pin(refused(response, ask.longest)).await);
    }
    if ask.stream {
        let event_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if !event_stream {
            return Err(broken("it did not answer with an event stream"));
        }
        let first = timeout_at(ask.deadline, response.chunk()).await.map_err(|_| out_of_time(ask.longest))?;
        return match first.map_err(|error| transport(&error))? {
            Some(first) => Ok(Begun::Stream(first, response)),
            None => Err(broken("its stream ended before the first event")),
        };
    }
    let body = timeout_at(ask.deadline, read_bounded(&mut response, REPLY_MAX_BYTES))
        .await
        .map_err(|_| out_of_time(ask.longest))?;
    body.map(Begun::Plain)
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
    let url = format!("{}/usage/{request_id}", replica.url.trim_end_matches('/'));
    let asked = async {
        let mut response = shared.upstream.fresh.get(url).send().await.ok()?.error_for_status().ok()?;
        let body = read_bounded(&mut response, ERROR_MAX_BYTES).await.ok()?;
        meter::read_usage(std::str::from_utf8(&body).ok()?)
    };
    timeout(patience, Box::pin(asked)).await.ok()?
}

/// What a replica answers to GET at `path`, at most `most` bytes of it. Nothing when it does not in time, or refuses.
pub(crate) async fn fetch(
    shared: &Shared,
    replica: &ReplicaEntry,
    path: &str,
    most: usize,
    patience: Duration,
) -> Option<Bytes> {
    let url = format!("{}{path}", replica.url.trim_end_matches('/'));
    let asked = async {
        let mut response = shared.upstream.pooled.get(url).send().await.ok()?.error_for_status().ok()?;
        read_bounded(&mut response, most).await.ok()
    };
    timeout(patience, Box::pin(asked)).await.ok()?
}

/// How many tokens a prompt has, asked of the replica that worked on it. Nothing when it cannot say.
pub(crate) async fn count_prompt(shared: &Shared, replica: &ReplicaEntry, body: Vec<u8>) -> Option<i64> {
    #[derive(Deserialize)]
    struct Count {
        count: i64,
    }
    let url = format!("{}/tokenize", replica.url.trim_end_matches('/'));
    let request = shared.upstream.pooled.post(url).header(header::CONTENT_TYPE, "application/json").body(body);
    let asked = async {
        let mut response = request.send().await.ok()?.error_for_status().ok()?;
        let body = read_bounded(&mut response, REPLY_MAX_BYTES).await.ok()?;
        serde_json::from_slice::<Count>(&body).ok()
    };
    let count = timeout(TOKENIZE_TIMEOUT, Box::pin(asked)).await.ok()??.count;
    (count >= 0).then_some(count)
}

async fn read_bounded(response: &mut Response, most: usize) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(|error| transport(&error))? {
        if whole.len() + part.len() > most {
            return Err(broken("its reply is larger than allowed"));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
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
async fn refused(mut response: Response, longest: Duration) -> Failure {
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
    let status = response.status();
    let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let wait = wait.map_or(FAILED_WAIT, Duration::from_secs);
    let body = timeout(ERROR_TIMEOUT, read_bounded(&mut response, ERROR_MAX_BYTES)).await;
    let said = body
        .ok()
        .and_then(Result::ok)
        .and_then(|body| serde_json::from_slice::<Said>(&body).ok())
        .map(|said| said.error);
    let message = said.as_ref().map_or_else(|| format!("the replica answered {status}"), |said| said.message.clone());
    let number = status.as_u16();
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

fn transport(error: &reqwest::Error) -> Failure {
    let (ending, text) = if error.is_connect() {
        (Ending::ConnectFailed, "it cannot be reached")
    } else {
        (Ending::Broken, "its connection broke")
    };
    tracing::debug!(error = %chain(error), "replica failed");
    Failure { ending, refusal: failed(text) }
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
