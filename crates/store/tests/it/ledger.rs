//! Settlement, readings, reversals, costs.

use galerne_model::ids::{EndpointId, KeyId, NodeId, ProjectId, ReplicaId};
use galerne_model::ledger::{Outcome, Owner, Quantities};
use galerne_model::money::{Amounts, Budget, BudgetPeriod, BudgetSubject};
use galerne_model::units::{Micros, Millijoules, Picos};
use galerne_store::{CostFilter, CostGroup, Filter, StoreError, UsageFilter, csv_header, csv_line};
use jiff::Timestamp;

use crate::bed::Bed;
use crate::sample::{self, later, now, project_id, reading, record, records, tenant_id, uuid};

async fn settle(bed: &Bed, from: i64, through: i64) {
    let settled = bed.store.settle_batch(1, &records(from, through)).await.expect("settles");
    assert_eq!(settled.through, through);
}

async fn closes(bed: &Bed) {
    let report = bed.store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
}

async fn balance(bed: &Bed, owner: Owner) -> Quantities {
    let balances = bed.store.balances().await.expect("reads");
    balances.iter().find(|balance| balance.owner == owner).map(|balance| balance.quantities).unwrap_or_default()
}

/// Puts replica 1 on node 1.
async fn on_a_node(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::replica(1, Some(NodeId::from_uuid(uuid(1))))).await.expect("inserts");
    tx.commit().await.expect("commits");
}

pub(crate) async fn a_batch_sent_again_adds_nothing(bed: &Bed) {
    let first = bed.store.settle_batch(1, &records(1, 300)).await.expect("settles");
    assert_eq!((first.through, first.settled, first.duplicates, first.overruns), (300, 300, 0, 0));
    let before = bed.store.balances().await.expect("reads");
    let again = bed.store.settle_batch(1, &records(1, 300)).await.expect("settles");
    assert_eq!((again.through, again.settled, again.duplicates), (300, 0, 300));
    assert_eq!(bed.store.balances().await.expect("reads"), before);
    let overlapping = bed.store.settle_batch(1, &records(200, 310)).await.expect("settles");
    assert_eq!((overlapping.through, overlapping.settled, overlapping.duplicates), (310, 10, 101));
    assert_eq!(bed.store.settled_through(1).await.expect("reads"), 310);
    assert_eq!(bed.store.settled_through(2).await.expect("reads"), 0);
    let project = balance(bed, Owner::Project { project_id: project_id(1) }).await;
    assert_eq!((project.micros, project.picos), (Micros(40 * 310), Picos(250_001 * 310)));
    let report = bed.store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
    assert_eq!((report.records, report.transfers, report.projects), (310, 310, 1));
    assert_eq!(report.usage, report.metered);
}

pub(crate) async fn a_missing_record_is_refused(bed: &Bed) {
    settle(bed, 1, 5).await;
    let gap = bed.store.settle_batch(1, &records(7, 9)).await;
    assert!(matches!(gap, Err(StoreError::Gap { spool: 1, expected: 6, got: 7 })), "{gap:?}");
    let mut inside = records(6, 9);
    inside.remove(1);
    let gap = bed.store.settle_batch(1, &inside).await;
    assert!(matches!(gap, Err(StoreError::Gap { expected: 7, got: 8, .. })), "{gap:?}");
    assert_eq!(bed.store.settled_through(1).await.expect("reads"), 5, "a refused batch leaves nothing behind");
    closes(bed).await;
}

pub(crate) async fn a_record_that_cannot_be_is_refused(bed: &Bed) {
    let refused = |change: fn(&mut galerne_model::ledger::UsageRecord)| {
        let mut bad = record(1);
        change(&mut bad);
        async move {
            let done = bed.store.settle_batch(1, &[bad]).await;
            assert!(matches!(done, Err(StoreError::BadRecord { .. })), "{done:?}");
        }
    };
    refused(|bad| bad.quantities.micros = Micros(-1)).await;
    refused(|bad| bad.quantities.picos = Picos(1_000_000)).await;
    refused(|bad| bad.held_micros = Micros(-5)).await;
    refused(|bad| bad.source = 2).await;
    refused(|bad| bad.replica_id = None).await;
    assert_eq!(bed.store.settled_through(1).await.expect("reads"), 0);
}

