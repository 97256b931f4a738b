//! Shares of budgets: lent, given back, and taken from by what is settled.

use galerne_model::ids::KeyId;
use galerne_model::money::{Amounts, Budget, BudgetPeriod, BudgetSubject};
use galerne_model::units::Micros;
use galerne_store::{ShareChange, Store, StoreError};

use crate::bed::Bed;
use crate::sample::{self, later, now, project_id, records, tenant_id, uuid};

const SOURCE: i64 = 1;

/// Budgets on project, tenant and key of the sample's records: 1 to 3 of all time, 4 to 6 of months.
async fn budgets(bed: &Bed, period: BudgetPeriod) -> [Budget; 3] {
    let key = BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) };
    let first = if period == BudgetPeriod::Total { 1 } else { 4 };
    let made = [
        sample::budget(first, BudgetSubject::Project { project_id: project_id(1) }, period),
        sample::budget(first + 1, BudgetSubject::Tenant { tenant_id: tenant_id(1) }, period),
        sample::budget(first + 2, key, period),
    ];
    let mut tx = bed.store.begin().await.expect("begins");
    for budget in &made {
        tx.insert(budget).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
    made
}

/// The first instant of the period that holds the sample's records.
fn start(period: BudgetPeriod) -> jiff::Timestamp {
    match period {
        BudgetPeriod::Total => jiff::Timestamp::UNIX_EPOCH,
        BudgetPeriod::Month => {
            let first = now().to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
            first.to_zoned(jiff::tz::TimeZone::UTC).expect("a month begins").timestamp()
        }
    }
}

fn change(budget: &Budget, lend: i64, give_back: i64) -> ShareChange {
    ShareChange {
        budget_id: budget.id,
        subject: budget.spec.subject,
        period_start: start(budget.spec.period),
        lend: Amounts::money(Micros(lend)),
        give_back: Amounts::money(Micros(give_back)),
    }
}

/// Spent and lent of a budget.
async fn position(store: &Store, budget: &Budget) -> (i64, i64) {
    let spending = store.spending(99, now()).await.expect("reads");
    let of = spending.spent[&budget.id];
    (of.spent.micros.0, of.lent.micros.0)
}

/// In picos.
async fn share(store: &Store, budget: &Budget) -> i128 {
    let shares = store.shares_of(SOURCE).await.expect("reads").shares;
    let mut of = shares.iter().filter(|share| share.is_of(&budget.spec.subject, start(budget.spec.period)));
    of.find(|share| share.budget_id == budget.id).map_or(0, |share| share.share.picos())
}

pub(crate) async fn what_is_settled_leaves_the_share_and_the_sum_stays(bed: &Bed) {
    let store = &bed.store;
    for (period, from) in [(BudgetPeriod::Total, 1), (BudgetPeriod::Month, 101)] {
        let made = budgets(bed, period).await;
        let (before, _) = position(store, &made[0]).await;
        let changes = made.each_ref().map(|budget| change(budget, 10_000, 0));
        let told = store.change_shares(SOURCE, &changes).await.expect("lends");
        assert_eq!(told, store.shares_of(SOURCE).await.expect("reads"), "what was written is what is read");
        assert_eq!(position(store, &made[0]).await, (before, 10_000));
        // 40 micros and a quarter of one each, and then the same batch again.
        for _ in 0..2 {
            store.settle_batch(SOURCE, &records(from, from + 9)).await.expect("settles");
            for budget in &made {
                assert_eq!(share(store, budget).await, 10_000_000_000 - 10 * 40_250_001, "{}", budget.name);
                let (spent, lent) = position(store, budget).await;
                assert_eq!(spent + lent, before + 10_000, "{}: settled and lent are what they were", budget.name);
            }
        }
        assert_eq!(store.shares_of(SOURCE).await.expect("reads").settled_sequence, from + 9);
        // More than the share comes back, and then more is settled than there is of it: it is nothing, not less.
        store.change_shares(SOURCE, &[change(&made[0], 0, 20_000)]).await.expect("gives back");
        store.settle_batch(SOURCE, &records(from + 10, from + 99)).await.expect("settles");
        assert_eq!((share(store, &made[0]).await, position(store, &made[0]).await.1), (0, 0));
        store.change_shares(SOURCE, &[change(&made[0], 7, 0)]).await.expect("lends");
        assert_eq!(share(store, &made[0]).await, 7_000_000, "nothing is owed");
        store
            .change_shares(SOURCE, &made.each_ref().map(|budget| change(budget, 0, 20_000)))
            .await
            .expect("gives back");
    }
}

