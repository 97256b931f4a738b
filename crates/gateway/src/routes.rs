//! The routes under `/v1`, and the way of one request through the gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{self, ConnectInfo, Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, header};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Extension, Router, middleware};
use galerne_api::error::Code;
use galerne_api::surface::{self, Call, Dialect, Found, SERVED, State};
use galerne_model::identity::ServiceTier;
use galerne_model::ids::RequestId;
use galerne_model::ledger::Outcome;
use galerne_model::snapshot::{EndpointEntry, KeyEntry, ReplicaEntry, Snapshot};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::admit::{Room, admit, find_endpoint};
use crate::authenticate::{check_key, find_key};
use crate::config::Shared;
use crate::denial::{Asker, is_denial};
use crate::meter::Counted;
use crate::refusal::{Refusal, X_REQUEST_ID};
use crate::request::{Asked, Delivery, UsageShown};
use crate::residency::Demands;
use crate::route::{Chain, Part, Step};
use crate::stream::Opened;
use crate::ticket::{Ending, Ticket};
use crate::upstream::{self, Answer, Ask, Unanswered};
use crate::voice::Voice;
use crate::{body, line, models, plain, responses, route, stream, wake};

/// Longest path that a refusal shows.
const PATH_SHOWN_MAX_CHARS: usize = 100;

/// Names the endpoint that answered in another's place.
const ANSWERED_BY: HeaderName = HeaderName::from_static("x-galerne-answered-by");
/// The tier a request was served in.
const SERVICE_TIER: HeaderName = HeaderName::from_static("x-galerne-service-tier");

type Answered = Result<Response<Body>, Refusal>;

/// The way in past the router, for whoever has the connection: nearly all requests are a `POST` to a path without names.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

/// What a request asks, told by its method and path.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    dialect: Dialect,
    call: Call,
}

pub(crate) fn door(shared: Arc<Shared>) -> Door {
    Door { shared }
}

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
pub(crate) async fn identify(mut request: Request, next: middleware::Next) -> Response<Body> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map(|ConnectInfo(peer)| peer.ip());
    let asker = Asker::new(Dialect::of_path(request.uri().path()), address);
    let request_id = asker.request_id;
    request.extensions_mut().insert(asker);
    named(next.run(request).await, request_id)
}

/// An answer with the id of its request.
fn named(mut response: Response<Body>, request_id: RequestId) -> Response<Body> {
    let value = HeaderValue::from_str(&request_id.to_string()).expect("an id is letters and digits");
    response.headers_mut().insert(X_REQUEST_ID, value);
    response
}

impl Door {
    /// What a request asks that has a body; nothing when it is one for the router.
    pub fn asks(method: &Method, path: &str) -> Option<Asking> {
        if method != Method::POST {
            return None;
        }
        let dialect = Dialect::of_path(path);
        let below = path.strip_prefix(dialect.prefix().strip_suffix("/v1")?)?;
        let route = SERVED.iter().find(|route| route.path == below && dialect.has(route.of))?;
        match route.state {
            State::Body(call) => Some(Asking { dialect, call }),
            State::Plain => None,
        }
    }

