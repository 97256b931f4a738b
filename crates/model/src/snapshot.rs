//! What the gateway knows: everything it needs to authenticate, admit, route and price without asking anybody.
//!
//! The control plane publishes a new value on each change; the gateway swaps it whole. To gateways in processes of their own
//! it goes as [`Changes`] from the value before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{KeyScope, ModelLimits, RateLimits, ServiceTier};
use crate::ids::{BudgetId, EndpointId, KeyId, PriceBookId, PrincipalId, ProjectId, ReplicaId, TenantId};
use crate::inference::{Abilities, RoutingPolicy, Visibility};
use crate::ledger::EnergyMethod;
use crate::money::{Amounts, BudgetLimits, BudgetSubject, TokenPrice};
use crate::units::Milliwatts;

mod changes;

pub use changes::{Changes, EntryChanges};

/// Routes, keys, prices and limits at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Keys by the hex HMAC of the secret.
    pub keys: HashMap<String, Arc<KeyEntry>>,
    /// Endpoints by id.
    pub endpoints: BTreeMap<EndpointId, Arc<EndpointEntry>>,
    /// What projects may do.
    pub projects: HashMap<ProjectId, ProjectEntry>,
    /// Budgets in force, by whose spending they count: of a key, the first one of its line.
    pub budgets: BTreeMap<BudgetSubject, Vec<BudgetEntry>>,
    /// The first key of the line, for every key that follows another by rotation.
    pub lines: HashMap<KeyId, KeyId>,
    /// Energy and carbon of this node's CPU time.
    pub energy: EnergyRate,
}

impl Snapshot {
    /// The first key of a key's line: the key itself unless it follows another by rotation. What a line spends, all
    /// its keys spend together.
    pub fn line_of(&self, key_id: KeyId) -> KeyId {
        self.lines.get(&key_id).copied().unwrap_or(key_id)
    }

    /// Puts a budget with the others of its subject.
    pub fn add_budget(&mut self, budget: BudgetEntry) {
        self.budgets.entry(budget.subject).or_default().push(budget);
    }
}

/// A key that may be used until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key.
    pub id: KeyId,
    /// Tenant it belongs to.
    pub tenant_id: TenantId,
    /// Project it spends in.
    pub project_id: ProjectId,
    /// Who acts.
    pub principal_id: PrincipalId,
    /// What it may be used for.
    pub scopes: Vec<KeyScope>,
    /// Whether the principal's roles allow inference in the project.
    pub may_infer: bool,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Limits of the key alone.
    pub limits: RateLimits,
    /// Its limits for single models.
    pub model_limits: Vec<ModelLimits>,
    /// The highest tier it may ask for; absent: the project's.
    pub service_tier: Option<ServiceTier>,
}

/// What the keys of a project may do together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectEntry {
    /// Limits of all its keys together.
    pub limits: RateLimits,
    /// Its limits for single models.
    pub model_limits: Vec<ModelLimits>,
    /// The highest tier its keys may ask for; absent: `default`.
    pub service_tier: Option<ServiceTier>,
}

/// An endpoint and the replicas behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointEntry {
    /// The endpoint.
    pub id: EndpointId,
    /// The name callers use as `model`.
    pub name: String,
    /// Owner.
    pub tenant_id: TenantId,
    /// Owning project.
    pub project_id: ProjectId,
    /// Who may call it.
    pub visibility: Visibility,
    /// When it was created, for `/v1/models`.
    pub created_at: Timestamp,
    /// Longest prompt plus completion of one request, in tokens.
    pub context_tokens: u32,
    /// Whether it answers chat and completions.
    pub can_chat: bool,
    /// Whether it answers embeddings.
    pub can_embed: bool,
    /// What the model can beyond that, as its replicas say; nothing while none has said so.
    #[serde(default)]
    pub abilities: Abilities,
    /// Whether callers are refused.
    pub paused: bool,
    /// Whether it may be woken from zero.
    pub wakes: bool,
    /// Why it has no ready replica, one sentence; empty when it has.
    pub not_ready_because: String,
    /// Limits for all callers together.
    pub limits: RateLimits,
    /// Price in force.
    pub price: TokenPrice,
    /// Price book it came from.
    pub price_book_id: Option<PriceBookId>,
    /// The most energy a token is expected to take; absent when the energy of its replicas is not known at all.
    pub energy_bound: Option<EnergyBound>,
    /// Country its replicas stand in, two letters; absent when nobody has said so.
    pub residency: Option<String>,
    /// The name the replicas know the model by.
    pub upstream_model: String,
    /// Where its requests go besides its own replicas.
    pub routing: RoutingPolicy,
    /// Replicas that passed their last probe, sorted by id.
    pub replicas: Vec<ReplicaEntry>,
}

