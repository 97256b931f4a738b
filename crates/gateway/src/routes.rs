//! The routes under `/v1`, and the way of one request through the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{self, ConnectInfo, Path, Request};
use axum::http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Extension, Router, middleware};
use galerne_api::error::Code;
use galerne_api::surface::{self, Call, Dialect, Found, SERVED, State};
use galerne_model::ids::RequestId;
use galerne_model::ledger::Outcome;
use galerne_model::snapshot::{EndpointEntry, KeyEntry, ReplicaEntry, Snapshot};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::admit::{admit, find_endpoint};
use crate::authenticate::{check_key, find_key};
use crate::config::Shared;
use crate::denial::{Asker, is_denial};
use crate::meter::Counted;
use crate::refusal::{Refusal, X_REQUEST_ID};
use crate::request::{Asked, Delivery, UsageShown};
use crate::segments::Segments;
use crate::stream::Opened;
use crate::ticket::{Ending, Ticket};
use crate::upstream::{self, Answer, Ask, Unanswered};
use crate::voice::Voice;
use crate::{body, models, plain, responses, route, stream, wake};

/// Longest path that a refusal shows.
const PATH_SHOWN_MAX_CHARS: usize = 100;

type Answered = Result<Response<Body>, Refusal>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for dialect in Dialect::ALL {
        let root = dialect.prefix().trim_end_matches("/v1");
        for route in SERVED.iter().filter(|route| dialect.has(route.of)) {
            router = router.route(&format!("{root}{}", route.path), handler(route.state, route.path));
        }
        for documented in ["v1", "v2"] {
            router = router.route(&format!("{root}/{documented}/{{*rest}}"), any(unknown));
        }
    }
    router
        .route("/tokenize", handler(State::Body(Call::Tokenise), ""))
        .route("/detokenize", handler(State::Body(Call::Detokenise), ""))
        .layer(middleware::from_fn(identify))
        .with_state(shared)
}

fn handler(state: State, path: &str) -> MethodRouter<Arc<Shared>> {
    match state {
        State::Body(call) => post(move |shared, asker, request| infer(shared, call, asker, request)),
        State::Plain if path.ends_with('}') => get(one_model),
        State::Plain => get(list_models),
    }
    .fallback(unknown)
}

/// Gives each request its id, in the extensions for us and in the headers for the client.
async fn identify(mut request: Request, next: middleware::Next) -> Response<Body> {
    let request_id = RequestId::from_uuid(Uuid::now_v7());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map(|ConnectInfo(peer)| peer.ip());
    let dialect = Dialect::of_path(request.uri().path());
    request.extensions_mut().insert(Asker { request_id, dialect, address, key: None, endpoint_id: None });
    let mut response = next.run(request).await;
    let value = HeaderValue::from_str(&request_id.to_string()).expect("an id is letters and digits");
    response.headers_mut().insert(X_REQUEST_ID, value);
    response
}

async fn infer(
    extract::State(shared): extract::State<Arc<Shared>>,
    call: Call,
    Extension(mut asker): Extension<Asker>,
    request: Request,
) -> Response<Body> {
    let answered = async {
        let (head, body) = request.into_parts();
        let answer = answer(&shared, call, &mut asker, &head.headers, body).await;
        finish(&shared, &asker, answer)
    };
    Box::pin(answered).await
}

async fn list_models(
    extract::State(shared): extract::State<Arc<Shared>>,
    Extension(mut asker): Extension<Asker>,
    headers: HeaderMap,
) -> Response<Body> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(&shared, &snapshot, &headers, &mut asker);
    finish(&shared, &asker, key.map(|key| json(&models::list(asker.dialect, &snapshot, &key))))
}

async fn one_model(
    extract::State(shared): extract::State<Arc<Shared>>,
    Extension(mut asker): Extension<Asker>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(&shared, &snapshot, &headers, &mut asker);
    finish(
        &shared,
        &asker,
        key.and_then(|key| models::find(asker.dialect, &snapshot, &key, &name).map(|card| json(&card))),
    )
}

/// What no handler takes: told apart by what OpenAI and Mistral document.
async fn unknown(
    extract::State(shared): extract::State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    method: Method,
    uri: Uri,
) -> Response<Body> {
    finish(&shared, &asker, Err(nowhere(asker.dialect, &method, uri.path())))
}