    /// Answers it.
    pub fn answer<B>(
        &self,
        asking: Asking,
        request: Request<B>,
        peer: IpAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<B>
    where
        B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Send,
    {
        let (shared, Asking { dialect, call }) = (Arc::clone(&self.shared), asking);
        async move {
            let mut asker = Asker::new(dialect, Some(peer));
            let (head, body) = request.into_parts();
            let answer = answer(&shared, call, &mut asker, &head.headers, body).await;
            named(finish(&shared, &asker, answer), asker.request_id)
        }
    }
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
async fn answer<B>(shared: &Arc<Shared>, call: Call, asker: &mut Asker, headers: &HeaderMap, body: B) -> Answered
where
    B: HttpBody<Data = Bytes> + Unpin,
{
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
    let demands = Demands::read(headers)?;
    // Valid UTF-8 is what `body::read` gives.
    let text = std::str::from_utf8(&body).expect("checked when it was read");
    let (told, repeated) = match call {
        Call::Response => Some(responses::as_chat(asker.dialect, text)?).unzip(),
        Call::Chat | Call::Completion | Call::Fim | Call::Embedding | Call::Tokenise | Call::Detokenise => (None, None),
    };
    let mut asked = match &told {
        // In the words of all surfaces: the caller's own were checked.
        Some(chat) => Asked::parse(Dialect::Union, Call::Chat, chat)?,
        None => Asked::parse(asker.dialect, call, text)?,
    };
    let called = seated(shared, headers, asker, &asked, (before, key), &demands, deadline).await?;
    let (work, rate_headers) = {
        let Called { snapshot, key, endpoint, seat, tier } = called;
        let room = Room { place, seat };
        asked.serve_in(tier);
        let (mut ticket, mut rate_headers) =
            admit(shared, &snapshot, &key, &endpoint, &mut asked, asker.request_id, room).await?;
        rate_headers.push((SERVICE_TIER, HeaderValue::from_static(tier.as_str())));
        ticket.came_by(asker.dialect);
        ticket.route_by(route::prompt(shared, &ticket, &asked));
        let voice = Voice::new(&asked, &endpoint, asker.dialect, repeated);
        let mut chain = Chain::draw(shared, &snapshot, &key, &endpoint, &asked, &body, voice);
        chain.keep(|other| demands.allow(other));
        (Work::new(shared, chain, demands, asked.delivery, endpoint, ticket, deadline), rate_headers)
    };
    drop(asked);
    drop(body);
    let mut response = Box::pin(work.run(shared)).await?;
    response.headers_mut().extend(rate_headers);
    Ok(response)
}

/// A request whose turn has come.
struct Called {
    snapshot: Arc<Snapshot>,
    key: Arc<KeyEntry>,
    endpoint: Arc<EndpointEntry>,
    seat: Option<line::Seat>,
    tier: ServiceTier,
}

/// Looks the request up, and waits for a seat where the endpoint has a limit of them. The body may have taken minutes and
/// so may the line: keys revoked, budgets made and endpoints paused meanwhile count.
async fn seated(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    asker: &mut Asker,
    asked: &Asked<'_>,
    known: (Arc<Snapshot>, Arc<KeyEntry>),
    demands: &Demands,
    deadline: Instant,
) -> Result<Called, Refusal> {
    let mut seat = None;
    loop {
        let snapshot = Arc::clone(&shared.snapshot.borrow());
        let key = if Arc::ptr_eq(&known.0, &snapshot) {
            check_key(&known.1, shared.now())?;
            Arc::clone(&known.1)
        } else {
            authenticate(shared, &snapshot, headers, asker)?
        };
        let endpoint = find_endpoint(&snapshot, &key, asked)?;
        asker.endpoint_id = Some(endpoint.id);
        demands.admit(&snapshot, &key, &endpoint)?;
        let tier = line::tier(&snapshot, &key, asked.tier);
        if seat.is_none() {
            line::shed(shared, tier)?;
            let (taken, waited) = line::take(shared, &endpoint, tier, deadline).await?;
            seat = taken;
            if waited {
                continue;
            }
        }
        return Ok(Called { snapshot, key, endpoint, seat, tier });
    }
}

/// The key of a request, if it may be used now. What is found on the way is kept, for the event of a refusal.
pub(crate) fn authenticate(
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
pub(crate) struct Work {
    pub(crate) ticket: Ticket,
    endpoint: Arc<EndpointEntry>,
    /// Who is asked, in turn.
    steps: Vec<Step>,
    demands: Demands,
    delivery: Delivery,
    deadline: Instant,
}

/// No answer.
pub(crate) struct Unserved {
    pub(crate) refusal: Refusal,
    /// A replica may have worked on it.
    pub(crate) worked: bool,
}

impl Work {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        chain: Chain,
        demands: Demands,
        delivery: Delivery,
        endpoint: Arc<EndpointEntry>,
        ticket: Ticket,
        deadline: Instant,
    ) -> Self {
        if let Some(shadow) = chain.shadow {
            route::send_shadow(shared, shadow, ticket.operation(), ticket.tenant_id(), ticket.prompt().clone());
        }
        Self { ticket, steps: chain.steps, demands, delivery, endpoint, deadline }
    }

    async fn run(mut self, shared: &Arc<Shared>) -> Answered {
        let begun = tokio::select! {
            begun = self.ask(shared) => begun,
            () = shared.cut.cancelled() => {
                let refusal = draining("the server shuts down; the request was cut");
                Err(Unserved { refusal, worked: true })
            }
        };
        match begun {
            Ok((answer, step)) => self.reply(shared, answer, step).await,
            Err(Unserved { refusal, worked }) => {
                let http_status = refusal.status().as_u16();
                let ending = Ending { outcome: Outcome::Failed, http_status, counted: Counted::default() };
                if worked {
                    self.ticket.back_to_work();
                    self.ticket.wind_up(ending)
                } else {
                    self.ticket.settle(ending)
                }
                Err(refusal)
            }
        }
    }

    async fn reply(self, shared: &Arc<Shared>, answer: Answer, step: Step) -> Answered {
        let Self { ticket, deadline, demands, delivery, .. } = self;
        route::learn_tokens(shared, &ticket, &step.endpoint, step.tokenize_body.as_ref());
        let mut response = match answer {
            Answer::Plain { body, seat } if step.voice.is_of_tokens() => plain::tokens(shared, ticket, body, seat)?,
            Answer::Plain { body, seat } => plain::reply(shared, ticket, &body, seat, &step).await?,
            Answer::Stream { rest, seat } => {
                let replica = ticket.replica();
                let shown = match delivery {
                    Delivery::Stream(shown) => shown,
                    Delivery::Whole => UsageShown::Never,
                };
                let (voice, tokenize_body) = (step.voice, step.tokenize_body);
                let opened = Opened { ticket, seat, replica, rest, deadline, shown, voice, tokenize_body };
                stream::reply(shared, opened)
            }
        };
        if step.part != Part::Named
            && let Ok(name) = HeaderValue::from_str(&step.endpoint.name)
        {
            response.headers_mut().insert(ANSWERED_BY, name);
        }
        response.headers_mut().extend(demands.confirmed(&step.endpoint));
        Ok(response)
    }

    /// Asks one endpoint after another until one has begun to answer. When none does, the refusal of the one that was named
    /// is told.
    pub(crate) async fn ask(&mut self, shared: &Arc<Shared>) -> Result<(Answer, Step), Unserved> {
        let mut told: Option<Unserved> = None;
        let mut steps = std::mem::take(&mut self.steps).into_iter().peekable();
        while let Some(step) = steps.next() {
            if !self.ticket.serve_by(&step.endpoint, &step.limits, step.estimate, self.endpoint.id) {
                continue;
            }
            let unserved = match self.ask_endpoint(shared, &step).await {
                Ok(answer) => return Ok((answer, step)),
                Err(unserved) => unserved,
            };
            let (code, worked) = (unserved.refusal.code, unserved.worked);
            if worked {
                self.ticket.has_worked();
            }
            told = Some(match told.take() {
                Some(told) if step.part == Part::Fallback => Unserved { worked: worked || told.worked, ..told },
                before => Unserved { worked: worked || before.is_some_and(|before| before.worked), ..unserved },
            });
            if !route::may_go_on(code) || Instant::now() >= self.deadline {
                break;
            }
            if let Some(next) = steps.peek() {
                shared.metrics.fallbacks.inc();
                let request_id = self.ticket.request_id();
                tracing::warn!(%request_id, from = %step.endpoint.id, to = %next.endpoint.id, "request handed on");
            }
        }
        Err(told.unwrap_or_else(|| {
            let text = format!("endpoint `{}` takes no more requests now", self.endpoint.name);
            Unserved { refusal: Refusal::new(Code::Overloaded, text), worked: false }
        }))
    }

    /// Asks the ready replicas; when they cannot be reached, waits for the one that takes their place and asks that.
    /// A request is so never worked on more than twice: attempts that reach nobody do not count.
    async fn ask_endpoint(&mut self, shared: &Arc<Shared>, step: &Step) -> Result<Answer, Unserved> {
        let idle = |refusal| Unserved { refusal, worked: false };
        let asleep = step.endpoint.replicas.is_empty().then(Instant::now);
        let woken = wake::replicas(shared, &step.endpoint).await;
        if let Some(since) = asleep {
            shared.metrics.woke(since.elapsed());
        }
        let replicas = woken.map_err(idle)?;
        let unanswered = match self.ask_among(shared, step, &replicas.replicas, 0).await {
            Ok(answer) => return Ok(answer),
            Err(unanswered) => unanswered,
        };
        if !unanswered.unreachable || !step.endpoint.wakes {
            return Err(unanswered.into());
        }
        let since = Instant::now();
        let replacement = wake::replacement(shared, &step.endpoint, &replicas.replicas).await;
        shared.metrics.woke(since.elapsed());
        let replicas = replacement.map_err(idle)?;
        self.ask_among(shared, step, &replicas.replicas, unanswered.reached).await.map_err(Unserved::from)
    }

    async fn ask_among(
        &mut self,
        shared: &Arc<Shared>,
        step: &Step,
        replicas: &[ReplicaEntry],
        reached: u32,
    ) -> Result<Answer, Unanswered> {
        let operation = self.ticket.operation();
        let stream = self.delivery != Delivery::Whole;
        let (body, deadline) = (&step.body, self.deadline);
        let ask = Ask { operation, body, stream, deadline, longest: shared.bounds.request, reached, replicas };
        upstream::ask(shared, &mut self.ticket, &ask).await
    }
}

impl From<Unanswered> for Unserved {
    fn from(unanswered: Unanswered) -> Self {
        Self { refusal: unanswered.refusal, worked: unanswered.worked }
    }
}

pub(crate) fn finish(shared: &Shared, asker: &Asker, answer: Answered) -> Response<Body> {
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
