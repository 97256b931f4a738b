//! Resources, events and usage records to work with.

use galerne_model::event::{Actor, Decision, Event};
use galerne_model::identity::{
    ApiKey, ApiKeySpec, ApiKeyStatus, Empty, KeyScope, Principal, PrincipalKind, PrincipalSpec, Project, ProjectSpec,
    RateLimits, Role, RoleBinding, RoleBindingSpec, Scope, ServiceTier, Tenant, TenantSpec,
};
use galerne_model::ids::*;
use galerne_model::inference::*;
use galerne_model::ledger::{
    BatchTerms, Country, EnergyMethod, Operation, Outcome, Quantities, Reading, UsageRecord, UsageTerms,
};
use galerne_model::money::{
    Budget, BudgetPeriod, BudgetSpec, BudgetStatus, BudgetSubject, PriceBook, PriceBookSpec, TokenPrice,
};
use galerne_model::node::{Node, NodeFacts, NodeSpec, NodeStatus};
use galerne_model::reason::Reason;
use galerne_model::resource::Resource;
use galerne_model::units::{Bytes, MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// The moment at which cases begin.
pub(crate) fn now() -> Timestamp {
    "2026-11-22T10:00:00.123456Z".parse().expect("an instant")
}

pub(crate) fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// A UUID that sorts by `n`.
pub(crate) fn uuid(n: u64) -> Uuid {
    Uuid::from_u64_pair(0x0197_2f00_0000_7000, 0x8000_0000_0000_0000 | n)
}

pub(crate) fn tenant_id(n: u64) -> TenantId {
    TenantId::from_uuid(uuid(n))
}

pub(crate) fn project_id(n: u64) -> ProjectId {
    ProjectId::from_uuid(uuid(n))
}

pub(crate) fn resource<I, S, T>(id: I, name: &str, spec: S, status: T) -> Resource<I, S, T> {
    let (tenant_id, project_id) = (None, None);
    let name = name.to_owned();
    Resource { id, tenant_id, project_id, name, generation: 1, created_at: now(), updated_at: now(), spec, status }
}

pub(crate) fn tenant(n: u64) -> Tenant {
    resource(tenant_id(n), &format!("tenant-{n}"), TenantSpec { description: "a \"tenant\" ’é".to_owned() }, Empty {})
}

/// Project `n` of tenant `owner`.
pub(crate) fn project(n: u64, owner: u64) -> Project {
    let limits = RateLimits { requests_per_minute: Some(60), ..RateLimits::default() };
    let spec = ProjectSpec { limits, ..ProjectSpec::default() };
    Project { tenant_id: Some(tenant_id(owner)), ..resource(project_id(n), &format!("project-{n}"), spec, Empty {}) }
}

pub(crate) fn principal(n: u64) -> Principal {
    let spec = PrincipalSpec { kind: PrincipalKind::User, disabled: false, description: String::new() };
    resource(PrincipalId::from_uuid(uuid(n)), &format!("principal-{n}"), spec, Empty {})
}

pub(crate) fn role_binding(n: u64) -> RoleBinding {
    let scope = Scope::Project { tenant_id: tenant_id(1), project_id: project_id(1) };
    let spec = RoleBindingSpec { principal_id: PrincipalId::from_uuid(uuid(n)), role: Role::Member, scope };
    resource(RoleBindingId::from_uuid(uuid(n)), &format!("binding-{n}"), spec, Empty {})
}

pub(crate) fn api_key(n: u64) -> ApiKey {
    let spec = ApiKeySpec {
        principal_id: PrincipalId::from_uuid(uuid(n)),
        scopes: vec![KeyScope::Inference, KeyScope::Read],
        expires_at: Some(later(60)),
        limits: RateLimits::default(),
        model_limits: Vec::new(),
        service_tier: None,
    };
    let status = ApiKeyStatus {
        prefix: "galerne_abcd".to_owned(),
        last_four: "wxyz".to_owned(),
        digest: "00".repeat(32),
        last_used_at: None,
        revoked_at: None,
        rotated_to: None,
    };
    resource(KeyId::from_uuid(uuid(n)), &format!("key-{n}"), spec, status)
}

pub(crate) fn model(n: u64) -> Model {
    let spec = ModelSpec {
        source: "file:///weights.gguf".to_owned(),
        sha256: "ab".repeat(32),
        source_sha256: None,
        licence: "Apache-2.0".to_owned(),
        size: Bytes(1 << 33),
        facts: ModelFacts::default(),
        notes: vec!["a note".to_owned()],
    };
    resource(ModelId::from_uuid(uuid(n)), &format!("model-{n}"), spec, ModelStatus { blob: "blobs/x".to_owned() })
}

pub(crate) fn pull(n: u64) -> Pull {
    let spec = PullSpec { source: "smol".to_owned(), sha256: None, requantise: Some(Quantisation::Q8_0) };
    let status = PullStatus {
        state: PullState::Pending,
        reach: Reach::Public,
        done: Bytes(0),
        total: None,
        model_id: None,
        reason: None,
    };
    resource(PullId::from_uuid(uuid(n)), &format!("pull-{n}"), spec, status)
}

fn backend(n: u64) -> Backend {
    Backend::Worker { model_id: ModelId::from_uuid(uuid(n)), context_tokens: None, sequences: Some(4), threads: None }
}

pub(crate) fn endpoint(n: u64) -> Endpoint {
    let spec = EndpointSpec {
        backend: backend(n),
        replicas_min: 0,
        replicas_max: 2,
        idle_seconds: 600,
        limits: RateLimits::default(),
        visibility: Visibility::Tenant,
        price: None,
        paused: false,
        routing: RoutingPolicy::default(),
        metering: galerne_model::power::Metering::default(),
    };
    let status = EndpointStatus {
        state: EndpointState::Starting,
        replicas_ready: 0,
        replicas_wanted: 1,
        observed_generation: 1,
        reason: Reason::blocks("replica_starting", "its first replica is starting"),
        last_request_at: None,
    };
    resource(EndpointId::from_uuid(uuid(n)), &format!("endpoint-{n}"), spec, status)
}

/// Replica `n`; on node `n` when asked.
pub(crate) fn replica(n: u64, node_id: Option<NodeId>) -> Replica {
    let spec = ReplicaSpec {
        endpoint_id: EndpointId::from_uuid(uuid(n)),
        endpoint_generation: 1,
        backend: backend(n),
        index: 0,
        node_id,
    };
    let status = ReplicaStatus {
        state: ReplicaState::Starting,
        reason: Reason::holds("starting", "it loads"),
        url: None,
        context_tokens: None,
        sequences: None,
        abilities: None,
        restarts: 0,
        deadline_at: Some(later(600)),
        since: now(),
    };
    resource(ReplicaId::from_uuid(uuid(n)), &format!("replica-{n}"), spec, status)
}

pub(crate) fn node(n: u64) -> Node {
    let status = NodeStatus { facts: NodeFacts::default(), seen_at: now() };
    resource(
        NodeId::from_uuid(uuid(n)),
        &format!("node-{n}"),
        NodeSpec { cordoned: false, zone: "FR".to_owned() },
        status,
    )
}

pub(crate) fn budget(n: u64, subject: BudgetSubject, period: BudgetPeriod) -> Budget {
    let spec = BudgetSpec::money(subject, Micros(1_000_000), period);
    resource(BudgetId::from_uuid(uuid(n)), &format!("budget-{n}"), spec, BudgetStatus::default())
}

pub(crate) fn price_book(n: u64) -> PriceBook {
    resource(PriceBookId::from_uuid(uuid(n)), &format!("prices-{n}"), PriceBookSpec::default(), Empty {})
}

pub(crate) fn event(action: &str) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now(),
        actor: Actor::component("test"),
        action: action.to_owned(),
        tenant_id: None,
        project_id: None,
        resource: None,
        decision: Decision::Allowed,
        before_digest: None,
        after_digest: Some("00".repeat(32)),
        text: format!("{action} was done"),
    }
}

