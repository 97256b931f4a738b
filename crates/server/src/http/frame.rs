//! What is around every request of ours: its id, its span, its metrics; panics caught, problems rendered, denials recorded.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use galerne_api::error::{Code, Problem, Severity};
use galerne_model::event::{Decision, Event};
use galerne_model::ids::{EventId, RequestId};
use http::{HeaderValue, StatusCode, header};
use tracing::Instrument;
use uuid::Uuid;

use super::body;
use super::caller::Met;
use super::refusal::{Denial, Unrendered, chain, unrendered};
use crate::app::App;

/// Longest handling of one request of `/api/v1`, the body's arrival included; a ledger check is the slowest.
const HANDLING_MAX: Duration = Duration::from_secs(120);

/// Wraps a request.
pub(crate) async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    // A drain waits for it.
    let _working = app.tasks().token();
    let request_id = RequestId::from_uuid(Uuid::now_v7());
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_string());
    request.extensions_mut().insert(Met { request_id, address });
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", %request_id, %method, route);
    let handled = async {
        let answered = AssertUnwindSafe(tokio::time::timeout(HANDLING_MAX, next.run(request))).catch_unwind().await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(_late)) => unrendered(Problem::new(Code::RequestTimeout, "the request was not complete in time")),
            Err(panic) => {
                tracing::error!(panic = panic_text(panic.as_ref()), "a handler panicked");
                unrendered(
                    Problem::new(Code::Internal, "something broke inside")
                        .hint("the server's log says more under this request id"),
                )
            }
        };
        finish(&app, request_id, response).await
    };
    let mut response = handled.instrument(span).await;
    app.metrics().answered(method.as_str(), response.status().as_u16(), started.elapsed());
    let id = HeaderValue::from_str(&request_id.to_string()).expect("an id is hex and an underscore");
    response.headers_mut().insert("x-request-id", id);
    response
}

async fn finish(app: &App, request_id: RequestId, mut response: Response) -> Response {
    if let Some(denial) = response.extensions_mut().remove::<Denial>() {
        record(app, denial).await;
    }
    let Some(Unrendered(mut problem)) = response.extensions_mut().remove::<Unrendered>() else {
        return response;
    };
    problem.request_id = Some(request_id.to_string());
    log(&problem);
    let status = response.status();
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut rendered =
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body::text(&problem)).into_response();
    if let Some(allow) = allow {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    if status == StatusCode::UNAUTHORIZED {
        rendered.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"galerne\""));
    }
    if problem.code.retry() == galerne_api::error::Retry::Later {
        rendered.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    rendered
}

fn log(problem: &Problem) {
    match problem.code.severity() {
        Severity::Caller => tracing::debug!(code = %problem.code, detail = problem.detail, "request refused"),
        Severity::Unexpected => tracing::warn!(code = %problem.code, detail = problem.detail, "request failed"),
        Severity::Broken => tracing::error!(code = %problem.code, detail = problem.detail, "request failed"),
    }
}

async fn record(app: &App, denial: Denial) {
    // Whoever has no key could fill the disk with denials: past a rate they are counted, and the count is told.
    let skipped =
        if denial.actor.principal_id.is_none() { app.metrics().strangers.admit(Instant::now()) } else { Some(0) };
    let Some(skipped) = skipped else { return };
    let text = if skipped == 0 {
        denial.text
    } else {
        format!("{} ({skipped} more since the last event like this)", denial.text)
    };
    let event = Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: App::now(),
        actor: denial.actor,
        action: denial.action,
        tenant_id: denial.tenant_id,
        project_id: denial.project_id,
        resource: denial.resource,
        decision: Decision::Denied,
        before_digest: None,
        after_digest: None,
        text,
    };
    let written = galerne_store::retry(|| {
        let event = event.clone();
        async move {
            let mut tx = app.store().begin().await?;
            tx.record(event);
            tx.commit().await
        }
    });
    if let Err(error) = written.await {
        tracing::error!(error = %chain(&error), "a denial could not be recorded");
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// No route has this path.
pub(crate) async fn no_route() -> Response {
    std::future::ready(unrendered(
        Problem::new(Code::RouteNotFound, "there is no such path").hint("`GET /api/v1/openapi.json` lists them all"),
    ))
    .await
}

/// The path exists, the method does not; axum adds `Allow`.
pub(crate) async fn no_method() -> Response {
    std::future::ready(unrendered(Problem::new(Code::MethodNotAllowed, "this path does not take this method"))).await
}

/// How many denials of strangers become events: a bucket.
pub(crate) struct Strangers(Mutex<Bucket>);

struct Bucket {
    left: f64,
    at: Instant,
    skipped: u64,
}

/// Denials of strangers that are recorded in a row.
const BURST: f64 = 50.0;
/// And then per second.
const PER_SECOND: f64 = 5.0;

impl Strangers {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Bucket { left: BURST, at: now, skipped: 0 }))
    }

    /// Whether this one is recorded, and how many were not since the last that was.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock().expect("nobody panics while holding the bucket");
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + passed * PER_SECOND).min(BURST);
        bucket.at = now;
        if bucket.left < 1.0 {
            bucket.skipped += 1;
            return None;
        }
        bucket.left -= 1.0;
        Some(std::mem::take(&mut bucket.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_strangers_is_counted_rather_than_written() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        let recorded = (0..1_000).filter(|_| strangers.admit(start).is_some()).count();
        assert_eq!(recorded, 50);
        assert_eq!(strangers.admit(start + Duration::from_secs(1)), Some(950));
    }
}