pub(crate) async fn a_charge_above_its_hold_is_the_providers(bed: &Bed) {
    let mut over = record(1);
    over.held_micros = Micros(25);
    let settled = bed.store.settle_batch(1, &[over, record(2)]).await.expect("settles");
    assert_eq!(settled.overruns, 1);
    let project = balance(bed, Owner::Project { project_id: project_id(1) }).await;
    assert_eq!((project.micros, project.picos), (Micros(25 + 40), Picos(250_001)), "the remainder above it neither");
    let overrun = balance(bed, Owner::Overrun).await;
    assert_eq!((overrun.micros, overrun.picos), (Micros(15), Picos(250_001)));
    let subject = BudgetSubject::Project { project_id: project_id(1) };
    let spent = bed.store.spent(&subject, BudgetPeriod::Total, now()).await.expect("reads").spent;
    assert_eq!(spent.micros, Micros(66), "25 of the first, 40.250001 of the second");
    assert_eq!(balance(bed, Owner::Meter).await.micros, Micros(-80));
    closes(bed).await;
}

pub(crate) async fn a_ledger_with_absurd_prices_closes(bed: &Bed) {
    let dear = |sequence| {
        let mut dear = record(sequence);
        dear.held_micros = Micros(1 << 53);
        dear.quantities.micros = Micros((1 << 53) - 1);
        dear.quantities.completion_tokens = galerne_model::units::Tokens(1 << 50);
        dear
    };
    bed.store.settle_batch(1, &[dear(1), record(2), dear(3)]).await.expect("settles");
    closes(bed).await;
    // The check still sees what is wrong.
    bed.damage("UPDATE usage_daily SET micros = micros + 1, picos = picos - 1").await;
    assert!(!bed.store.ledger_check().await.expect("checks").closes());
}

pub(crate) async fn an_interrupted_request_costs_nothing_and_frees_its_hold(bed: &Bed) {
    let mut interrupted = record(1);
    interrupted.outcome = Outcome::Interrupted;
    bed.store.settle_batch(1, &[interrupted.clone()]).await.expect("settles");
    assert_eq!(balance(bed, Owner::Project { project_id: project_id(1) }).await, Quantities::default());
    let kept = bed.store.usage_by_request(interrupted.request_id).await.expect("reads").expect("is there");
    assert_eq!((kept.quantities, kept.held_micros), (Quantities::default(), Micros(100)));
    closes(bed).await;
}

