//! The choice of a replica, at the edge: the clock, chance and what replicas report; `galerne_core::routing` decides.
//!
//! INVARIANT: a seat is counted from the choice to the drop of its guard, whatever ends the request.

mod chain;
mod events;
mod report;
mod shadow;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use galerne_core::routing::{self, Counts, Ending, Prompt, Seat, Secret, Wanted, Weighed};
use galerne_model::ids::{EndpointId, ReplicaId, TenantId};
use galerne_model::ledger::Operation;
use galerne_model::snapshot::{EndpointEntry, ReplicaEntry};
use tokio::task::JoinSet;

use crate::board::{Cell, FailureClass};
use crate::config::Shared;
use crate::meter::Counted;
use crate::request::{Asked, Fields};
use crate::segments::Segments;
use crate::ticket::Ticket;
use crate::upstream;

pub(crate) use chain::{Chain, Part, Step, may_go_on, most};
pub(crate) use shadow::{Shadows, send as send_shadow};

/// How often replicas are asked what they do, and judged.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// A replica that takes longer to say what it does says it the next time.
const REPORT_TIMEOUT: Duration = Duration::from_millis(800);
/// Replicas asked at the same time.
const REPORTS_AT_ONCE: usize = 32;
/// Prompts whose tokens are asked for at the same time.
pub(crate) const TOKENISING_MAX: usize = 4;
/// Longest report: vLLM's with all its histograms has about 100 KiB.
const REPORT_MAX_BYTES: usize = 1024 * 1024;

/// How a request would be routed now.
#[derive(Debug, Clone, Default)]
pub struct RouteView {
    /// The ready replicas, weighed.
    pub replicas: Vec<Weighed>,
    /// The position of the one that would be chosen.
    pub chosen: Option<usize>,
    /// Bytes that the prefix index has now, and the most it may have.
    pub index_bytes: (usize, usize),
}

/// The key under which prompts are hashed: of this process, made by chance, never shown.
pub(crate) fn secret() -> Secret {
    let chance = RandomState::new();
    Secret([chance.hash_one(1), chance.hash_one(2)])
}

/// Where draws begin.
pub(crate) fn first_chance() -> u64 {
    RandomState::new().hash_one(3)
}

impl Shared {
    /// A number by chance.
    pub(crate) fn draw(&self) -> u64 {
        routing::next(self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }
}

/// What routing wants to know of a request.
pub(crate) fn prompt(shared: &Shared, ticket: &Ticket, asked: &Asked<'_>) -> Prompt {
    match ticket.operation() {
        Operation::Chat | Operation::Completion | Operation::Fim | Operation::Embedding => {
            let secret = shared.replicas().secret();
            Prompt::new(secret, ticket.tenant_id(), ticket.endpoint_id(), &prompt_parts(asked.fields()))
        }
        // Nothing is computed, so nobody has it afterwards.
        Operation::Tokenise | Operation::Detokenise => Prompt::default(),
    }
}

/// What the model reads, in its order, as the caller wrote it; without the end of a conversation, where the next turn goes
/// on.
fn prompt_parts<'a>(fields: &Fields<'a>) -> Vec<&'a [u8]> {
    let values = ["tools", "messages", "prompt", "input", "inputs"].iter().filter_map(|name| fields.get(name));
    values.map(|value| value.get().trim_end_matches([']', '"']).as_bytes()).collect()
}

/// Takes a seat on the replica that costs this request least; `avoid` are those whose attempts have failed.
pub(crate) fn choose<'a>(
    shared: &Arc<Shared>,
    ticket: &Ticket,
    ready: &'a [ReplicaEntry],
    avoid: &[ReplicaId],
) -> Option<(SeatGuard, &'a ReplicaEntry)> {
    sit(shared, ticket.endpoint_id(), ticket.prompt(), ready, avoid)
}

fn sit<'a>(
    shared: &Arc<Shared>,
    endpoint_id: EndpointId,
    prompt: &Prompt,
    ready: &'a [ReplicaEntry],
    avoid: &[ReplicaId],
) -> Option<(SeatGuard, &'a ReplicaEntry)> {
    let wanted = Wanted { endpoint_id, prompt };
    let (chance, now) = (shared.draw(), shared.now());
    let seat = shared.replicas().choose(&wanted, ready, avoid, chance, now)?;
    let at = ready.binary_search_by_key(&seat.replica(), |replica| replica.id);
    let cell = shared.board.cell(endpoint_id, seat.replica());
    let guard = SeatGuard { shared: Arc::clone(shared), seat: Some(seat), counted: None, cell };
    Some((guard, ready.get(at.ok()?)?))
}

/// `body` is that of a request of `tenant_id`; what is no JSON object is taken for the prompt itself.
pub(crate) fn explain(shared: &Shared, endpoint_id: EndpointId, tenant_id: TenantId, body: &str) -> Option<RouteView> {
    let endpoint = shared.snapshot.borrow().endpoints.get(&endpoint_id).cloned()?;
    let fields = serde_json::from_str::<Fields<'_>>(body);
    let parts = fields.as_ref().map_or_else(|_| vec![body.as_bytes()], prompt_parts);
    let (chance, now) = (shared.draw(), shared.now());
    let mut book = shared.replicas();
    let prompt = Prompt::new(book.secret(), tenant_id, endpoint_id, &parts);
    let wanted = Wanted { endpoint_id, prompt: &prompt };
    let (replicas, chosen) = book.explain(&wanted, &endpoint.replicas, chance, now);
    Some(RouteView { replicas, chosen, index_bytes: (book.index_bytes(), shared.bounds.prefix_index_bytes) })
}