pub(crate) async fn other_spools_take_nothing_from_a_share(bed: &Bed) {
    let made = budgets(bed, BudgetPeriod::Total).await;
    bed.store.change_shares(SOURCE, &[change(&made[0], 1_000, 0)]).await.expect("lends");
    let mut others = records(1, 3);
    for record in &mut others {
        record.source = 2;
    }
    bed.store.settle_batch(2, &others).await.expect("settles");
    assert_eq!(share(&bed.store, &made[0]).await, 1_000_000_000);
    assert_eq!(position(&bed.store, &made[0]).await, (121, 1_000));
    let of = bed.store.reader().await.expect("reads").shares_of_budget(made[0].id).await.expect("reads");
    assert_eq!(
        of.iter().map(|(source, share)| (*source, share.share.picos())).collect::<Vec<_>>(),
        [(1, 1_000_000_000)]
    );
}

pub(crate) async fn a_key_that_followed_another_takes_from_the_share_of_its_line(bed: &Bed) {
    // Key 1 of the records followed key 7, on which the budget is.
    let first = KeyId::from_uuid(uuid(7));
    let budget = sample::budget(1, BudgetSubject::Key { key_id: first }, BudgetPeriod::Total);
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&budget).await.expect("inserts");
    tx.follow_key(KeyId::from_uuid(uuid(1)), first).await.expect("follows");
    tx.commit().await.expect("commits");
    bed.store.change_shares(SOURCE, &[change(&budget, 1_000, 0)]).await.expect("lends");
    bed.store.settle_batch(SOURCE, &records(1, 2)).await.expect("settles");
    assert_eq!(share(&bed.store, &budget).await, 1_000_000_000 - 2 * 40_250_001);
}

pub(crate) async fn a_month_that_is_over_and_a_budget_that_is_gone_leave_no_share(bed: &Bed) {
    let made = budgets(bed, BudgetPeriod::Month).await;
    let earlier = ShareChange { period_start: later(-86_400 * 40), ..change(&made[0], 500, 0) };
    bed.store.change_shares(SOURCE, &[earlier, change(&made[1], 700, 0)]).await.expect("lends");
    assert_eq!(position(&bed.store, &made[0]).await.1, 0, "what was lent in another month is not this month's");
    let told = bed.store.change_shares(SOURCE, &[change(&made[0], 600, 0)]).await.expect("lends");
    assert_eq!(told.shares.iter().filter(|share| share.budget_id == made[0].id).count(), 1);
    let mut tx = bed.store.begin().await.expect("begins");
    tx.delete::<Budget>(made[1].id, None, now()).await.expect("deletes");
    tx.commit().await.expect("commits");
    let told = bed.store.change_shares(SOURCE, &[]).await.expect("changes nothing else");
    assert_eq!(told.shares.iter().map(|share| share.budget_id).collect::<Vec<_>>(), [made[0].id]);
}

pub(crate) async fn a_forsaken_spool_frees_its_shares_and_settles_nothing_more(bed: &Bed) {
    let made = budgets(bed, BudgetPeriod::Total).await;
    bed.store.change_shares(SOURCE, &[change(&made[0], 1_000, 0)]).await.expect("lends");
    bed.store.settle_batch(SOURCE, &records(1, 2)).await.expect("settles");
    assert!(!bed.store.is_forsaken(SOURCE).await.expect("reads"));
    let mut tx = bed.store.begin().await.expect("begins");
    assert!(matches!(tx.forsake_spool(77, now()).await, Err(StoreError::NotFound { .. })), "nobody knows it");
    let was = tx.forsake_spool(SOURCE, now()).await.expect("forsakes");
    tx.commit().await.expect("commits");
    assert_eq!(was.shares.iter().map(|share| share.share.picos()).sum::<i128>(), 1_000_000_000 - 2 * 40_250_001);
    assert!(bed.store.is_forsaken(SOURCE).await.expect("reads"));
    assert_eq!(position(&bed.store, &made[0]).await, (81, 0));
    let late = bed.store.settle_batch(SOURCE, &records(3, 4)).await;
    assert!(matches!(late, Err(StoreError::Forsaken { spool: SOURCE })), "{late:?}");
    assert_eq!(bed.store.settled_through(SOURCE).await.expect("reads"), 2);
    assert!(bed.store.ledger_check().await.expect("checks").closes());
}

pub(crate) async fn lending_and_settling_at_once_lose_nothing(bed: &Bed) {
    let made = budgets(bed, BudgetPeriod::Total).await;
    let lender = async {
        for _ in 0..20 {
            bed.store.change_shares(SOURCE, &[change(&made[0], 1_000, 100)]).await.expect("lends");
        }
    };
    let settler = async {
        for n in 0..20 {
            bed.store.settle_batch(SOURCE, &records(n * 5 + 1, n * 5 + 5)).await.expect("settles");
        }
    };
    bed.store.change_shares(SOURCE, &[change(&made[0], 50_000, 0)]).await.expect("lends");
    let number = bed.store.shares_of(SOURCE).await.expect("reads").number;
    tokio::join!(lender, settler);
    assert_eq!(share(&bed.store, &made[0]).await, (50_000 + 20 * 900) * 1_000_000 - 100 * 40_250_001);
    assert_eq!(bed.store.shares_of(SOURCE).await.expect("reads").number, number + 20);
}
