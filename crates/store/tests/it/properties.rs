//! Whatever comes in, in whatever order: the ledger closes and counts once.

use galerne_model::ids::{KeyId, NodeId, RequestId};
use galerne_model::ledger::{Outcome, Reading, UsageRecord};
use galerne_model::money::{BudgetPeriod, BudgetSubject};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};
use galerne_store::{Correction, StoreError};
use proptest::prelude::*;

use crate::bed::Bed;
use crate::corrections::{correction, replica_reading};
use crate::sample::{self, later, now, project_id, reading, record, uuid};

/// Something that happens to a ledger.
#[derive(Debug, Clone)]
enum Step {
    /// The shipper of a spool sends records from some earlier point on, perhaps skipping some.
    Ship { spool: usize, again: i64, count: i64, skip: bool },
    /// A node is read.
    Read { node: u64, millijoules: i64, pue: i64 },
    /// A replica's own meter is read, and says something of a record.
    Meter { pick: i64, millijoules: i64, metered: i64, seen: i64, is_first: bool },
    /// Somebody cancels a charge.
    Reverse { pick: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..2_usize, 0..30_i64, 1..60_i64, prop::bool::weighted(0.1))
            .prop_map(|(spool, again, count, skip)| Step::Ship { spool, again, count, skip }),
        2 => (1..3_u64, 0..200_000_i64, 1_000..1_800_i64)
            .prop_map(|(node, millijoules, pue)| Step::Read { node, millijoules, pue }),
        2 => (0..100_i64, 0..20_000_i64, 0..9_000_i64, 0..1_100_i64, prop::bool::weighted(0.2)).prop_map(
            |(pick, millijoules, metered, seen, is_first)| Step::Meter { pick, millijoules, metered, seen, is_first }
        ),
        1 => (0..100_i64).prop_map(|pick| Step::Reverse { pick }),
    ]
}

/// The record of a spool at a sequence: always the same one.
fn at(spool: usize, sequence: i64) -> UsageRecord {
    let mixed = (u64::try_from(sequence).expect("positive") * 2 + spool as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let part = |bits: u32, below: u64| i64::try_from((mixed >> bits) % below).expect("small");
    let mut made = record(sequence);
    made.source = i64::try_from(spool).expect("small") + 1;
    made.request_id = RequestId::from_uuid(uuid(mixed >> 8));
    made.project_id = project_id(mixed % 3);
    made.key_id = KeyId::from_uuid(uuid(mixed % 5));
    made.replica_id = Some(galerne_model::ids::ReplicaId::from_uuid(uuid(1 + mixed % 3)));
    made.started_at = later(part(3, 5_000_000));
    made.ended_at = made.started_at;
    made.outcome = if part(5, 9) == 0 { Outcome::Interrupted } else { Outcome::Completed };
    made.held_micros = Micros(part(7, 900));
    made.quantities.micros = Micros(part(9, 1_000));
    made.quantities.picos = Picos(part(11, 1_000_000));
    made.quantities.millijoules = Millijoules(part(13, 9_000));
    made.quantities.co2e_micrograms = MicrogramsCo2e(part(17, 500));
    made.quantities.prompt_tokens = Tokens(part(19, 500));
    made
}

async fn run(steps: Vec<Step>) {
    let bed = Bed::sqlite().await;
    // Replicas 1 and 2 run on nodes 1 and 2; replica 3 runs outside our meters.
    let mut tx = bed.store.begin().await.expect("begins");
    for n in 1..=2 {
        tx.insert(&sample::replica(n, Some(NodeId::from_uuid(uuid(n))))).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
    let mut through = [0_i64; 2];
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Ship { spool, again, count, skip } => {
                let from = (through[spool] + 1 - again).max(1) + i64::from(skip) * (again + 1);
                let batch: Vec<UsageRecord> = (from..from + count).map(|sequence| at(spool, sequence)).collect();
                let source = i64::try_from(spool).expect("small") + 1;
                match bed.store.settle_batch(source, &batch).await {
                    Ok(settled) => through[spool] = settled.through.max(through[spool]),
                    Err(StoreError::Gap { .. }) => assert!(from > through[spool] + 1, "no record was missing"),
                    Err(error) => panic!("{error:?}"),
                }
            }
            Step::Read { node, millijoules, pue } => {
                let id = galerne_model::ids::ReadingId::from_uuid(uuid(number as u64));
                let read = Reading { id, node_id: NodeId::from_uuid(uuid(node)), ..reading(1, millijoules) };
                let posted = bed.store.post_reading(&read, pue).await.expect("books");
                let shared = posted.usage.millijoules + posted.idle.millijoules - posted.apportionment.millijoules;
                assert_eq!(shared, read.millijoules, "energy is conserved in each reading");
            }
            Step::Meter { pick, millijoules, metered, seen, is_first } => {
                let by = Correction { metered_micros: seen, ..correction(1 + pick, metered, metered / 70) };
                let mut made = replica_reading(number as u64, millijoules, vec![by]);
                made.is_first = is_first;
                let posted = bed.store.post_replica_reading(&made, 1_100).await.expect("books");
                let shared = posted.usage.millijoules + posted.idle.millijoules - posted.apportionment.millijoules;
                assert_eq!(shared.0, millijoules, "energy is conserved in each reading");
            }
            Step::Reverse { pick } => {
                let request = at(0, 1 + pick % through[0].max(1)).request_id;
                if let Some(transfer) = bed.store.usage_transfer(request).await.expect("reads") {
                    bed.store.reverse(transfer, now()).await.expect("reverses");
                }
            }
        }
    }
    let report = bed.store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
    assert_eq!(report.records, through[0] + through[1], "each record once");
    let tenant = BudgetSubject::Tenant { tenant_id: sample::tenant_id(1) };
    let spent = bed.store.spent(&tenant, BudgetPeriod::Total, now()).await.expect("reads").spent;
    let (mut owed, mut used) = ((0, 0), (0, 0));
    for balance in bed.store.balances().await.expect("reads") {
        if let galerne_model::ledger::Owner::Project { .. } = balance.owner {
            let quantities = balance.quantities;
            owed = (owed.0 + quantities.micros.0, owed.1 + quantities.picos.0);
            used = (used.0 + quantities.millijoules.0, used.1 + quantities.co2e_micrograms.0);
        }
    }
    assert_eq!(spent.micros.0, owed.0 + (owed.1 + 999_999) / 1_000_000, "budgets see exactly what projects owe");
    assert_eq!((spent.millijoules.0, spent.co2e_micrograms.0), used, "and what they used");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_closes_after_any_batches_duplicates_readings_and_reversals(steps in prop::collection::vec(step(), 1..25)) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(run(steps));
    }
}
