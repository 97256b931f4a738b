use std::collections::HashMap;

use galerne_model::ids::{BudgetId, KeyId, ProjectId, TenantId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// Compiles only while holds, permits and seats cannot be cloned: with a clone in hand a settlement could be done twice.
const _: fn() = || {
    trait IsClone<Answer> {
        fn answer() {}
    }
    struct Yes;
    impl<T> IsClone<()> for T {}
    impl<T: Clone> IsClone<Yes> for T {}
    // Two impls would apply to a type that is `Clone`, and the compiler could not choose.
    <Hold as IsClone<_>>::answer();
    <crate::admission::Permit as IsClone<_>>::answer();
    <crate::routing::Seat as IsClone<_>>::answer();
};

const PRICE: TokenPrice = TokenPrice { prompt: Micros(150_000), cached: Micros(15_000), completion: Micros(600_000) };

fn budget_id(n: u128) -> BudgetId {
    BudgetId::from_uuid(Uuid::from_u128(n))
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("written by hand")
}

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + n).expect("in range")
}

/// Budget 1 is on a tenant, 2 and 3 are on projects, all others on keys.
fn subject(n: u128) -> BudgetSubject {
    let id = Uuid::from_u128(n);
    match n {
        1 => BudgetSubject::Tenant { tenant_id: TenantId::from_uuid(id) },
        2 | 3 => BudgetSubject::Project { project_id: ProjectId::from_uuid(id) },
        _ => BudgetSubject::Key { key_id: KeyId::from_uuid(id) },
    }
}

/// Under budget 1, under budget 2 or 3, and under that of its line. Clients 5 to 9 use keys that followed those of 0 to
/// 4 by a rotation whose overlap has not ended: both keys of a line spend at the same time.
fn payer(client: usize) -> Payer {
    Payer {
        tenant_id: TenantId::from_uuid(Uuid::from_u128(1)),
        project_id: ProjectId::from_uuid(Uuid::from_u128(if line(client).is_multiple_of(2) { 2 } else { 3 })),
        line_id: KeyId::from_uuid(Uuid::from_u128(10 + line(client) as u128)),
    }
}

const fn line(client: usize) -> usize {
    client % 5
}

fn entry(n: u128, limit: i64) -> BudgetEntry {
    BudgetEntry { id: budget_id(n), name: format!("b{n}"), subject: subject(n), limit: Micros(limit), period_end: None }
}

fn month(n: u128, limit: i64, now: Timestamp) -> BudgetEntry {
    let (_, period_end) = period_at(BudgetPeriod::Month, now);
    BudgetEntry { period_end, ..entry(n, limit) }
}

/// Start of the period that an entry is in force for.
fn start_of(entry: &BudgetEntry) -> Timestamp {
    let within = |end: Timestamp| end - jiff::SignedDuration::from_secs(1);
    entry.period_end.map_or(Timestamp::UNIX_EPOCH, |end| period_at(BudgetPeriod::Month, within(end)).0)
}

fn period_spending(entry: &BudgetEntry, spent: Micros) -> PeriodSpending {
    PeriodSpending { subject: entry.subject, period_start: start_of(entry), period_end: entry.period_end, spent }
}

fn spending(settled_sequence: i64, entries: &[(&BudgetEntry, i64)]) -> Arc<Spending> {
    let spent = entries
        .iter()
        .map(|(entry, spent)| (entry.id, period_spending(entry, Micros(*spent))))
        .collect::<HashMap<_, _>>();
    Arc::new(Spending { settled_sequence, spent })
}

/// A request that may cost exactly `micros`.
fn work(micros: i64) -> (TokenPrice, WorkBound) {
    let price = TokenPrice { prompt: Micros(0), cached: Micros(0), completion: Micros(1_000_000) };
    (price, WorkBound { prompt_max: Tokens(0), completion_max: Tokens(micros), total_max: Tokens(i64::MAX) })
}

fn hold(book: &mut BudgetBook, budgets: &[&BudgetEntry], micros: i64, now: Timestamp) -> Result<Hold, HoldError> {
    let (price, work) = work(micros);
    book.try_hold(payer(0), budgets, &price, work, now)
}

