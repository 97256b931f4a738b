//! The routes under `/v1`, and the way of one request through the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use axum::routing::{any, get, post};
use axum::{Extension, Router, middleware};
use galerne_api::error::Code;
use galerne_model::ids::RequestId;
use galerne_model::ledger::{Operation, Outcome};
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
use crate::stream::Opened;
use crate::ticket::{Ending, Ticket};
use crate::upstream::{self, Answer, Ask, Unanswered};
use crate::{body, models, plain, stream, wake};

/// What OpenAI or Mistral serve under `/v1` and we do not: 501, so that a client knows it is not a typing error.
const NOT_SERVED: [&str; 26] = [
    "agents",
    "assistants",
    "audio",
    "batch",
    "batches",
    "classifications",
    "containers",
    "conversations",
    "evals",
    "files",
    "fim",
    "fine_tuning",
    "guardrails",
    "images",
    "libraries",
    "moderations",
    "ocr",
    "organization",
    "projects",
    "realtime",
    "responses",
    "rerank",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

type Answered = Result<Response<Body>, Refusal>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/models", get(list_models).fallback(wrong_method_get))
        .route("/v1/models/{*name}", get(one_model).fallback(wrong_method_get))
        .route("/v1/chat/completions", post(chat).fallback(wrong_method_post))
        .route("/v1/completions", post(completion).fallback(wrong_method_post))
        .route("/v1/embeddings", post(embedding).fallback(wrong_method_post))
        .route("/v1/{*rest}", any(unknown))
        .layer(middleware::from_fn(identify))
        .with_state(shared)
}

/// Gives each request its id, in the extensions for us and in the headers for the client.
async fn identify(mut request: Request, next: middleware::Next) -> Response<Body> {
    let request_id = RequestId::from_uuid(Uuid::now_v7());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map(|ConnectInfo(peer)| peer.ip());
    request.extensions_mut().insert(Asker { request_id, address, key: None, endpoint_id: None });
    let mut response = next.run(request).await;
    let value = HeaderValue::from_str(&request_id.to_string()).expect("an id is letters and digits");
    response.headers_mut().insert(X_REQUEST_ID, value);
    response
}

