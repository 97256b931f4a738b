//! Clients that leave: the engine is told at once, and what was made is settled.

use std::time::Duration;

use futures_util::StreamExt as _;
use galerne_model::ledger::Outcome;
use galerne_model::snapshot::ReplicaEnergy;
use galerne_model::units::{Milliwatts, Tokens};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Site, add_endpoint, chat_body, endpoint, key, receive, snapshot};

#[tokio::test]
async fn leaving_a_plain_request_reaches_the_engine_and_is_recorded() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let held = site.tasks.spawn(site.post("/v1/chat/completions", &chat_body(json!({"x_do": "stall"}))).send());
    engine.asked(1).await;
    held.abort();
    engine.was_left(1).await;
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.http_status), (Outcome::Cancelled, 499));
    site.is_idle().await;
}

#[tokio::test]
async fn leaving_a_plain_request_is_charged_for_what_the_worker_had_done() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"x_do": "stall at work", "max_tokens": 50, "x_tokens": 20}));
    let held = site.tasks.spawn(site.post("/v1/chat/completions", &body).send());
    engine.asked(1).await;
    held.abort();
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.http_status), (Outcome::Cancelled, 499));
    let q = record.quantities;
    assert_eq!((q.prompt_tokens, q.cached_tokens, q.completion_tokens), (Tokens(5), Tokens(5), Tokens(20)));
    // 5 µ€ and 5 × 0.1 µ€ for the prompt, 20 × 2 µ€ for the answer; 20 × 2 ms × 5 W.
    assert_eq!((q.micros.0, q.picos.0, q.millijoules.0), (45, 500_000, 200));
    site.is_idle().await;
}

#[tokio::test]
async fn a_server_that_is_no_worker_is_not_asked_for_an_account() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut external = endpoint(1, "m", &[&engine.url]);
    external.replicas[0].energy = ReplicaEnergy::StatedPower(Milliwatts(1_000_000));
    let mut first = snapshot(&[]);
    add_endpoint(&mut first, external);
    let site = Site::start(first).await;
    let body = chat_body(json!({"x_do": "stall at work", "x_tokens": 20}));
    let held = site.tasks.spawn(site.post("/v1/chat/completions", &body).send());
    engine.asked(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    held.abort();
    let record = &site.settled(1).await[0];
    assert_eq!(record.quantities.completion_tokens, Tokens(0), "nobody knows");
    assert!(record.quantities.millijoules.0 >= 20, "what is known of it: the time, at the stated power");
    site.is_idle().await;
}

#[tokio::test]
async fn a_request_cut_by_the_drain_is_charged_for_what_the_worker_had_done() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"x_do": "stall at work", "x_tokens": 3}));
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &body)));
    engine.asked(1).await;
    site.gateway.drain(Duration::from_millis(200)).await;
    assert_eq!(held.await.expect("answered").status, 503);
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Failed, Tokens(3)));
}

#[tokio::test]
async fn the_drain_waits_for_what_a_busy_worker_says_of_a_request_it_cut() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"x_do": "stall at work, and account late", "x_tokens": 3}));
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &body)));
    engine.asked(1).await;
    site.gateway.drain(Duration::from_millis(200)).await;
    assert_eq!(held.await.expect("answered").status, 503);
    let records = site.ledger.lock().expect("whole").records.clone();
    assert_eq!(records.len(), 1, "it is settled when the drain is over: after it the workers are stopped");
    assert_eq!(records[&1].quantities.completion_tokens, Tokens(3));
}

#[tokio::test]
async fn leaving_a_stream_reaches_the_engine_and_is_metered_up_to_the_cut() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"x_do": "stall after", "stream": true, "max_tokens": 6}));
    let response = site.post("/v1/chat/completions", &body).send().await.expect("begins");
    let mut parts = response.bytes_stream();
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("t5") {
        read.extend_from_slice(&parts.next().await.expect("goes on").expect("whole"));
    }
    drop(parts);
    engine.was_left(1).await;
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Cancelled, Tokens(6)));
    assert_eq!(record.quantities.prompt_tokens, Tokens(77));
    site.is_idle().await;
}

#[tokio::test]
async fn an_engine_whose_client_left_is_told_before_it_is_asked_for_the_prompts_tokens() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let messages = json!([{"role": "user", "content": "count this once you were left"}]);
    let body = chat_body(json!({"x_do": "stall after", "stream": true, "messages": messages}));
    let response = site.post("/v1/chat/completions", &body).send().await.expect("begins");
    let mut parts = response.bytes_stream();
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("t5") {
        read.extend_from_slice(&parts.next().await.expect("goes on").expect("whole"));
    }
    drop(parts);
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.prompt_tokens), (Outcome::Cancelled, Tokens(77)));
}