fn micros(micros: i64) -> Charge {
    Charge { micros: Micros(micros), picos: galerne_model::units::Picos(0) }
}

fn refused(result: Result<Hold, HoldError>) -> BudgetRefused {
    match result {
        Err(HoldError::Refused(refused)) => *refused,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_refusal_names_the_tightest_budget_with_its_numbers_and_what_would_fit() {
    let (wide, tight) = (entry(1, 10_000), entry(2, 100));
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&wide, 0), (&tight, 30)]));
    let first = hold(&mut book, &[&wide, &tight], 50, second(0)).expect("80 of 100");
    let refused = refused(hold(&mut book, &[&wide, &tight], 21, second(0)));
    assert_eq!((refused.limit, refused.spent, refused.held), (Micros(100), Micros(30), Micros(50)));
    assert_eq!((refused.asked, refused.available, refused.fits_max_tokens), (Micros(21), Micros(20), Some(Tokens(20))));
    assert_eq!(
        refused.to_string(),
        "budget `b2` has 0.000100 €, of which 0.000030 € are spent and 0.000050 € held; this request may cost 0.000021 €"
    );
    assert_eq!(book.position(wide.id), Some((Micros(50), Micros(0))), "the other budget was not touched");
    book.void(first);
    assert_eq!(book.position(tight.id), Some((Micros(0), Micros(30))));
}

#[test]
fn nothing_is_granted_under_a_budget_whose_spending_is_unknown() {
    let budget = entry(1, 100);
    let mut book = BudgetBook::new();
    assert_eq!(hold(&mut book, &[&budget], 1, second(0)).err(), Some(HoldError::NotLoaded { name: "b1".into() }));
}

#[test]
fn a_record_the_ledger_has_counted_is_not_counted_again() {
    let budget = entry(1, 100);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0)]));
    let slow = hold(&mut book, &[&budget], 60, second(0)).expect("60 of 100");
    // The shipper and the ledger are faster than the call to settle.
    book.merge(&spending(1, &[(&budget, 40)]));
    book.settle(slow, 1, micros(40));
    assert_eq!(book.position(budget.id), Some((Micros(0), Micros(40))));
    // Old news change nothing.
    book.merge(&spending(0, &[(&budget, 0)]));
    assert_eq!(book.position(budget.id), Some((Micros(0), Micros(40))));
    // A record found in the spool at start counts once, settled or not.
    book.recover(1, second(0), micros(40), payer(0));
    book.recover(2, second(0), micros(5), payer(0));
    book.recover(2, second(0), micros(5), payer(0));
    assert_eq!(book.position(budget.id), Some((Micros(0), Micros(45))));
}

#[test]
fn fractions_of_a_micro_add_up_to_a_refusal() {
    // One token costs 0.6 micros: rounded down it would be free for ever.
    let budget = entry(1, 3);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0)]));
    let one = WorkBound { prompt_max: Tokens(0), completion_max: Tokens(1), total_max: Tokens(100) };
    let used = rating::TokenCounts { completion: Tokens(1), ..rating::TokenCounts::default() };
    let mut admitted = 0;
    while let Ok(hold) = book.try_hold(payer(0), &[&budget], &PRICE, one, second(0)) {
        admitted += 1;
        book.settle(hold, admitted, rating::charge(&PRICE, used).expect("small"));
        assert!(admitted < 10, "the budget never ends");
    }
    assert_eq!(admitted, 4, "2.4 micros are spent and a fifth token could make 3.4");
}

#[test]
fn a_charge_above_its_hold_is_borne_by_the_provider() {
    let budget = entry(1, 100);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0)]));
    let hold = hold(&mut book, &[&budget], 60, second(0)).expect("60 of 100");
    let bounded = hold.bound(micros(75));
    assert_eq!((bounded.charged, bounded.overrun), (micros(60), micros(15)));
    book.settle(hold, 1, micros(75));
    assert_eq!(book.position(budget.id), Some((Micros(0), Micros(60))));
}

