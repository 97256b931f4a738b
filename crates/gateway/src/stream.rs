//! A streamed answer: the client's connection reads the replica's, counts what passes, and settles before `[DONE]` or at the cut.
//!
//! The body is polled by whoever writes to the client, so a slow client slows the replica down and nothing lies between them;
//! a watchdog beside it ends a stream whose client is too slow, whose time is up, or that the shutdown cuts.
//! INVARIANT: the usage record is in the spool before the client can read the end of the stream.
//! INVARIANT: a stream is ended once, by whoever takes it out of the state that both share.
//! A cut stream is metered up to the cut: by what a worker says it had done, else by the last usage the engine reported, else
//! each chunk with content counts as one token, which it has at least, and the prompt is counted by asking the replica.
//! The chunk with the finish reason waits for the end of the stream, which follows it at once, where it is to carry usage.

mod chunk;
mod close;
mod pump;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Response, header};
use galerne_model::snapshot::{ReplicaEnergy, ReplicaEntry};
use http_body::Frame;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::config::Shared;
use crate::request::UsageShown;
use crate::route::SeatGuard;
use crate::segments::Segments;
use crate::ticket::Ticket;
use crate::upstream::Incoming;
use crate::voice::{Teller, Voice};
use close::Words;
use pump::{Passed, Pump, Tally};

/// A stream that has begun.
pub(crate) struct Opened {
    pub(crate) ticket: Ticket,
    pub(crate) seat: SeatGuard,
    pub(crate) replica: Option<ReplicaEntry>,
    pub(crate) rest: Incoming,
    pub(crate) deadline: Instant,
    /// Where the client is told the usage.
    pub(crate) shown: UsageShown,
    pub(crate) voice: Voice,
    /// How to ask for the prompt's tokens.
    pub(crate) tokenize_body: Option<Segments>,
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

/// Starts the watchdog and gives the response whose body is the stream.
pub(crate) fn reply(shared: &Arc<Shared>, opened: Opened) -> Response<Body> {
    let Opened { ticket, seat, replica, rest, deadline, shown, voice, tokenize_body } = opened;
    let is_worker = replica.as_ref().is_some_and(|replica| replica.energy == ReplicaEnergy::CpuTime);
    let (shared_by, teller) = (Arc::clone(shared), Teller::new(voice, is_worker, ticket.request_id()));
    let (reported, last, content_chunks, failed) = (None, None, 0, false);
    let tally = Tally {
        shared: shared_by,
        ticket,
        seat,
        replica,
        shown,
        teller,
        tokenize_body,
        reported,
        last,
        content_chunks,
        failed,
    };
    let pump = Pump::new(tally, rest);
    let flow = Flow { state: State::Live(Box::new(pump)), waker: None, given_at: Some(Instant::now()) };
    let flow = Arc::new(Mutex::new(flow));
    let (here, gone) = oneshot::channel();
    shared.tasks.spawn(watch(Arc::clone(shared), Arc::clone(&flow), gone, deadline));
    let mut response = Response::new(Body::new(Events { flow, _here: here }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx in front would collect the stream otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What the body and its watchdog share.
struct Flow {
    state: State,
    /// Who waits for the next part.
    waker: Option<Waker>,
    /// Since when there is no room for another part; absent while the replica is waited for.
    given_at: Option<Instant>,
}

enum State {
    Live(Box<Pump>),
    /// It has ended; what is said last is known, or will be once the replica was asked what it had done.
    Closing(Words),
    Ended,
}

/// What a watchdog finds.
enum Due {
    LookAgain(Instant),
    End(End),
    /// The stream has ended.
    Nothing,
}

impl Flow {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Live(pump) => match ready!(pump.poll(cx)) {
                    Passed::Part(part) => return Poll::Ready(Some(part)),
                    Passed::End(end, unsent) => self.end(end, unsent),
                },
                State::Closing(words) => {
                    let words = ready!(words.poll(cx));
                    self.state = State::Ended;
                    return Poll::Ready(words);
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    /// Ends a stream that lives; another one stays as it is.
    fn end(&mut self, end: End, unsent: Bytes) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Live(pump) => self.state = State::Closing(pump.close(end, unsent)),
            ended @ (State::Closing(_) | State::Ended) => self.state = ended,
        }
    }

    /// What the watchdog has to do now.
    fn due(&self, now: Instant, deadline: Instant, patience: Duration) -> Due {
        // What is given later than now cannot be late before that.
        let slow_at = self.given_at.unwrap_or(now) + patience;
        match &self.state {
            State::Closing(_) | State::Ended => Due::Nothing,
            State::Live(_) if deadline <= now => Due::End(End::Deadline),
            State::Live(_) if slow_at <= now => Due::End(End::ClientSlow),
            State::Live(_) => Due::LookAgain(slow_at.min(deadline)),
        }
    }
}

/// Ends the stream when its time is up, its client too slow, or the process about to end. Lives until the body is gone, so
/// that a drain gives clients their last words; but not for long where nobody reads them.
async fn watch(
    shared: Arc<Shared>,
    flow: Arc<Mutex<Flow>>,
    mut gone: oneshot::Receiver<Infallible>,
    deadline: Instant,
) {
    let patience = shared.bounds.client;
    loop {
        let due = lock(&flow).due(Instant::now(), deadline, patience);
        let until = match due {
            Due::LookAgain(until) => until,
            Due::End(end) => break stop(&flow, end),
            Due::Nothing => break,
        };
        tokio::select! {
            biased;
            _ = &mut gone => return,
            () = shared.cut.cancelled() => break stop(&flow, End::ShuttingDown),
            () = sleep_until(until) => {}
        }
    }
    tokio::select! {
        _ = &mut gone => {}
        () = tokio::time::sleep(patience) => {}
        () = shared.last_words() => {}
    }
}

/// Ends the stream from outside and tells who waits for its next part.
fn stop(flow: &Mutex<Flow>, end: End) {
    let waker = {
        let mut flow = lock(flow);
        flow.end(end, Bytes::new());
        flow.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The stream as hyper sees it.
struct Events {
    flow: Arc<Mutex<Flow>>,
    /// Its drop tells the watchdog.
    _here: oneshot::Sender<Infallible>,
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut flow = lock(&self.flow);
        flow.given_at = None;
        let polled = flow.poll(cx);
        if polled.is_ready() {
            flow.given_at = Some(Instant::now());
        } else if flow.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            flow.waker = Some(cx.waker().clone());
        }
        polled.map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        lock(&self.flow).end(End::ClientLeft, Bytes::new());
    }
}

/// Every change under the lock is whole before anything can panic.
fn lock(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}
