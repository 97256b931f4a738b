//! Errands: requests that this process makes on behalf of a key, such as those of a batch.
//!
//! An errand is admitted, limited, priced, held, routed and counted like a request that came in; only no secret is shown.
//! It differs in its end: an answer is not settled by itself but handed out with its usage record, so that whoever keeps
//! the answer can make both durable before either counts. One that is cut or fails costs nothing: it is made again.
//! INVARIANT: an errand ends in exactly one usage record, as every request does: what is dropped unsettled is free.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use galerne_api::error::Code;
use galerne_api::surface::{Call, Dialect};
use galerne_core::batch::Load;
use galerne_core::rating;
use galerne_model::identity::{KeyScope, ServiceTier};
use galerne_model::ids::{EndpointId, KeyId, RequestId};
use galerne_model::inference::RoutingPolicy;
use galerne_model::ledger::{BatchTerms, Operation, Outcome, UsageRecord};
use galerne_model::snapshot::{EndpointEntry, KeyEntry, Snapshot};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use crate::admit::{Room, admit, find_endpoint, visible};
use crate::authenticate::check_key;
use crate::config::{Gateway, Shared};
use crate::line;
use crate::meter::Counted;
use crate::models;
use crate::plain;
use crate::refusal::Refusal;
use crate::request::{Asked, Delivery};
use crate::residency::Demands;
use crate::route::{self, Chain};
use crate::routes::{Unserved, Work};
use crate::ticket::{Ending, Ticket};
use crate::upstream::Answer;
use crate::voice::Voice;

/// A request to make.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Whose it is.
    pub key_id: KeyId,
    /// What kind of work it is.
    pub operation: Operation,
    /// Its body, JSON.
    pub body: Bytes,
    /// For which batch it is made, and what it costs.
    pub batch: BatchTerms,
    /// Countries in which it may be served; anywhere when there are none.
    pub countries: Arc<[String]>,
}

/// What became of an errand.
pub struct Done {
    /// Its id: of its usage record, when there is one.
    pub request_id: RequestId,
    /// HTTP status that a client would have got.
    pub status: u16,
    /// The code of the refusal, when it was refused here.
    pub code: Option<Code>,
    /// When to come back, if it was said.
    pub retry_after: Option<Duration>,
    /// The body that a client would have got, JSON.
    pub body: Bytes,
    /// What an answer has used; absent when there is no answer.
    pub unsettled: Option<Unsettled>,
}

/// What an answer has used and what is not counted yet. Dropped, it costs nothing.
pub struct Unsettled {
    ticket: Ticket,
    ending: Ending,
    _running: TaskTrackerToken,
}

impl Gateway {
    /// Makes a request. Dropped before its end it is cut, and costs nothing.
    pub async fn run(&self, errand: Errand) -> Done {
        let request_id = RequestId::from_uuid(Uuid::now_v7());
        match Box::pin(run(&self.shared, &errand, request_id)).await {
            Ok((body, unsettled)) => {
                Done { request_id, status: 200, code: None, retry_after: None, body, unsettled: Some(unsettled) }
            }
            Err(refusal) => {
                self.shared.metrics.refused(refusal.code);
                Done {
                    request_id,
                    status: refusal.status().as_u16(),
                    code: Some(refusal.code),
                    retry_after: refusal.retry_after,
                    body: refusal.json(Dialect::Union, request_id).into(),
                    unsettled: None,
                }
            }
        }
    }

    /// Why this key may not be used now; absent when it may.
    pub fn key_refused(&self, key_id: KeyId) -> Option<String> {
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        match key_of(&self.shared, &snapshot, key_id) {
            Ok(key) => check_key(&key, self.shared.now()).err().map(|refusal| refusal.message),
            Err(refusal) => Some(refusal.message),
        }
    }

