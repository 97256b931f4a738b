//! How many replicas an endpoint wants now.
//!
//! Replicas are added at once when more requests run or wait than the ready ones decode together, and given back
//! after `idle_seconds` without a request: one rule for one replica less and for none at all.

use galerne_model::ids::NodeId;
use galerne_model::inference::{Backend, Endpoint, ReplicaState};
use galerne_model::limits::REPLICAS_MAX;
use galerne_model::reason::Reason;
use jiff::{SignedDuration, Timestamp};

use super::replica::Next;
use super::{NodeSeat, View, Weights};

/// What is wanted, and what stands in its way.
#[derive(Debug)]
pub(super) struct Scale {
    pub(super) wanted: u32,
    /// Code and text for replicas that are too many.
    pub(super) why_fewer: (&'static str, &'static str),
    /// Why no replica can be created.
    pub(super) blocked: Option<Reason>,
    /// Where new replicas run; absent for external servers.
    pub(super) node_id: Option<NodeId>,
    /// When the endpoint counts as idle if no request comes.
    pub(super) sleeps_at: Option<Timestamp>,
}

pub(super) fn wanted(view: &View<'_>, pool: &[Next]) -> Scale {
    let none = Scale {
        wanted: 0,
        why_fewer: ("endpoint_deleted", "its endpoint was deleted"),
        blocked: None,
        node_id: None,
        sleeps_at: None,
    };
    let Some(endpoint) = view.endpoint else { return none };
    if endpoint.spec.paused {
        return Scale { why_fewer: ("endpoint_paused", "its endpoint is paused"), ..none };
    }
    match &endpoint.spec.backend {
        Backend::External { urls, .. } => {
            let wanted = u32::try_from(urls.len()).unwrap_or(REPLICAS_MAX).min(REPLICAS_MAX);
            Scale { wanted, why_fewer: ("url_removed", "its address was removed"), ..none }
        }
        Backend::Worker { .. } => {
            let sleeps_at = idle_from(view, endpoint, pool);
            let is_idle = sleeps_at.is_none_or(|at| at <= view.now);
            let floor = endpoint.spec.replicas_min.min(REPLICAS_MAX);
            let most = endpoint.spec.replicas_max.clamp(floor.max(1), REPLICAS_MAX);
            let wanted = if is_idle {
                floor
            } else {
                floor.max(1).max(endpoint.status.replicas_wanted).max(by_load(view, pool)).min(most)
            };
            let (blocked, node_id) = place(view, endpoint);
            let sleeps_at = sleeps_at.filter(|_| wanted > floor);
            Scale {
                wanted,
                why_fewer: ("endpoint_idle", "its endpoint needs fewer replicas"),
                blocked,
                node_id,
                sleeps_at,
            }
        }
    }
}

/// Replicas that requests running and waiting now would fill.
fn by_load(view: &View<'_>, pool: &[Next]) -> u32 {
    let sequences = pool.iter().filter_map(|next| next.status.sequences).max().unwrap_or(1).max(1);
    view.in_flight.div_ceil(sequences)
}

/// When the endpoint counts as idle if no request comes; nothing when it is idle for want of any request.
fn idle_from(view: &View<'_>, endpoint: &Endpoint, pool: &[Next]) -> Option<Timestamp> {
    let patience = SignedDuration::from_secs(i64::from(endpoint.spec.idle_seconds));
    let is_busy = view.in_flight > 0;
    let is_waking = pool.iter().any(|next| next.status.state == ReplicaState::Starting);
    // A replica that has just become ready for a waiting request has not been idle yet.
    let became_ready = pool.iter().filter(|next| next.is_ready()).map(|next| next.status.since).max();
    let seen = if is_busy || is_waking { Some(view.now) } else { view.last_request_at.max(became_ready) };
    // A request that lies further ahead than any idle time was seen by another clock.
    let seen = seen.filter(|at| at.duration_since(view.now) < patience.max(SignedDuration::from_secs(1)))?;
    seen.saturating_add(patience).ok()
}

fn place(view: &View<'_>, endpoint: &Endpoint) -> (Option<Reason>, Option<NodeId>) {
    let name = &endpoint.name;
    match (view.weights, view.node) {
        (Weights::Missing, Some(NodeSeat::Open(_) | NodeSeat::Cordoned(_)) | None) => {
            let reason = Reason::blocks("model_missing", "the model it serves does not exist any more");
            (
                Some(
                    reason
                        .next("see which models there are", "galerne model list")
                        .next("delete it and make it anew", format!("galerne endpoint delete {name}")),
                ),
                None,
            )
        }
        (Weights::Present, None) => {
            (Some(Reason::blocks("no_node", "no node is enrolled that could run a worker")), None)
        }
        (Weights::Present, Some(NodeSeat::Cordoned(_))) => {
            let reason = Reason::blocks("node_cordoned", "the node is cordoned and takes no new replicas");
            (Some(reason.next("let it take replicas again", "galerne node uncordon NODE")), None)
        }
        (Weights::Present, Some(NodeSeat::Open(id))) => (None, Some(id)),
    }
}
