//! The endpoint loop's decisions: how many replicas an endpoint wants, which start, drain, restart, and why.
//!
//! [`step`] looks at recorded state and at what is seen of the engines, never at what was asked of it before: it can
//! run twice, or after a crash between any two lines, without harm. Actions follow from states, not from
//! transitions, and are idempotent: starting what runs and stopping what is gone do nothing.
//! INVARIANT: a replica's engine is started only while its row says `Starting`.
//! INVARIANT: a ready replica of an older backend is drained only when a newer one is ready in its place, or when
//! the newer one does not fit into memory beside it.
//! Deliberately absent: processes, probes, ids of new replicas (`control` mints them).

mod replica;
mod scale;
mod status;

pub(crate) use status::state_word;

use galerne_model::ids::{NodeId, ReplicaId};
use galerne_model::inference::{
    Abilities, Backend, Endpoint, EndpointStatus, Replica, ReplicaSpec, ReplicaState, ReplicaStatus,
};
use galerne_model::reason::Reason;
use jiff::{SignedDuration, Timestamp};

/// Code of the worker's refusal when a model does not fit into memory.
pub const NOT_ENOUGH_MEMORY: &str = "not_enough_memory";
/// How soon a replica that found no memory tries again while another one of its endpoint is leaving.
const MEMORY_RETRY_MS: u64 = 2_000;

/// Everything the decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The endpoint; absent once it is deleted.
    pub endpoint: Option<&'a Endpoint>,
    /// Its replicas and what is seen of their engines.
    pub replicas: &'a [Sighting],
    /// Where workers can be placed.
    pub node: Option<NodeSeat>,
    /// Whether the model of a worker backend exists.
    pub weights: Weights,
    /// Requests admitted and not ended, those that wait for a replica among them.
    pub in_flight: u32,
    /// When a request last came in or ended, as far as is known.
    pub last_request_at: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// A replica as recorded, and its engine as seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The record.
    pub replica: Replica,
    /// The engine.
    pub engine: Engine,
}

/// What is seen of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// No process is known: never started, stopped as asked, or lost with an earlier control plane.
    Absent,
    /// A process exists and has not said that it is ready.
    Starting,
    /// It takes requests, or should. External servers are always seen so.
    Running(Running),
    /// It ended unasked, and nobody has recorded that yet.
    Ended(Ended),
}

/// A running engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Base URL before `/v1`.
    pub url: String,
    /// Context of one sequence in tokens, as it reported.
    pub context_tokens: Option<u32>,
    /// Sequences decoded together, as it reported.
    pub sequences: Option<u32>,
    /// What its model can, as it reported.
    pub abilities: Option<Abilities>,
    /// Its last probe.
    pub probe: Probe,
}

/// Outcome of the last readiness probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// None has come back yet.
    Pending,
    /// It passed.
    Passed,
    /// It failed.
    Failed {
        /// Why, in words.
        why: String,
    },
}

/// How an engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What that means for the next start.
    pub kind: EndKind,
    /// Stable code, e.g. `worker_crashed`.
    pub code: String,
    /// What happened, one sentence.
    pub text: String,
    /// What to do, if it said.
    pub hint: Option<String>,
}

/// What an end means for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// It may go better next time: soon, then later and later.
    Crashed,
    /// It looked at model and host and said no: another try waits the longest time.
    Refused,
}

/// A node that can take workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeSeat {
    /// It takes new replicas.
    Open(NodeId),
    /// It keeps what it has and takes nothing new.
    Cordoned(NodeId),
}

/// Whether the weights of a backend are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The model exists, or the backend needs none.
    Present,
    /// The model was deleted or never existed.
    Missing,
}

/// What to record and what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Changes to replica rows, to be recorded in one transaction with `status`.
    pub changes: Vec<Change>,
    /// The endpoint's status; absent once it is deleted.
    pub status: Option<EndpointStatus>,
    /// To be done after the transaction.
    pub actions: Vec<Action>,
    /// When to look again if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

/// A change to a replica row.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new replica. It is started on the next look.
    Create {
        /// What it is.
        spec: Box<ReplicaSpec>,
        /// Its first status.
        status: Box<ReplicaStatus>,
    },
    /// Another status.
    Update {
        /// Which replica.
        id: ReplicaId,
        /// Its status.
        status: Box<ReplicaStatus>,
    },
    /// It is over: write the status, then delete the row.
    Remove {
        /// Which replica.
        id: ReplicaId,
        /// Its last status.
        status: Box<ReplicaStatus>,
    },
}

/// Something to do to an engine. All are idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Start it unless a process exists.
    Start(ReplicaId),
    /// Tell it to finish its requests and end.
    Stop(ReplicaId),
    /// End it now.
    Kill(ReplicaId),
    /// Its end is recorded: forget it.
    Forget(ReplicaId),
}

