//! Requests that this process makes itself: priced apart, out of the way of those that come in, free until they are settled.

use std::time::Duration;

use galerne_api::error::Code;
use galerne_gateway::{Bounds, Done, Errand};
use galerne_model::identity::{RateLimits, ServiceTier};
use galerne_model::ids::{BatchId, EndpointId};
use galerne_model::ledger::{BatchTerms, Operation, Outcome};
use galerne_model::snapshot::Snapshot;
use galerne_model::units::Micros;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Site, add_endpoint, chat_body, endpoint, key_entry, receive, snapshot, uuid};

fn terms() -> BatchTerms {
    BatchTerms { batch_id: BatchId::from_uuid(uuid(7)), price_percent: 50 }
}

async fn run_in(site: &Site, countries: &[&str]) -> Done {
    let countries: Vec<String> = countries.iter().map(|country| (*country).to_owned()).collect();
    let errand = Errand {
        key_id: key_entry(1).id,
        operation: Operation::Chat,
        body: chat_body(json!({"service_tier": "priority"})).to_string().into(),
        batch: terms(),
        countries: countries.into(),
    };
    site.gateway.run(errand).await
}

async fn run(site: &Site) -> Done {
    run_in(site, &[]).await
}

/// One endpoint, one request at a time.
fn one_seat(url: &str) -> Snapshot {
    let mut snapshot = snapshot(&[]);
    let mut limited = endpoint(1, "m", &[url]);
    limited.limits = RateLimits { concurrent_requests: Some(1), ..RateLimits::default() };
    add_endpoint(&mut snapshot, limited);
    snapshot
}

fn the_endpoint() -> EndpointId {
    endpoint(1, "m", &[]).id
}

#[tokio::test]
async fn an_answer_costs_its_share_names_its_batch_and_is_free_when_it_is_dropped() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let live = site.chat(json!({})).await;
    assert_eq!(live.status, 200);
    let kept = run(&site).await;
    assert_eq!((kept.status, kept.code), (200, None));
    let told: serde_json::Value = serde_json::from_slice(&kept.body).expect("JSON");
    assert_eq!(told["service_tier"], "flex", "whatever it asks for, nobody waits behind it");
    let dropped = run(&site).await;
    drop(dropped.unsettled.expect("answered"));
    kept.unsettled.expect("answered").settle();
    let records = site.settled(3).await;
    let [live, free, charged] = &records[..] else { panic!("{records:#?}") };
    assert_eq!((live.batch, free.batch, charged.batch), (None, Some(terms()), Some(terms())));
    assert_eq!((free.outcome, free.quantities.micros), (Outcome::Cancelled, Micros::ZERO));
    let picos = |record: &galerne_model::ledger::UsageRecord| {
        record.quantities.micros.0 * 1_000_000 + record.quantities.picos.0
    };
    let of = |record: &galerne_model::ledger::UsageRecord| record.terms.map(|terms| (terms.service_tier, terms.price));
    let price = endpoint(1, "m", &[]).price;
    let half = galerne_core::rating::percent_of(&price, 50).expect("small");
    let (usual, flex) = (ServiceTier::Default, ServiceTier::Flex);
    assert_eq!((of(live), of(charged)), (Some((usual, price)), Some((flex, half))), "each on its own terms");
    assert_eq!((charged.outcome, 2 * picos(charged)), (Outcome::Completed, picos(live)), "half");
    assert_eq!(charged.request_id, kept.request_id);
}

#[tokio::test]
async fn an_answer_that_waits_to_be_kept_is_in_nobodys_way() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(one_seat(&engine.url)).await;
    let kept = run(&site).await;
    let mut unsettled = kept.unsettled.expect("answered");
    let load = site.gateway.load(the_endpoint());
    assert_eq!((load.live, load.waiting, load.quiet_micros), (0, 0, None), "nothing live was there");
    assert_eq!(site.chat(json!({})).await.status, 200, "the only seat is free");
    let record = unsettled.record();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(unsettled.record(), record, "its time ended with the answer");
    unsettled.settle();
    assert!(site.settled(2).await.iter().any(|settled| settled.ended_at == record.ended_at));
}

#[tokio::test]
async fn live_requests_that_wait_in_line_are_seen_and_come_first() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut bounds = Bounds::default();
    bounds.line.patience_micros = [20_000_000; 3];
    let site = Site::start_hurried(one_seat(&engine.url), bounds).await;
    let chat = |more| site.tasks.spawn(receive(site.post("/v1/chat/completions", &chat_body(more))));
    let first = chat(json!({"x_do": "stall"}));
    engine.asked(1).await;
    assert_eq!((site.gateway.load(the_endpoint()).live, site.gateway.load(the_endpoint()).limit), (1, Some(1)));
    let waits = chat(json!({}));
    while site.gateway.load(the_endpoint()).waiting == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = run(&site).await;
    assert_eq!((refused.status, refused.code), (429, Some(Code::RateLimited)));
    assert!(refused.retry_after.is_some() && refused.unsettled.is_none());
    assert_eq!(site.gateway.load(the_endpoint()).waiting, 1, "it did not join the line");
    first.abort();
    assert_eq!(waits.await.expect("answered").status, 200);
}

#[tokio::test]
async fn an_errand_stays_in_the_countries_of_its_batch() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let refused = run_in(&site, &["DE"]).await;
    assert_eq!((refused.status, refused.code), (403, Some(Code::ResidencyUnmet)));
    assert_eq!(engine.requests(), 0);
    assert_eq!(run_in(&site, &["DE", "FR"]).await.status, 200);
    let known = |countries: &[String]| site.gateway.find_model(key_entry(1).id, Operation::Chat, "m", countries);
    assert_eq!(known(&["DE".to_owned()]).expect_err("elsewhere").code(), Code::ResidencyUnmet);
    assert_eq!(known(&[]).expect("anywhere"), the_endpoint());
}
