//! Damage that somebody or something did to the ledger: the check finds each and names it.

use galerne_model::ids::NodeId;
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
             operation, outcome, http_status, energy_method, first_token_micros FROM usage WHERE sequence = 40",
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
