//! Damage that somebody or something did to the ledger: the check finds each and names it.

use galerne_model::ids::{KeyId, NodeId};
use galerne_model::ledger::UsageRecord;
use galerne_store::Finding;

use crate::bed::Bed;
use crate::sample::{self, reading, record, records, uuid};

/// A ledger that closes: 40 records, one reading, one reversal.
async fn ledger(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::replica(1, Some(NodeId::from_uuid(uuid(1))))).await.expect("inserts");
    tx.commit().await.expect("commits");
    bed.store.settle_batch(1, &records(1, 40)).await.expect("settles");
    bed.store.post_reading(&reading(1, 90_000), 1_200).await.expect("books");
    let transfer = bed.store.usage_transfer(record(3).request_id).await.expect("reads").expect("is there");
    bed.store.reverse(transfer, sample::later(5)).await.expect("reverses");
    assert_eq!(findings(bed).await, vec![], "the ledger closes before the damage");
}

async fn findings(bed: &Bed) -> Vec<Finding> {
    bed.store.ledger_check().await.expect("checks").findings
}

/// The finding with this code that names this.
async fn found(bed: &Bed, code: &str, name: &str) {
    let findings = findings(bed).await;
    let named = findings.iter().any(|finding| finding.code == code && finding.text.contains(name));
    assert!(named, "no finding `{code}` names `{name}`: {findings:#?}");
}

pub(crate) async fn a_copied_usage_record_is_found_by_name(bed: &Bed) {
    ledger(bed).await;
    // The settlement of record 40 is done twice, without the books noticing.
    let copied = bed
        .damage(
            "INSERT INTO usage SELECT project_no, source, 41, held_micros, overrun_micros, overrun_picos, \
             prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms, request_high, request_low, \
             started_at, duration_micros, tenant_no, principal_no, key_no, endpoint_no, replica_no, price_book_no, \
             operation, outcome, http_status, energy_method, first_token_micros, batch_no, price_percent, \
             prompt_price, cached_price, completion_price, service_tier, country FROM usage WHERE sequence = 40",
        )
        .await;
    assert_eq!(copied, 1);
    found(bed, "settled_twice", &record(40).request_id.to_string()).await;
    found(bed, "transfer_missing", "usage record 1/41").await;
    found(bed, "cursor", "its last record is 41").await;
}

pub(crate) async fn a_copied_transfer_is_found_by_name(bed: &Bed) {
    ledger(bed).await;
    let copied = bed
        .damage(
            "INSERT INTO transfer SELECT to_no, from_no, source, 1040, part, voided_micros, prompt_tokens, \
             cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms FROM transfer \
             WHERE source = 1 AND sequence = 40",
        )
        .await;
    assert_eq!(copied, 1);
    found(bed, "settled_twice", "1/1040").await;
}

pub(crate) async fn a_transfer_of_no_correction_is_found_by_name(bed: &Bed) {
    ledger(bed).await;
    let planted = bed
        .damage(
            "INSERT INTO transfer SELECT to_no, from_no, source, sequence, 7, voided_micros, 0, 0, 0, 0, 0, 0, 0 \
             FROM transfer WHERE source = 1 AND sequence = 40 AND part = 0",
        )
        .await;
    assert_eq!(planted, 1);
    // It moves nothing, so that every sum fits.
    found(bed, "settled_twice", "1/40").await;
}

pub(crate) async fn a_request_settled_under_two_numbers_is_found(bed: &Bed) {
    ledger(bed).await;
    // A gateway writes one request into its spool twice: every sum fits, but the request was paid for twice.
    let twin = UsageRecord { sequence: 41, ..record(7) };
    bed.store.settle_batch(1, &[twin]).await.expect("settles");
    let findings = findings(bed).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    found(bed, "settled_twice", &record(7).request_id.to_string()).await;
}

pub(crate) async fn a_lost_hold_is_found_by_name(bed: &Bed) {
    ledger(bed).await;
    let lost = bed.damage("UPDATE transfer SET voided_micros = 0 WHERE source = 1 AND sequence = 12").await;
    assert_eq!(lost, 1);
    found(bed, "hold_lost", "usage record 1/12").await;
    found(bed, "hold_lost", &record(12).request_id.to_string()).await;
}

pub(crate) async fn a_lost_record_is_found_by_number(bed: &Bed) {
    ledger(bed).await;
    assert_eq!(bed.damage("DELETE FROM usage WHERE sequence = 17").await, 1);
    found(bed, "record_lost", "the first missing one is 17").await;
    found(bed, "settled_twice", "1/17").await;
    assert_eq!(bed.damage("DELETE FROM transfer WHERE source = 1 AND sequence = 17").await, 1);
    found(bed, "record_lost", "the first missing one is 17").await;
    found(bed, "balance", "project_").await;
}

pub(crate) async fn a_changed_balance_is_found(bed: &Bed) {
    ledger(bed).await;
    assert_eq!(bed.damage("UPDATE balance SET micros = micros - 1 WHERE owner_no > 15").await, 1);
    found(bed, "balance", &sample::project_id(1).to_string()).await;
}

pub(crate) async fn energy_from_nowhere_is_found(bed: &Bed) {
    ledger(bed).await;
    assert_eq!(bed.damage("UPDATE reading SET millijoules = millijoules + 1").await, 1);
    found(bed, "energy_total", "1").await;
    found(bed, "energy_reading", "idle").await;
}