pub(crate) async fn spending_is_counted_by_month_of_admission_and_in_all(bed: &Bed) {
    let at = |text: &str| text.parse::<Timestamp>().expect("an instant");
    let mut october = record(1);
    october.started_at = at("2026-10-31T23:59:59.9Z");
    october.ended_at = at("2026-11-01T00:00:01Z");
    bed.store.settle_batch(1, &[october, record(2), record(3)]).await.expect("settles");
    let project = BudgetSubject::Project { project_id: project_id(1) };
    let tenant = BudgetSubject::Tenant { tenant_id: tenant_id(1) };
    let key = BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) };
    for subject in [project, tenant, key] {
        let total = bed.store.spent(&subject, BudgetPeriod::Total, now()).await.expect("reads");
        // 3 × 250,001 picos are below one micro, which is rounded up.
        assert_eq!(
            (total.spent.micros, total.period_start, total.period_end),
            (Micros(121), Timestamp::UNIX_EPOCH, None)
        );
        let per_record = record(1).quantities;
        assert_eq!(total.spent.millijoules, Millijoules(3 * per_record.millijoules.0));
        assert_eq!(total.spent.co2e_micrograms.0, 3 * per_record.co2e_micrograms.0);
        let month = bed.store.spent(&subject, BudgetPeriod::Month, now()).await.expect("reads");
        assert_eq!((month.spent.micros, month.period_start), (Micros(81), at("2026-11-01T00:00:00Z")));
        assert_eq!(month.period_end, Some(at("2026-12-01T00:00:00Z")));
        let december = bed.store.spent(&subject, BudgetPeriod::Month, at("2026-12-01T00:00:00Z")).await;
        assert_eq!(december.expect("reads").spent, Amounts::default());
    }
    // A budget made today knows the past.
    let mut tx = bed.store.begin().await.expect("begins");
    let budget = tx.insert(&sample::budget(1, project, BudgetPeriod::Total)).await.expect("inserts");
    let unused = BudgetSubject::Project { project_id: project_id(77) };
    let other = tx.insert(&sample::budget(2, unused, BudgetPeriod::Month)).await.expect("inserts");
    tx.commit().await.expect("commits");
    let spending = bed.store.spending(1, now()).await.expect("reads");
    assert_eq!(spending.settled_sequence, 3);
    assert_eq!(spending.spent[&budget.id].spent.micros, Micros(121));
    assert_eq!(spending.spent[&other.id].spent, Amounts::default(), "every living budget has an entry");
    closes(bed).await;
}

