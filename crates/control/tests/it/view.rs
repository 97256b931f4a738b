//! What the gateway is told of keys, prices and limits.

use galerne_model::event::Decision;
use galerne_model::identity::{ApiKey, Empty, Principal, RoleBinding};
use galerne_model::ids::{BudgetId, PriceBookId};
use galerne_model::inference::Endpoint;
use galerne_model::money::{
    Budget, BudgetPeriod, BudgetSpec, BudgetStatus, BudgetSubject, ModelPrice, PriceBook, PriceBookSpec, TokenPrice,
};
use galerne_model::units::Micros;
use galerne_store::{Filter, Tx};
use uuid::Uuid;

use crate::site::{PATIENCE, Site, now, row};

/// Changes something as the API would: with an event.
async fn change(site: &Site, work: impl AsyncFnOnce(&mut Tx)) {
    decide(site, Decision::Allowed, work).await;
}

async fn decide(site: &Site, decision: Decision, work: impl AsyncFnOnce(&mut Tx)) {
    let mut tx = site.store.begin().await.expect("a transaction");
    work(&mut tx).await;
    let event = galerne_model::event::Event {
        id: galerne_model::ids::EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now(),
        actor: galerne_model::event::Actor::component("test"),
        action: "test.change".into(),
        tenant_id: None,
        project_id: None,
        resource: None,
        decision,
        before_digest: None,
        after_digest: None,
        text: "changed".into(),
    };
    tx.record(event);
    tx.commit().await.expect("committed");
}

fn flat(micros: i64) -> TokenPrice {
    TokenPrice { prompt: Micros(micros), cached: Micros(micros), completion: Micros(micros) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_infer_while_its_principal_has_a_role_and_vanishes_when_revoked() {
    let site = Site::new().await;
    let loops = site.start().await;
    let key = |snapshot: &galerne_model::snapshot::Snapshot| snapshot.keys.get("d1").map(|key| key.may_infer);
    assert_eq!(key(&loops.snapshot.borrow().clone()), Some(true));
    let binding = site.store.list_all::<RoleBinding>(&Filter::default()).await.expect("rows").remove(0);
    change(&site, async |tx| drop(tx.delete::<RoleBinding>(binding.id, None, now()).await.expect("deleted"))).await;
    loops.view("denied by default", |snapshot| key(snapshot) == Some(false)).await;
    let row = site.store.get::<ApiKey>(site.key_id).await.expect("a row");
    let mut status = row.status;
    status.revoked_at = Some(now());
    change(&site, async |tx| drop(tx.update_status::<ApiKey>(site.key_id, &status, now()).await.expect("written")))
        .await;
    loops.view("gone", |snapshot| key(snapshot).is_none()).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_disabled_principal_are_gone() {
    let site = Site::new().await;
    let loops = site.start().await;
    let principal = site.store.get::<Principal>(site.principal_id).await.expect("a row");
    let mut spec = principal.spec.clone();
    spec.disabled = true;
    change(&site, async |tx| drop(tx.update_spec::<Principal>(principal.id, 1, &spec, now()).await.expect("written")))
        .await;
    loops.view("gone", |snapshot| snapshot.keys.is_empty()).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_price_is_the_endpoints_else_that_of_its_weights_in_the_newest_book_else_its_default() {
    let site = Site::new().await;
    site.good_worker();
    let loops = site.start().await;
    let id = site.endpoint(site.backend(), |_| {}).await;
    let entry = loops.ready(id).await;
    assert_eq!(
        (entry.price, entry.price_book_id),
        (TokenPrice::STANDARD, None),
        "nothing was said about prices, and nothing is free"
    );

    let mut books = Vec::new();
    for (default, models) in [
        (flat(1), vec![]),
        (flat(2), vec![ModelPrice { model: "other".into(), price: flat(9) }]),
        // Its own name at this site: whoever pulls a model chooses it.
        (flat(3), vec![ModelPrice { model: "tiny".into(), price: flat(8) }]),
        (flat(4), vec![ModelPrice { model: format!("sha256:{}", "0".repeat(64)), price: flat(7) }]),
    ] {
        let book_id = PriceBookId::from_uuid(Uuid::now_v7());
        let spec = PriceBookSpec { default, models, batch_percent: 50 };
        let book: PriceBook = row(book_id, (None, None), &format!("v{}", books.len() + 1), spec, Empty {});
        site.insert(&book).await;
        books.push(book_id);
        let expected = if books.len() == 4 { flat(7) } else { default };
        let entry = loops.entry(id, "priced", |entry| entry.price == expected).await;
        assert_eq!(entry.price_book_id, Some(book_id));
    }
    let endpoint = site.store.get::<Endpoint>(id).await.expect("a row");
    let mut spec = endpoint.spec.clone();
    spec.price = Some(flat(5));
    change(&site, async |tx| {
        drop(tx.update_spec::<Endpoint>(id, endpoint.generation, &spec, now()).await.expect("written"));
    })
    .await;
    let entry = loops.entry(id, "priced by itself", |entry| entry.price == flat(5)).await;
    assert_eq!(entry.price_book_id, None);
    assert_eq!(entry.replicas.len(), 1, "a price restarts nothing");
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_make_the_view_anew() {
    let site = Site::new().await;
    let loops = site.start().await;
    let before = loops.view("published", |snapshot| !snapshot.keys.is_empty()).await;
    // A refusal changes nothing; the row beside it is only there to see that the publisher looked.
    let subject = BudgetSubject::Project { project_id: site.project_id };
    let spec = BudgetSpec::money(subject, Micros(1), BudgetPeriod::Total);
    let budget = |name: &str| -> Budget {
        let id = BudgetId::from_uuid(Uuid::now_v7());
        row(id, (Some(site.tenant_id), None), name, spec.clone(), BudgetStatus::default())
    };
    let (first, second) = (budget("first"), budget("second"));
    let mut spending = loops.spending.clone();
    decide(&site, Decision::Denied, async |tx| drop(tx.insert::<Budget>(&first).await.expect("new"))).await;
    // Spending is told at every look, so that the look at the refusal is over or in its last lines.
    let looked = spending.wait_for(|spending| spending.spent.contains_key(&first.id));
    assert!(tokio::time::timeout(PATIENCE, looked).await.is_ok(), "the publisher looked");
    assert!(std::sync::Arc::ptr_eq(&before, &loops.snapshot.borrow()), "the refusal made no view");
    change(&site, async |tx| drop(tx.insert::<Budget>(&second).await.expect("new"))).await;
    let after = loops.view("after a change", |snapshot| !snapshot.budgets.is_empty()).await;
    assert_eq!(
        after.budgets.values().flatten().count(),
        2,
        "the change made a view, and that is the first after the refusal"
    );
    loops.stop().await;
}
