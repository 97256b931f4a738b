//! Leases, outbox, idempotency keys.

use std::collections::BTreeSet;

use galerne_model::identity::Project;
use galerne_model::ids::PrincipalId;
use galerne_store::{Engine, Filter, Idempotency, OutboxItem, StoreError, retry};
use jiff::{SignedDuration, Timestamp};

use crate::bed::Bed;
use crate::sample::{self, later, now, uuid};

const TTL: SignedDuration = SignedDuration::from_secs(6);

pub(crate) async fn a_lease_has_one_holder_and_a_growing_epoch(bed: &Bed) {
    // PostgreSQL's clock decides there, so the clock must be the real one.
    let start = Timestamp::now();
    let first = bed.store.lease_acquire("loops", "a", TTL, start).await.expect("asks").expect("it is free");
    assert_eq!((first.epoch, first.holder.as_str()), (1, "a"));
    assert_eq!(bed.store.lease_acquire("loops", "b", TTL, start).await.expect("asks"), None, "a holds it");
    assert!(bed.store.lease_renew("loops", 1, TTL, start).await.expect("asks"));
    // A holder that restarted takes its own lease at once, and its past is fenced off.
    let again = bed.store.lease_acquire("loops", "a", TTL, start).await.expect("asks").expect("its own");
    assert_eq!(again.epoch, 2);
    assert!(!bed.store.lease_renew("loops", 1, TTL, start).await.expect("asks"), "an old epoch renews nothing");
    assert!(!bed.store.lease_release("loops", 1).await.expect("asks"));
    assert!(bed.store.lease_release("loops", 2).await.expect("asks"));
    let next = bed.store.lease_acquire("loops", "b", TTL, start).await.expect("asks").expect("it was given back");
    assert_eq!(next.epoch, 3);
    if bed.store.engine() == Engine::Sqlite {
        let over = start + SignedDuration::from_secs(7);
        assert!(!bed.store.lease_renew("loops", 3, TTL, over).await.expect("asks"), "it is over");
        let taken = bed.store.lease_acquire("loops", "c", TTL, over).await.expect("asks").expect("b let it end");
        assert_eq!(taken.epoch, 4);
    }
}

pub(crate) async fn an_old_epoch_cannot_write(bed: &Bed) {
    let start = Timestamp::now();
    bed.store.lease_acquire("loops", "a", TTL, start).await.expect("asks").expect("it is free");
    let mut tx = bed.store.begin().await.expect("begins");
    tx.require_epoch("loops", 1).await.expect("it holds");
    tx.insert(&sample::project(1, 1)).await.expect("inserts");
    tx.commit().await.expect("commits");
    bed.store.lease_acquire("loops", "a", TTL, start).await.expect("asks").expect("taken again");
    let mut tx = bed.store.begin().await.expect("begins");
    let fenced = tx.require_epoch("loops", 1).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { epoch: 1, .. })), "{fenced:?}");
    assert!(matches!(tx.require_epoch("other", 1).await, Err(StoreError::Fenced { .. })));
}

pub(crate) async fn a_lease_waits_for_nobody_who_reads(bed: &Bed) {
    let store = &bed.store;
    // As many as there are.
    let readers = if store.engine() == Engine::Sqlite { 4 } else { 10 };
    let mut held = Vec::new();
    for _ in 0..readers {
        held.push(store.reader().await.expect("reads"));
    }
    let asked = std::time::Instant::now();
    let start = Timestamp::now();
    let lease = store.lease_acquire("server", "a", TTL, start).await.expect("asks").expect("it is free");
    assert!(store.lease_renew("server", lease.epoch, TTL, start).await.expect("asks"));
    assert_eq!(store.lease("server", start).await.expect("asks").map(|lease| lease.holder).as_deref(), Some("a"));
    assert!(store.lease_release("server", lease.epoch).await.expect("asks"));
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "it waited {:?}", asked.elapsed());
}

pub(crate) async fn a_lock_from_elsewhere_ends_all_leases(bed: &Bed) {
    let start = Timestamp::now();
    // Taken by a clock that was an hour ahead and has been set back since.
    let hour = SignedDuration::from_hours(1);
    for name in ["server", "forward"] {
        bed.store.lease_acquire(name, "before", TTL + hour, start).await.expect("asks").expect("it is free");
        assert_eq!(bed.store.lease_acquire(name, "now", TTL, start).await.expect("asks"), None);
    }
    bed.store.leases_end().await.expect("ends");
    for name in ["server", "forward"] {
        let lease = bed.store.lease_acquire(name, "now", TTL, start).await.expect("asks").expect("nobody lives");
        assert_eq!(lease.epoch, 2, "the past is fenced off");
    }
}

fn item(key: &str) -> OutboxItem {
    let payload = serde_json::json!({"to": key, "n": [1, 2]});
    OutboxItem { kind: "webhook".to_owned(), key: key.to_owned(), payload, created_at: now(), not_before: now() }
}

