//! Readings of a replica's own meter, and what they correct.

use galerne_model::ids::{NodeId, ReadingId, ReplicaId};
use galerne_model::ledger::{EnergyMethod, Owner, Quantities, Reading};
use galerne_model::money::{BudgetPeriod, BudgetSubject};
use galerne_model::units::{MicrogramsCo2e, Millijoules};
use galerne_store::{Correction, CostFilter, CostGroup, ReplicaReading, StoreUrl};
use sqlx::Row as _;

use crate::bed::Bed;
use crate::sample::{self, now, project_id, reading, record, records, tenant_id, uuid};

/// A reading of replica 1, with what requests have of it and what it corrects.
pub(crate) fn replica_reading(n: u64, millijoules: i64, corrections: Vec<Correction>) -> ReplicaReading {
    let used = corrections.iter().fold((0, 0), |sum, by| (sum.0 + by.metered.0.0, sum.1 + by.metered.1.0));
    ReplicaReading {
        reading: Reading {
            id: ReadingId::from_uuid(uuid(n)),
            replica_id: Some(ReplicaId::from_uuid(uuid(1))),
            ..reading(n, millijoules)
        },
        how: "file:/run/meter".to_owned(),
        used: (Millijoules(used.0), MicrogramsCo2e(used.1)),
        is_first: false,
        corrections,
    }
}

pub(crate) fn correction(sequence: i64, millijoules: i64, micrograms: i64) -> Correction {
    Correction {
        source: 1,
        sequence,
        metered: (Millijoules(millijoules), MicrogramsCo2e(micrograms)),
        worked_micros: 1_000,
        metered_micros: 1_000,
        method: EnergyMethod::Apportioned,
    }
}

async fn closes(bed: &Bed) {
    let report = bed.store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
}

async fn energy_of(bed: &Bed, owner: Owner) -> (i64, i64) {
    let balances = bed.store.balances().await.expect("reads");
    let quantities: Quantities =
        balances.iter().find(|balance| balance.owner == owner).map(|balance| balance.quantities).unwrap_or_default();
    (quantities.millijoules.0, quantities.co2e_micrograms.0)
}

async fn on_a_node(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::replica(1, Some(NodeId::from_uuid(uuid(1))))).await.expect("inserts");
    tx.commit().await.expect("commits");
}

pub(crate) async fn what_was_measured_replaces_what_was_estimated(bed: &Bed) {
    on_a_node(bed).await;
    // Two records, each settled with an estimate of 1500 mJ and 21 µg; the node's reading covers one of them.
    bed.store.settle_batch(1, &records(1, 2)).await.expect("settles");
    bed.store.post_reading(&reading(1, 4_000), 1_000).await.expect("books");
    let project = Owner::Project { project_id: project_id(1) };
    assert_eq!(energy_of(bed, project).await, (3_000, 42));
    assert_eq!(energy_of(bed, Owner::Idle).await.0, 1_000);
    let corrections = vec![correction(1, 2_000, 30), correction(2, 700, 9)];
    let posted = bed.store.post_replica_reading(&replica_reading(2, 10_000, corrections), 1_000).await.expect("books");
    assert_eq!(posted.idle.millijoules, Millijoules(10_000 - 2_700));
    assert_eq!(energy_of(bed, project).await, (2_700, 39));
    // Their estimates are not the node's any more: its next reading gives them to nobody.
    let posted = bed.store.post_reading(&reading(3, 5_000), 1_000).await.expect("books");
    assert_eq!(posted.idle.millijoules, Millijoules(5_000 + 3_000));
    assert_eq!(energy_of(bed, Owner::Idle).await.0, 1_000 + 7_300 + 8_000);
    closes(bed).await;
    let corrected = bed.store.usage_by_request(record(1).request_id).await.expect("reads").expect("is there");
    assert_eq!((corrected.quantities.millijoules.0, corrected.quantities.co2e_micrograms.0), (2_000, 30));
    assert_eq!(corrected.energy_method, EnergyMethod::Apportioned);
    let how = bed.store.correction(1, 1).await.expect("reads").expect("was corrected");
    assert_eq!((how.millijoules.0, how.co2e_micrograms.0, how.how.as_str()), (500, 9, "file:/run/meter"));
    let costs = bed.store.costs(&CostFilter::default(), CostGroup::Endpoint).await.expect("reads");
    assert_eq!((costs[0].requests, costs[0].quantities.millijoules.0), (2, 2_700));
    let tenant = BudgetSubject::Tenant { tenant_id: tenant_id(1) };
    let spent = bed.store.spent(&tenant, BudgetPeriod::Month, now()).await.expect("reads").spent;
    assert_eq!((spent.millijoules.0, spent.co2e_micrograms.0), (2_700, 39), "budgets follow");
    let listed = bed.store.readings_page(None, 9).await.expect("reads");
    let replicas: Vec<bool> = listed.iter().map(|(_, reading)| reading.replica_id.is_some()).collect();
    assert_eq!(replicas, [false, true, false]);
}