    /// The endpoint that a model's name means to a key, if it does this kind of work.
    pub fn find_model(
        &self,
        key_id: KeyId,
        operation: Operation,
        name: &str,
        countries: &[String],
    ) -> Result<EndpointId, Refusal> {
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        let key = key_of(&self.shared, &snapshot, key_id)?;
        let Some(endpoint) = visible(&snapshot, &key).find(|endpoint| endpoint.name == name) else {
            return Err(models::not_found(&snapshot, &key, name));
        };
        let is_embedding = operation == Operation::Embedding;
        if !(if is_embedding { endpoint.can_embed } else { endpoint.can_chat }) {
            let text = format!("`{name}` does not do this kind of work");
            return Err(Refusal::new(Code::OperationNotSupported, text));
        }
        Demands::of(countries).admit(&snapshot, &key, endpoint)?;
        Ok(endpoint.id)
    }

    /// What the headers of a request demand of something that is kept, in `country` if that is known; `what` says how.
    pub fn countries(&self, headers: &HeaderMap, what: &str, country: Option<&str>) -> Result<Vec<String>, Refusal> {
        Demands::of_kept(headers, what, country).map(Demands::countries)
    }

    /// What an endpoint is doing.
    pub fn load(&self, endpoint_id: EndpointId) -> Load {
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        let Some(endpoint) = snapshot.endpoints.get(&endpoint_id) else { return Load::default() };
        let activity = self.shared.activity.of(endpoint_id);
        let (in_flight, waiting, errands) =
            activity.map_or((0, 0, 0), |activity| (activity.in_flight, activity.waiting, activity.errands));
        let in_line = self.shared.lines.in_line(endpoint_id);
        let now = self.shared.now();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let since = |at: Timestamp| now.as_microsecond().saturating_sub(at.as_microsecond());
        Load {
            replicas: number(endpoint.replicas.len()),
            seats_each: endpoint.replicas.iter().map(|replica| replica.seats).min().flatten(),
            limit: endpoint.limits.concurrent_requests,
            live: number(in_flight.saturating_sub(errands)),
            // Errands wait for nothing but a replica, and then all of them do.
            waiting: number(waiting.saturating_sub(errands).saturating_add(in_line)),
            quiet_micros: activity.and_then(|activity| activity.last_live_at).map(since),
            wakes: endpoint.wakes && !endpoint.paused,
        }
    }
}

impl Unsettled {
    /// The record that settling will write; its sequence is given then.
    pub fn record(&mut self) -> UsageRecord {
        self.ticket.record(self.ending)
    }

    /// Prompt tokens, how many of them were cached, generated tokens.
    pub const fn tokens(&self) -> (i64, i64, i64) {
        let counted = self.ending.counted;
        (counted.prompt, counted.cached, counted.completion)
    }

    /// Writes the usage record.
    pub fn settle(self) {
        self.ticket.settle(self.ending);
    }
}

/// Where keys of errands are in the snapshot, which is by secret: a site has thousands, and each is asked for every moment.
#[derive(Debug, Default)]
pub(crate) struct KeyPlaces(Mutex<HashMap<KeyId, String>>);

/// Keys remembered; a hundred batches of each project may be open.
const KEY_PLACES_MAX: usize = 10_000;

/// The key with this id, whoever has its secret.
fn key_of(shared: &Shared, snapshot: &Snapshot, key_id: KeyId) -> Result<Arc<KeyEntry>, Refusal> {
    let mut places = shared.key_places.0.lock().unwrap_or_else(PoisonError::into_inner);
    let known = places.get(&key_id).and_then(|place| snapshot.keys.get(place)).filter(|key| key.id == key_id);
    if let Some(key) = known {
        return Ok(Arc::clone(key));
    }
    let found = snapshot.keys.iter().find(|(_, key)| key.id == key_id);
    if let Some((place, key)) = found {
        if places.len() >= KEY_PLACES_MAX {
            places.clear();
        }
        places.insert(key_id, place.clone());
        return Ok(Arc::clone(key));
    }
    let text = format!("key `{key_id}` was revoked, or its principal may not act any more");
    Err(Refusal::new(Code::InvalidKey, text))
}

