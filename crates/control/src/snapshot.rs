//! The gateway's view: keys, endpoints, prices, limits and budgets, from one moment of the store.
//!
//! A pure function of the rows; [`load`] reads them. What cannot be used (a revoked key, a replica that is not ready)
//! is absent, so that the gateway needs no rule to refuse it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use galerne_core::authorize::{self, Action, Noun, Verb};
use galerne_core::energy::work::{ASSUMED_WEIGHTS, Weights};
use galerne_core::{budget, energy};
use galerne_model::identity::{ApiKey, KeyScope, Principal, Project, RoleBinding, RoleBindingSpec, Scope};
use galerne_model::ids::{BudgetId, EndpointId, KeyId, ModelId, NodeId, PrincipalId, ProjectId};
use galerne_model::inference::{
    Abilities, Backend, Endpoint, EndpointState, Model, Replica, ReplicaState, ReplicaStatus, RoutingPolicy,
};
use galerne_model::ledger::{EnergyMethod, Quantities};
use galerne_model::money::{Budget, BudgetSubject, Commodity, PriceBook};
use galerne_model::power::{Metering, PowerSource};
use galerne_model::reason::Reason;
use galerne_model::snapshot::{
    BudgetEntry, EndpointEntry, EnergyBound, EnergyRate, KeyEntry, ProjectEntry, ReplicaEnergy, ReplicaEntry, Snapshot,
};
use galerne_store::{CostFilter, CostGroup, Filter, Reader, StoreError};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::meters::Metered;
use crate::prices;

/// Context assumed when neither endpoint, engine nor model says one.
const CONTEXT_UNKNOWN: u32 = 4_096;
/// How far back an endpoint's energy per token is looked at: long enough to hold requests, short enough to forget a model
/// that it no longer serves.
const LATELY: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Crashes in a row after which requests no longer wait for the next start: the delays before it are then 7.5 s in all.
const CRASHES_FORGIVEN: u32 = 4;

/// The rows a snapshot is made of.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    keys: Vec<ApiKey>,
    principals: Vec<Principal>,
    bindings: Vec<RoleBinding>,
    projects: Vec<Project>,
    endpoints: Vec<Endpoint>,
    replicas: Vec<Replica>,
    models: Vec<Model>,
    budgets: Vec<Budget>,
    prices: Vec<PriceBook>,
    lines: HashMap<KeyId, KeyId>,
    /// What endpoints used lately; read only where a budget limits energy or carbon.
    lately: HashMap<EndpointId, Quantities>,
}

impl Rows {
    pub(crate) fn budget_generations(&self) -> BTreeMap<BudgetId, i64> {
        self.budgets.iter().map(|budget| (budget.id, budget.generation)).collect()
    }
}

pub(crate) async fn load(reader: &mut Reader, now: Timestamp) -> Result<Rows, StoreError> {
    let all = Filter::default();
    let mut rows = Rows {
        keys: reader.list_all(&all).await?,
        principals: reader.list_all(&all).await?,
        bindings: reader.list_all(&all).await?,
        projects: reader.list_all(&all).await?,
        endpoints: reader.list_all(&all).await?,
        replicas: reader.list_all(&all).await?,
        models: reader.list_all(&all).await?,
        budgets: reader.list_all(&all).await?,
        prices: reader.list_all(&all).await?,
        lines: reader.key_lines().await?,
        lately: HashMap::new(),
    };
    let limits_energy = |budget: &Budget| budget.spec.limits().iter().any(|(of, _)| of != Commodity::Money);
    if rows.budgets.iter().any(limits_energy) {
        let from = now.saturating_sub(LATELY).unwrap_or(Timestamp::MIN).to_zoned(TimeZone::UTC).date();
        let filter = CostFilter { from: Some(from), ..CostFilter::default() };
        let costs = reader.costs(&filter, CostGroup::Endpoint).await?;
        rows.lately = costs.into_iter().filter_map(|row| Some((row.group.parse().ok()?, row.quantities))).collect();
    }
    Ok(rows)
}

