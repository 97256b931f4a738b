//! Hearing what engines say of their KV caches.
//!
//! One task per replica that names an address; it comes back when the connection breaks. A message that is missing or not
//! understood makes what was heard worthless: the replica's cache is learnt anew from there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use galerne_core::routing::KvEvent;
use galerne_model::ids::{EndpointId, ReplicaId};
use galerne_model::snapshot::Snapshot;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Shared;

mod msgpack;
mod vllm;
mod zmtp;

/// Longest time from connecting to being subscribed.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence: a link that is dead is not noticed otherwise.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Events taken over while requests wait to be routed.
const EVENTS_AT_ONCE: usize = 256;
/// First pause before coming back; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Who is heard.
#[derive(Default)]
pub(super) struct Hearing {
    heard: BTreeMap<ReplicaId, (String, CancellationToken)>,
    tasks: TaskTracker,
}

impl Hearing {
    /// Hears those that the snapshot names, and no others.
    pub(super) fn keep_up(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot) {
        let mut named = BTreeMap::new();
        for endpoint in snapshot.endpoints.values() {
            for replica in &endpoint.replicas {
                if let Some(address) = &replica.kv_events {
                    named.insert(replica.id, (endpoint.id, address));
                }
            }
        }
        self.heard.retain(|id, (address, stop)| {
            let stays = named.get(id).is_some_and(|(_, named)| *named == address);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (replica_id, (endpoint_id, address)) in named {
            if let Entry::Vacant(place) = self.heard.entry(replica_id) {
                let stop = CancellationToken::new();
                place.insert((address.clone(), stop.clone()));
                self.tasks.spawn(hear(Arc::clone(shared), endpoint_id, replica_id, address.clone(), stop));
            }
        }
    }

    /// Hears nobody any more.
    pub(super) async fn stop(self) {
        for (_, stop) in self.heard.values() {
            stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn hear(
    shared: Arc<Shared>,
    endpoint_id: EndpointId,
    replica_id: ReplicaId,
    address: String,
    stop: CancellationToken,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut messages = 0u64;
        let ended = tokio::select! {
            () = stop.cancelled() => return shared.replicas().untold(replica_id),
            ended = listen(&shared, endpoint_id, replica_id, &address, &mut messages) => ended,
        };
        shared.replicas().untold(replica_id);
        let error = ended.err().map_or_else(String::new, |error| error.to_string());
        tracing::warn!(%replica_id, error, "events of a KV cache are not heard; predictions take their place");
        pause = if messages > 0 { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn listen(
    shared: &Shared,
    endpoint_id: EndpointId,
    replica_id: ReplicaId,
    address: &str,
    messages: &mut u64,
) -> std::io::Result<()> {
    let subscribed = async {
        let mut socket = TcpStream::connect(address.trim_start_matches("tcp://")).await?;
        zmtp::subscribe(&mut socket).await?;
        Ok::<_, std::io::Error>(socket)
    };
    let mut socket = timeout(SUBSCRIBE_TIMEOUT, subscribed).await.map_err(std::io::Error::from)??;
    tracing::info!(%replica_id, "events of a KV cache are heard");
    let mut next: Option<u64> = None;
    loop {
        // A host that vanished says nothing, and neither does one without requests: joining again costs little.
        let heard = timeout(SILENCE_MAX, zmtp::message(&mut socket)).await;
        let frames = heard.map_err(std::io::Error::from)??;
        *messages += 1;
        let [.., number, payload] = frames.as_slice() else { continue };
        let number = <[u8; 8]>::try_from(number.as_slice()).ok().map(u64::from_be_bytes);
        let is_missing = next.is_some() && number != next;
        next = number.map(|number| number.wrapping_add(1));
        let now = shared.now();
        let Ok(events) = vllm::read(payload) else {
            shared.replicas().told(endpoint_id, replica_id, &KvEvent::Cleared, now);
            continue;
        };
        if is_missing {
            shared.replicas().told(endpoint_id, replica_id, &KvEvent::Cleared, now);
        }
        // In groups, between which requests are routed.
        for some in events.chunks(EVENTS_AT_ONCE) {
            {
                let mut book = shared.replicas();
                some.iter().for_each(|event| book.told(endpoint_id, replica_id, event, now));
            }
            tokio::task::yield_now().await;
        }
    }
}
