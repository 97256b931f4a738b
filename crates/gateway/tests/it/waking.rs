//! Sleeping endpoints: the request is held while a replica comes.

use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, nobody};
use crate::site::{Site, add_endpoint, chat_body, endpoint, receive, snapshot};

#[tokio::test]
async fn a_request_wakes_its_endpoint_and_is_answered_when_a_replica_is_there() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut asleep = endpoint(1, "m", &[]);
    asleep.wakes = true;
    let mut first = snapshot(&[]);
    add_endpoint(&mut first, asleep);
    let mut site = Site::start(first).await;
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &chat_body(json!({})))));
    let wake = site.wakes.recv().await.expect("the gateway asks");
    assert_eq!(wake.endpoint_id, endpoint(1, "m", &[]).id);
    let activity = site.gateway.activity();
    assert_eq!((activity[0].in_flight, activity[0].waiting), (1, 1));
    site.change(|snapshot| add_endpoint(snapshot, endpoint(1, "m", &[&engine.url])));
    assert_eq!(held.await.expect("answered").status, 200);
    site.is_idle().await;
}

#[tokio::test]
async fn a_request_to_a_replica_that_died_waits_for_the_one_in_its_place() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut dead = endpoint(1, "m", &[&nobody().await]);
    dead.wakes = true;
    let mut first = snapshot(&[]);
    add_endpoint(&mut first, dead);
    let mut site = Site::start(first).await;
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &chat_body(json!({})))));
    site.wakes.recv().await.expect("the gateway asks");
    site.change(|snapshot| {
        let mut restarted = endpoint(1, "m", &[&engine.url]);
        restarted.wakes = true;
        add_endpoint(snapshot, restarted);
    });
    assert_eq!(held.await.expect("answered").status, 200);
    assert_eq!(site.settled(1).await.len(), 1);
}

#[tokio::test]
async fn a_replica_that_refuses_and_stays_listed_is_asked_again_and_not_waited_for() {
    let mut refusing = endpoint(1, "m", &[&nobody().await]);
    refusing.wakes = true;
    let mut first = snapshot(&[]);
    add_endpoint(&mut first, refusing);
    let site = Site::start(first).await;
    let began = std::time::Instant::now();
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "replica_failed"));
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "long before the wait for a replica ends");
}

#[tokio::test]
async fn an_endpoint_deleted_while_requests_wait_is_said_to_be_gone() {
    let mut asleep = endpoint(1, "m", &[]);
    asleep.wakes = true;
    let mut first = snapshot(&[]);
    add_endpoint(&mut first, asleep);
    let mut site = Site::start(first).await;
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &chat_body(json!({})))));
    site.wakes.recv().await.expect("the gateway asks");
    site.change(|snapshot| snapshot.endpoints.clear());
    let reply = held.await.expect("answered");
    assert_eq!((reply.status, reply.code().as_str()), (404, "model_not_found"));
    assert!(site.settled(1).await[0].held_micros.0 > 0, "its hold was freed by its record");
}

#[tokio::test]
async fn a_client_that_leaves_while_waiting_waits_no_more() {
    let mut asleep = endpoint(1, "m", &[]);
    asleep.wakes = true;
    let mut first = snapshot(&[]);
    add_endpoint(&mut first, asleep);
    let mut site = Site::start(first).await;
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &chat_body(json!({})))));
    site.wakes.recv().await.expect("the gateway asks");
    held.abort();
    site.is_idle().await;
    site.settled(1).await;
}