pub(crate) async fn a_budget_on_a_key_counts_its_whole_line(bed: &Bed) {
    let key = |n: u64| KeyId::from_uuid(uuid(n));
    let mut tx = bed.store.begin().await.expect("begins");
    let first = tx.insert(&sample::api_key(1)).await.expect("inserts");
    tx.follow_key(key(2), key(1)).await.expect("follows");
    tx.follow_key(key(3), key(2)).await.expect("follows");
    let budget = tx.insert(&sample::budget(1, BudgetSubject::Key { key_id: key(3) }, BudgetPeriod::Total)).await;
    let budget = budget.expect("inserts");
    tx.delete::<galerne_model::identity::ApiKey>(first.id, None, later(1)).await.expect("deletes");
    tx.commit().await.expect("commits");
    let by = |n: i64, who: u64| galerne_model::ledger::UsageRecord { key_id: key(who), ..record(n) };
    bed.store.settle_batch(1, &[by(1, 1), by(2, 2), by(3, 3), by(4, 9)]).await.expect("settles");
    let mut reader = bed.store.reader().await.expect("reads");
    assert_eq!(reader.keys_of_line(key(2)).await.expect("reads"), [key(1), key(2), key(3)]);
    for asked in [key(1), key(2), key(3)] {
        let spent = reader.spent(&BudgetSubject::Key { key_id: asked }, BudgetPeriod::Total, now()).await;
        let spent = spent.expect("reads");
        assert_eq!((spent.spent.micros, spent.subject), (Micros(121), BudgetSubject::Key { key_id: key(1) }));
    }
    let few = reader.spending(1, now()).await.expect("reads");
    assert_eq!(few.spent[&budget.id].spent.micros, Micros(121), "whichever key of the line it was made for");
    drop(reader);
    // Of many budgets all is read at once, with the same result for each of them.
    let mut tx = bed.store.begin().await.expect("begins");
    let subjects = [
        BudgetSubject::Key { key_id: key(2) },
        BudgetSubject::Key { key_id: key(9) },
        BudgetSubject::Key { key_id: key(77) },
        BudgetSubject::Project { project_id: project_id(1) },
        BudgetSubject::Tenant { tenant_id: tenant_id(1) },
    ];
    for n in 0..250_u64 {
        let period = if n % 2 == 0 { BudgetPeriod::Total } else { BudgetPeriod::Month };
        let subject = subjects[usize::try_from(n % 5).expect("small")];
        tx.insert(&sample::budget(100 + n, subject, period)).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
    let mut reader = bed.store.reader().await.expect("reads");
    let many = reader.spending(1, now()).await.expect("reads");
    assert_eq!(many.spent[&budget.id], few.spent[&budget.id]);
    assert_eq!(many.spent.len(), 251);
    for budget in reader.list_all::<Budget>(&Filter::default()).await.expect("lists") {
        let alone = reader.spent(&budget.spec.subject, budget.spec.period, now()).await.expect("reads");
        assert_eq!(many.spent[&budget.id], alone, "{:?}", budget.spec);
    }
    drop(reader);
    closes(bed).await;
}

pub(crate) async fn a_reading_is_shared_out_to_the_last_millijoule(bed: &Bed) {
    on_a_node(bed).await;
    settle(bed, 1, 4).await;
    let posted = bed.store.post_reading(&reading(1, 10_001), 1_333).await.expect("books");
    assert_eq!(posted.usage.millijoules, Millijoules(6_000));
    assert_eq!(posted.idle.millijoules, Millijoules(4_001));
    assert_eq!(posted.overhead.millijoules, Millijoules(3_330), "10,001 × 0.333 is 3,330.333");
    // 10,001 mJ × 50 g/kWh = 138.9 µg, of which the requests took 84.
    assert_eq!((posted.usage.co2e_micrograms.0, posted.idle.co2e_micrograms.0), (84, 54));
    let again = bed.store.post_reading(&reading(1, 10_001), 1_333).await.expect("books");
    assert_eq!(again, posted, "the same reading again is the same reading");
    closes(bed).await;
    // What division left is in the next reading: 2 × 3,330.333 = 6,660.666, then 9,990.999.
    settle(bed, 5, 5).await;
    let second = bed.store.post_reading(&reading(2, 10_001), 1_333).await.expect("books");
    assert_eq!((second.usage.millijoules, second.overhead.millijoules), (Millijoules(1_500), Millijoules(3_330)));
    let third = bed.store.post_reading(&reading(3, 10_001), 1_333).await.expect("books");
    let fourth = bed.store.post_reading(&reading(4, 10_001), 1_333).await.expect("books");
    assert_eq!(third.overhead.millijoules.0 + fourth.overhead.millijoules.0, 6_661);
    assert_eq!(bed.store.last_reading(NodeId::from_uuid(uuid(1))).await.expect("reads"), Some(reading(4, 10_001)));
    assert_eq!(bed.store.last_reading(NodeId::from_uuid(uuid(9))).await.expect("reads"), None);
    let report = bed.store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
    assert_eq!((report.readings, report.metered.millijoules.0), (4, 4 * 10_001 + 13_321));
}

pub(crate) async fn a_reading_below_its_requests_is_apportioned(bed: &Bed) {
    on_a_node(bed).await;
    settle(bed, 1, 4).await;
    let posted = bed.store.post_reading(&reading(1, 5_000), 1_000).await.expect("books");
    assert_eq!((posted.idle.millijoules, posted.apportionment.millijoules), (Millijoules(0), Millijoules(1_000)));
    assert_eq!(balance(bed, Owner::Apportionment).await.millijoules, Millijoules(-1_000));
    assert_eq!(balance(bed, Owner::Meter).await.millijoules, Millijoules(-5_000), "the meter gave what it read");
    closes(bed).await;
}

pub(crate) async fn a_reversal_gives_money_back_and_leaves_energy_idle(bed: &Bed) {
    on_a_node(bed).await;
    settle(bed, 1, 3).await;
    bed.store.post_reading(&reading(1, 9_000), 1_200).await.expect("books");
    let request = record(2).request_id;
    let transfer = bed.store.usage_transfer(request).await.expect("reads").expect("is there");
    let reversal = bed.store.reverse(transfer, later(9)).await.expect("reverses");
    assert_eq!(bed.store.reverse(transfer, later(9)).await.expect("reverses"), reversal, "once");
    let project = balance(bed, Owner::Project { project_id: project_id(1) }).await;
    assert_eq!((project.micros, project.millijoules), (Micros(80), Millijoules(3_000)));
    assert_eq!(balance(bed, Owner::Idle).await.millijoules, Millijoules(9_000 - 4_500 + 1_500));
    let subject = BudgetSubject::Project { project_id: project_id(1) };
    let spent = bed.store.spent(&subject, BudgetPeriod::Month, now()).await.expect("reads");
    let (money, energy) = (spent.spent.micros, spent.spent.millijoules);
    assert_eq!((money, energy), (Micros(81), Millijoules(3_000)), "the budget gets it back");
    closes(bed).await;
    let twice = bed.store.reverse(reversal, later(9)).await;
    assert!(matches!(twice, Err(StoreError::NotFound { .. })), "a reversal is not reversed: {twice:?}");
}

pub(crate) async fn costs_add_up_however_they_are_grouped(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::endpoint(1)).await.expect("inserts");
    tx.insert(&sample::model(1)).await.expect("inserts");
    tx.delete::<galerne_model::inference::Endpoint>(EndpointId::from_uuid(uuid(1)), None, later(1))
        .await
        .expect("deletes");
    tx.commit().await.expect("commits");
    let mut batch = records(1, 20);
    for record in &mut batch {
        let n = u64::try_from(record.sequence).expect("positive");
        record.project_id = project_id(1 + n % 3);
        record.key_id = KeyId::from_uuid(uuid(n % 4));
        record.endpoint_id = EndpointId::from_uuid(uuid(1 + n % 2));
        record.started_at = now() + jiff::SignedDuration::from_hours(24 * (record.sequence % 2));
    }
    bed.store.settle_batch(1, &batch).await.expect("settles");
    for group in [
        CostGroup::Project,
        CostGroup::Endpoint,
        CostGroup::Key,
        CostGroup::Principal,
        CostGroup::Day,
        CostGroup::Model,
    ] {
        let rows = bed.store.costs(&CostFilter::default(), group).await.expect("reads");
        assert_eq!(rows.iter().map(|row| row.requests).sum::<i64>(), 20, "{group:?}");
        assert_eq!(rows.iter().map(|row| row.quantities.micros.0).sum::<i64>(), 800, "{group:?}");
    }
    let groups = |rows: Vec<galerne_store::CostRow>| rows.into_iter().map(|row| row.group).collect::<Vec<_>>();
    let days = bed.store.costs(&CostFilter::default(), CostGroup::Day).await.expect("reads");
    assert_eq!(groups(days), ["2026-11-22", "2026-11-23"]);
    let models = bed.store.costs(&CostFilter::default(), CostGroup::Model).await.expect("reads");
    assert_eq!(groups(models), [EndpointId::from_uuid(uuid(2)).to_string(), "model-1".to_owned()]);
    let one = CostFilter {
        project_id: Some(project_id(2)),
        from: Some(jiff::civil::date(2026, 11, 23)),
        until: Some(jiff::civil::date(2026, 11, 24)),
        ..CostFilter::default()
    };
    let rows = bed.store.costs(&one, CostGroup::Project).await.expect("reads");
    assert_eq!((rows.len(), rows[0].requests), (1, 4), "numbers 1, 7, 13, 19");
    let unknown = CostFilter { project_id: Some(ProjectId::from_uuid(uuid(99))), ..CostFilter::default() };
    assert_eq!(bed.store.costs(&unknown, CostGroup::Day).await.expect("reads"), vec![], "not everybody's costs");
    closes(bed).await;
}

