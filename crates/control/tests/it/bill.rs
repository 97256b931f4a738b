//! Usage and energy on their way into the ledger.

use galerne_control::clock::Clock;
use galerne_control::{Counted, EnergySample};
use galerne_model::identity::ApiKey;
use galerne_model::ids::{BudgetId, EndpointId, ReadingId, ReplicaId, RequestId};
use galerne_model::ledger::{EnergyMethod, Operation, Outcome, Quantities, UsageRecord};
use galerne_model::money::{Budget, BudgetPeriod, BudgetSpec, BudgetStatus, BudgetSubject};
use galerne_model::snapshot::Snapshot;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Milliwatts, Picos, Tokens};
use galerne_store::EventFilter;
use jiff::SignedDuration;
use uuid::Uuid;

use crate::site::{PATIENCE, Site, now, row};

fn record(site: &Site, sequence: i64, replica_id: ReplicaId) -> UsageRecord {
    let ended_at = now();
    UsageRecord {
        source: 1,
        sequence,
        request_id: RequestId::from_uuid(Uuid::now_v7()),
        started_at: ended_at,
        ended_at,
        tenant_id: site.tenant_id,
        project_id: site.project_id,
        principal_id: site.principal_id,
        key_id: site.key_id,
        endpoint_id: EndpointId::from_uuid(Uuid::from_u128(1)),
        replica_id: Some(replica_id),
        operation: Operation::Chat,
        outcome: Outcome::Completed,
        http_status: 200,
        held_micros: Micros(20),
        quantities: Quantities {
            prompt_tokens: Tokens(10),
            cached_tokens: Tokens(0),
            completion_tokens: Tokens(5),
            micros: Micros(7),
            picos: Picos(500_000),
            millijoules: Millijoules(100),
            co2e_micrograms: MicrogramsCo2e(1),
        },
        energy_method: EnergyMethod::Estimated,
        price_book_id: None,
        first_token_micros: None,
        work: None,
        batch: None,
        terms: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_usage_is_settled_once_and_published_to_budgets() {
    let site = Site::new().await;
    let mut loops = site.start().await;
    let spec =
        BudgetSpec::money(BudgetSubject::Project { project_id: site.project_id }, Micros(1_000), BudgetPeriod::Month);
    let id = BudgetId::from_uuid(Uuid::now_v7());
    let budget: Budget = row(id, (Some(site.tenant_id), None), "cap", spec, BudgetStatus::default());
    site.insert(&budget).await;
    let elsewhere = ReplicaId::from_uuid(Uuid::now_v7());
    let records = vec![record(&site, 1, elsewhere), record(&site, 2, elsewhere)];
    assert_eq!(loops.handle.accept(records.clone()).await.expect("settled"), 2);
    assert_eq!(loops.handle.accept(records).await.expect("again, and counted once"), 2);
    let told = |spending: &std::sync::Arc<galerne_model::snapshot::Spending>| {
        spending.settled_sequence == 2
            && spending.spent.get(&id).is_some_and(|period| period.spent.micros == Micros(15))
    };
    tokio::time::timeout(PATIENCE, loops.spending.wait_for(told))
        .await
        .expect("published")
        .expect("the publisher lives");
    let snapshot = loops.view("with a budget", |snapshot| !snapshot.budgets.is_empty()).await;
    assert_eq!(
        snapshot.budgets.values().flatten().map(|budget| budget.limits.micros).collect::<Vec<_>>(),
        [Some(Micros(1_000))]
    );
    let mut changed = site.store.changed();
    let has_status = async {
        while site.store.get::<Budget>(id).await.expect("a row").status.spent_micros != Micros(15) {
            changed.changed().await.expect("the store lives");
        }
    };
    assert!(tokio::time::timeout(PATIENCE, has_status).await.is_ok(), "the budget itself says what was spent");
    let has_use = async {
        while site.store.get::<ApiKey>(site.key_id).await.expect("a row").status.last_used_at.is_none() {
            changed.changed().await.expect("the store lives");
        }
    };
    assert!(tokio::time::timeout(PATIENCE, has_use).await.is_ok(), "the key knows when it was last used");
    loops.stop().await;
}

/// The alerts in the event log, oldest first.
async fn alerts(site: &Site) -> Vec<String> {
    let all = site.store.events_forward(&EventFilter::default(), 1_000).await.expect("reads");
    all.into_iter().filter(|event| event.action == "budget.alert").map(|event| event.text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_threshold_of_a_budget_is_told_once_also_across_a_restart() {
    let site = Site::new().await;
    let id = BudgetId::from_uuid(Uuid::now_v7());
    let subject = BudgetSubject::Project { project_id: site.project_id };
    let money = BudgetSpec::money(subject, Micros(1_000), BudgetPeriod::Month);
    let spec = BudgetSpec { limit_millijoules: Some(Millijoules(250)), ..money };
    site.insert::<Budget>(&row(id, (Some(site.tenant_id), None), "cap", spec, BudgetStatus::default())).await;
    let elsewhere = ReplicaId::from_uuid(Uuid::now_v7());
    let has_spent = async |millijoules: i64| {
        let mut changed = site.store.changed();
        let wanted = async {
            let status = async || site.store.get::<Budget>(id).await.expect("a row").status;
            while status().await.spent_millijoules != Millijoules(millijoules) {
                changed.changed().await.expect("the store lives");
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wanted).await.is_ok(), "the status says {millijoules} mJ");
    };
    let loops = site.start().await;
    loops.handle.accept(vec![record(&site, 1, elsewhere), record(&site, 2, elsewhere)]).await.expect("settled");
    has_spent(200).await;
    loops.stop().await;
    let told = alerts(&site).await;
    assert_eq!(
        told,
        [
            "budget `cap` has reached 50 % of its limit: 0.200 J of 0.250 J are spent; why: galerne why budget/cap",
            "budget `cap` has reached 80 % of its limit: 0.200 J of 0.250 J are spent; why: galerne why budget/cap",
        ],
        "money is at 1.5 %"
    );
    // What a process knew is gone; the status says what was told.
    let loops = site.start().await;
    loops.handle.accept(vec![record(&site, 3, elsewhere)]).await.expect("settled");
    has_spent(300).await;
    loops.stop().await;
    let all = alerts(&site).await;
    assert_eq!((all.len(), &all[..2]), (3, &told[..]), "{all:?}");
    assert!(all[2].contains("95 %") && all[2].contains("0.300 J of 0.250 J"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_turn_of_the_month_spending_begins_anew() {
    let site = Site::new().await;
    let at = |text: &str| text.parse::<jiff::Timestamp>().expect("written by hand");
    let clock = Clock::manual(at("2026-11-30T23:59:59Z"));
    let id = BudgetId::from_uuid(Uuid::now_v7());
    let subject = BudgetSubject::Project { project_id: site.project_id };
    let spec = BudgetSpec::money(subject, Micros(1_000), BudgetPeriod::Month);
    site.insert::<Budget>(&row(id, (Some(site.tenant_id), None), "cap", spec, BudgetStatus::default())).await;
    let loops = site.start_by(clock.clone()).await;
    let started_at = at("2026-11-30T23:59:58Z");
    let record = UsageRecord { started_at, ..record(&site, 1, ReplicaId::from_uuid(Uuid::now_v7())) };
    loops.handle.accept(vec![record]).await.expect("settled");
    let mut spending = loops.spending.clone();
    let mut told = async |start: &str, spent: i64| {
        let wanted = |spending: &std::sync::Arc<galerne_model::snapshot::Spending>| {
            spending.spent.get(&id).is_some_and(|p| p.period_start == at(start) && p.spent.micros == Micros(spent))
        };
        tokio::time::timeout(PATIENCE, spending.wait_for(wanted)).await.is_ok_and(|waited| waited.is_ok())
    };
    assert!(told("2026-11-01T00:00:00Z", 8).await, "7.5 micros, rounded up");
    clock.set(at("2026-12-01T00:00:00Z"));
    assert!(told("2026-12-01T00:00:00Z", 0).await);
    let end = Some(at("2027-01-01T00:00:00Z"));
    let in_december = |snapshot: &Snapshot| snapshot.budgets[&subject][0].period_end == end;
    loops.view("in December", in_december).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_closes_the_ledger_and_sets_the_rate_of_requests() {
    let site = Site::new().await;
    let loops = site.start().await;
    site.good_worker();
    let endpoint_id = site.endpoint(site.backend(), |_| {}).await;
    let replica_id = loops.ready(endpoint_id).await.replicas[0].id;
    loops.handle.accept(vec![record(&site, 1, replica_id)]).await.expect("settled");
    let ended_at = now();
    // The counters show five times what the model divides: 20 J at rest and 30 J for two busy CPU-seconds.
    let counted = Counted {
        processors: Millijoules(50_000),
        awake_micros: 10_000_000,
        busy_cpu_micros: 2_000_000,
        idle: Milliwatts(400),
        active: Milliwatts(3_000),
    };
    let sample = EnergySample {
        started_at: ended_at - SignedDuration::from_secs(10),
        ended_at,
        millijoules: Millijoules(50_000),
        method: EnergyMethod::Measured,
        busy_cpu_micros: 2_000_000,
        active: Milliwatts(3_000),
        counted: Some(counted),
    };
    let reading_id = ReadingId::from_uuid(Uuid::now_v7());
    loops.handle.book_reading(reading_id, sample).await.expect("booked");
    loops.handle.book_reading(reading_id, sample).await.expect("again, and booked once");
    let snapshot = loops.view("with the rate", |snapshot| snapshot.energy.active == Milliwatts(15_000)).await;
    let energy = &snapshot.energy;
    assert_eq!(energy.method, Some(EnergyMethod::Apportioned), "a share of what was measured");
    assert!(energy.intensity_mg_per_kwh > 0, "{energy:?}");
    let report = site.store.ledger_check().await.expect("checked");
    assert!(report.closes(), "{:?}", report.findings);
    assert_eq!(report.readings, 1);
    let last = site.store.last_reading(site.node_id).await.expect("read").expect("booked");
    assert_eq!((last.millijoules, last.zone.as_str()), (Millijoules(50_000), "FR"));
    assert!(last.intensity_source.contains("lifecycle"), "{}", last.intensity_source);
    // A request of the next interval is charged at the measured rate, and its own reading closes over it.
    let mut next = record(&site, 2, replica_id);
    next.quantities.millijoules = galerne_core::energy::from_cpu(1_500_000, snapshot.energy.active);
    next.energy_method = EnergyMethod::Apportioned;
    assert_eq!(next.quantities.millijoules, Millijoules(22_500));
    loops.handle.accept(vec![next]).await.expect("settled");
    let later = EnergySample {
        started_at: ended_at,
        ended_at: ended_at + SignedDuration::from_secs(10),
        method: EnergyMethod::Estimated,
        counted: None,
        ..sample
    };
    loops.handle.book_reading(ReadingId::from_uuid(Uuid::now_v7()), later).await.expect("booked");
    let report = site.store.ledger_check().await.expect("checked");
    assert!(report.closes(), "{:?}", report.findings);
    // Without counters it is the model's power again, and said to be.
    let of_the_model = |snapshot: &galerne_model::snapshot::Snapshot| {
        (snapshot.energy.active, snapshot.energy.method) == (Milliwatts(3_000), Some(EnergyMethod::Estimated))
    };
    loops.view("with the model's rate", of_the_model).await;
    loops.stop().await;
}