/// Record `sequence` of spool 1: project, key and replica 1, charged 40 of 100 micros.
pub(crate) fn record(sequence: i64) -> UsageRecord {
    let n = u64::try_from(sequence).expect("sequences are not negative here");
    UsageRecord {
        source: 1,
        sequence,
        request_id: RequestId::from_uuid(uuid(1_000_000 + n)),
        started_at: now(),
        ended_at: later(1),
        tenant_id: tenant_id(1),
        project_id: project_id(1),
        principal_id: PrincipalId::from_uuid(uuid(1)),
        key_id: KeyId::from_uuid(uuid(1)),
        endpoint_id: EndpointId::from_uuid(uuid(1)),
        replica_id: Some(ReplicaId::from_uuid(uuid(1))),
        operation: Operation::Chat,
        outcome: Outcome::Completed,
        http_status: 200,
        held_micros: Micros(100),
        quantities: Quantities {
            prompt_tokens: Tokens(20),
            cached_tokens: Tokens(3),
            completion_tokens: Tokens(7),
            micros: Micros(40),
            picos: Picos(250_001),
            millijoules: Millijoules(1_500),
            co2e_micrograms: MicrogramsCo2e(21),
        },
        energy_method: EnergyMethod::Estimated,
        price_book_id: Some(PriceBookId::from_uuid(uuid(1))),
        first_token_micros: Some(90_000),
        work: None,
        batch: n.is_multiple_of(5).then(|| BatchTerms { batch_id: BatchId::from_uuid(uuid(n)), price_percent: 50 }),
        // As a gateway of before sent them: every seventh has none.
        terms: (!n.is_multiple_of(7)).then(|| UsageTerms {
            price: TokenPrice { prompt: Micros(1_500_000), cached: Micros(250_000), completion: Micros(3_000_000) },
            service_tier: [ServiceTier::Flex, ServiceTier::Default, ServiceTier::Priority]
                [usize::from(n % 3 > 0) + usize::from(n % 3 > 1)],
            country: (!n.is_multiple_of(4)).then(|| Country::of("FR").expect("a country")),
        }),
    }
}

pub(crate) fn records(from: i64, through: i64) -> Vec<UsageRecord> {
    (from..=through).map(record).collect()
}

/// Reading `n` of node 1.
pub(crate) fn reading(n: u64, millijoules: i64) -> Reading {
    Reading {
        id: ReadingId::from_uuid(uuid(n)),
        node_id: NodeId::from_uuid(uuid(1)),
        replica_id: None,
        started_at: now(),
        ended_at: later(10),
        millijoules: Millijoules(millijoules),
        method: EnergyMethod::Measured,
        busy_cpu_micros: 5_000_000,
        zone: "FR".to_owned(),
        intensity_mg_per_kwh: 50_000,
        intensity_source: "yearly average".to_owned(),
    }
}
