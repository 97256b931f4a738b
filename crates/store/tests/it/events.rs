//! The event log.

use galerne_model::event::{Decision, Event};
use galerne_model::ids::{EventId, PrincipalId, RequestId};
use galerne_store::{EventFilter, retry};
use jiff::Timestamp;
use uuid::Uuid;

use crate::bed::Bed;
use crate::sample::{self, later, now, project_id, tenant_id, uuid};

pub(crate) async fn numbers_have_no_gaps_whoever_writes_and_whoever_gives_up(bed: &Bed) {
    let writers = (0..12_u64).map(|writer| async move {
        for round in 0..6_u64 {
            let number = retry(|| async {
                let mut tx = bed.store.begin().await?;
                tx.insert(&sample::project(1 + writer * 100 + round, writer)).await?;
                tx.record(sample::event("project.create"));
                tx.record(sample::event("project.note"));
                // Every third transaction is given up after it recorded.
                if (writer + round) % 3 == 0 { Ok(0) } else { tx.commit().await }
            });
            number.await.expect("writers do not collide");
        }
    });
    futures_util::future::join_all(writers).await;
    let events = bed.store.events_forward(&EventFilter::default(), 500).await.expect("lists");
    assert_eq!(events.len(), 2 * 12 * 6 * 2 / 3);
    assert!(events.iter().map(|event| event.sequence).eq(1..=96));
}

pub(crate) async fn a_filter_finds_its_events_and_a_cursor_all_of_them(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    for n in 0..40_u64 {
        let denied = n % 4 == 0;
        let mut event = sample::event(if n % 2 == 0 { "key.use" } else { "endpoint.create" });
        event.tenant_id = Some(tenant_id(n % 5));
        event.project_id = Some(project_id(n % 10));
        event.resource = Some(format!("endpoint_{n}"));
        event.decision = if denied { Decision::Denied } else { Decision::Allowed };
        event.actor.principal_id = Some(PrincipalId::from_uuid(uuid(n % 3)));
        event.actor.address = Some("192.0.2.7".to_owned());
        tx.record(event);
    }
    let last = tx.commit().await.expect("commits");
    assert_eq!(last, 40, "the commit says the last number");

    let denied_of_tenant =
        EventFilter { tenant_id: Some(tenant_id(0)), decision: Some(Decision::Denied), ..EventFilter::default() };
    assert_eq!(numbers(&bed.store.events(&denied_of_tenant, 50).await.expect("lists")), vec![21, 1]);
    let one = EventFilter { resource: Some("endpoint_7".to_owned()), ..EventFilter::default() };
    assert_eq!(numbers(&bed.store.events(&one, 50).await.expect("lists")), vec![8]);
    let by = EventFilter {
        principal_id: Some(PrincipalId::from_uuid(uuid(2))),
        project_id: Some(project_id(5)),
        action: Some("endpoint.create".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(numbers(&bed.store.events(&by, 50).await.expect("lists")), vec![36, 6]);

    let mut seen = Vec::new();
    let mut filter = EventFilter::default();
    loop {
        let page = bed.store.events(&filter, 7).await.expect("lists");
        let Some(oldest) = page.last() else { break };
        filter.before = Some(oldest.sequence);
        seen.extend(numbers(&page));
    }
    assert!(seen.iter().copied().eq((1..=40).rev()));
}

fn numbers(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.sequence).collect()
}

pub(crate) async fn a_commit_is_announced(bed: &Bed) {
    let mut changed = bed.store.changed();
    assert!(!changed.has_changed().expect("the store lives"));
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::tenant(1)).await.expect("inserts");
    assert!(!changed.has_changed().expect("the store lives"), "announced before it was durable");
    tx.commit().await.expect("commits");
    changed.changed().await.expect("the store lives");
    drop(bed.store.begin().await.expect("begins"));
    assert!(!changed.has_changed().expect("the store lives"), "a given-up transaction is no change");
}

pub(crate) async fn denials_are_found_by_their_request_and_by_when_they_were_told(bed: &Bed) {
    let minted = |second: u64| second * 1_000;
    let made_at = |second: u64| Timestamp::from_millisecond(minted(second).cast_signed()).expect("in range");
    let id = |second: u64, n: u128| Uuid::from_u128(u128::from(minted(second)) << 80 | 7 << 76 | n);
    let request_id = RequestId::from_uuid(uuid(5));
    let mut tx = bed.store.begin().await.expect("begins");
    let mut allowed = sample::event("key.create");
    allowed.actor.request_id = Some(request_id);
    let mut denied = sample::event("key.use");
    denied.actor.request_id = Some(request_id);
    denied.decision = Decision::Denied;
    tx.record(allowed);
    tx.record(denied.clone());
    for second in 1_000..1_010 {
        for (n, component) in ["gateway", "other"].into_iter().enumerate() {
            let mut sum = sample::event("inference.use");
            (sum.id, sum.decision) = (EventId::from_uuid(id(second, n as u128)), Decision::Denied);
            sum.actor.component = component.to_owned();
            tx.record(sum);
        }
    }
    tx.commit().await.expect("commits");
    let mut reader = bed.store.reader().await.expect("reads");
    let found = reader.denial_of(request_id).await.expect("asks").expect("it is there");
    assert_eq!((found.id, found.decision), (denied.id, Decision::Denied));
    assert_eq!(reader.denial_of(RequestId::from_uuid(uuid(6))).await.expect("asks"), None);
    let (from, until) = (made_at(1_003), made_at(1_006));
    let told = reader.denials_told("gateway", from, until, None, 500).await.expect("asks");
    let ids: Vec<EventId> = told.iter().map(|event| event.id).collect();
    assert_eq!(ids, [1_003, 1_004, 1_005].map(|second| EventId::from_uuid(id(second, 0))));
    let first = reader.denials_told("gateway", from, until, None, 1).await.expect("asks");
    assert_eq!(first, told[..1]);
    let rest = reader.denials_told("gateway", from, until, Some(first[0].id), 500).await.expect("asks");
    assert_eq!(rest, told[1..], "a page goes on where the last one ended");
}