async fn run(shared: &Arc<Shared>, errand: &Errand, request_id: RequestId) -> Result<(Bytes, Unsettled), Refusal> {
    let deadline = Instant::now() + shared.bounds.request;
    let busy =
        || Refusal::new(Code::Overloaded, "this gateway has no place to spare").retry_after(Duration::from_secs(1));
    line::shed(shared, ServiceTier::Flex)?;
    let place = shared.enter().ok_or_else(busy)?;
    let running = shared.tasks.token();
    if shared.draining.is_cancelled() {
        return Err(Refusal::new(Code::Draining, "the server shuts down").retry_after(Duration::from_secs(5)));
    }
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let key = key_of(shared, &snapshot, errand.key_id)?;
    check_key(&key, shared.now())?;
    debug_assert!(key.scopes.contains(&KeyScope::Inference), "checked above");
    let text =
        std::str::from_utf8(&errand.body).map_err(|_| Refusal::new(Code::MalformedJson, "the body is not UTF-8"))?;
    let mut asked = Asked::parse(Dialect::Union, call(errand.operation), text)?;
    if asked.delivery != Delivery::Whole {
        return Err(Refusal::new(Code::InvalidValue, "`stream`: there is nobody to stream to").param("stream"));
    }
    asked.batch = Some(errand.batch);
    let endpoint = find_endpoint(&snapshot, &key, &asked)?;
    let demands = Demands::of(&errand.countries);
    demands.admit(&snapshot, &key, &endpoint)?;
    let room = Room { place, seat: line::take_spare(shared, &endpoint)? };
    let endpoint = priced(&endpoint, errand.batch.price_percent)?;
    // Whatever tier its line asks for, nobody waits behind it.
    asked.serve_in(ServiceTier::Flex);
    let (mut ticket, _) = admit(shared, &snapshot, &key, &endpoint, &mut asked, request_id, room).await?;
    ticket.forgive();
    ticket.route_by(route::prompt(shared, &ticket, &asked));
    let voice = Voice::new(&asked, &endpoint, Dialect::Union, None);
    let chain = Chain::draw(shared, &snapshot, &key, &endpoint, &asked, &errand.body, voice);
    let mut work = Work::new(shared, chain, demands, asked.delivery, endpoint, ticket, deadline);
    let begun = tokio::select! {
        begun = work.ask(shared) => begun,
        () = shared.draining.cancelled() => {
            let refusal = Refusal::new(Code::Draining, "the server shuts down; the request was cut");
            Err(Unserved { refusal, worked: true })
        }
    };
    match begun {
        Ok((Answer::Plain { body, seat }, step)) => {
            route::learn_tokens(shared, &work.ticket, &step.endpoint, step.tokenize_body.as_ref());
            let (response, mut ticket, ending) = plain::prepare(shared, work.ticket, &body, seat, &step).await?;
            ticket.rest(ending.counted);
            let bytes = response.into_body().collect().await;
            let bytes = bytes.map_err(|_| Refusal::new(Code::Internal, "an answer in memory could not be read"))?;
            Ok((bytes.to_bytes(), Unsettled { ticket, ending, _running: running }))
        }
        Ok((Answer::Stream { .. }, _)) => {
            Err(Refusal::new(Code::ReplicaFailed, "the replica answered with a stream where none was asked for"))
        }
        Err(Unserved { refusal, .. }) => {
            let http_status = refusal.status().as_u16();
            work.ticket.settle(Ending { outcome: Outcome::Failed, http_status, counted: Counted::default() });
            Err(refusal)
        }
    }
}

/// How work of a kind is asked for.
const fn call(operation: Operation) -> Call {
    match operation {
        Operation::Chat => Call::Chat,
        Operation::Completion => Call::Completion,
        Operation::Fim => Call::Fim,
        Operation::Embedding => Call::Embedding,
        Operation::Tokenise => Call::Tokenise,
        Operation::Detokenise => Call::Detokenise,
    }
}

/// The same endpoint at another price, and answered by nobody else: a batch waits for what it named.
fn priced(endpoint: &Arc<EndpointEntry>, percent: u8) -> Result<Arc<EndpointEntry>, Refusal> {
    let unpriceable = |error| Refusal::new(Code::Internal, format!("the batch price cannot be computed: {error}"));
    let price = rating::percent_of(&endpoint.price, percent).map_err(unpriceable)?;
    let routing = RoutingPolicy::default();
    Ok(Arc::new(EndpointEntry { price, routing, ..EndpointEntry::clone(endpoint) }))
}