#[tokio::test]
async fn many_clients_that_come_and_go_leave_no_seat_taken_and_no_record_missing() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let mut tasks = Vec::new();
    for n in 0..120u64 {
        // Every fourth stays to the end; the others leave at some moment of their request, a third of them stalled.
        let stays = n % 4 == 0;
        let does = if n % 3 == 0 && !stays { "stall" } else { "answer" };
        let request = site.post("/v1/chat/completions", &chat_body(json!({"stream": n % 8 < 4, "x_do": does})));
        let patience = Duration::from_millis(if stays { 30_000 } else { n % 40 * 5 });
        tasks.push(site.tasks.spawn(tokio::time::timeout(patience, async move {
            let response = request.send().await?;
            response.bytes().await
        })));
    }
    let mut whole = 0;
    for task in tasks {
        whole += usize::from(matches!(task.await.expect("no panic"), Ok(Ok(_))));
    }
    assert!(whole >= 30, "those who stay are answered");
    site.is_idle().await;
    site.gateway.drain(Duration::from_secs(10)).await;
    let ledger = site.ledger.lock().expect("whole");
    assert_eq!(ledger.duplicates, 0);
    let completed = ledger.records.values().filter(|record| record.outcome == Outcome::Completed).count();
    assert!(completed >= whole, "{completed} records of {whole} whole answers");
}

#[tokio::test]
async fn the_end_of_the_drain_cuts_streams_with_an_error_event_and_settles_them() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"x_do": "stall after", "stream": true, "max_tokens": 3}));
    let response = site.post("/v1/chat/completions", &body).send().await.expect("begins");
    let reading = site.tasks.spawn(response.text());
    site.gateway.drain(Duration::from_millis(200)).await;
    let text = reading.await.expect("no panic").expect("a whole answer");
    assert!(text.contains("\"code\":\"draining\"") && !text.contains("[DONE]"), "{text}");
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Failed, Tokens(3)));
}

#[tokio::test]
async fn the_end_of_the_drain_cuts_a_plain_request_and_it_is_recorded_as_ours() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let held = site.tasks.spawn(receive(site.post("/v1/chat/completions", &chat_body(json!({"x_do": "stall"})))));
    engine.asked(1).await;
    site.gateway.drain(Duration::from_millis(200)).await;
    let reply = held.await.expect("answered");
    assert_eq!((reply.status, reply.code().as_str()), (503, "draining"));
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.http_status), (Outcome::Failed, 503));
    engine.was_left(1).await;
}

/// Sends the head of a request and comes back when the gateway reads its body.
async fn upload(site: &Site, length: usize) -> TcpStream {
    let mut socket = TcpStream::connect(site.url.trim_start_matches("http://")).await.expect("connects");
    let key = key(1);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 25];
    socket.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket
}

async fn status_of(socket: &mut TcpStream) -> String {
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_slow_upload_does_not_hold_the_drain() {
    let site = Site::start(snapshot(&[])).await;
    let mut socket = upload(&site, 100).await;
    let grace = Duration::from_secs(20);
    let began = std::time::Instant::now();
    site.gateway.drain(grace).await;
    assert!(began.elapsed() < grace / 2, "the drain did not wait for the body");
    assert_eq!(status_of(&mut socket).await, "HTTP/1.1 503");
    assert!(site.ledger.lock().expect("whole").records.is_empty(), "it was not admitted");
}

#[tokio::test]
async fn a_key_revoked_while_the_body_arrives_admits_nothing() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({})).to_string();
    let mut socket = upload(&site, body.len()).await;
    site.change(|snapshot| snapshot.keys.clear());
    socket.write_all(body.as_bytes()).await.expect("sent");
    assert_eq!(status_of(&mut socket).await, "HTTP/1.1 401");
    assert_eq!(engine.requests(), 0);
}

#[tokio::test]
async fn a_client_that_vanishes_after_sending_its_request_is_noticed() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"x_do": "stall"})).to_string();
    let addr = site.url.trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&addr).await.expect("connects");
    let (length, key) = (body.len(), key(1));
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    engine.asked(1).await;
    drop(socket);
    engine.was_left(1).await;
    site.is_idle().await;
}
