//! What endpoints and replicas are doing now.

use galerne_model::ids::{EndpointId, ReplicaId};
use galerne_model::units::Milliwatts;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::route::RouteBreaker;

/// What the gateway of this process is doing. Gateways in processes of their own tell of themselves on their `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// When it was looked at.
    pub at: Timestamp,
    /// Gateways in processes of their own that were heard lately; their work is not in the numbers below.
    pub other_gateways: u32,
    /// Every endpoint with its ready replicas.
    pub endpoints: Vec<LiveEndpoint>,
}

/// An endpoint now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveEndpoint {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its name.
    pub name: String,
    /// Requests admitted and not ended.
    pub in_flight: u32,
    /// Requests that wait: for a seat at the endpoint, or for a replica to be ready.
    pub queued: u32,
    /// What its replicas did lately.
    pub rates: LiveRates,
    /// Power of those of its replicas that have a meter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Milliwatts>,
    /// Its ready replicas.
    pub replicas: Vec<LiveReplica>,
}

/// A ready replica now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveReplica {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its name.
    pub name: String,
    /// Requests of this gateway in flight there.
    pub in_flight: u32,
    /// Requests of others, by its last report.
    pub others: u32,
    /// Requests that wait inside it, by its last report.
    pub queued: u32,
    /// Thousandths of its KV cache in use, by its last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_thousandths: Option<u32>,
    /// What it did lately.
    pub rates: LiveRates,
    /// Power by its own meter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Milliwatts>,
    /// Whether it gets requests.
    pub breaker: RouteBreaker,
    /// How often its breaker has opened since the gateway met it.
    pub breaker_openings: u64,
}

/// What was done in the last ten seconds, and times to the first token of the last minute's streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveRates {
    /// Thousandths of requests that ended, per second.
    pub requests_milli: u64,
    /// Thousandths of prompt tokens per second, cached ones included.
    pub prompt_tokens_milli: u64,
    /// Of these, the ones that were not computed again.
    pub cached_tokens_milli: u64,
    /// Thousandths of generated tokens per second.
    pub completion_tokens_milli: u64,
    /// Micros to the first token that half of the streams did not exceed; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_p50_micros: Option<u64>,
    /// The same for 99 in a hundred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_p99_micros: Option<u64>,
}
