//! Replicas that fail: asked again before the first byte, never after.

use galerne_model::ids::ReplicaId;
use galerne_model::ledger::Outcome;
use galerne_model::units::Tokens;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, nobody, start_breaking};
use crate::site::{Site, snapshot, uuid};

#[tokio::test]
async fn a_dead_replica_costs_no_request_while_another_lives() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&nobody().await, &engine.url])).await;
    for n in 0..12 {
        let stream = n % 2 == 0;
        assert_eq!(site.chat(json!({"stream": stream})).await.status, 200, "request {n}");
    }
    let records = site.settled(12).await;
    let alive = ReplicaId::from_uuid(uuid(101));
    assert!(records.iter().all(|record| record.replica_id == Some(alive) && record.outcome == Outcome::Completed));
}

#[tokio::test]
async fn a_replica_that_closes_without_a_word_is_left_for_another() {
    let tasks = TaskTracker::new();
    let engine = Engine::start(&tasks).await;
    let site = Site::start(snapshot(&[&start_breaking(&tasks).await, &engine.url])).await;
    for _ in 0..6 {
        assert_eq!(site.chat(json!({})).await.status, 200);
    }
    site.is_idle().await;
}

#[tokio::test]
async fn a_lone_replica_is_asked_a_second_time_and_then_the_failure_is_said() {
    let tasks = TaskTracker::new();
    let engine = Engine::start(&tasks).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    assert_eq!(site.chat(json!({"x_do": "busy once"})).await.status, 200);
    assert_eq!(engine.requests(), 2);
    let dead = Site::start(snapshot(&[&nobody().await])).await;
    let reply = dead.chat(json!({})).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "replica_failed"));
    assert_eq!(reply.message(), "the replica failed: it cannot be reached");
    assert_eq!(dead.settled(1).await[0].outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event_and_without_done() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let reply = site.chat(json!({"stream": true, "max_tokens": 9, "x_do": "break"})).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.text.contains("[DONE]"), "{}", reply.text);
    let last = reply.text.lines().rfind(|line| line.starts_with("data: ")).expect("events");
    let error: serde_json::Value = serde_json::from_str(&last["data: ".len()..]).expect("JSON");
    assert_eq!(error["error"]["code"], "replica_failed");
    assert_eq!(engine.requests(), 1, "what has begun is not asked again");
    let record = &site.settled(1).await[0];
    assert_eq!(
        (record.outcome, record.quantities.completion_tokens),
        (Outcome::Failed, Tokens(9)),
        "metered up to the cut"
    );
    assert_eq!(record.quantities.prompt_tokens, Tokens(77), "the prompt was worked through and is counted by asking");
    site.is_idle().await;
}

#[tokio::test]
async fn nonsense_with_status_200_is_a_failure_and_not_an_answer() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    for stream in [false, true] {
        let reply = site.chat(json!({"x_do": "nonsense", "stream": stream})).await;
        assert_eq!((reply.status, reply.code().as_str()), (502, "replica_failed"));
    }
    site.is_idle().await;
}

#[tokio::test]
async fn an_engine_that_lies_about_its_tokens_costs_the_caller_no_more_than_the_hold() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    assert_eq!(site.chat(json!({"max_tokens": 5, "x_tokens": 1_000_000})).await.status, 200);
    let record = &site.settled(1).await[0];
    assert!(record.quantities.micros > record.held_micros, "the record says what was done");
    let subject = galerne_model::money::BudgetSubject::Key { key_id: record.key_id };
    let charged = site.ledger.lock().expect("whole").charged(&subject);
    assert_eq!(charged, i128::from(record.held_micros.0) * crate::site::PICOS);
}