pub(crate) async fn a_reading_sent_again_corrects_nothing_again(bed: &Bed) {
    bed.store.settle_batch(1, &records(1, 1)).await.expect("settles");
    let first = replica_reading(2, 10_000, vec![correction(1, 2_000, 30)]);
    let posted = bed.store.post_replica_reading(&first, 1_300).await.expect("books");
    assert_eq!(posted.overhead.millijoules, Millijoules(3_000));
    assert_eq!(bed.store.post_replica_reading(&first, 1_300).await.expect("was booked"), posted);
    // Another reading that claims the same record: it was corrected, so that energy stays with the replica.
    let again = replica_reading(3, 10_000, vec![correction(1, 4_000, 60)]);
    let posted = bed.store.post_replica_reading(&again, 1_000).await.expect("books");
    assert_eq!(posted.idle.millijoules, Millijoules(10_000));
    assert_eq!(energy_of(bed, Owner::Project { project_id: project_id(1) }).await, (2_000, 30));
    closes(bed).await;
}

pub(crate) async fn time_that_no_meter_saw_keeps_its_estimate(bed: &Bed) {
    bed.store.settle_batch(1, &records(1, 2)).await.expect("settles");
    // A third of the time was metered: two thirds of 1500 mJ and of 21 µg stay.
    let some = Correction { worked_micros: 900, metered_micros: 300, ..correction(1, 100, 2) };
    let none = Correction { metered_micros: 0, ..correction(2, 0, 0) };
    bed.store.post_replica_reading(&replica_reading(2, 400, vec![some, none]), 1_000).await.expect("books");
    let energy = energy_of(bed, Owner::Project { project_id: project_id(1) }).await;
    assert_eq!(energy, (1_000 + 100 + 1_500, 14 + 2 + 21));
    closes(bed).await;
}

pub(crate) async fn a_reversal_and_a_correction_pass_each_other_without_loss(bed: &Bed) {
    bed.store.settle_batch(1, &records(1, 2)).await.expect("settles");
    let reverse = async |sequence| {
        let transfer = bed.store.usage_transfer(record(sequence).request_id).await.expect("reads").expect("is there");
        bed.store.reverse(transfer, now()).await.expect("reverses");
    };
    reverse(1).await;
    let both = vec![correction(1, 2_000, 30), correction(2, 700, 9)];
    let posted = bed.store.post_replica_reading(&replica_reading(2, 3_000, both), 1_000).await.expect("books");
    assert_eq!(posted.idle.millijoules, Millijoules(3_000 - 700), "a reversed charge is corrected no more");
    reverse(2).await;
    closes(bed).await;
    assert_eq!(energy_of(bed, Owner::Project { project_id: project_id(1) }).await, (0, 0));
    // What was used stays used: the first record's estimate, the second one's measure, and the rest of the reading.
    assert_eq!(energy_of(bed, Owner::Idle).await.0, 1_500 + 700 + 2_300);
}

pub(crate) async fn a_correction_waits_for_a_reversal_that_is_under_way(bed: &Bed) {
    bed.store.settle_batch(1, &records(1, 1)).await.expect("settles");
    let transfer = bed.store.usage_transfer(record(1).request_id).await.expect("reads").expect("is there");
    let mut tx = bed.store.begin().await.expect("begins");
    tx.reverse(transfer, now()).await.expect("reverses");
    let reading = replica_reading(2, 3_000, vec![correction(1, 2_000, 30)]);
    let committed = async {
        if let StoreUrl::Postgres(_) = &bed.url {
            let mut conn = bed.connection().await;
            let waiting = "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                AND datname = current_database()";
            while sqlx::query(waiting).fetch_one(&mut conn).await.expect("asks").get::<i64, _>("n") == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        tx.commit().await.expect("commits");
    };
    let (posted, ()) = futures_util::join!(bed.store.post_replica_reading(&reading, 1_000), committed);
    assert_eq!(posted.expect("books").idle.millijoules, Millijoules(3_000), "a reversed charge is corrected no more");
    closes(bed).await;
    assert_eq!(energy_of(bed, Owner::Project { project_id: project_id(1) }).await, (0, 0));
}

pub(crate) async fn what_an_earlier_process_gave_and_did_not_book_is_idle(bed: &Bed) {
    bed.store.settle_batch(1, &records(1, 1)).await.expect("settles");
    // 800 mJ went to a request that was still at work, and then the process was killed.
    let mut lost = replica_reading(2, 1_000, vec![]);
    lost.used = (Millijoules(800), MicrogramsCo2e(12));
    let posted = bed.store.post_replica_reading(&lost, 1_000).await.expect("books");
    assert_eq!(posted.idle.millijoules, Millijoules(200));
    closes(bed).await;
    let mut next = replica_reading(3, 1_000, vec![correction(1, 300, 4)]);
    next.is_first = true;
    let posted = bed.store.post_replica_reading(&next, 1_000).await.expect("books");
    assert_eq!(posted.idle.millijoules, Millijoules(800 + 1_000 - 300));
    closes(bed).await;
}