pub(crate) async fn a_record_reads_back_by_request_and_in_the_export(bed: &Bed) {
    let mut bare = record(2);
    bare.replica_id = None;
    bare.price_book_id = None;
    bare.first_token_micros = None;
    bare.quantities.millijoules = Millijoules(0);
    bare.quantities.co2e_micrograms.0 = 0;
    let mut batch = records(1, 2_345);
    batch[1] = bare.clone();
    batch[2].project_id = project_id(2);
    batch[2].replica_id = Some(ReplicaId::from_uuid(uuid(5)));
    bed.store.settle_batch(1, &batch).await.expect("settles");
    assert_eq!(bed.store.usage_by_request(bare.request_id).await.expect("reads"), Some(bare));
    let unknown = galerne_model::ids::RequestId::from_uuid(uuid(5));
    assert_eq!(bed.store.usage_by_request(unknown).await.expect("reads"), None);
    let mut cursor = bed.store.usage(&UsageFilter::default());
    let mut exported = Vec::new();
    while let Some(page) = cursor.next().await.expect("reads") {
        assert!(page.len() <= 1_000, "a page has a limit");
        exported.extend(page);
    }
    assert_eq!(exported, batch);
    let mut cursor = bed.store.usage(&UsageFilter { project_id: Some(project_id(2)), ..UsageFilter::default() });
    assert_eq!(cursor.next().await.expect("reads"), Some(vec![batch[2].clone()]));
    assert_eq!(cursor.next().await.expect("reads"), None);
    let line = csv_line(&batch[0]);
    assert_eq!(line.split(',').count(), csv_header().split(',').count());
    assert!(line.contains(",chat,completed,200,20,3,7,0.000040,250001,1.500,0.000021,estimated,"), "{line}");
}

