use std::collections::HashMap;

use galerne_model::ids::{BudgetId, KeyId, ProjectId, TenantId};
use galerne_model::money::BudgetLimits;
use galerne_model::snapshot::EnergyBoundSource;
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
    BudgetEntry {
        id: budget_id(n),
        name: format!("b{n}"),
        subject: subject(n),
        limits: BudgetLimits::money(Micros(limit)),
        period_end: None,
    }
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
    let spent = Amounts::money(spent);
    PeriodSpending {
        subject: entry.subject,
        period_start: start_of(entry),
        period_end: entry.period_end,
        spent,
        lent: Amounts::default(),
        share: None,
    }
}

fn spending(settled_sequence: i64, entries: &[(&BudgetEntry, i64)]) -> Arc<Spending> {
    let spent = entries
        .iter()
        .map(|(entry, spent)| (entry.id, period_spending(entry, Micros(*spent))))
        .collect::<HashMap<_, _>>();
    Arc::new(Spending { settled_sequence, spent, ..Spending::default() })
}

fn limit_in_picos(entry: &BudgetEntry) -> i128 {
    micros_in_picos(entry.limits.micros.expect("every budget here limits money"))
}

/// A request that may cost exactly `micros`.
fn work(micros: i64) -> (TokenPrice, WorkBound) {
    let price = TokenPrice { prompt: Micros(0), cached: Micros(0), completion: Micros(1_000_000) };
    (price, WorkBound { prompt_max: Tokens(0), completion_max: Tokens(micros), total_max: Tokens(i64::MAX) })
}

fn hold(book: &mut BudgetBook, budgets: &[&BudgetEntry], micros: i64, now: Timestamp) -> Result<Hold, HoldError> {
    let (price, work) = work(micros);
    book.try_hold(payer(0), budgets, &ask(&price, work), now)
}

/// Without energy.
fn ask(price: &TokenPrice, work: WorkBound) -> Ask<'_> {
    Ask { price, work, energy: None, intensity_mg_per_kwh: 0 }
}

