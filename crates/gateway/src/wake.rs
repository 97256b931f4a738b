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

/// The endpoint with its ready replicas; waits for one where it can be woken.
pub(crate) async fn replicas(
    shared: &Arc<Shared>,
    endpoint: &Arc<EndpointEntry>,
) -> Result<Arc<EndpointEntry>, Refusal> {
    if endpoint.replicas.is_empty() { wait(shared, endpoint, &[]).await } else { Ok(Arc::clone(endpoint)) }
}

/// Waits for a replica that is none of `dead`, which could not be reached: its process ended and another is started.
/// One that is still listed as ready after [`WAKE_AGAIN`] did not end, so it is asked once more instead of waited for.
pub(crate) async fn replacement(
    shared: &Arc<Shared>,
    endpoint: &Arc<EndpointEntry>,
    dead: &[ReplicaEntry],
) -> Result<Arc<EndpointEntry>, Refusal> {
    wait(shared, endpoint, dead).await
}

async fn wait(
    shared: &Arc<Shared>,
    endpoint: &Arc<EndpointEntry>,
    dead: &[ReplicaEntry],
) -> Result<Arc<EndpointEntry>, Refusal> {
    if !endpoint.wakes {
        return Err(not_ready(endpoint));
    }
    let most = shared.bounds.wake_queue_max;
    let Some(_waiting) = shared.activity.wait(endpoint.id, shared.now(), most) else {
        let text = format!("{most} requests already wait for endpoint `{}` to start", endpoint.name);
        return Err(Refusal::new(Code::Overloaded, text).retry_after(NOT_READY_WAIT));
    };
    let begun = Instant::now();
    let deadline = begun + shared.bounds.wake;
    let mut snapshots = shared.snapshot.clone();
    loop {
        let Some(entry) = snapshots.borrow_and_update().endpoints.get(&endpoint.id).cloned() else {
            let text = format!("endpoint `{}` was deleted meanwhile", endpoint.name);
            return Err(Refusal::new(Code::ModelNotFound, text));
        };
        let believed = begun.elapsed() < WAKE_AGAIN;
        let is_dead =
            |replica: &ReplicaEntry| believed && dead.iter().any(|d| d.id == replica.id && d.url == replica.url);
        let alive: Vec<ReplicaEntry> = entry.replicas.iter().filter(|replica| !is_dead(replica)).cloned().collect();
        if !alive.is_empty() {
            return Ok(Arc::new(EndpointEntry { replicas: alive, ..EndpointEntry::clone(&entry) }));
        }
        if !entry.wakes || Instant::now() >= deadline || shared.draining.is_cancelled() {
            return Err(not_ready(&entry));
        }
        // A full channel means that the wish of another request is on its way.
        if let Err(error) = shared.wake.try_send(Wake { endpoint_id: endpoint.id }) {
            tracing::debug!(%error, endpoint_id = %endpoint.id, "wake not sent");
        }
        let again = deadline.min(Instant::now() + WAKE_AGAIN);
        if let Ok(Err(_)) = timeout_at(again, snapshots.changed()).await {
            return Err(not_ready(&entry));
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