#[test]
fn a_dropped_hold_is_found_among_the_outstanding() {
    let budget = entry(1, 100);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0)]));
    let kept = hold(&mut book, &[&budget], 10, second(0)).expect("10 of 100");
    assert!(hold(&mut book, &[&budget], 20, second(1)).is_ok(), "30 of 100, and the hold is dropped here");
    book.void(kept);
    let lost: Vec<_> = book.outstanding().collect();
    assert_eq!(lost, [OutstandingHold { amount: Micros(20), admitted_at: second(1), payer: payer(0) }]);
}

#[test]
fn a_month_begins_with_a_full_budget_and_a_request_stays_in_its_month() {
    let november = at("2026-11-30T23:59:59Z");
    let december = at("2026-12-01T00:00:00Z");
    let budget = month(1, 100, november);
    assert_eq!((start_of(&budget), budget.period_end), (at("2026-11-01T00:00:00Z"), Some(december)));
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 90)]));
    let late = hold(&mut book, &[&budget], 10, november).expect("100 of 100");
    refused(hold(&mut book, &[&budget], 1, november));
    assert_eq!(hold(&mut book, &[&budget], 1, december).err(), Some(HoldError::NotLoaded { name: "b1".into() }));
    book.merge(&spending(0, &[(&month(1, 100, december), 0)]));
    let new = hold(&mut book, &[&budget], 100, december).expect("a new month");
    book.settle(late, 1, micros(10));
    assert_eq!(book.position(budget.id), Some((Micros(100), Micros(0))), "November's request is not December's");
    book.settle(new, 2, micros(70));
    book.merge(&spending(2, &[(&month(1, 100, december), 70)]));
    assert_eq!(book.position(budget.id), Some((Micros(0), Micros(70))));
}

#[test]
fn a_clock_that_jumps_back_into_last_month_spends_this_month() {
    let (november, december) = (at("2026-11-30T23:00:00Z"), at("2026-12-01T00:00:01Z"));
    let (old, new) = (month(1, 100, november), month(1, 100, december));
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&new, 95)]));
    refused(hold(&mut book, &[&new], 6, december));
    book.merge(&spending(0, &[(&old, 0)]));
    refused(hold(&mut book, &[&old], 6, november));
    let hold = hold(&mut book, &[&old], 5, november).expect("100 of 100");
    assert_eq!(hold.admitted_at(), at("2026-12-01T00:00:00Z"));
    book.settle(hold, 1, micros(5));
    // The ledger, still in the past, confirms the record but speaks of November.
    book.merge(&spending(1, &[(&old, 0)]));
    assert_eq!(book.position(new.id), Some((Micros(0), Micros(100))));
}

#[test]
fn a_budget_changed_from_monthly_to_total_counts_everything() {
    let now = at("2026-12-05T00:00:00Z");
    let monthly = month(1, 100, now);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&monthly, 10)]));
    let open = hold(&mut book, &[&monthly], 5, now).expect("15 of 100");
    let unsettled = hold(&mut book, &[&monthly], 3, now).expect("18 of 100");
    book.settle(unsettled, 1, micros(3));
    let total = entry(1, 100);
    book.merge(&spending(0, &[(&total, 80)]));
    assert_eq!(book.position(total.id), Some((Micros(5), Micros(83))), "what is open and unsettled still counts");
    refused(hold(&mut book, &[&total], 13, now));
    assert!(hold(&mut book, &[&total], 12, now).is_ok());
    book.void(open);
}

#[test]
fn a_new_budget_counts_what_is_in_flight_and_what_the_ledger_has_not_settled() {
    let budget = entry(1, 100);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[]));
    let open = hold(&mut book, &[], 30, second(0)).expect("no budget");
    let over = hold(&mut book, &[], 50, second(0)).expect("no budget");
    book.settle(over, 1, micros(50));
    book.merge(&spending(0, &[(&budget, 0)]));
    assert_eq!(book.position(budget.id), Some((Micros(30), Micros(50))));
    refused(hold(&mut book, &[&budget], 21, second(1)));
    book.settle(open, 2, micros(10));
    assert_eq!(book.position(budget.id), Some((Micros(0), Micros(60))));
}