fn nowhere(dialect: Dialect, method: &Method, path: &str) -> Refusal {
    let shown: String = path.chars().take(PATH_SHOWN_MAX_CHARS).collect();
    match surface::find(dialect, method.as_str(), path) {
        Found::NotServed(known) => {
            let text = format!("`{method} {shown}` is part of {} API and is not served here", known.of.name());
            Refusal::new(Code::NotServed, text)
        }
        Found::WrongMethod { allowed } => {
            let allowed = allowed.join(", ");
            let mut refusal = Refusal::new(Code::MethodNotAllowed, format!("`{shown}` takes {allowed}, not {method}"));
            let allow = HeaderValue::from_str(&allowed).expect("methods are letters");
            refusal.headers.push((header::ALLOW, allow));
            refusal
        }
        Found::Elsewhere(known) => {
            let text = format!("`{shown}` is {} and not served here; hint: use `{}`", known.of.name(), known.path);
            Refusal::new(Code::RouteNotFound, text)
        }
        Found::Nowhere { nearest } => {
            let near = nearest.first().map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Refusal::new(Code::RouteNotFound, format!("there is no path `{shown}`{near}"))
        }
    }
}

/// The way of a request: every step may refuse; what was reserved until then is given back by the guards' drop.
async fn answer(shared: &Arc<Shared>, call: Call, asker: &mut Asker, headers: &HeaderMap, body: Body) -> Answered {
    let deadline = Instant::now() + shared.bounds.request;
    let place = shared.enter().ok_or_else(|| {
        let most = shared.bounds.in_flight_max;
        Refusal::new(Code::Overloaded, format!("{most} requests are in flight, the most this gateway takes"))
            .retry_after(Duration::from_secs(1))
    })?;
    // Before looking: `drain` first says that it drains and then waits for those who run.
    let _running = shared.tasks.token();
    if shared.draining.is_cancelled() {
        return Err(draining("the server shuts down"));
    }
    // A stranger's body is not read.
    let before = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(shared, &before, headers, asker)?;
    let body = tokio::select! {
        biased;
        read = timeout_at(deadline, body::read(headers, body, shared.bounds.client)) => read
            .unwrap_or_else(|_| Err(Refusal::new(Code::RequestTimeout, "the body did not arrive in time")))?,
        () = shared.draining.cancelled() => return Err(draining("the server shuts down; the body was not read")),
    };
    // The body may have taken minutes: keys revoked, budgets made and endpoints paused meanwhile count.
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = if Arc::ptr_eq(&before, &snapshot) {
        check_key(&key, shared.now())?;
        key
    } else {
        authenticate(shared, &snapshot, headers, asker)?
    };
    drop(before);
    let (work, rate_headers) = {
        // Valid UTF-8 is what `body::read` gives.
        let text = std::str::from_utf8(&body).expect("checked when it was read");
        let (told, repeated) = match call {
            Call::Response => Some(responses::as_chat(asker.dialect, text)?).unzip(),
            Call::Chat | Call::Completion | Call::Fim | Call::Embedding | Call::Tokenise | Call::Detokenise => {
                (None, None)
            }
        };
        let asked = match &told {
            // In the words of all surfaces: the caller's own were checked.
            Some(chat) => Asked::parse(Dialect::Union, Call::Chat, chat)?,
            None => Asked::parse(asker.dialect, call, text)?,
        };
        let endpoint = find_endpoint(&snapshot, &key, &asked)?;
        asker.endpoint_id = Some(endpoint.id);
        let (mut ticket, rate_headers) = admit(shared, &snapshot, &key, &endpoint, &asked, asker.request_id, place)?;
        ticket.route_by(route::prompt(shared, &ticket, &asked));
        let voice = Voice::new(&asked, &endpoint, asker.dialect, repeated);
        (Work::new(&asked, &body, voice, endpoint, ticket, deadline), rate_headers)
    };
    drop(body);
    let mut response = Box::pin(work.run(shared)).await?;
    response.headers_mut().extend(rate_headers);
    Ok(response)
}

/// The key of a request, if it may be used now. What is found on the way is kept, for the event of a refusal.
fn authenticate(
    shared: &Shared,
    snapshot: &Snapshot,
    headers: &HeaderMap,
    asker: &mut Asker,
) -> Result<Arc<KeyEntry>, Refusal> {
    let key = find_key(headers, &shared.digester, snapshot)?;
    asker.key = Some(Arc::clone(&key));
    check_key(&key, shared.now())?;
    Ok(key)
}

fn draining(text: &'static str) -> Refusal {
    Refusal::new(Code::Draining, text).retry_after(Duration::from_secs(5))
}

