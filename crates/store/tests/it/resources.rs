//! Resources: names, generations, filters, pages, races.

use std::collections::BTreeSet;

use galerne_model::identity::{Project, ProjectSpec, Tenant};
use galerne_model::money::{BudgetPeriod, BudgetSubject};
use galerne_store::{Filter, Kind, Page, StoreError, retry};

use crate::bed::Bed;
use crate::sample::{self, later, now, project_id, tenant_id};

async fn add<K: Kind>(bed: &Bed, new: &K) -> K {
    let mut tx = bed.store.begin().await.expect("begins");
    let added = tx.insert(new).await.expect("inserts");
    tx.commit().await.expect("commits");
    added
}

async fn all_like<K: Kind>(bed: &Bed, _: &K) -> Vec<K> {
    bed.store.list_all(&Filter::default()).await.expect("lists")
}

pub(crate) async fn every_kind_reads_back_as_it_was_written(bed: &Bed) {
    macro_rules! written_and_read {
        ($($new:expr),* $(,)?) => {$({
            let new = $new;
            assert_eq!(add(bed, &new).await, new);
            assert_eq!(all_like(bed, &new).await, vec![new]);
        })*};
    }
    written_and_read!(
        sample::tenant(1),
        sample::project(1, 1),
        sample::principal(1),
        sample::role_binding(1),
        sample::api_key(1),
        sample::model(1),
        sample::pull(1),
        sample::endpoint(1),
        sample::replica(1, None),
        sample::node(1),
        sample::budget(1, BudgetSubject::Tenant { tenant_id: tenant_id(1) }, BudgetPeriod::Month),
        sample::price_book(1),
    );
}

pub(crate) async fn a_name_is_taken_only_among_the_living_of_its_owner(bed: &Bed) {
    let named = |n: u64, owner: u64| Project { name: "web".to_owned(), ..sample::project(n, owner) };
    add(bed, &named(1, 1)).await;
    add(bed, &named(2, 2)).await;
    let mut tx = bed.store.begin().await.expect("begins");
    let error = tx.insert(&named(3, 1)).await.expect_err("the name is taken");
    assert!(matches!(&error, StoreError::Exists { kind: "project", name } if name == "web"), "{error:?}");
    // The transaction goes on, for instance to record the refusal.
    tx.delete::<Project>(project_id(1), None, later(1)).await.expect("deletes");
    tx.insert(&named(3, 1)).await.expect("the name is free again");
    tx.commit().await.expect("commits");
    // What has no owner has one name space too.
    add(bed, &Tenant { name: "acme".to_owned(), ..sample::tenant(1) }).await;
    let mut tx = bed.store.begin().await.expect("begins");
    let twin = Tenant { name: "acme".to_owned(), ..sample::tenant(2) };
    assert!(matches!(tx.insert(&twin).await, Err(StoreError::Exists { .. })));
}

pub(crate) async fn a_spec_changes_only_from_the_generation_its_writer_saw(bed: &Bed) {
    let project = add(bed, &sample::project(1, 1)).await;
    let spec = ProjectSpec { description: "changed".to_owned(), ..ProjectSpec::default() };
    let mut tx = bed.store.begin().await.expect("begins");
    let changed = tx.update_spec::<Project>(project.id, 1, &spec, later(5)).await.expect("changes");
    assert_eq!((changed.generation, &changed.spec, changed.updated_at), (2, &spec, later(5)));
    let error = tx.update_spec::<Project>(project.id, 1, &spec, later(6)).await.expect_err("an old generation");
    assert!(matches!(error, StoreError::Conflict { current: 2 }), "{error:?}");
    let error = tx.delete::<Project>(project.id, Some(1), later(6)).await.expect_err("an old generation");
    assert!(matches!(error, StoreError::Conflict { current: 2 }), "{error:?}");
    let error = tx.update_spec::<Project>(project_id(9), 1, &spec, later(6)).await.expect_err("no such project");
    assert!(matches!(&error, StoreError::NotFound { kind: "project", id } if *id == project_id(9).to_string()));
    tx.commit().await.expect("commits");
    assert_eq!(bed.store.get::<Project>(project.id).await.expect("is there"), changed);
}

pub(crate) async fn a_status_changes_without_the_generation(bed: &Bed) {
    let pull = add(bed, &sample::pull(1)).await;
    let mut status = pull.status.clone();
    status.done.0 = 10;
    let mut tx = bed.store.begin().await.expect("begins");
    let first = tx.update_status_if::<galerne_model::inference::Pull>(pull.id, pull.updated_at, &status, now()).await;
    let first = first.expect("nobody changed it");
    assert_eq!((first.generation, first.status.done.0), (1, 10));
    assert!(first.updated_at > pull.updated_at, "two versions differ even at the same instant");
    let stale =
        tx.update_status_if::<galerne_model::inference::Pull>(pull.id, pull.updated_at, &status, later(1)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: 1 })), "{stale:?}");
    tx.update_status::<galerne_model::inference::Pull>(pull.id, &status, later(2)).await.expect("unconditional");
    tx.commit().await.expect("commits");
}