#[test]
fn a_book_keeps_no_account_of_budgets_that_nobody_asks_for_or_that_are_gone() {
    let entries: Vec<BudgetEntry> = (10..1_010).map(|n| entry(n, 100)).collect();
    let known: Vec<(&BudgetEntry, i64)> = entries.iter().map(|entry| (entry, 0)).collect();
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &known));
    assert_eq!(book.accounts.len(), 0, "news alone costs nothing");
    let asked = hold(&mut book, &[&entries[0]], 60, second(0)).expect("60 of 100");
    assert_eq!((book.accounts.len(), book.by_subject.len()), (1, 1));
    book.settle(asked, 1, micros(60));
    // The budget is deleted and made again under the same id: what is unsettled still counts.
    book.merge(&spending(0, &[]));
    assert_eq!(hold(&mut book, &[&entries[0]], 1, second(1)).err(), Some(HoldError::NotLoaded { name: "b10".into() }));
    assert_eq!((book.accounts.len(), book.by_subject.len()), (0, 0));
    book.merge(&spending(0, &known));
    refused(hold(&mut book, &[&entries[0]], 41, second(2)));
    assert_eq!(book.position(entries[0].id), Some((Micros(0), Micros(60))));
    // Budgets that nobody asks for again are forgotten with time.
    for _ in 0..FORGET_EVERY {
        book.merge(&spending(0, &known[1..]));
    }
    assert_eq!(book.accounts.len(), 0);
}

/// One step of the world around the book.
#[derive(Debug, Clone)]
enum Op {
    Hold {
        client: usize,
        completion: i64,
    },
    Settle {
        client: usize,
        share: i64,
    },
    Void {
        client: usize,
    },
    Publish {
        behind: usize,
    },
    Clock {
        seconds: i64,
    },
    /// The budget on the odd lines' project is there, or not.
    Late {
        there: bool,
    },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..10, 0i64..120).prop_map(|(client, completion)| Op::Hold { client, completion }),
        6 => (0usize..10, 0i64..=100).prop_map(|(client, share)| Op::Settle { client, share }),
        1 => (0usize..10).prop_map(|client| Op::Void { client }),
        2 => (0usize..8).prop_map(|behind| Op::Publish { behind }),
        1 => prop_oneof![Just(20 * 86_400), Just(-20 * 86_400), Just(60), Just(-60)].prop_map(|seconds| Op::Clock { seconds }),
        1 => any::<bool>().prop_map(|there| Op::Late { there }),
        1 => Just(Op::Restart),
    ]
}

/// A durable record as the ledger keeps it.
#[derive(Debug, Clone)]
struct Record {
    started_at: Timestamp,
    picos: i128,
    payer: Payer,
}

struct World {
    book: BudgetBook,
    now: i64,
    open: Vec<Option<Hold>>,
    records: Vec<Record>,
    settled: usize,
    late: bool,
}

impl World {
    fn budgets(&self, client: usize) -> Vec<BudgetEntry> {
        // All clients share a tenant's budget; even lines share a project's monthly budget; each line has its own.
        let mut all = vec![entry(1, 600)];
        if line(client).is_multiple_of(2) {
            all.push(month(2, 250, second(self.now)));
        }
        if self.late && !line(client).is_multiple_of(2) {
            all.push(entry(3, 200));
        }
        all.push(entry(10 + line(client) as u128, 150));
        all
    }

    fn every_budget(&self) -> BTreeMap<BudgetId, BudgetEntry> {
        (0..10).flat_map(|client| self.budgets(client)).map(|entry| (entry.id, entry)).collect()
    }

    fn spent_picos(&self, subject: &BudgetSubject, within: impl Fn(Timestamp) -> bool, count: usize) -> i128 {
        let counted = self.records[..count].iter().filter(|r| r.payer.is_under(subject) && within(r.started_at));
        counted.map(|r| r.picos).sum()
    }

    /// What was spent before a budget was made may be above its limit; but then it grants nothing.
    fn assert_nothing_is_promised_twice(&self, budgets: &[BudgetEntry]) {
        for entry in budgets.iter().filter(|entry| entry.period_end.is_none()) {
            let open = (0..).zip(&self.open).filter(|(client, _)| payer(*client).is_under(&entry.subject));
            let held: i128 =
                open.filter_map(|(_, hold)| hold.as_ref()).map(|hold| micros_in_picos(hold.amount())).sum();
            let spent = self.spent_picos(&entry.subject, |_| true, self.records.len());
            assert!(spent + held <= micros_in_picos(entry.limit), "budget {} granted too much", entry.name);
        }
    }