pub(crate) fn build(rows: &Rows, energy: EnergyRate, zone: &str, now: Timestamp) -> Snapshot {
    let models: BTreeMap<ModelId, &Model> = rows.models.iter().map(|model| (model.id, model)).collect();
    // The newest version is in force; ids sort by time.
    let book = rows.prices.iter().max_by_key(|book| book.id);
    let entry = |endpoint: &Endpoint| {
        let replicas: Vec<&Replica> = rows.replicas.iter().filter(|r| r.spec.endpoint_id == endpoint.id).collect();
        let mut entry = endpoint_entry(endpoint, &replicas, &models, book)?;
        entry.residency = residency(endpoint, zone);
        entry.energy_bound = energy_bound(endpoint, energy, rows.lately.get(&endpoint.id));
        Some((endpoint.id, Arc::new(entry)))
    };
    let mut snapshot = Snapshot {
        keys: key_entries(rows),
        endpoints: rows.endpoints.iter().filter_map(entry).collect(),
        projects: rows
            .projects
            .iter()
            .map(|project| (project.id, project_entry(project)))
            .collect::<HashMap<ProjectId, _>>(),
        budgets: BTreeMap::new(),
        lines: rows.lines.clone(),
        energy,
    };
    for budget in &rows.budgets {
        snapshot.add_budget(budget_entry(budget, &rows.lines, now));
    }
    snapshot
}

fn project_entry(project: &Project) -> ProjectEntry {
    let spec = &project.spec;
    ProjectEntry { limits: spec.limits, model_limits: spec.model_limits.clone(), service_tier: spec.service_tier }
}

fn key_entries(rows: &Rows) -> HashMap<String, Arc<KeyEntry>> {
    let mut bindings: BTreeMap<PrincipalId, Vec<RoleBindingSpec>> = BTreeMap::new();
    for binding in &rows.bindings {
        bindings.entry(binding.spec.principal_id).or_default().push(binding.spec.clone());
    }
    let principals: BTreeMap<PrincipalId, &Principal> = rows.principals.iter().map(|p| (p.id, p)).collect();
    let entry = |key: &ApiKey| {
        let principal_id = key.spec.principal_id;
        let is_active = principals.get(&principal_id).is_some_and(|principal| !principal.spec.disabled);
        let (tenant_id, project_id) = (key.tenant_id?, key.project_id?);
        if !is_active || key.status.revoked_at.is_some() || key.status.digest.is_empty() {
            return None;
        }
        let roles = bindings.get(&principal_id).map(Vec::as_slice).unwrap_or_default();
        let infer = Action { verb: Verb::Use, noun: Noun::Inference };
        let scope = Scope::Project { tenant_id, project_id };
        let entry = KeyEntry {
            id: key.id,
            tenant_id,
            project_id,
            principal_id,
            scopes: key.spec.scopes.clone(),
            may_infer: authorize::decide(roles, &[KeyScope::Inference], infer, scope).is_ok(),
            expires_at: key.spec.expires_at,
            limits: key.spec.limits,
            model_limits: key.spec.model_limits.clone(),
            service_tier: key.spec.service_tier,
        };
        Some((key.status.digest.clone(), Arc::new(entry)))
    };
    rows.keys.iter().filter_map(entry).collect()
}