/// A replica that takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaEntry {
    /// The replica.
    pub id: ReplicaId,
    /// Base URL before `/v1`.
    pub url: String,
    /// How its energy is obtained.
    pub energy: ReplicaEnergy,
    /// Where it publishes what is in its KV cache, `tcp://HOST:PORT`.
    pub kv_events: Option<String>,
    /// Whether its energy is read by a meter of its own: then the times of its work are noted.
    #[serde(default)]
    pub is_metered: bool,
    /// Sequences it computes together, when its engine says.
    #[serde(default)]
    pub seats: Option<u32>,
}

/// How the energy of a request on a replica is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaEnergy {
    /// The worker reports CPU time; multiply by the node's rate.
    CpuTime,
    /// Wall time at a stated power.
    StatedPower(Milliwatts),
    /// Not reported.
    Unknown,
}

/// The most energy a token is expected to take, for holds under budgets of energy and carbon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyBound {
    /// Microjoules of one prompt token.
    pub prompt_microjoules: i64,
    /// Microjoules of one generated token.
    pub completion_microjoules: i64,
    /// Where the numbers come from.
    pub source: EnergyBoundSource,
}

/// Where an [`EnergyBound`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnergyBoundSource {
    /// What the endpoint's requests took lately, by the ledger, with a margin.
    Ledger,
    /// Nothing is in the ledger yet: what a large model takes.
    Assumed,
}

/// Energy and carbon of CPU time on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyRate {
    /// Power of one busy CPU above idle.
    pub active: Milliwatts,
    /// How a request's energy is then tagged.
    pub method: Option<EnergyMethod>,
    /// Carbon intensity now, in milligrams CO₂e per kWh.
    pub intensity_mg_per_kwh: i64,
}

/// A budget's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetEntry {
    /// The budget.
    pub id: BudgetId,
    /// Its name.
    pub name: String,
    /// Whose spending counts.
    pub subject: BudgetSubject,
    /// The most that may be spent in the period, of each commodity it limits.
    pub limits: BudgetLimits,
    /// When the running period ends; absent for budgets that never start again.
    pub period_end: Option<Timestamp>,
}

/// What the ledger has settled, and up to which record of this gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    /// Records of this gateway's spool up to here are in `spent`.
    pub settled_sequence: i64,
    /// Settled in the running period, by budget; a budget in force always has an entry.
    pub spent: HashMap<BudgetId, PeriodSpending>,
    /// Shares lent by changes up to this number are in `spent`.
    pub loans: i64,
}

/// What was settled under a budget in one of its periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodSpending {
    /// Whose spending it is; of a key, the first one of its line.
    pub subject: BudgetSubject,
    /// Start of the period: a record counts in the period in which its request was admitted (`started_at`).
    pub period_start: Timestamp,
    /// When the period ends; absent when never. From then on nothing is granted until the next period is published.
    pub period_end: Option<Timestamp>,
    /// What is settled; of money, the picos of all its records rounded up.
    pub spent: Amounts,
    /// What is lent to gateways in processes of their own and not settled; with `spent`, rounded up once.
    pub lent: Amounts,
    /// For such a gateway: what it may spend of the budget besides what is settled. Its limit, in place of the budget's.
    pub share: Option<Amounts>,
}
