use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::identity::{KeyScope, ModelLimits, RateLimits, ServiceTier};
use crate::ids::{BudgetId, PrincipalId, ReplicaId, TenantId};
use crate::inference::{Abilities, RoutingPolicy, Visibility};
use crate::ledger::EnergyMethod;
use crate::money::{BudgetLimits, TokenPrice};
use crate::snapshot::{EnergyBound, EnergyBoundSource, ReplicaEnergy, ReplicaEntry};
use crate::units::{Micros, Millijoules, Milliwatts};

fn uuid(n: u8) -> Uuid {
    Uuid::from_u128(n.into())
}

fn limits(n: u8) -> RateLimits {
    RateLimits { requests_per_minute: Some(n.into()), ..RateLimits::default() }
}

fn key(n: u8, variant: u8) -> KeyEntry {
    KeyEntry {
        id: KeyId::from_uuid(uuid(n)),
        tenant_id: TenantId::from_uuid(uuid(1)),
        project_id: ProjectId::from_uuid(uuid(2)),
        principal_id: PrincipalId::from_uuid(uuid(3)),
        scopes: vec![KeyScope::Inference, KeyScope::Read],
        may_infer: true,
        expires_at: None,
        limits: limits(variant),
        model_limits: vec![ModelLimits { model: "m".to_owned(), limits: limits(variant) }],
        service_tier: Some(ServiceTier::ALL[usize::from(variant % 3)]),
    }
}

fn project(variant: u8) -> ProjectEntry {
    ProjectEntry { limits: limits(variant), service_tier: Some(ServiceTier::Flex), ..ProjectEntry::default() }
}

fn endpoint(n: u8, variant: u8) -> EndpointEntry {
    EndpointEntry {
        id: EndpointId::from_uuid(uuid(n)),
        name: format!("endpoint-{n}"),
        tenant_id: TenantId::from_uuid(uuid(1)),
        project_id: ProjectId::from_uuid(uuid(2)),
        visibility: Visibility::Tenant,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        context_tokens: variant.into(),
        can_chat: true,
        can_embed: false,
        abilities: Abilities { fills_gaps: true, calls_functions: false },
        paused: false,
        wakes: true,
        not_ready_because: "it starts".to_owned(),
        limits: limits(variant),
        price: TokenPrice::STANDARD,
        price_book_id: None,
        energy_bound: Some(EnergyBound {
            prompt_microjoules: i64::from(variant),
            completion_microjoules: 1,
            source: EnergyBoundSource::Assumed,
        }),
        residency: (variant > 1).then(|| "FR".to_owned()),
        upstream_model: "m".to_owned(),
        routing: RoutingPolicy::default(),
        replicas: vec![ReplicaEntry {
            id: ReplicaId::from_uuid(uuid(n)),
            url: "http://127.0.0.1:1".to_owned(),
            energy: ReplicaEnergy::StatedPower(Milliwatts(i64::from(variant))),
            kv_events: None,
            is_metered: false,
            seats: Some(u32::from(variant)),
        }],
    }
}

fn budget(subject: BudgetSubject, variant: u8) -> BudgetEntry {
    BudgetEntry {
        id: BudgetId::from_uuid(uuid(variant)),
        name: "b".to_owned(),
        subject,
        limits: BudgetLimits { millijoules: Some(Millijoules(1)), ..BudgetLimits::money(Micros(i64::from(variant))) },
        period_end: None,
    }
}

/// What a snapshot is drawn from: small numbers, so that two of them share entries and differ in others.
type Drawn = (Vec<(u8, u8)>, Vec<(u8, u8)>, Vec<(u8, u8)>, Vec<(u8, u8)>, u8);

fn snapshot((keys, endpoints, projects, budgets, energy): Drawn) -> Snapshot {
    let mut snapshot = Snapshot {
        keys: keys.iter().map(|&(n, v)| (format!("digest-{n}"), Arc::new(key(n, v)))).collect(),
        endpoints: endpoints.iter().map(|&(n, v)| (EndpointId::from_uuid(uuid(n)), Arc::new(endpoint(n, v)))).collect(),
        projects: projects.iter().map(|&(n, v)| (ProjectId::from_uuid(uuid(n)), project(v))).collect(),
        budgets: BTreeMap::new(),
        lines: keys.iter().map(|&(n, v)| (KeyId::from_uuid(uuid(n)), KeyId::from_uuid(uuid(v)))).collect(),
        energy: EnergyRate {
            active: Milliwatts(energy.into()),
            method: Some(EnergyMethod::Estimated),
            intensity_mg_per_kwh: 1,
        },
    };
    for (n, v) in budgets {
        let subject = match n % 3 {
            0 => BudgetSubject::Tenant { tenant_id: TenantId::from_uuid(uuid(n)) },
            1 => BudgetSubject::Project { project_id: ProjectId::from_uuid(uuid(n)) },
            _ => BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(n)) },
        };
        snapshot.add_budget(budget(subject, v));
    }
    snapshot
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let pairs = || proptest::collection::vec((0u8..6, 0u8..3), 0..6);
    (pairs(), pairs(), pairs(), pairs(), 0u8..2)
}

proptest! {
    #[test]
    fn what_is_sent_and_read_back_makes_the_new_of_the_old(old in drawn(), new in drawn()) {
        let (old, new) = (snapshot(old), snapshot(new));
        let changes = Changes::between(&old, &new);
        prop_assert_eq!(changes.is_empty(), old == new);
        let wire = serde_json::to_string(&changes).expect("it is written");
        let read: Changes = serde_json::from_str(&wire).expect("it is read");
        prop_assert_eq!(&read, &changes);
        prop_assert_eq!(read.apply_to(&old), new);
    }
}

#[test]
fn one_changed_key_is_all_that_is_sent() {
    let keys = |changed| (0..200).map(|n| (n, if n == 7 { changed } else { 0 })).collect();
    let (old, new) = (
        snapshot((keys(0), vec![(1, 1)], vec![(1, 1)], vec![(1, 1)], 0)),
        snapshot((keys(1), vec![(1, 1)], vec![(1, 1)], vec![(1, 1)], 0)),
    );
    let changes = Changes::between(&old, &new);
    assert_eq!((changes.keys.set.len(), changes.keys.gone.len(), changes.lines.set.len()), (1, 0, 1));
    assert!(changes.endpoints.is_empty() && changes.budgets.is_empty() && changes.projects.is_empty());
    let applied = changes.apply_to(&old);
    assert!(Arc::ptr_eq(&applied.keys["digest-9"], &old.keys["digest-9"]), "the others are shared, not made again");
}