fn endpoint_entry(
    endpoint: &Endpoint,
    replicas: &[&Replica],
    models: &BTreeMap<ModelId, &Model>,
    book: Option<&PriceBook>,
) -> Option<EndpointEntry> {
    let spec = &endpoint.spec;
    let (model, upstream_model) = match &spec.backend {
        Backend::Worker { model_id, .. } => (models.get(model_id).copied(), endpoint.name.clone()),
        Backend::External { upstream_model, .. } => (None, upstream_model.clone()),
    };
    let is_embedding = model.map(|model| model.spec.facts.is_embedding);
    let (price, price_book_id) = prices::of(endpoint, model, book);
    let mut ready: Vec<ReplicaEntry> =
        replicas.iter().filter_map(|replica| replica_entry(replica, &spec.routing, &spec.metering)).collect();
    ready.sort_unstable_by_key(|replica| replica.id);
    Some(EndpointEntry {
        id: endpoint.id,
        name: endpoint.name.clone(),
        tenant_id: endpoint.tenant_id?,
        project_id: endpoint.project_id?,
        visibility: spec.visibility,
        created_at: endpoint.created_at,
        context_tokens: context_tokens(&spec.backend, replicas, model),
        can_chat: is_embedding != Some(true),
        can_embed: is_embedding != Some(false),
        abilities: abilities(replicas),
        paused: spec.paused,
        wakes: wakes(endpoint, replicas),
        not_ready_because: if ready.is_empty() { why_not_ready(&endpoint.status.reason) } else { String::new() },
        limits: spec.limits,
        price,
        price_book_id,
        energy_bound: None,
        residency: None,
        upstream_model,
        routing: spec.routing.clone(),
        replicas: ready,
    })
}

/// A request on an endpoint without a replica waits where one is coming; where starts keep failing it is told why at
/// once.
fn wakes(endpoint: &Endpoint, replicas: &[&Replica]) -> bool {
    let is_worker = match &endpoint.spec.backend {
        Backend::Worker { .. } => true,
        Backend::External { .. } => false,
    };
    let is_coming = match endpoint.status.state {
        EndpointState::Starting | EndpointState::Ready | EndpointState::Asleep => true,
        EndpointState::Degraded => replicas.iter().any(|replica| comes_back(&replica.status)),
        // The status may still be that of the generation before.
        EndpointState::Paused => endpoint.status.observed_generation != endpoint.generation,
    };
    is_worker && is_coming && !endpoint.spec.paused
}

/// Whether a replica that failed is expected back while a request waits: not after refusals, nor after many crashes.
fn comes_back(status: &ReplicaStatus) -> bool {
    match status.state {
        ReplicaState::Starting => status.restarts <= CRASHES_FORGIVEN,
        ReplicaState::Backoff => status.restarts <= CRASHES_FORGIVEN && status.reason.code == "replica_failed",
        ReplicaState::Ready | ReplicaState::Unready => true,
        ReplicaState::Draining | ReplicaState::Stopped => false,
    }
}

fn why_not_ready(reason: &Reason) -> String {
    match reason.because.first() {
        Some(part) => format!("{}: {}", reason.text, part.text),
        None => reason.text.clone(),
    }
}

fn context_tokens(backend: &Backend, replicas: &[&Replica], model: Option<&Model>) -> u32 {
    let trained =
        model.and_then(|model| u32::try_from(model.spec.facts.context_tokens).ok()).filter(|tokens| *tokens > 0);
    match backend {
        Backend::External { context_tokens, .. } => *context_tokens,
        Backend::Worker { context_tokens, .. } => {
            let reported =
                replicas.iter().filter_map(|replica| replica.status.context_tokens).filter(|tokens| *tokens > 0).min();
            reported.or(*context_tokens).or(trained).unwrap_or(CONTEXT_UNKNOWN)
        }
    }
}

/// What every replica that said something can: a request may meet any of them.
fn abilities(replicas: &[&Replica]) -> Abilities {
    let said = replicas.iter().filter_map(|replica| replica.status.abilities);
    let both = |a: Abilities, b: Abilities| Abilities {
        fills_gaps: a.fills_gaps && b.fills_gaps,
        calls_functions: a.calls_functions && b.calls_functions,
    };
    said.reduce(both).unwrap_or_default()
}