/// A seat on a replica; dropped without a word, the client left.
pub(crate) struct SeatGuard {
    shared: Arc<Shared>,
    seat: Option<Seat>,
    counted: Option<Counts>,
    cell: Arc<Cell>,
}

impl SeatGuard {
    /// The first token came.
    pub(crate) fn first_token(&mut self) {
        if let Some(seat) = &mut self.seat {
            let now = self.shared.now();
            self.shared.replicas().first_token(seat, now);
        }
    }

    /// What the engine counted, for the rates of its replica.
    pub(crate) fn counted(&mut self, counted: Counted) {
        let count = |tokens: i64| u64::try_from(tokens).unwrap_or(0);
        let Counted { prompt, cached, completion, .. } = counted;
        let counts = Counts { prompt: count(prompt), cached: count(cached), completion: count(completion) };
        if let Some(seat) = &self.seat {
            self.shared.metrics.routed(counts, seat.predicted());
        }
        self.counted = Some(counts);
    }

    pub(crate) fn release(mut self, ending: Ending) {
        self.end(ending);
    }

    /// Gives the seat back; the second time nothing happens.
    pub(crate) fn end(&mut self, ending: Ending) {
        if let Some(seat) = self.seat.take() {
            let now = self.shared.now();
            self.shared.replicas().release(seat, ending, self.counted.take(), now);
            if let Some(class) = FailureClass::of(ending) {
                self.cell.failed(class);
            }
        }
    }
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        self.end(Ending::Cancelled);
    }
}

/// Asks replicas what they do, and judges them, until the gateway stops. Where there is no choice nobody is asked.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut known = std::collections::BTreeMap::<ReplicaId, String>::new();
    let mut hearing = events::Hearing::default();
    loop {
        let snapshot = Arc::clone(&shared.snapshot.borrow());
        let now = shared.now();
        let mut ready = std::collections::BTreeMap::new();
        for endpoint in snapshot.endpoints.values() {
            for replica in &endpoint.replicas {
                if known.get(&replica.id).is_some_and(|url| *url != replica.url) {
                    shared.replicas().restarted(replica.id, now);
                }
                ready.insert(replica.id, replica.url.clone());
            }
            if endpoint.replicas.len() > 1 {
                for (replica_id, until) in shared.replicas().judge(endpoint.id, &endpoint.replicas, now) {
                    shared.metrics.set_aside.inc();
                    tracing::warn!(%replica_id, %until, "replica set aside: its errors or its pace are far from the others'");
                }
            }
        }
        known = ready;
        hearing.keep_up(&shared, &snapshot);
        let asked = snapshot.endpoints.values().filter(|endpoint| endpoint.replicas.len() > 1);
        let replicas: Vec<ReplicaEntry> = asked.flat_map(|endpoint| endpoint.replicas.iter().cloned()).collect();
        tokio::select! {
            () = shared.stopped() => break,
            () = async {
                ask_all(&shared, replicas).await;
                tokio::time::sleep(WATCH_INTERVAL).await;
            } => {}
        }
    }
    hearing.stop().await;
}

/// Asks a replica that tells of its KV cache for the tokens of a prompt that nobody knows yet, in the background: only by
/// them can what it has be found again, whoever answered this time. `question` is the body for its `/tokenize`.
pub(crate) fn learn_tokens(
    shared: &Arc<Shared>,
    ticket: &Ticket,
    endpoint: &EndpointEntry,
    question: Option<&Segments>,
) {
    let telling = || endpoint.replicas.iter().filter(|replica| replica.kv_events.is_some());
    let (Some(question), Some(_)) = (question, telling().next()) else { return };
    let (now, endpoint_id) = (shared.now(), ticket.endpoint_id());
    let wants = {
        let book = shared.replicas();
        telling().find_map(|replica| Some((replica.clone(), book.wants_tokens(replica.id, ticket.prompt(), now)?)))
    };
    let Some((replica, block_tokens)) = wants else { return };
    // Those that find no room are asked by the next request that begins alike.
    let Ok(room) = Arc::clone(&shared.tokenising).try_acquire_owned() else { return };
    let (shared, prompt, question) = (Arc::clone(shared), ticket.prompt().clone(), question.clone());
    shared.clone().tasks.spawn(Box::pin(async move {
        let _room = room;
        if let Some(tokens) = upstream::tokens(&shared, &replica, &question).await {
            let now = shared.now();
            shared.replicas().learn_tokens(endpoint_id, &prompt, &tokens, block_tokens, now);
        }
    }));
}

async fn ask_all(shared: &Arc<Shared>, replicas: Vec<ReplicaEntry>) {
    let mut asking = JoinSet::new();
    for replica in replicas {
        if asking.len() >= REPORTS_AT_ONCE {
            // Reports that a panic lost are missing, nothing else.
            drop(asking.join_next().await);
        }
        let shared = Arc::clone(shared);
        asking.spawn(async move {
            let body = upstream::fetch(&shared, &replica, "/metrics", REPORT_MAX_BYTES, REPORT_TIMEOUT).await;
            let report = body.as_deref().and_then(|body| report::read(std::str::from_utf8(body).ok()?));
            if let Some(report) = report {
                let now = shared.now();
                shared.replicas().report(replica.id, report, now);
            }
        });
    }
    while asking.join_next().await.is_some() {}
}