/// An admitted request on its way to a replica.
struct Work {
    ticket: Ticket,
    endpoint: Arc<EndpointEntry>,
    body: Segments,
    delivery: Delivery,
    voice: Voice,
    tokenize_body: Option<Segments>,
    deadline: Instant,
}

/// No answer.
struct Unserved {
    refusal: Refusal,
    /// A replica may have worked on it.
    worked: bool,
}

impl Work {
    fn new(
        asked: &Asked<'_>,
        source: &Bytes,
        voice: Voice,
        endpoint: Arc<EndpointEntry>,
        ticket: Ticket,
        deadline: Instant,
    ) -> Self {
        let upstream_model = &endpoint.upstream_model;
        let tokenize_body = match asked.delivery {
            Delivery::Whole => None,
            Delivery::Stream(_) => asked.tokenize_body(source, upstream_model),
        };
        let body = asked.upstream_body(source, upstream_model);
        Self { ticket, body, delivery: asked.delivery, voice, tokenize_body, endpoint, deadline }
    }

    async fn run(mut self, shared: &Arc<Shared>) -> Answered {
        let begun = tokio::select! {
            begun = self.ask(shared) => begun,
            () = shared.cut.cancelled() => {
                let refusal = draining("the server shuts down; the request was cut");
                Err(Unserved { refusal, worked: true })
            }
        };
        match (begun, self.delivery) {
            (Ok(Answer::Plain { body, seat }), _) if self.voice.is_of_tokens() => {
                plain::tokens(shared, self.ticket, body, seat)
            }
            (Ok(Answer::Plain { body, seat }), _) => plain::reply(shared, self.ticket, &body, seat, &self.voice),
            (Ok(Answer::Stream { rest, seat }), delivery) => {
                let replica = self.ticket.replica();
                let shown = match delivery {
                    Delivery::Stream(shown) => shown,
                    Delivery::Whole => UsageShown::Never,
                };
                let Self { ticket, deadline, voice, tokenize_body, .. } = self;
                let opened = Opened { ticket, seat, replica, rest, deadline, shown, voice, tokenize_body };
                Ok(stream::reply(shared, opened))
            }
            (Err(Unserved { refusal, worked }), _) => {
                let http_status = refusal.status().as_u16();
                let ending = Ending { outcome: Outcome::Failed, http_status, counted: Counted::default() };
                if worked {
                    self.ticket.wind_up(ending)
                } else {
                    self.ticket.settle(ending)
                }
                Err(refusal)
            }
        }
    }

    /// Asks the ready replicas; when they cannot be reached, waits for the one that takes their place and asks that.
    /// A request is so never worked on more than twice: attempts that reach nobody do not count.
    async fn ask(&mut self, shared: &Arc<Shared>) -> Result<Answer, Unserved> {
        let idle = |refusal| Unserved { refusal, worked: false };
        let replicas = wake::replicas(shared, &self.endpoint).await.map_err(idle)?;
        let unanswered = match self.ask_among(shared, &replicas.replicas, 0).await {
            Ok(answer) => return Ok(answer),
            Err(unanswered) => unanswered,
        };
        if !unanswered.unreachable || !self.endpoint.wakes {
            return Err(unanswered.into());
        }
        let replicas = wake::replacement(shared, &self.endpoint, &replicas.replicas).await.map_err(idle)?;
        self.ask_among(shared, &replicas.replicas, unanswered.reached).await.map_err(Unserved::from)
    }

    async fn ask_among(
        &mut self,
        shared: &Arc<Shared>,
        replicas: &[ReplicaEntry],
        reached: u32,
    ) -> Result<Answer, Unanswered> {
        let operation = self.ticket.operation();
        let stream = self.delivery != Delivery::Whole;
        let (body, deadline) = (&self.body, self.deadline);
        let ask = Ask { operation, body, stream, deadline, longest: shared.bounds.request, reached, replicas };
        upstream::ask(shared, &mut self.ticket, &ask).await
    }
}

impl From<Unanswered> for Unserved {
    fn from(unanswered: Unanswered) -> Self {
        Self { refusal: unanswered.refusal, worked: unanswered.worked }
    }
}

fn finish(shared: &Shared, asker: &Asker, answer: Answered) -> Response<Body> {
    answer.unwrap_or_else(|refusal| {
        shared.metrics.refused(refusal.code);
        if is_denial(refusal.code) {
            shared.denials.note(asker, refusal.code, &refusal.message, shared.now());
        }
        refusal.response(asker.dialect, asker.request_id)
    })
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("plain structs serialise into memory");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