async fn write(store: &galerne_store::Store, count: usize) -> i64 {
    let mut tx = store.begin().await.expect("begins");
    for _ in 0..count {
        tx.record(sample::event("test.happen"));
    }
    tx.commit().await.expect("commits")
}

pub(crate) async fn events_are_handed_out_to_be_forwarded_in_order_and_without_gaps(bed: &Bed) {
    let store = &bed.store;
    let ttl = jiff::SignedDuration::from_secs(60);
    let lease = async || {
        let now = jiff::Timestamp::now();
        store.lease_acquire("forward", "a", ttl, now).await.expect("asks").expect("it is ours").epoch
    };
    assert_eq!(write(store, 3).await, 3);
    store.forward_events().await.expect("from now on");
    store.forward_events().await.expect("the same again changes nothing");
    assert_eq!(write(store, 5).await, 8);
    let mut dropped = store.begin().await.expect("begins");
    dropped.record(sample::event("test.never"));
    drop(dropped);
    assert_eq!(store.forward_backlog().await.expect("reads"), 5);
    let epoch = lease().await;
    let out = store.forward_claim(epoch, now(), later(60), 3).await.expect("claims");
    assert_eq!(numbers(&out.events), [4, 5, 6]);
    assert_eq!(out.events[0], store.events(&EventFilter::default(), 10).await.expect("lists")[4], "whole");
    // Two were taken; the third is handed out again, and by a holder of before nothing is marked.
    store.forward_done("forward", epoch, &out, 5).await.expect("marks");
    let next = lease().await;
    let fenced = store.forward_done("forward", epoch, &out, 6).await;
    assert!(matches!(fenced, Err(galerne_store::StoreError::Fenced { .. })), "{fenced:?}");
    let out = store.forward_claim(next, now(), later(60), 10).await.expect("claims");
    assert_eq!(numbers(&out.events), [6, 7, 8]);
    // A process died with these in hand: they come from the log, and again no number is left out.
    let other = lease().await;
    let again = store.forward_claim(other, now(), later(60), 2).await.expect("claims");
    assert_eq!(numbers(&again.events), [6, 7]);
    store.forward_done("forward", other, &again, 7).await.expect("marks");
    // One that was written past the queue stands before one that was queued.
    let plain = galerne_store::Store::open(&bed.url).await.expect("opens beside");
    assert_eq!(write(&plain, 1).await, 9);
    plain.close().await;
    assert_eq!(write(store, 2).await, 11);
    let mut seen = Vec::new();
    // What the dead one had in hand is free after its time.
    while let out = store.forward_claim(other, later(61), later(120), 4).await.expect("claims")
        && !out.is_empty()
    {
        seen.extend(numbers(&out.events));
        let through = out.events.last().map_or(11, |event| event.sequence);
        store.forward_done("forward", other, &out, through).await.expect("marks");
        assert!(seen.len() < 20, "it comes to an end: {seen:?}");
    }
    assert_eq!(seen, [8, 9, 10, 11]);
    assert_eq!(store.forward_backlog().await.expect("reads"), 0);
    assert_eq!(bed.damage("DELETE FROM outbox").await, 0, "nothing is left in the queue");
}

pub(crate) async fn only_what_was_handed_out_is_given_back(bed: &Bed) {
    let store = &bed.store;
    store.forward_events().await.expect("from now on");
    write(store, 4).await;
    let real = jiff::Timestamp::now();
    let lease = store.lease_acquire("forward", "a", jiff::SignedDuration::from_secs(60), real).await;
    let epoch = lease.expect("asks").expect("it is free").epoch;
    let out = store.forward_claim(epoch, now(), later(60), 2).await.expect("claims");
    assert_eq!(numbers(&out.events), [1, 2]);
    let behind = store.outbox_claim("event", epoch, now(), later(60), 1).await.expect("claims");
    assert_eq!(behind.len(), 1);
    // The lease changed hands and came back: what the receiver took under the old epoch is marked under the new one.
    let lease = store.lease_acquire("forward", "a", jiff::SignedDuration::from_secs(60), real).await;
    let next = lease.expect("asks").expect("its own").epoch;
    store.forward_done("forward", next, &out, 1).await.expect("marks");
    assert_eq!(store.forwarded_through().await.expect("reads"), 1);
    let free = store.outbox_claim("event", next, now(), later(60), 10).await.expect("claims");
    let ids: Vec<i64> = free.iter().map(|item| item.id).collect();
    assert!(ids.len() == 2 && !ids.contains(&behind[0].id), "2 and 4, not what somebody else has in hand: {ids:?}");
}