/// Decides what happens to an endpoint and its replicas.
pub fn step(view: &View<'_>) -> Plan {
    let mut pool: Vec<replica::Next> = view.replicas.iter().map(|seen| replica::step(seen, view.now)).collect();
    let scale = scale::wanted(view, &pool);
    let created = view.endpoint.map_or_else(Vec::new, |endpoint| arrange(view, endpoint, &mut pool, &scale));
    if view.endpoint.is_none() {
        for next in &mut pool {
            next.drain("endpoint_deleted", "its endpoint was deleted", view.now);
        }
    }
    let status = view.endpoint.map(|endpoint| status::endpoint(view, endpoint, &pool, created.len(), &scale));
    let actions = pool.iter().flat_map(|next| next.actions.iter().copied()).collect();
    let wake_at =
        pool.iter().filter_map(|next| next.status.deadline_at).chain(scale.sleeps_at).filter(|at| *at > view.now).min();
    let mut changes: Vec<Change> = created
        .into_iter()
        .map(|spec| Change::Create { spec: Box::new(spec), status: Box::new(replica::new_status(view.now)) })
        .collect();
    changes.extend(pool.into_iter().zip(view.replicas).filter_map(|(next, seen)| next.change(&seen.replica)));
    Plan { changes, status, actions, wake_at }
}

/// Drains what is too much or too old and says what is to be created.
fn arrange(view: &View<'_>, endpoint: &Endpoint, pool: &mut [replica::Next], scale: &scale::Scale) -> Vec<ReplicaSpec> {
    let wanted = usize::try_from(scale.wanted).unwrap_or(usize::MAX);
    drain_surplus(pool, wanted, endpoint, scale, view.now);
    drain_replaced(pool, wanted, endpoint, view.now);
    if scale.blocked.is_some() {
        return Vec::new();
    }
    let fresh: Vec<u32> =
        live(pool).filter(|next| next.backend == endpoint.spec.backend).map(|next| next.index).collect();
    // One engine more than wanted while old ones are replaced or drain, so that somebody always answers and memory
    // is not asked for twice.
    let engines = pool.iter().filter(|next| !next.is_over()).count();
    let room = if engines > fresh.len() { (wanted + 1).saturating_sub(engines) } else { usize::MAX };
    let missing = wanted.saturating_sub(fresh.len()).min(room);
    (0..galerne_model::limits::REPLICAS_MAX.max(scale.wanted))
        .filter(|index| !fresh.contains(index))
        .take(missing)
        .map(|index| ReplicaSpec {
            endpoint_id: endpoint.id,
            endpoint_generation: endpoint.generation,
            backend: endpoint.spec.backend.clone(),
            index,
            node_id: scale.node_id,
        })
        .collect()
}

fn drain_surplus(pool: &mut [replica::Next], wanted: usize, endpoint: &Endpoint, scale: &scale::Scale, now: Timestamp) {
    let mut fresh: Vec<&mut replica::Next> =
        pool.iter_mut().filter(|next| next.is_live() && next.backend == endpoint.spec.backend).collect();
    // Whoever is not ready goes first, then the youngest index.
    fresh.sort_by_key(|next| (!next.is_ready(), next.index));
    for next in fresh.into_iter().skip(wanted) {
        next.drain(scale.why_fewer.0, scale.why_fewer.1, now);
    }
}

fn drain_replaced(pool: &mut [replica::Next], wanted: usize, endpoint: &Endpoint, now: Timestamp) {
    let is_fresh = |next: &replica::Next| next.backend == endpoint.spec.backend;
    let ready_fresh = live(pool).filter(|next| is_fresh(next) && next.is_ready()).count();
    let leaving = pool.iter().any(|next| next.status.state == ReplicaState::Draining);
    let lacks_memory = |next: &replica::Next| {
        next.is_live()
            && is_fresh(next)
            && next.status.state == ReplicaState::Backoff
            && next.status.reason.code == NOT_ENOUGH_MEMORY
    };
    let starved = pool.iter().any(&lacks_memory);
    let old_count = live(pool).filter(|next| !is_fresh(next)).count();
    let mut keep = wanted.saturating_sub(ready_fresh);
    if starved && !leaving {
        keep = keep.min(old_count.saturating_sub(1));
    }
    if starved && (leaving || old_count > 0) {
        let soon = after(now, MEMORY_RETRY_MS);
        for next in pool.iter_mut().filter(|next| lacks_memory(next)) {
            next.status.deadline_at = next.status.deadline_at.map(|at| at.min(soon));
        }
    }
    let mut old: Vec<&mut replica::Next> = pool.iter_mut().filter(|next| next.is_live() && !is_fresh(next)).collect();
    old.sort_by_key(|next| (!next.is_ready(), next.index));
    for next in old.into_iter().skip(keep) {
        next.drain("replica_replaced", "the endpoint asks for another backend", now);
    }
}

fn live(pool: &[replica::Next]) -> impl Iterator<Item = &replica::Next> {
    pool.iter().filter(|next| next.is_live())
}

fn is_external(backend: &Backend) -> bool {
    match backend {
        Backend::Worker { .. } => false,
        Backend::External { .. } => true,
    }
}

fn after(now: Timestamp, milliseconds: u64) -> Timestamp {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    now.saturating_add(SignedDuration::from_millis(milliseconds)).unwrap_or(now)
}

/// Whether a recorded deadline has come. One further away than it can ever be set was set by another clock.
fn is_due(deadline: Option<Timestamp>, longest_ms: u64, now: Timestamp) -> bool {
    deadline.is_none_or(|at| at <= now || at > after(now, longest_ms))
}

/// The reason a state shows, from what an engine said at its end.
fn reason_of_end(ended: &Ended) -> Reason {
    let reason = Reason::blocks(&ended.code, ended.text.clone());
    match &ended.hint {
        Some(hint) => {
            Reason { next: vec![galerne_model::reason::NextStep { text: hint.clone(), command: None }], ..reason }
        }
        None => reason,
    }
}

#[cfg(test)]
mod tests;