/// Money held and spent.
fn position(book: &mut BudgetBook, entry: &BudgetEntry) -> Option<(Micros, Micros)> {
    book.position(entry.id).map(|(held, spent)| (held.micros, spent.micros))
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
    assert_eq!((refused.limit, refused.spent, refused.held), (100, 30, 50));
    assert_eq!((refused.asked, refused.available, refused.fits_max_tokens), (21, 20, Some(Tokens(20))));
    assert_eq!(
        refused.to_string(),
        "budget `b2` has 0.000100 €, of which 0.000030 € are spent and 0.000050 € held; this request may cost 0.000021 €"
    );
    assert_eq!(position(&mut book, &wide), Some((Micros(50), Micros(0))), "the other budget was not touched");
    book.void(first);
    assert_eq!(position(&mut book, &tight), Some((Micros(0), Micros(30))));
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
    book.settle(slow, 1, Used::charge(micros(40)));
    assert_eq!(position(&mut book, &budget), Some((Micros(0), Micros(40))));
    // Old news change nothing.
    book.merge(&spending(0, &[(&budget, 0)]));
    assert_eq!(position(&mut book, &budget), Some((Micros(0), Micros(40))));
    // A record found in the spool at start counts once, settled or not.
    book.recover(1, second(0), Used::charge(micros(40)), payer(0));
    book.recover(2, second(0), Used::charge(micros(5)), payer(0));
    book.recover(2, second(0), Used::charge(micros(5)), payer(0));
    assert_eq!(position(&mut book, &budget), Some((Micros(0), Micros(45))));
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
    while let Ok(hold) = book.try_hold(payer(0), &[&budget], &ask(&PRICE, one), second(0)) {
        admitted += 1;
        book.settle(hold, admitted, Used::charge(rating::charge(&PRICE, used).expect("small")));
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
    book.settle(hold, 1, Used::charge(micros(75)));
    assert_eq!(position(&mut book, &budget), Some((Micros(0), Micros(60))));
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
    assert_eq!(
        lost,
        [OutstandingHold { amounts: Amounts::money(Micros(20)), admitted_at: second(1), payer: payer(0) }]
    );
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
    book.settle(late, 1, Used::charge(micros(10)));
    assert_eq!(position(&mut book, &budget), Some((Micros(100), Micros(0))), "November's request is not December's");
    book.settle(new, 2, Used::charge(micros(70)));
    book.merge(&spending(2, &[(&month(1, 100, december), 70)]));
    assert_eq!(position(&mut book, &budget), Some((Micros(0), Micros(70))));
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
    book.settle(hold, 1, Used::charge(micros(5)));
    // The ledger, still in the past, confirms the record but speaks of November.
    book.merge(&spending(1, &[(&old, 0)]));
    assert_eq!(position(&mut book, &new), Some((Micros(0), Micros(100))));
}

#[test]
fn a_budget_changed_from_monthly_to_total_counts_everything() {
    let now = at("2026-12-05T00:00:00Z");
    let monthly = month(1, 100, now);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&monthly, 10)]));
    let open = hold(&mut book, &[&monthly], 5, now).expect("15 of 100");
    let unsettled = hold(&mut book, &[&monthly], 3, now).expect("18 of 100");
    book.settle(unsettled, 1, Used::charge(micros(3)));
    let total = entry(1, 100);
    book.merge(&spending(0, &[(&total, 80)]));
    assert_eq!(position(&mut book, &total), Some((Micros(5), Micros(83))), "what is open and unsettled still counts");
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
    book.settle(over, 1, Used::charge(micros(50)));
    book.merge(&spending(0, &[(&budget, 0)]));
    assert_eq!(position(&mut book, &budget), Some((Micros(30), Micros(50))));
    refused(hold(&mut book, &[&budget], 21, second(1)));
    book.settle(open, 2, Used::charge(micros(10)));
    assert_eq!(position(&mut book, &budget), Some((Micros(0), Micros(60))));
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
    book.settle(asked, 1, Used::charge(micros(60)));
    // The budget is deleted and made again under the same id: what is unsettled still counts.
    book.merge(&spending(0, &[]));
    assert_eq!(hold(&mut book, &[&entries[0]], 1, second(1)).err(), Some(HoldError::NotLoaded { name: "b10".into() }));
    assert_eq!((book.accounts.len(), book.by_subject.len()), (0, 0));
    book.merge(&spending(0, &known));
    refused(hold(&mut book, &[&entries[0]], 41, second(2)));
    assert_eq!(position(&mut book, &entries[0]), Some((Micros(0), Micros(60))));
    // Budgets that nobody asks for again are forgotten with time.
    for _ in 0..FORGET_EVERY {
        book.merge(&spending(0, &known[1..]));
    }
    assert_eq!(book.accounts.len(), 0);
}

/// A budget of energy and carbon beside money, on the tenant.
fn energy_entry(micros: i64, millijoules: i64, co2e_micrograms: i64) -> BudgetEntry {
    let limits = BudgetLimits {
        micros: Some(Micros(micros)),
        millijoules: Some(Millijoules(millijoules)),
        co2e_micrograms: Some(MicrogramsCo2e(co2e_micrograms)),
    };
    BudgetEntry { limits, ..entry(1, 0) }
}

/// A request that may cost `micros` and take so many millijoules for each of them; a joule emits a tenth of a microgram.
fn energy_ask(price: &TokenPrice, micros: i64, millijoules: i64) -> Ask<'_> {
    let energy = EnergyBound {
        prompt_microjoules: 0,
        completion_microjoules: 1_000 * millijoules,
        source: EnergyBoundSource::Ledger,
    };
    Ask { price, work: work(micros).1, energy: Some(energy), intensity_mg_per_kwh: 360 }
}

