//! Rates, concurrency, and the spool's own limit.

use std::time::Duration;

use galerne_gateway::SpoolLimits;
use galerne_model::identity::RateLimits;
use galerne_model::ids::KeyId;
use galerne_model::money::BudgetSubject;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Site, add_endpoint, add_key, budget, chat_body, endpoint, key_entry, receive, snapshot, uuid};

#[tokio::test]
async fn requests_per_minute_are_counted_and_said_in_headers() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    let mut limited = key_entry(1);
    limited.limits = RateLimits { requests_per_minute: Some(2), ..RateLimits::default() };
    add_key(&mut snapshot, 1, limited);
    let site = Site::start(snapshot).await;
    for left in ["1", "0"] {
        let reply = site.chat(json!({})).await;
        assert_eq!((reply.status, reply.header("x-ratelimit-remaining-requests")), (200, left));
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "2");
    }
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "rate_limited"));
    assert_eq!(reply.message(), "this key may make 2 requests per minute and has made them");
    let wait: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((25..=30).contains(&wait), "{wait} seconds");
    assert_eq!(reply.header("x-should-retry"), "true");
    assert_eq!(site.settled(2).await.len(), 2, "a refusal leaves no record");
}

#[tokio::test]
async fn a_refusal_by_a_budget_costs_nothing_of_the_rate() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    let mut limited = key_entry(1);
    limited.limits = RateLimits { requests_per_minute: Some(1), ..RateLimits::default() };
    add_key(&mut snapshot, 1, limited);
    snapshot.add_budget(budget(1, BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) }, 1_000));
    let site = Site::start(snapshot).await;
    for _ in 0..2 {
        assert_eq!(site.chat(json!({"max_tokens": 999})).await.status, 402);
    }
    assert_eq!(site.chat(json!({"max_tokens": 8})).await.status, 200);
}

#[tokio::test]
async fn a_request_that_no_minute_could_hold_is_not_to_be_retried() {
    let mut snapshot = snapshot(&[]);
    let mut limited = endpoint(1, "m", &[]);
    limited.limits = RateLimits { tokens_per_minute: Some(50), ..RateLimits::default() };
    add_endpoint(&mut snapshot, limited);
    let site = Site::start(snapshot).await;
    let reply = site.chat(json!({"max_tokens": 100})).await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("x-should-retry")), (429, "rate_limited", "false"));
    assert!(reply.message().contains("can never be admitted"), "{}", reply.message());
}

#[tokio::test]
async fn a_seat_is_free_again_when_its_request_ends_or_is_left() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    let mut limited = key_entry(1);
    limited.limits = RateLimits { concurrent_requests: Some(1), ..RateLimits::default() };
    add_key(&mut snapshot, 1, limited);
    let site = Site::start(snapshot).await;
    let held = site.tasks.spawn(site.post("/v1/chat/completions", &chat_body(json!({"x_do": "stall"}))).send());
    engine.asked(1).await;
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "rate_limited"));
    held.abort();
    engine.was_left(1).await;
    site.is_idle().await;
    assert_eq!(site.chat(json!({})).await.status, 200);
}

// The stand-in ledger blocks a thread while its lock is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_spool_nobody_empties_stops_admission_before_it_is_full() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = Engine::start(&TaskTracker::new()).await;
    let limits = SpoolLimits { max_bytes: 64 * 1024, segment_bytes: 32 * 1024 };
    let ledger = std::sync::Arc::default();
    let site = Site::start_in(dir.path(), snapshot(&[&engine.url]), limits, std::sync::Arc::clone(&ledger)).await;
    // The ledger is busy: nothing is settled while its lock is held.
    let (release, hold) = std::sync::mpsc::sync_channel::<()>(0);
    let busy = std::thread::spawn(move || {
        let _ledger = ledger.lock().expect("whole");
        hold.recv().expect("the test lets go");
    });
    let mut admitted = 0;
    let refused = loop {
        let reply = site.chat(json!({})).await;
        if reply.status != 200 {
            break reply;
        }
        admitted += 1;
        assert!(admitted < 200, "64 KiB do not hold 200 requests");
    };
    assert_eq!((refused.status, refused.code().as_str(), refused.header("retry-after")), (503, "meter_full", "5"));
    release.send(()).expect("the thread waits");
    busy.join().expect("ends");
    assert_eq!(site.settled(admitted).await.len(), admitted, "every answered request is in the ledger");
    for _ in 0..200 {
        let reply = receive(site.post("/v1/chat/completions", &chat_body(json!({})))).await;
        if reply.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("admission did not resume");
}
