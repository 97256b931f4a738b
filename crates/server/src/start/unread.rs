//! Answers over HTTP/2 that nobody takes.
//!
//! Over HTTP/1 an answer that is not read holds up the writes of its connection, which is then ended. Over HTTP/2 a client
//! grants room to each stream: without room nothing is written, the connection answers pings, and an answer would stay in
//! memory, and its source at work, for as long as somebody likes. So each body is looked at from outside: hyper asks for a
//! part only when there was room for the last one. What stays of a stream that was let go is that one part.
//! Deliberately absent: ending the connection, on which other streams may be read.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Version;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Most bytes given at once, which stay in memory when nobody takes them; also what one frame carries.
const PART_MAX: usize = 16 * 1024;

/// Looks after bodies.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// Longest time until there is room for another part.
    pub(super) patience: Duration,
    /// Each ends with its body.
    pub(super) tasks: TaskTracker,
}

/// Has bodies of HTTP/2 looked after.
pub(super) async fn watch(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let has_streams = request.version() == Version::HTTP_2;
    let response = next.run(request).await;
    let is_one_part = response.body().size_hint().upper().is_some_and(|most| most <= PART_MAX as u64);
    if has_streams && !is_one_part { response.map(|body| watch.over(body)) } else { response }
}

impl Watch {
    fn over(&self, body: Body) -> Body {
        let source = Source { body: Some(body), rest: Bytes::new(), given_at: Some(Instant::now()) };
        let source = Arc::new(Mutex::new(source));
        let ended = CancellationToken::new();
        let (watched, patience, stop) = (Arc::downgrade(&source), self.patience, ended.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = let_go_when_unread(&watched, patience) => {}
            }
        });
        Body::new(Watched { source, _ended: ended.drop_guard() })
    }
}

/// A body as hyper sees it.
struct Watched {
    source: Arc<Mutex<Source>>,
    _ended: DropGuard,
}

struct Source {
    /// Absent once it was let go.
    body: Option<Body>,
    /// What is left of a part that was too large to give at once.
    rest: Bytes,
    /// Since when there is no room for another part; absent while the body itself is waited for.
    given_at: Option<Instant>,
}

/// Drops what nobody takes; ends then, or when the body is no more.
async fn let_go_when_unread(watched: &Weak<Mutex<Source>>, patience: Duration) {
    loop {
        let now = Instant::now();
        let until = {
            let Some(source) = watched.upgrade() else { return };
            let mut source = lock(&source);
            // What is given later than now cannot be late before that.
            let until = source.given_at.unwrap_or(now) + patience;
            if until <= now {
                (source.body, source.rest) = (None, Bytes::new());
                tracing::debug!("an answer that nobody takes was let go");
                return;
            }
            until
        };
        sleep_until(until).await;
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let Some(body) = &mut self.body else {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the other side does not read");
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.part()))))
    }

    fn part(&mut self) -> Bytes {
        if self.rest.len() <= PART_MAX {
            return std::mem::take(&mut self.rest);
        }
        // A copy: what waits for room must not keep the whole.
        let part = Bytes::copy_from_slice(&self.rest[..PART_MAX]);
        self.rest = self.rest.split_off(PART_MAX);
        part
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut source = lock(&self.source);
        source.given_at = None;
        let polled = source.poll(cx);
        if polled.is_ready() {
            source.given_at = Some(Instant::now());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let source = lock(&self.source);
        source.rest.is_empty() && source.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let source = lock(&self.source);
        let (inner, rest) =
            (source.body.as_ref().map(HttpBody::size_hint).unwrap_or_default(), source.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// Every change under the lock is whole before anything can panic.
fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}