#[test]
fn a_refusal_names_the_commodity_there_is_too_little_of_and_an_answer_that_fits_all() {
    let budget = energy_entry(10_000, 1_000_000, 150);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0)]));
    let (price, _) = work(0);
    let mut hold =
        |micros, millijoules| book.try_hold(payer(0), &[&budget], &energy_ask(&price, micros, millijoules), second(0));
    let refused = |result| match result {
        Err(HoldError::Refused(refused)) => *refused,
        other => panic!("expected a refusal, got {other:?}"),
    };
    let energy = refused(hold(500, 4_000));
    assert_eq!((energy.commodity, energy.limit, energy.asked), (Commodity::Energy, 1_000_000, 2_000_000));
    assert_eq!(energy.fits_max_tokens, Some(Tokens(250)));
    assert_eq!(
        energy.to_string(),
        "budget `b1` has 1000.000 J, of which 0.000 J are spent and 0.000 J held; this request may take 2000.000 J"
    );
    let money = refused(hold(20_000, 4_000));
    assert_eq!((money.commodity, money.fits_max_tokens), (Commodity::Money, Some(Tokens(250))), "what fits, fits both");
    assert_eq!(hold(250, 4_000).map(|hold| hold.amounts().millijoules).ok(), Some(Millijoules(1_000_000)));
}

#[test]
fn energy_that_was_used_is_booked_above_its_hold_and_then_nothing_is_admitted() {
    let budget = energy_entry(10_000, 1_000, 1_000_000);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0)]));
    let (price, _) = work(0);
    let ask = energy_ask(&price, 400, 1);
    let first = book.try_hold(payer(0), &[&budget], &ask, second(0)).expect("400 of 1000 mJ");
    let second_hold = book.try_hold(payer(0), &[&budget], &ask, second(0)).expect("800 of 1000 mJ");
    let used = |millijoules| Used { charge: micros(1), energy: Millijoules(millijoules), carbon: MicrogramsCo2e(1) };
    book.settle(first, 1, used(900));
    let (held, spent) = book.position(budget.id).expect("known");
    assert_eq!((held.millijoules, spent.millijoules), (Millijoules(400), Millijoules(900)));
    let one = energy_ask(&price, 1, 1);
    let refused = book.try_hold(payer(0), &[&budget], &one, second(0)).expect_err("900 used and 400 held of 1000");
    assert!(matches!(&refused, HoldError::Refused(refused) if refused.available == 0), "{refused}");
    book.settle(second_hold, 2, used(350));
    book.merge(&spending(0, &[(&budget, 0)]));
    assert!(book.try_hold(payer(0), &[&budget], &one, second(0)).is_err(), "1250 used of 1000");
    // The ledger says the same once it has both records.
    let mut settled = period_spending(&budget, Micros(2));
    settled.spent.millijoules = Millijoules(1_250);
    book.merge(&Arc::new(Spending {
        settled_sequence: 2,
        spent: [(budget.id, settled)].into(),
        ..Spending::default()
    }));
    let refused = book.try_hold(payer(0), &[&budget], &one, second(0)).expect_err("1250 used of 1000");
    assert!(matches!(refused, HoldError::Refused(refused) if refused.spent == 1_250));
}