pub(crate) async fn a_deleted_resource_is_gone_but_still_readable_for_records(bed: &Bed) {
    let project = add(bed, &sample::project(1, 1)).await;
    assert!(bed.store.get_deleted::<Project>(project.id).await.is_err(), "it lives");
    let mut tx = bed.store.begin().await.expect("begins");
    tx.delete::<Project>(project.id, Some(1), later(1)).await.expect("deletes");
    assert!(matches!(
        tx.delete::<Project>(project.id, None, later(2)).await,
        Err(StoreError::NotFound { kind: "project", .. })
    ));
    tx.commit().await.expect("commits");
    assert!(matches!(bed.store.get::<Project>(project.id).await, Err(StoreError::NotFound { .. })));
    assert_eq!(bed.store.list_all::<Project>(&Filter::default()).await.expect("lists"), vec![]);
    assert_eq!(bed.store.get_deleted::<Project>(project.id).await.expect("kept").name, project.name);
}

pub(crate) async fn a_list_shows_each_resource_once_and_only_what_its_filter_admits(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    for n in 1..=30 {
        tx.insert(&sample::project(n, 1 + n % 2)).await.expect("inserts");
    }
    tx.commit().await.expect("commits");
    let filter = Filter::tenant(tenant_id(1));
    let mut seen = Vec::new();
    let mut page = Page { cursor: None, limit: 4 };
    loop {
        let listed = bed.store.list::<Project>(&filter, &page).await.expect("lists");
        assert!(listed.items.len() <= 4);
        seen.extend(listed.items);
        match listed.next {
            Some(next) => page.cursor = Some(next),
            None => break,
        }
    }
    assert!(seen.iter().all(|project| project.tenant_id == Some(tenant_id(1))), "another tenant's project");
    assert!(seen.is_sorted_by_key(|project| project.id));
    assert_eq!(seen.iter().map(|project| project.id).collect::<BTreeSet<_>>().len(), 15);
    let named = Filter::tenant(tenant_id(2)).named("project-2");
    assert_eq!(bed.store.find::<Project>(&named).await.expect("finds"), None, "it belongs to tenant 1");
    let within = bed.store.get_within::<Project>(project_id(2), &Filter::tenant(tenant_id(2))).await;
    assert!(matches!(within, Err(StoreError::NotFound { .. })), "{within:?}");
    let none = bed.store.list_all::<Project>(&Filter::project(project_id(1))).await.expect("lists");
    assert_eq!(none, vec![], "a project is inside no project");
}

pub(crate) async fn of_eight_writers_one_wins_each_round(bed: &Bed) {
    let project = add(bed, &sample::project(1, 1)).await;
    for round in 1..=50_i64 {
        let writers: Vec<_> = (0..8_i64).map(|writer| change_once(bed, project.id, round, writer)).collect();
        let won = futures_util::future::join_all(writers).await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1, "round {round}");
    }
    let end = bed.store.get::<Project>(project.id).await.expect("is there");
    assert_eq!(end.generation, 51);
    let events = bed.store.events(&galerne_store::EventFilter::default(), 500).await.expect("lists");
    assert_eq!(events.len(), 50, "one event for each change, none for each refusal");
    assert!(events.iter().rev().map(|event| event.sequence).eq(1..=50));
}

async fn change_once(bed: &Bed, id: galerne_model::ids::ProjectId, round: i64, writer: i64) -> bool {
    let spec = ProjectSpec { description: format!("round {round} by {writer}"), ..ProjectSpec::default() };
    let done = retry(|| async {
        let mut tx = bed.store.begin().await?;
        tx.update_spec::<Project>(id, round, &spec, later(round)).await?;
        tx.record(sample::event("project.update"));
        tx.commit().await
    })
    .await;
    match done {
        Ok(_) => true,
        Err(StoreError::Conflict { current }) if current == round + 1 => false,
        Err(error) => panic!("a race ends in a win or a conflict, not in {error:?}"),
    }
}

pub(crate) async fn a_dropped_transaction_changes_nothing(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::tenant(1)).await.expect("inserts");
    tx.record(sample::event("tenant.create"));
    drop(tx);
    assert_eq!(bed.store.list_all::<Tenant>(&Filter::default()).await.expect("lists"), vec![]);
    // The connection is clean: the next transaction works.
    add(bed, &sample::tenant(1)).await;
    assert_eq!(bed.store.events(&galerne_store::EventFilter::default(), 9).await.expect("lists"), vec![]);
}

pub(crate) async fn a_reader_sees_one_moment(bed: &Bed) {
    add(bed, &sample::tenant(1)).await;
    let mut reader = bed.store.reader().await.expect("reads");
    assert_eq!(reader.list_all::<Tenant>(&Filter::default()).await.expect("lists").len(), 1);
    add(bed, &sample::tenant(2)).await;
    assert_eq!(reader.list_all::<Tenant>(&Filter::default()).await.expect("lists").len(), 1, "a later commit shows");
    assert_eq!(bed.store.list_all::<Tenant>(&Filter::default()).await.expect("lists").len(), 2);
}
