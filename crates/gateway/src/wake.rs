//! Waiting for a replica: a request on a sleeping endpoint is held, not refused, while the endpoint comes back.

use std::sync::Arc;
use std::time::Duration;

use galerne_api::error::Code;
use galerne_model::snapshot::{EndpointEntry, ReplicaEntry};
use tokio::time::{Instant, timeout_at};

use crate::config::{Shared, Wake};
use crate::refusal::Refusal;

/// How often the wish for a replica is repeated while a request waits; the control plane may have been restarted.
const WAKE_AGAIN: Duration = Duration::from_secs(2);
/// Wait proposed when no replica came.
const NOT_READY_WAIT: Duration = Duration::from_secs(2);

/// The ready replicas of an endpoint; waits for one where the endpoint can be woken.
pub(crate) async fn replicas(
    shared: &Arc<Shared>,
    endpoint: &Arc<EndpointEntry>,
) -> Result<Vec<ReplicaEntry>, Refusal> {
    if !endpoint.replicas.is_empty() {
        return Ok(endpoint.replicas.clone());
    }
    if !endpoint.wakes {
        return Err(not_ready(endpoint));
    }
    let most = shared.bounds.wake_queue_max;
    let Some(_waiting) = shared.activity.wait(endpoint.id, shared.now(), most) else {
        let text = format!("{most} requests already wait for endpoint `{}` to start", endpoint.name);
        return Err(Refusal::new(Code::Overloaded, text).retry_after(NOT_READY_WAIT));
    };
    let deadline = Instant::now() + shared.bounds.wake;
    let mut snapshots = shared.snapshot.clone();
    loop {
        // A full channel means that the wish of another request is on its way.
        if let Err(error) = shared.wake.try_send(Wake { endpoint_id: endpoint.id }) {
            tracing::debug!(%error, endpoint_id = %endpoint.id, "wake not sent");
        }
        let again = deadline.min(Instant::now() + WAKE_AGAIN);
        let changed = timeout_at(again, snapshots.changed()).await;
        let now_there = snapshots.borrow_and_update().endpoints.get(&endpoint.id).cloned();
        match now_there {
            Some(entry) if !entry.replicas.is_empty() => return Ok(entry.replicas.clone()),
            Some(entry) if Instant::now() >= deadline => return Err(not_ready(&entry)),
            Some(_) => {}
            None => {
                return Err(Refusal::new(
                    Code::ModelNotFound,
                    format!("endpoint `{}` was deleted meanwhile", endpoint.name),
                ));
            }
        }
        let closed = matches!(changed, Ok(Err(_)));
        if closed || shared.draining.is_cancelled() {
            return Err(not_ready(endpoint));
        }
    }
}

fn not_ready(endpoint: &EndpointEntry) -> Refusal {
    let name = &endpoint.name;
    let because = &endpoint.not_ready_because;
    let why = if because.is_empty() { String::new() } else { format!(": {because}") };
    let text = format!("endpoint `{name}` has no ready replica{why}; hint: galerne why endpoint {name}");
    Refusal::new(Code::NoReadyReplica, text).retry_after(NOT_READY_WAIT)
}