pub(crate) async fn two_shippers_of_one_spool_count_each_record_once(bed: &Bed) {
    let shippers = (0..4).map(|_| async {
        let mut through = 0;
        while through < 200 {
            let batch = records(through + 1, through + 20);
            match bed.store.settle_batch(1, &batch).await {
                Ok(settled) => through = settled.through,
                Err(StoreError::Gap { expected, .. }) => through = expected - 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    futures_util::future::join_all(shippers).await;
    let report = bed.store.ledger_check().await.expect("checks");
    assert!(report.closes(), "{:#?}", report.findings);
    let cursor = bed.store.settled_through(1).await.expect("reads");
    assert_eq!(report.records, cursor, "each once");
}

pub(crate) async fn pages_of_the_ledger_show_each_row_once(bed: &Bed) {
    on_a_node(bed).await;
    let mut batch = records(1, 30);
    batch[4].project_id = project_id(2);
    bed.store.settle_batch(1, &batch).await.expect("settles");
    for n in 1..=5 {
        bed.store.post_reading(&reading(n, 10_000), 1_100).await.expect("books");
    }
    let mut seen = Vec::new();
    loop {
        let before = seen.last().map(|record: &galerne_model::ledger::UsageRecord| (record.source, record.sequence));
        let page = bed.store.usage_page(&UsageFilter::default(), before, 7).await.expect("reads");
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    seen.reverse();
    assert_eq!(seen, batch);
    let mut transfers = Vec::new();
    loop {
        let after = transfers.last().map(|transfer: &galerne_store::ListedTransfer| transfer.key);
        let page = bed.store.transfers_page(None, after, 7).await.expect("reads");
        if page.is_empty() {
            break;
        }
        transfers.extend(page);
    }
    let report = bed.store.ledger_check().await.expect("checks");
    assert_eq!(i64::try_from(transfers.len()).expect("few"), report.transfers);
    let other = bed.store.transfers_page(Some(project_id(2)), None, 50).await.expect("reads");
    assert_eq!((other.len(), other[0].to), (1, Owner::Project { project_id: project_id(2) }), "only that project's");
    let newest = bed.store.readings_page(None, 2).await.expect("reads");
    let older = bed.store.readings_page(Some(newest[1].0), 50).await.expect("reads");
    let numbers: Vec<i64> = newest.iter().chain(&older).map(|(no, _)| *no).collect();
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
}
