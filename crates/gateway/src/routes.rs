//! The routes under `/v1`, and the way of one request through the gateway.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use axum::routing::{any, get, post};
use axum::{Extension, Router, middleware};
use galerne_api::error::Code;
use galerne_model::ids::RequestId;
use galerne_model::ledger::{Operation, Outcome};
use galerne_model::snapshot::{EndpointEntry, ReplicaEntry};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::admit::{admit, find_endpoint};
use crate::authenticate::authenticate;
use crate::config::Shared;
use crate::meter::Counted;
use crate::refusal::{Refusal, X_REQUEST_ID};
use crate::request::Asked;
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
    request.extensions_mut().insert(request_id);
    let mut response = next.run(request).await;
    let value = HeaderValue::from_str(&request_id.to_string()).expect("an id is letters and digits");
    response.headers_mut().insert(X_REQUEST_ID, value);
    response
}

async fn chat(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response<Body> {
    Box::pin(infer(shared, Operation::Chat, id, request)).await
}

async fn completion(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response<Body> {
    Box::pin(infer(shared, Operation::Completion, id, request)).await
}

async fn embedding(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response<Body> {
    Box::pin(infer(shared, Operation::Embedding, id, request)).await
}

async fn infer(shared: Arc<Shared>, operation: Operation, id: RequestId, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let answer = answer(&shared, operation, id, &head.headers, body).await;
    finish(&shared, id, answer)
}

async fn list_models(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
) -> Response<Body> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(&headers, &shared.pepper, &snapshot, shared.now());
    finish(&shared, id, key.map(|key| json(&models::list(&snapshot, &key))))
}

async fn one_model(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(&headers, &shared.pepper, &snapshot, shared.now());
    finish(&shared, id, key.and_then(|key| models::find(&snapshot, &key, &name).map(|card| json(&card))))
}

async fn wrong_method_get(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    method: Method,
) -> Response<Body> {
    finish(&shared, id, Err(wrong_method(&method, "GET")))
}

async fn wrong_method_post(
    State(shared): State<Arc<Shared>>,
    Extension(id): Extension<RequestId>,
    method: Method,
) -> Response<Body> {
    finish(&shared, id, Err(wrong_method(&method, "POST")))
}

async fn unknown(State(shared): State<Arc<Shared>>, Extension(id): Extension<RequestId>, uri: Uri) -> Response<Body> {
    let path = uri.path();
    let first = path.trim_start_matches("/v1/").split('/').next().unwrap_or("");
    let refusal = if NOT_SERVED.contains(&first) {
        Refusal::new(Code::NotServed, format!("`{path}` is part of the OpenAI or Mistral API and is not served here"))
    } else {
        let shown: String = path.chars().take(100).collect();
        Refusal::new(Code::RouteNotFound, format!("there is no path `{shown}`"))
    };
    finish(&shared, id, Err(refusal))
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
    id: RequestId,
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
    authenticate(headers, &shared.pepper, &shared.snapshot.borrow(), shared.now())?;
    let body = tokio::select! {
        biased;
        read = timeout_at(deadline, body::read(headers, body, shared.bounds.client)) => read
            .unwrap_or_else(|_| Err(Refusal::new(Code::RequestTimeout, "the body did not arrive in time")))?,
        () = shared.draining.cancelled() => return Err(draining("the server shuts down; the body was not read")),
    };
    // The body may have taken minutes: keys revoked, budgets made and endpoints paused meanwhile count.
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = authenticate(headers, &shared.pepper, &snapshot, shared.now())?;
    let (work, rate_headers) = {
        // Valid UTF-8 is what `body::read` gives.
        let asked = Asked::parse(operation, std::str::from_utf8(&body).expect("checked when it was read"))?;
        let endpoint = find_endpoint(&snapshot, &key, &asked)?;
        let (ticket, rate_headers) = admit(shared, &snapshot, &key, &endpoint, &asked, id)?;
        (Work::new(&asked, endpoint, ticket, deadline), rate_headers)
    };
    drop(body);
    let mut response = Box::pin(work.run(shared, place)).await?;
    response.headers_mut().extend(rate_headers);
    Ok(response)
}

fn draining(text: &'static str) -> Refusal {
    Refusal::new(Code::Draining, text).retry_after(Duration::from_secs(5))
}

/// An admitted request on its way to a replica.
struct Work {
    ticket: Ticket,
    endpoint: Arc<EndpointEntry>,
    body: Bytes,
    stream: bool,
    include_usage: bool,
    tokenize_body: Option<Vec<u8>>,
    deadline: Instant,
}

impl Work {
    fn new(asked: &Asked<'_>, endpoint: Arc<EndpointEntry>, ticket: Ticket, deadline: Instant) -> Self {
        let upstream_model = &endpoint.upstream_model;
        Self {
            ticket,
            body: Bytes::from(asked.upstream_body(upstream_model)),
            stream: asked.stream,
            include_usage: asked.include_usage,
            tokenize_body: if asked.stream { asked.tokenize_body(upstream_model) } else { None },
            endpoint,
            deadline,
        }
    }

    async fn run(mut self, shared: &Arc<Shared>, place: crate::config::Place) -> Answered {
        let begun = tokio::select! {
            begun = self.ask(shared) => begun,
            () = shared.cut.cancelled() => Err(draining("the server shuts down; the request was cut")),
        };
        match begun {
            Ok(Answer::Plain { body, seat }) => plain::reply(shared, self.ticket, &body, seat),
            Ok(Answer::Stream { first, rest, seat }) => {
                let replica = self.ticket.replica();
                let Self { ticket, deadline, include_usage, tokenize_body, .. } = self;
                let opened =
                    Opened { ticket, seat, replica, first, rest, deadline, include_usage, tokenize_body, place };
                Ok(stream::reply(shared, opened))
            }
            Err(refusal) => {
                let http_status = refusal.status().as_u16();
                self.ticket.settle(Ending { outcome: Outcome::Failed, http_status, counted: Counted::default() });
                Err(refusal)
            }
        }
    }

    /// Asks the ready replicas; when they cannot be reached, waits for the one that takes their place and asks that.
    /// A request is so never worked on more than twice: attempts that reach nobody do not count.
    async fn ask(&mut self, shared: &Arc<Shared>) -> Result<Answer, Refusal> {
        let replicas = wake::replicas(shared, &self.endpoint).await?;
        let unanswered = match self.ask_among(shared, &replicas, 0).await {
            Ok(answer) => return Ok(answer),
            Err(unanswered) => unanswered,
        };
        if !unanswered.unreachable || !self.endpoint.wakes {
            return Err(unanswered.refusal);
        }
        let replicas = wake::replacement(shared, &self.endpoint, &replicas).await?;
        self.ask_among(shared, &replicas, unanswered.reached).await.map_err(|unanswered| unanswered.refusal)
    }

    async fn ask_among(
        &mut self,
        shared: &Arc<Shared>,
        replicas: &[ReplicaEntry],
        reached: u32,
    ) -> Result<Answer, Unanswered> {
        let operation = self.ticket.operation();
        let (body, stream, deadline) = (self.body.clone(), self.stream, self.deadline);
        let ask = Ask { operation, body, stream, deadline, longest: shared.bounds.request, reached, replicas };
        upstream::ask(shared, &mut self.ticket, &ask).await
    }
}

fn finish(shared: &Shared, id: RequestId, answer: Answered) -> Response<Body> {
    answer.unwrap_or_else(|refusal| {
        shared.metrics.refused(refusal.code);
        refusal.response(id)
    })
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("plain structs serialise into memory");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
