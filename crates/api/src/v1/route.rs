//! How a request for an endpoint would be routed now.

use galerne_model::ids::{EndpointId, ReplicaId};
use galerne_model::inference::RoutingPolicy;
use galerne_model::reason::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which request is asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteQuestion {
    /// The body of a request byte for byte, or a prompt alone; absent asks about one that shares nothing with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// How it would be routed now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteExplained {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its name.
    pub name: String,
    /// Which replica would be chosen, and why.
    pub reason: Reason,
    /// The replica that would be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ReplicaId>,
    /// Tokens of the prompt, by the bytes of earlier ones.
    pub prompt_tokens: u64,
    /// Ready replicas.
    pub replicas: Vec<RouteReplica>,
    /// Where requests go besides these.
    pub routing: RoutingPolicy,
    /// Bytes of the gateway's prefix index.
    pub index_bytes: u64,
    /// The most it may have.
    pub index_bytes_max: u64,
}

/// One replica, weighed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteReplica {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its name.
    pub name: String,
    /// Whether it was compared; of many replicas a sample is.
    pub compared: bool,
    /// Whether it gets requests.
    pub breaker: RouteBreaker,
    /// When its rest ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Requests of this gateway in flight there.
    pub in_flight: u32,
    /// Requests of others, by its last report.
    pub others: u32,
    /// Prompt tokens still to be computed there.
    pub prompt_tokens_ahead: u64,
    /// Thousandths of its KV cache in use, by its last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_thousandths: Option<u32>,
    /// Tokens of the prompt it is believed to have.
    pub cached_tokens: u64,
    /// What it costs this request.
    pub cost: RouteCost,
}

/// A cost and its parts, in micros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteCost {
    /// Prompt tokens of others ahead.
    pub queue_micros: u64,
    /// Prompt tokens of the request that are not cached.
    pub prompt_micros: u64,
    /// Decoding its answer beside others, and what that makes theirs longer.
    pub decode_micros: u64,
    /// The wall before a full KV cache.
    pub kv_micros: u64,
    /// Pace beside its like, in thousandths.
    pub pace_thousandths: u64,
    /// Factor of a replica that has just joined, in thousandths.
    pub ramp_thousandths: u64,
    /// The sum of the parts times the factors.
    pub total_micros: u64,
}

/// Whether a replica gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteBreaker {
    /// It does.
    Closed,
    /// It rested after failures; the next request tries it.
    HalfOpen,
    /// A request is trying it.
    Trying,
    /// It is set aside: its errors or its pace are far from the others'.
    Aside,
    /// It rests after failures.
    Open,
}