pub(crate) async fn an_outbox_item_is_done_once_however_often_it_is_given_out(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    assert!(tx.enqueue(&item("a")).await.expect("enqueues"));
    assert!(!tx.enqueue(&item("a")).await.expect("enqueues"), "the same thing waits already");
    assert!(tx.enqueue(&OutboxItem { not_before: later(60), ..item("b") }).await.expect("enqueues"));
    tx.commit().await.expect("commits");

    let store = &bed.store;
    let claimed = store.outbox_claim("webhook", 1, later(1), later(5), 10).await.expect("claims");
    assert_eq!(claimed.len(), 1, "only what is due");
    assert_eq!((claimed[0].key.as_str(), &claimed[0].payload, claimed[0].attempts), ("a", &item("a").payload, 1));
    assert_eq!(store.outbox_claim("webhook", 2, later(2), later(9), 10).await.expect("claims"), vec![]);
    assert_eq!(store.outbox_claim("mail", 2, later(2), later(9), 10).await.expect("claims"), vec![]);
    // The first claimer is too late: the item was given to another one, whose acknowledgement counts.
    let second = store.outbox_claim("webhook", 2, later(6), later(9), 10).await.expect("claims");
    assert_eq!((second.len(), second[0].attempts), (1, 2));
    assert!(!store.outbox_ack(second[0].id, 1).await.expect("acknowledges"));
    assert!(store.outbox_retry(second[0].id, 2, later(20)).await.expect("puts back"));
    assert_eq!(store.outbox_claim("webhook", 3, later(19), later(30), 10).await.expect("claims"), vec![]);
    let third = store.outbox_claim("webhook", 3, later(20), later(30), 10).await.expect("claims");
    assert!(store.outbox_ack(third[0].id, 3).await.expect("acknowledges"));
    assert_eq!(store.outbox_claim("webhook", 4, later(50), later(60), 10).await.expect("claims"), vec![]);
}

pub(crate) async fn eight_claimers_share_the_outbox_without_overlap(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    for n in 0..80 {
        tx.enqueue(&item(&format!("item-{n}"))).await.expect("enqueues");
    }
    tx.commit().await.expect("commits");
    let claimers = (1..=8_i64).map(|epoch| async move {
        let mut taken = Vec::new();
        for _ in 0..20 {
            let some = retry(|| bed.store.outbox_claim("webhook", epoch, later(1), later(600), 5)).await;
            taken.extend(some.expect("claims").into_iter().map(|claimed| claimed.key));
        }
        taken
    });
    let taken: Vec<String> = futures_util::future::join_all(claimers).await.into_iter().flatten().collect();
    assert_eq!(taken.len(), 80);
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 80, "an item was given to two");
}

fn caller() -> PrincipalId {
    PrincipalId::from_uuid(uuid(1))
}

/// Creates project `n` under an idempotency key; says whether the work was done now, and the answer.
async fn create(bed: &Bed, n: u64, key: &str) -> Result<(bool, String), StoreError> {
    let mut tx = bed.store.begin().await?;
    match tx.begin_idempotent(caller(), key, "digest", now()).await? {
        Idempotency::Fresh => {
            tx.insert(&sample::project(n, 1)).await?;
            let body = format!("created {n}");
            tx.finish_idempotent(caller(), key, 201, &body).await?;
            tx.commit().await?;
            Ok((true, body))
        }
        Idempotency::Replay { status, body } => {
            assert_eq!(status, 201);
            Ok((false, body))
        }
        Idempotency::Mismatch => panic!("the digest is the same"),
    }
}

pub(crate) async fn the_same_key_does_its_work_once_and_answers_the_same(bed: &Bed) {
    let twins = (1..=8_u64).map(|n| async move { retry(|| create(bed, n, "k")).await.expect("answers") });
    let answers = futures_util::future::join_all(twins).await;
    assert_eq!(answers.iter().filter(|(fresh, _)| *fresh).count(), 1);
    assert!(answers.iter().all(|(_, body)| *body == answers[0].1), "{answers:?}");
    assert_eq!(bed.store.list_all::<Project>(&Filter::default()).await.expect("lists").len(), 1);
}

pub(crate) async fn a_key_for_another_request_is_refused_until_it_expires(bed: &Bed) {
    create(bed, 1, "k").await.expect("creates");
    let mut tx = bed.store.begin().await.expect("begins");
    let other = tx.begin_idempotent(caller(), "k", "another digest", later(1)).await.expect("asks");
    assert_eq!(other, Idempotency::Mismatch);
    let stranger = PrincipalId::from_uuid(uuid(2));
    let theirs = tx.begin_idempotent(stranger, "k", "another digest", later(1)).await.expect("asks");
    assert_eq!(theirs, Idempotency::Fresh, "keys are each caller's own");
    drop(tx);
    let after = now() + SignedDuration::from_hours(49);
    let mut tx = bed.store.begin().await.expect("begins");
    let fresh = tx.begin_idempotent(caller(), "k", "another digest", after).await.expect("asks");
    assert_eq!(fresh, Idempotency::Fresh);
    drop(tx);
    assert_eq!(bed.store.prune(later(1)).await.expect("prunes"), 0);
    assert_eq!(bed.store.prune(after).await.expect("prunes"), 1);
}
