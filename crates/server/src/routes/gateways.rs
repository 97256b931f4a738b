//! `/agent/v1/gateways`: gateways in processes of their own. Not part of the document of `/api/v1`: its two sides are
//! programs of ours, its types are `galerne_api::gateways`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use galerne_api::error::Code;
use galerne_api::gateways::{
    BEAT_INTERVAL_MS, BODY_MAX_BYTES, Events, ITEMS_MAX, Join, Joined, Line, OLDEST_VERSION, PATH, Report, Usage,
    UsageTaken, VERSION,
};
use galerne_core::authorize::{self, Action, Noun, Verb};
use galerne_model::event::Decision;
use galerne_model::identity::Scope;
use galerne_model::limits::SETTLE_BATCH_MAX;
use galerne_model::snapshot::{Changes, Snapshot};
use http::{StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use uuid::Uuid;

use crate::app::{App, lending, refused, session_of};
use crate::http::body::{Segment, answer};
use crate::http::caller::{About, Caller};
use crate::http::refusal::{Refusal, chain};
use crate::start::write_events;

/// Longest name of a gateway.
const NAME_MAX_CHARS: usize = 255;
/// Characters of an instance: a UUID in hex.
const INSTANCE_MAX_CHARS: usize = 64;

pub(crate) fn routes() -> Router<App> {
    let of = |what: &str| format!("{PATH}/{{session}}/{what}");
    Router::new()
        .route(PATH, post(join))
        .route(&format!("{PATH}/{{session}}"), delete(leave))
        .route(&of("snapshots"), get(snapshots))
        .route(&of("usage"), post(usage))
        .route(&of("reports"), post(report))
        .route(&of("events"), post(events))
}

/// A body from a gateway.
struct Message<T>(T);

impl<T: DeserializeOwned> FromRequest<App> for Message<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _app: &App) -> Result<Self, Refusal> {
        let too_large = |_| {
            Refusal::new(Code::BodyTooLarge, format!("the body broke off or is larger than {BODY_MAX_BYTES} bytes"))
        };
        let bytes = axum::body::to_bytes(request.into_body(), BODY_MAX_BYTES).await.map_err(too_large)?;
        let read = serde_json::from_slice(&bytes);
        read.map(Self).map_err(|error| {
            Refusal::new(Code::InvalidBody, format!("the message is not one of this protocol: {error}"))
        })
    }
}

fn may(caller: &Caller) -> Result<(), Refusal> {
    caller.may(Verb::Use, Noun::Gateway, Scope::Site, &About::all("gateway", "use"))
}

async fn join(State(app): State<App>, caller: Caller, Message(join): Message<Join>) -> Result<Response, Refusal> {
    may(&caller)?;
    if join.version < OLDEST_VERSION {
        let text = format!(
            "the gateway speaks version {} of the protocol, and {OLDEST_VERSION} to {VERSION} are served",
            join.version
        );
        return Err(Refusal::new(Code::InvalidValue, text).hint("update the gateway's program"));
    }
    let is_bounded = join.name.chars().count() <= NAME_MAX_CHARS && join.instance.len() <= INSTANCE_MAX_CHARS;
    let is_plain = join.instance.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if join.source < 1 || join.source == app.gateway().source() || !is_bounded || !is_plain {
        return Err(Refusal::new(
            Code::InvalidValue,
            "the gateway's spool has the number of this server's own, or its name is too long",
        )
        .hint("a copied data directory: delete its `spool/` before it is used"));
    }
    if app.store().is_forsaken(join.source).await? {
        let text = format!("spool {} was forsaken by an operator: what it holds is not settled any more", join.source);
        return Err(Refusal::new(Code::InvalidValue, text)
            .hint("give the gateway an empty data directory: galerne gateway --data FOLDER"));
    }
    let settled_sequence = app.store().settled_through(join.source).await?;
    let session = session_of(&join, &Uuid::now_v7().simple().to_string());
    app.fleet().join(&join, &session).map_err(refused)?;
    let joined = Joined {
        version: VERSION.min(join.version),
        session,
        settled_sequence,
        pepper: hex::encode(app.pepper().bytes()),
        now: App::now(),
    };
    Ok(answer(StatusCode::CREATED, &joined))
}

async fn leave(State(app): State<App>, caller: Caller, Segment(session): Segment) -> Result<Response, Refusal> {
    may(&caller)?;
    app.fleet().leave(&session).map_err(refused)?;
    std::future::ready(Ok(StatusCode::NO_CONTENT.into_response())).await
}

/// Books usage; the answer is sent once it is durable.
async fn usage(
    State(app): State<App>,
    caller: Caller,
    Segment(session): Segment,
    Message(Usage { records }): Message<Usage>,
) -> Result<Response, Refusal> {
    may(&caller)?;
    let source = app.fleet().source_of(&session).map_err(refused)?;
    if records.len() > SETTLE_BATCH_MAX {
        return Err(Refusal::new(Code::InvalidValue, format!("more than {SETTLE_BATCH_MAX} records in one batch")));
    }
    let through = app.control().accept_from(source, &records).await?;
    Ok(answer(StatusCode::OK, &UsageTaken { through }))
}

