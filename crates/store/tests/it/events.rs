//! The event log.

use galerne_model::event::{Decision, Event};
use galerne_model::ids::PrincipalId;
use galerne_store::{EventFilter, retry};

use crate::bed::Bed;
use crate::sample::{self, project_id, tenant_id, uuid};

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