pub(crate) async fn spending_that_budgets_do_not_see_is_found(bed: &Bed) {
    ledger(bed).await;
    assert!(bed.damage("UPDATE spending SET micros = micros - 40 WHERE period_start = 0").await > 0);
    found(bed, "spending", &sample::project_id(1).to_string()).await;
    bed.damage("UPDATE spending SET micros = micros + 40 WHERE period_start = 0").await;
    assert_eq!(findings(bed).await, vec![]);
    bed.damage("UPDATE usage_daily SET picos = picos + 1").await;
    found(bed, "daily", &sample::project_id(1).to_string()).await;
}

/// Two tenants, each with a project and two keys, over two months.
async fn two_tenants(bed: &Bed) {
    let by = |n: i64| {
        let (tenant, key) = (1 + n.unsigned_abs() % 2, 1 + n.unsigned_abs() % 4);
        let started_at = sample::now() + jiff::SignedDuration::from_hours(24 * (n / 4 % 3) * 20);
        UsageRecord {
            tenant_id: sample::tenant_id(tenant),
            project_id: sample::project_id(tenant),
            key_id: KeyId::from_uuid(uuid(key)),
            started_at,
            ended_at: started_at,
            ..record(n)
        }
    };
    bed.store.settle_batch(1, &(1..=48).map(by).collect::<Vec<_>>()).await.expect("settles");
    let transfer = bed.store.usage_transfer(record(3).request_id).await.expect("reads").expect("is there");
    bed.store.reverse(transfer, sample::later(5)).await.expect("reverses");
    assert_eq!(findings(bed).await, vec![], "the ledger closes before the damage");
}

/// Moves five from one row to another, so that their sum stays; the check must name both, and find nothing once undone.
async fn moved(bed: &Bed, code: &str, table: &str, column: &str, from: &str, to: &str, names: &[&str]) {
    for (sign, other) in [("-", "+"), ("+", "-")] {
        let take = format!("UPDATE {table} SET {column} = {column} {sign} 5 WHERE {from}");
        assert_eq!(bed.damage(&take).await, 1, "{take}");
        let give = format!("UPDATE {table} SET {column} = {column} {other} 5 WHERE {to}");
        assert_eq!(bed.damage(&give).await, 1, "{give}");
        if sign == "-" {
            for name in names {
                found(bed, code, name).await;
            }
        }
    }
    assert_eq!(findings(bed).await, vec![], "{table}.{column}");
}

/// The number of an id in the ledger, as SQL.
fn no(id: impl std::fmt::Display) -> String {
    format!("(SELECT no FROM ledger_ref WHERE id = '{id}')")
}

pub(crate) async fn what_was_moved_between_two_spenders_is_found(bed: &Bed) {
    two_tenants(bed).await;
    let key = |n: u64| KeyId::from_uuid(uuid(n)).to_string();
    let tenant = |n: u64| sample::tenant_id(n).to_string();
    let november = "period_start = 1793491200000000";
    let december = "period_start = 1796083200000000";
    let row = |subject: &str, period: &str| format!("subject_no = {} AND {period}", no(subject));
    let cases = [
        // Between keys, tenants and projects, in all; between keys in a month; between the months of a key.
        (row(&key(1), "period_start = 0"), row(&key(3), "period_start = 0"), [key(1), key(3)]),
        (row(&tenant(1), "period_start = 0"), row(&tenant(2), "period_start = 0"), [tenant(1), tenant(2)]),
        (row(&key(2), november), row(&key(4), november), [key(2), key(4)]),
        (row(&tenant(1), november), row(&tenant(1), december), ["2026-11-01".to_owned(), "2026-12-01".to_owned()]),
    ];
    for (from, to, names) in &cases {
        for column in ["micros", "picos", "millijoules", "co2e_micrograms"] {
            moved(bed, "spending", "spending", column, from, to, &names.each_ref().map(String::as_str)).await;
        }
    }
}

pub(crate) async fn what_was_moved_between_two_days_keys_or_endpoints_is_found(bed: &Bed) {
    two_tenants(bed).await;
    let key = |n: u64| KeyId::from_uuid(uuid(n)).to_string();
    let day = |of: &str| format!("day = (SELECT {of}(day) FROM usage_daily)");
    let row = |key: &str, day: &str| format!("key_no = {} AND {day}", no(key));
    let columns = [
        "requests",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "micros",
        "picos",
        "millijoules",
        "co2e_micrograms",
    ];
    for column in columns {
        // Keys 1 and 3 are of one project.
        let (from, to) = (row(&key(1), &day("MIN")), row(&key(3), &day("MIN")));
        moved(bed, "daily", "usage_daily", column, &from, &to, &[&key(1), &key(3)]).await;
        let (from, to) = (row(&key(2), &day("MIN")), row(&key(2), &day("MAX")));
        moved(bed, "daily", "usage_daily", column, &from, &to, &[&key(2)]).await;
    }
    // The sums go to another endpoint, key, principal or tenant, whole.
    for (column, to) in
        [("endpoint_no", no(key(1))), ("principal_no", no(key(1))), ("tenant_no", no(sample::tenant_id(2)))]
    {
        let mine = row(&key(1), &day("MIN"));
        let before = format!("(SELECT {column} FROM usage_daily WHERE key_no = {} AND {})", no(key(1)), day("MAX"));
        assert_eq!(bed.damage(&format!("UPDATE usage_daily SET {column} = {to} WHERE {mine}")).await, 1);
        found(bed, "daily", &key(1)).await;
        assert_eq!(bed.damage(&format!("UPDATE usage_daily SET {column} = {before} WHERE {mine}")).await, 1);
    }
    assert_eq!(findings(bed).await, vec![]);
}