#[test]
fn what_is_not_metered_is_not_admitted_under_a_limit_on_it() {
    let budget = energy_entry(10_000, 1_000, 1_000);
    let money = entry(2, 1_000);
    let mut book = BudgetBook::new();
    book.merge(&spending(0, &[(&budget, 0), (&money, 0)]));
    let (price, work) = work(1);
    let refused = book.try_hold(payer(0), &[&money, &budget], &ask(&price, work), second(0));
    assert_eq!(refused.err(), Some(HoldError::Unmetered { name: "b1".into(), commodity: Commodity::Energy }));
    let nowhere = Ask { intensity_mg_per_kwh: 0, ..energy_ask(&price, 1, 1) };
    let refused = book.try_hold(payer(0), &[&budget], &nowhere, second(0));
    assert_eq!(refused.err(), Some(HoldError::Unmetered { name: "b1".into(), commodity: Commodity::Carbon }));
    assert!(book.try_hold(payer(0), &[&money], &ask(&price, work), second(0)).is_ok(), "money is always known");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The bound of the overshoot: above the limit is at most what the requests in flight at the last admission used
    /// above their holds. Of money there is no overshoot at all, in the same mix.
    #[test]
    fn energy_passes_a_limit_by_at_most_what_those_in_flight_used_above_their_holds(
        steps in proptest::collection::vec((0usize..8, 1i64..200, 0i64..400), 1..200),
    ) {
        let budget = energy_entry(1_500, 1_000, i64::MAX);
        let mut book = BudgetBook::new();
        book.merge(&spending(0, &[(&budget, 0)]));
        let (price, _) = work(0);
        let mut open: Vec<Option<Hold>> = (0..8).map(|_| None).collect();
        let (mut money, mut energy, mut above, mut sequence) = (0, 0, 0, 0);
        for (client, size, percent) in steps {
            match open[client].take() {
                None => {
                    if let Ok(hold) = book.try_hold(payer(0), &[&budget], &energy_ask(&price, size, 1), second(0)) {
                        let held: i64 = open.iter().flatten().map(|hold| hold.amounts().millijoules.0).sum();
                        prop_assert!(energy + held + hold.amounts().millijoules.0 <= 1_000, "admitted above the limit");
                        open[client] = Some(hold);
                        above = 0;
                    }
                }
                Some(hold) => {
                    let held = hold.amounts();
                    let used = held.millijoules.0 * percent / 100;
                    // Money is bounded by its hold, energy is not.
                    let charge = micros(held.micros.0 * percent.min(100) / 100);
                    sequence += 1;
                    book.settle(hold, sequence, Used { charge, energy: Millijoules(used), carbon: MicrogramsCo2e(0) });
                    money += charge.micros.0;
                    energy += used;
                    above += (used - held.millijoules.0).max(0);
                }
            }
            let held: i64 = open.iter().flatten().map(|hold| hold.amounts().millijoules.0).sum();
            prop_assert!(energy + held <= 1_000 + above, "{energy} used, {held} held, {above} above holds");
            prop_assert!(money <= 1_500, "money was overspent");
            let (in_book, spent) = book.position(budget.id).expect("known");
            prop_assert_eq!((in_book.millijoules.0, spent.millijoules.0), (held, energy));
        }
    }
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
            assert!(spent + held <= limit_in_picos(entry), "budget {} granted too much", entry.name);
        }
    }

    fn publish(&mut self, count: usize) {
        let spent = self
            .every_budget()
            .into_values()
            .map(|entry| {
                let within = |at| at >= start_of(&entry) && entry.period_end.is_none_or(|end| at < end);
                let spent = Parts::picos(self.spent_picos(&entry.subject, within, count)).rounded_up().micros;
                (entry.id, period_spending(&entry, spent))
            })
            .collect();
        let settled_sequence = i64::try_from(count).expect("small");
        self.book.merge(&Arc::new(Spending { settled_sequence, spent, ..Spending::default() }));
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Hold { client, completion } => {
                let budgets = self.budgets(*client);
                let refs: Vec<&BudgetEntry> = budgets.iter().collect();
                let work =
                    WorkBound { prompt_max: Tokens(7), completion_max: Tokens(*completion), total_max: Tokens(100) };
                if self.open[*client].is_none()
                    && let Ok(hold) = self.book.try_hold(payer(*client), &refs, &ask(&PRICE, work), second(self.now))
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
                    self.book.settle(hold, sequence, Used::charge(charge));
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
                    self.book.recover(sequence, record.started_at, Used::charge(charge), record.payer);
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
                let limit = limit_in_picos(entry);
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