/// Replicas with a meter of their own, whatever they are doing: they use energy while they load a model too.
pub(crate) fn metered(rows: &Rows, node_id: NodeId) -> Vec<Metered> {
    let of = |replica: &Replica| {
        let endpoint = rows.endpoints.iter().find(|endpoint| endpoint.id == replica.spec.endpoint_id)?;
        let metering = &endpoint.spec.metering;
        let source = meter_of(replica, metering)?.clone();
        let is_running = match replica.status.state {
            ReplicaState::Starting | ReplicaState::Ready | ReplicaState::Unready | ReplicaState::Draining => true,
            ReplicaState::Backoff | ReplicaState::Stopped => false,
        };
        let weights = Weights {
            prefill: metering.prefill_weight.unwrap_or(ASSUMED_WEIGHTS.prefill),
            decode: metering.decode_weight.unwrap_or(ASSUMED_WEIGHTS.decode),
        };
        let is_stated = metering.prefill_weight.or(metering.decode_weight).is_some();
        is_running.then(|| Metered {
            replica_id: replica.id,
            endpoint_id: endpoint.id,
            weights,
            weighed: if is_stated { "stated for the endpoint" } else { "assumed" },
            // A server that somebody else runs has no node, but counters of this host are read on this host.
            is_here: replica.spec.node_id == Some(node_id) || source.is_of_this_host(),
            source,
        })
    };
    rows.replicas.iter().filter_map(of).collect()
}

/// The meter of the n-th replica is the n-th source.
fn meter_of<'a>(replica: &Replica, metering: &'a Metering) -> Option<&'a PowerSource> {
    usize::try_from(replica.spec.index).ok().and_then(|index| metering.sources.get(index))
}

fn replica_entry(replica: &Replica, routing: &RoutingPolicy, metering: &Metering) -> Option<ReplicaEntry> {
    let is_ready = replica.status.state == ReplicaState::Ready;
    let energy = match &replica.spec.backend {
        Backend::Worker { .. } => ReplicaEnergy::CpuTime,
        Backend::External { power: Some(power), .. } => ReplicaEnergy::StatedPower(*power),
        Backend::External { power: None, .. } => ReplicaEnergy::Unknown,
    };
    let url = replica.status.url.clone().filter(|_| is_ready)?;
    // The n-th replica of an external backend is its n-th URL.
    let kv_events = usize::try_from(replica.spec.index).ok().and_then(|index| routing.kv_events.get(index)).cloned();
    let seats = replica.status.sequences;
    let is_metered = meter_of(replica, metering).is_some();
    Some(ReplicaEntry { id: replica.id, url, energy, kv_events, is_metered, seats })
}

/// Where its replicas stand: our own in the country of the site's zone (`SE` of `SE-SE3`), others' where it was stated.
fn residency(endpoint: &Endpoint, zone: &str) -> Option<String> {
    match &endpoint.spec.backend {
        Backend::Worker { .. } => zone.split('-').next().filter(|country| !country.is_empty()).map(str::to_owned),
        Backend::External { residency, .. } => residency.clone(),
    }
}

/// What a token may take, if the energy of the endpoint's requests will be known.
fn energy_bound(endpoint: &Endpoint, rate: EnergyRate, lately: Option<&Quantities>) -> Option<EnergyBound> {
    let is_known = match &endpoint.spec.backend {
        Backend::Worker { .. } => rate.method.is_some_and(|method| method != EnergyMethod::Unknown),
        Backend::External { power, .. } => power.is_some() || !endpoint.spec.metering.sources.is_empty(),
    };
    is_known.then(|| energy::token_bound(&lately.copied().unwrap_or_default()))
}

fn budget_entry(budget: &Budget, lines: &HashMap<KeyId, KeyId>, now: Timestamp) -> BudgetEntry {
    let subject = match budget.spec.subject {
        BudgetSubject::Key { key_id } => BudgetSubject::Key { key_id: lines.get(&key_id).copied().unwrap_or(key_id) },
        other @ (BudgetSubject::Tenant { .. } | BudgetSubject::Project { .. }) => other,
    };
    let (_, period_end) = budget::period_at(budget.spec.period, now);
    BudgetEntry { id: budget.id, name: budget.name.clone(), subject, limits: budget.spec.limits(), period_end }
}