    fn publish(&mut self, count: usize) {
        let spent = self
            .every_budget()
            .into_values()
            .map(|entry| {
                let within = |at| at >= start_of(&entry) && entry.period_end.is_none_or(|end| at < end);
                let spent = picos_up(self.spent_picos(&entry.subject, within, count));
                (entry.id, period_spending(&entry, spent))
            })
            .collect();
        let settled_sequence = i64::try_from(count).expect("small");
        self.book.merge(&Arc::new(Spending { settled_sequence, spent }));
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Hold { client, completion } => {
                let budgets = self.budgets(*client);
                let refs: Vec<&BudgetEntry> = budgets.iter().collect();
                let work =
                    WorkBound { prompt_max: Tokens(7), completion_max: Tokens(*completion), total_max: Tokens(100) };
                if self.open[*client].is_none()
                    && let Ok(hold) = self.book.try_hold(payer(*client), &refs, &PRICE, work, second(self.now))
                {
                    self.open[*client] = Some(hold);
                    self.assert_nothing_is_promised_twice(&budgets);
                }
            }
            Op::Settle { client, share } => {
                if let Some(hold) = self.open[*client].take() {
                    let picos = micros_in_picos(hold.amount()) * i128::from(*share) / 100;
                    let charge = hold.bound(Charge::from_picos(picos).expect("small")).charged;
                    self.records.push(Record {
                        started_at: hold.admitted_at(),
                        picos: charge.in_picos(),
                        payer: payer(*client),
                    });
                    let sequence = i64::try_from(self.records.len()).expect("small");
                    self.book.settle(hold, sequence, charge);
                }
            }
            Op::Void { client } => {
                if let Some(hold) = self.open[*client].take() {
                    self.book.void(hold);
                }
            }
            Op::Publish { behind } => {
                // The ledger lags, and a late message may even be older than the last one.
                let count = self.records.len().saturating_sub(*behind);
                self.settled = self.settled.max(count);
                self.publish(count);
            }
            Op::Late { there } => self.late = *there,
            Op::Clock { seconds } => self.now += seconds,
            Op::Restart => {
                // kill -9: holds vanish with their requests; the spool and the ledger stay.
                self.book = BudgetBook::new();
                self.open = (0..10).map(|_| None).collect();
                self.publish(self.settled);
                for (index, record) in self.records.iter().enumerate().skip(self.settled) {
                    let charge = Charge::from_picos(record.picos).expect("small");
                    let sequence = i64::try_from(index + 1).expect("small");
                    self.book.recover(sequence, record.started_at, charge, record.payer);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn ten_interleaved_clients_never_overspend_a_budget(ops in proptest::collection::vec(op(), 1..300)) {
        let mut world = World { book: BudgetBook::new(), now: 0, open: (0..10).map(|_| None).collect(), records: Vec::new(), settled: 0, late: false };
        world.publish(0);
        let limits = world.every_budget();
        for op in &ops {
            world.apply(op);
            for entry in limits.values() {
                let total = |within: &dyn Fn(Timestamp) -> bool| world.spent_picos(&entry.subject, within, world.records.len());
                let limit = micros_in_picos(entry.limit);
                if entry.period_end.is_none() {
                    prop_assert!(total(&|_| true) <= limit, "budget {} is overspent", entry.name);
                } else {
                    let mut starts: Vec<_> = world.records.iter().map(|r| period_at(BudgetPeriod::Month, r.started_at)).collect();
                    starts.sort_unstable();
                    starts.dedup();
                    for (start, end) in starts {
                        let within = |at| at >= start && end.is_none_or(|end| at < end);
                        prop_assert!(total(&within) <= limit, "budget {} is overspent in the month of {start}", entry.name);
                    }
                }
            }
            prop_assert_eq!(world.book.outstanding().count(), world.open.iter().flatten().count(), "a hold is lost");
        }
    }
}