async fn report(
    State(app): State<App>,
    caller: Caller,
    Segment(session): Segment,
    Message(mut report): Message<Report>,
) -> Result<Response, Refusal> {
    may(&caller)?;
    if report.busy.len().max(report.woken.len()).max(report.shares.len()) > ITEMS_MAX {
        let text = format!("more than {ITEMS_MAX} endpoints or budgets in one report");
        return Err(Refusal::new(Code::InvalidValue, text));
    }
    let woken = std::mem::take(&mut report.woken);
    let reported = lending::report(&app, &session, report).await?;
    for endpoint_id in woken {
        // Only of endpoints there are: what is woken is remembered.
        if app.snapshot().borrow().endpoints.contains_key(&endpoint_id) {
            app.control().wake(endpoint_id);
        }
    }
    Ok(answer(StatusCode::OK, &reported))
}

/// Records refusals; the same again once.
async fn events(
    State(app): State<App>,
    caller: Caller,
    Segment(session): Segment,
    Message(Events { events }): Message<Events>,
) -> Result<Response, Refusal> {
    may(&caller)?;
    let source = app.fleet().source_of(&session).map_err(refused)?;
    let are_denials = events.iter().all(|event| event.decision == Decision::Denied);
    if events.len() > ITEMS_MAX || !are_denials {
        return Err(Refusal::new(
            Code::InvalidValue,
            format!("a gateway tells of refusals, at most {ITEMS_MAX} at once"),
        ));
    }
    match write_events(app.store(), &events).await {
        Err(error) if error.refuses_values() => {
            tracing::error!(error = %chain(&error), source, count = events.len(), "the database refuses events of a gateway: they are left out");
        }
        written => written?,
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The stream of snapshots: lines of JSON until either side ends it.
async fn snapshots(State(app): State<App>, caller: Caller, Segment(session): Segment) -> Result<Response, Refusal> {
    may(&caller)?;
    app.fleet().source_of(&session).map_err(refused)?;
    let stream = Stream { seen: app.snapshot(), last: Arc::default(), number: 0, app, caller, session };
    let lines = futures_util::stream::unfold(stream, |mut stream| async move {
        let line = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), stream))
    });
    let response = ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response();
    std::future::ready(Ok(response)).await
}

/// Where a stream stands.
struct Stream {
    app: App,
    caller: Caller,
    session: String,
    seen: watch::Receiver<Arc<Snapshot>>,
    last: Arc<Snapshot>,
    number: u64,
}

impl Stream {
    /// The next line; none when the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.number > 0 {
            let beat = Duration::from_millis(BEAT_INTERVAL_MS);
            let changed = tokio::select! {
                changed = tokio::time::timeout(beat, self.seen.changed()) => changed,
                () = self.app.draining().cancelled() => return None,
            };
            if !self.may_go_on() {
                return None;
            }
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return line(&Line::Beat),
            }
        }
        let (old, new) = (Arc::clone(&self.last), Arc::clone(&self.seen.borrow_and_update()));
        self.last = Arc::clone(&new);
        self.number += 1;
        let number = self.number;
        // A large site has megabytes of keys: compared and written off the async threads.
        let made = tokio::task::spawn_blocking(move || {
            let changes = Box::new(Changes::between(&old, &new));
            line(&Line::Changes { number, changes })
        });
        made.await.ok().flatten()
    }

    /// Whether key, roles and session still hold: the gateway hears every secret of the site's keys.
    fn may_go_on(&self) -> bool {
        let known = self.app.directory().known();
        let is_alive = known.key(&self.caller.key.status.digest).is_some_and(|key| {
            let is_over = |at: Option<jiff::Timestamp>| at.is_some_and(|at| at <= App::now());
            !is_over(key.status.revoked_at) && !is_over(key.spec.expires_at)
        });
        let is_active = known.principal(self.caller.principal.id).is_some_and(|principal| !principal.spec.disabled);
        let bindings: Vec<_> = known.roles(self.caller.principal.id).iter().map(|role| role.spec.clone()).collect();
        let action = Action { verb: Verb::Use, noun: Noun::Gateway };
        let may = authorize::decide(&bindings, self.caller.scopes(), action, Scope::Site).is_ok();
        is_alive && is_active && may && self.app.fleet().source_of(&self.session).is_ok()
    }
}

fn line(line: &Line) -> Option<Bytes> {
    let mut text = serde_json::to_vec(line).expect("snapshots have text keys and finite numbers");
    text.push(b'\n');
    Some(Bytes::from(text))
}