async fn chat(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response<Body> {
    Box::pin(infer(shared, Operation::Chat, asker, request)).await
}

async fn completion(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response<Body> {
    Box::pin(infer(shared, Operation::Completion, asker, request)).await
}

async fn embedding(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response<Body> {
    Box::pin(infer(shared, Operation::Embedding, asker, request)).await
}

async fn infer(shared: Arc<Shared>, operation: Operation, mut asker: Asker, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let answer = answer(&shared, operation, &mut asker, &head.headers, body).await;
    finish(&shared, &asker, answer)
}

async fn list_models(
    State(shared): State<Arc<Shared>>,
    Extension(mut asker): Extension<Asker>,
    headers: HeaderMap,
) -> Response<Body> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(&shared, &snapshot, &headers, &mut asker);
    finish(&shared, &asker, key.map(|key| json(&models::list(&snapshot, &key))))
}

async fn one_model(
    State(shared): State<Arc<Shared>>,
    Extension(mut asker): Extension<Asker>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(&shared, &snapshot, &headers, &mut asker);
    finish(&shared, &asker, key.and_then(|key| models::find(&snapshot, &key, &name).map(|card| json(&card))))
}

async fn wrong_method_get(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    method: Method,
) -> Response<Body> {
    finish(&shared, &asker, Err(wrong_method(&method, "GET")))
}

async fn wrong_method_post(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    method: Method,
) -> Response<Body> {
    finish(&shared, &asker, Err(wrong_method(&method, "POST")))
}

async fn unknown(State(shared): State<Arc<Shared>>, Extension(asker): Extension<Asker>, uri: Uri) -> Response<Body> {
    let path = uri.path();
    let first = path.trim_start_matches("/v1/").split('/').next().unwrap_or("");
    let refusal = if NOT_SERVED.contains(&first) {
        Refusal::new(Code::NotServed, format!("`{path}` is part of the OpenAI or Mistral API and is not served here"))
    } else {
        let shown: String = path.chars().take(100).collect();
        Refusal::new(Code::RouteNotFound, format!("there is no path `{shown}`"))
    };
    finish(&shared, &asker, Err(refusal))
}

fn wrong_method(method: &Method, allowed: &'static str) -> Refusal {
    let mut refusal = Refusal::new(Code::MethodNotAllowed, format!("this path takes {allowed}, not {method}"));
    refusal.headers.push((header::ALLOW, HeaderValue::from_static(allowed)));
    refusal
}

/// The way of a request: every step may refuse; what was reserved until then is given back by the guards' drop.
async fn answer(
    shared: &Arc<Shared>,
    operation: Operation,
    asker: &mut Asker,
    headers: &HeaderMap,
    body: Body,
) -> Answered {
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
    authenticate(shared, &shared.snapshot.borrow(), headers, asker)?;
    let body = tokio::select! {
        biased;
        read = timeout_at(deadline, body::read(headers, body, shared.bounds.client)) => read
            .unwrap_or_else(|_| Err(Refusal::new(Code::RequestTimeout, "the body did not arrive in time")))?,
        () = shared.draining.cancelled() => return Err(draining("the server shuts down; the body was not read")),
    };
    // The body may have taken minutes: keys revoked, budgets made and endpoints paused meanwhile count.
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(shared, &snapshot, headers, asker)?;
    let (work, rate_headers) = {
        // Valid UTF-8 is what `body::read` gives.
        let asked = Asked::parse(operation, std::str::from_utf8(&body).expect("checked when it was read"))?;
        let endpoint = find_endpoint(&snapshot, &key, &asked)?;
        asker.endpoint_id = Some(endpoint.id);
        let (ticket, rate_headers) = admit(shared, &snapshot, &key, &endpoint, &asked, asker.request_id, place)?;
        (Work::new(&asked, endpoint, ticket, deadline), rate_headers)
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
    let key = find_key(headers, &shared.pepper, snapshot)?;
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
    body: Bytes,
    delivery: Delivery,
    tokenize_body: Option<Vec<u8>>,
    deadline: Instant,
}

/// No answer.
struct Unserved {
    refusal: Refusal,
    /// A replica may have worked on it.
    worked: bool,
}

impl Work {
    fn new(asked: &Asked<'_>, endpoint: Arc<EndpointEntry>, ticket: Ticket, deadline: Instant) -> Self {
        let upstream_model = &endpoint.upstream_model;
        let tokenize_body = match asked.delivery {
            Delivery::Whole => None,
            Delivery::Stream(_) => asked.tokenize_body(upstream_model),
        };
        let body = Bytes::from(asked.upstream_body(upstream_model));
        Self { ticket, body, delivery: asked.delivery, tokenize_body, endpoint, deadline }
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
            (Ok(Answer::Plain { body, seat }), _) => plain::reply(shared, self.ticket, &body, seat),
            (Ok(Answer::Stream { first, rest, seat }), delivery) => {
                let replica = self.ticket.replica();
                let shown = match delivery {
                    Delivery::Stream(shown) => shown,
                    Delivery::Whole => UsageShown::Never,
                };
                let Self { ticket, deadline, tokenize_body, .. } = self;
                let opened = Opened { ticket, seat, replica, first, rest, deadline, shown, tokenize_body };
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
        let unanswered = match self.ask_among(shared, &replicas, 0).await {
            Ok(answer) => return Ok(answer),
            Err(unanswered) => unanswered,
        };
        if !unanswered.unreachable || !self.endpoint.wakes {
            return Err(unanswered.into());
        }
        let replicas = wake::replacement(shared, &self.endpoint, &replicas).await.map_err(idle)?;
        self.ask_among(shared, &replicas, unanswered.reached).await.map_err(Unserved::from)
    }

    async fn ask_among(
        &mut self,
        shared: &Arc<Shared>,
        replicas: &[ReplicaEntry],
        reached: u32,
    ) -> Result<Answer, Unanswered> {
        let operation = self.ticket.operation();
        let stream = self.delivery != Delivery::Whole;
        let (body, deadline) = (self.body.clone(), self.deadline);
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
        refusal.response(asker.request_id)
    })
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("plain structs serialise into memory");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
