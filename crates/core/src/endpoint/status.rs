//! The status an endpoint shows: its state and the tree of reasons behind it.

use galerne_model::inference::{Endpoint, EndpointState, EndpointStatus, ReplicaState};
use galerne_model::reason::Reason;
use jiff::SignedDuration;

use super::replica::Next;
use super::scale::Scale;
use super::{View, Weights};

/// How stale the recorded time of the last request may be: it is written at most this often for its own sake.
const LAST_REQUEST_STALE: SignedDuration = SignedDuration::from_secs(60);

pub(super) fn endpoint(
    view: &View<'_>,
    endpoint: &Endpoint,
    pool: &[Next],
    created: usize,
    scale: &Scale,
) -> EndpointStatus {
    let live: Vec<&Next> = pool.iter().filter(|next| next.is_live()).collect();
    let ready = count(live.iter().filter(|next| next.is_ready()).count());
    let failing = live.iter().any(|next| match next.status.state {
        ReplicaState::Backoff | ReplicaState::Unready => true,
        // A start that follows a failed one has not yet shown that it goes better.
        ReplicaState::Starting => next.status.restarts > 0,
        ReplicaState::Ready | ReplicaState::Draining | ReplicaState::Stopped => false,
    });
    let is_short = live.len() + created < usize::try_from(scale.wanted).unwrap_or(usize::MAX);
    // What runs may be restarted on a cordoned node, but nothing starts without its weights.
    let is_blocked = scale.blocked.is_some() && (is_short || view.weights == Weights::Missing);
    let state = if endpoint.spec.paused {
        EndpointState::Paused
    } else if scale.wanted == 0 {
        EndpointState::Asleep
    } else if ready < scale.wanted && (failing || is_blocked) {
        EndpointState::Degraded
    } else if ready > 0 {
        EndpointState::Ready
    } else {
        EndpointState::Starting
    };
    let mut reason = headline(state, endpoint, ready, scale.wanted);
    if state == EndpointState::Degraded
        && let Some(blocked) = &scale.blocked
    {
        reason.because.push(blocked.clone());
    }
    reason.because.extend(pool.iter().filter(|next| next.status.state != ReplicaState::Stopped).map(of_replica));
    let status = EndpointStatus {
        state,
        replicas_ready: ready,
        replicas_wanted: scale.wanted,
        observed_generation: endpoint.generation,
        reason,
        last_request_at: endpoint.status.last_request_at,
    };
    with_last_request(status, view, endpoint)
}

fn headline(state: EndpointState, endpoint: &Endpoint, ready: u32, wanted: u32) -> Reason {
    let name = &endpoint.name;
    match state {
        EndpointState::Ready => {
            Reason::holds("endpoint_ready", format!("{ready} of {wanted} {} ready", replicas_are(wanted)))
        }
        EndpointState::Starting => {
            Reason::blocks("endpoint_starting", format!("none of {wanted} {} ready yet", replicas_are(wanted)))
                .next("watch it come up", format!("galerne endpoint show {name}"))
        }
        EndpointState::Asleep => {
            Reason::holds("endpoint_asleep", "it is scaled to zero; the next request wakes it and waits")
                .next("wake it", format!("galerne chat {name}"))
        }
        EndpointState::Degraded => Reason::blocks(
            "endpoint_degraded",
            format!("{ready} of {wanted} {} ready and something is in the way", replicas_are(wanted)),
        )
        .next("see each replica's state; its log is in the data directory", "galerne replica list"),
        EndpointState::Paused => Reason::blocks("endpoint_paused", "a person paused it")
            .next("let it take requests again", format!("galerne endpoint resume {name}")),
    }
}

fn of_replica(next: &Next) -> Reason {
    let mut reason = next.status.reason.clone();
    let state = state_word(next.status.state);
    reason.text = format!("replica {} is {state}: {}", next.index, reason.text);
    reason
}

fn with_last_request(status: EndpointStatus, view: &View<'_>, endpoint: &Endpoint) -> EndpointStatus {
    let is_fresh_enough = match (view.last_request_at, status.last_request_at) {
        (Some(seen), Some(recorded)) => seen.duration_since(recorded).abs() < LAST_REQUEST_STALE,
        (None, Some(_) | None) => true,
        (Some(_), None) => false,
    };
    if is_fresh_enough && status == endpoint.status {
        return status;
    }
    EndpointStatus { last_request_at: view.last_request_at.or(status.last_request_at), ..status }
}

fn replicas_are(count: u32) -> &'static str {
    if count == 1 { "replica is" } else { "replicas are" }
}

/// The word a person reads for a state.
pub(crate) fn state_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Starting => "starting",
        ReplicaState::Ready => "ready",
        ReplicaState::Unready => "not ready",
        ReplicaState::Draining => "draining",
        ReplicaState::Backoff => "waiting for its next start",
        ReplicaState::Stopped => "stopped",
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
