//! Deadlines and places: what takes too long is ended, what is too much is refused at once.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use galerne_gateway::Bounds;
use galerne_model::ledger::Outcome;
use galerne_model::units::Tokens;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Site, add_endpoint, chat_body, endpoint, key, snapshot};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_answer_that_takes_too_long_is_refused_and_the_engine_is_told() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(snapshot(&[&engine.url]), Bounds { request: SHORT, ..Bounds::default() }).await;
    let reply = site.chat(json!({"x_do": "stall"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "deadline_exceeded"));
    engine.was_left(1).await;
    assert_eq!(engine.requests(), 1, "there is no time for a second attempt");
    let reply = site.chat(json!({"x_do": "stall after", "stream": true})).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text.contains("\"code\":\"deadline_exceeded\""), "{}", reply.text);
    engine.was_left(2).await;
    let outcomes: Vec<Outcome> = site.settled(2).await.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Failed]);
}

/// A replica that reads a request for an answer, says `start` and then nothing, for as long as somebody listens.
async fn staller(tasks: &TaskTracker, start: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let start = start.clone();
            connections.spawn(async move {
                let mut asked = vec![0; 64 * 1024];
                let count = socket.read(&mut asked).await.unwrap_or(0);
                // What the gateway asks afterwards, how much was computed, it does not hear at all.
                if !asked[..count].starts_with(b"POST /v1/") {
                    return;
                }
                drop(socket.write_all(start.as_bytes()).await);
                drop(socket.read_to_end(&mut asked).await);
            });
        }
    });
    url
}

#[tokio::test]
async fn a_replica_that_stalls_is_given_up_at_the_deadline_wherever_it_stalls() {
    let tasks = TaskTracker::new();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: ";
    let plain = [String::new(), format!("{head}application/json\r\ncontent-length: 90\r\n\r\n{{\"id\":")];
    for start in plain {
        let replica = staller(&tasks, start.clone()).await;
        let site = Site::start_hurried(snapshot(&[&replica]), Bounds { request: SHORT, ..Bounds::default() }).await;
        let reply = site.chat(json!({})).await;
        assert_eq!((reply.status, reply.code().as_str()), (504, "deadline_exceeded"), "after {start:?}");
        let record = &site.settled(1).await[0];
        assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Failed, Tokens(0)));
        site.is_idle().await;
    }
    let events = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n".repeat(3);
    let start = format!("{head}text/event-stream\r\n\r\n{events}data: {{\"choices\":[{{\"delta\":{{\"content\":\"b");
    let replica = staller(&tasks, start).await;
    let site = Site::start_hurried(snapshot(&[&replica]), Bounds { request: SHORT, ..Bounds::default() }).await;
    let reply = site.chat(json!({"stream": true})).await;
    assert!(reply.status == 200 && reply.text.contains("\"code\":\"deadline_exceeded\""), "{}", reply.text);
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Failed, Tokens(3)), "up to the cut");
    site.is_idle().await;
}

#[tokio::test]
async fn the_engine_is_told_how_long_it_has_and_may_be_the_first_to_say_that_it_is_over() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let bounds = Bounds { request: Duration::from_secs(40), ..Bounds::default() };
    let site = Site::start_hurried(snapshot(&[&engine.url]), bounds).await;
    assert_eq!(site.chat(json!({})).await.status, 200);
    assert!((30_000..=40_000).contains(&engine.deadline_ms()), "{} ms", engine.deadline_ms());
    let reply = site.chat(json!({"x_do": "too late"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "deadline_exceeded"));
    assert_eq!(engine.requests(), 2, "it is not asked again: there is no time left");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let site = Site::start_hurried(snapshot(&[]), Bounds { client: SHORT, ..Bounds::default() }).await;
    let mut socket = tokio::net::TcpStream::connect(site.url.trim_start_matches("http://")).await.expect("connects");
    let key = key(1);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 9\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_body_that_drips_in_is_given_up_too() {
    let site = Site::start_hurried(snapshot(&[]), Bounds { client: SHORT, ..Bounds::default() }).await;
    let mut socket = tokio::net::TcpStream::connect(site.url.trim_start_matches("http://")).await.expect("connects");
    let key = key(1);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100000\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let (mut reader, mut writer) = socket.split();
    let mut answer = [0; 12];
    tokio::select! {
        read = reader.read_exact(&mut answer) => drop(read.expect("an answer")),
        () = async {
            for _ in 0..100 {
                tokio::time::sleep(SHORT / 10).await;
                writer.write_all(b" ").await.expect("it still listens");
            }
        } => panic!("a body that drips in is waited for without end"),
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cut_at_the_deadline_as_well() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(snapshot(&[&engine.url]), Bounds { request: SHORT, ..Bounds::default() }).await;
    let body = chat_body(json!({"stream": true, "x_tokens": 400_000}));
    let response = site.post("/v1/chat/completions", &body).send().await.expect("begins");
    let mut parts = response.bytes_stream();
    assert!(parts.next().await.is_some(), "a client that reads the beginning and then stops");
    let began = Instant::now();
    assert_eq!(site.settled(1).await[0].outcome, Outcome::Failed);
    assert!(began.elapsed() < Bounds::default().client / 3, "{:?}", began.elapsed());
    engine.was_left(1).await;
    drop(parts);
}

#[tokio::test]
async fn the_drain_cuts_a_stream_whose_client_reads_no_more() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let body = chat_body(json!({"stream": true, "x_tokens": 400_000}));
    let response = site.post("/v1/chat/completions", &body).send().await.expect("begins");
    let mut parts = response.bytes_stream();
    assert!(parts.next().await.is_some(), "a client that reads the beginning and then stops");
    site.gateway.drain(SHORT).await;
    assert_eq!(site.settled(1).await[0].outcome, Outcome::Failed, "it has its record when the drain is over");
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cut_and_the_engine_is_told() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(snapshot(&[&engine.url]), Bounds { client: SHORT, ..Bounds::default() }).await;
    let body = chat_body(json!({"stream": true, "x_tokens": 400_000}));
    let response = site.post("/v1/chat/completions", &body).send().await.expect("begins");
    let mut parts = response.bytes_stream();
    assert!(parts.next().await.is_some(), "a client that reads the beginning and then stops");
    let record = &site.settled(1).await[0];
    assert_eq!(record.outcome, Outcome::Cancelled);
    assert!(record.quantities.completion_tokens.0 < 400_000, "the engine was not read to the end");
    engine.was_left(1).await;
    drop(parts);
    site.is_idle().await;
}

#[tokio::test]
async fn a_full_gateway_refuses_at_once() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(snapshot(&[&engine.url]), Bounds { in_flight_max: 2, ..Bounds::default() }).await;
    let stalled = chat_body(json!({"x_do": "stall"}));
    let held: Vec<_> = (0..2).map(|_| site.tasks.spawn(site.post("/v1/chat/completions", &stalled).send())).collect();
    engine.asked(2).await;
    let asked_at = Instant::now();
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("retry-after")), (503, "overloaded", "1"));
    assert!(asked_at.elapsed() < Duration::from_secs(1));
    for request in held {
        request.abort();
    }
    engine.was_left(2).await;
    site.is_idle().await;
    assert_eq!(site.chat(json!({})).await.status, 200);
}

#[tokio::test]
async fn a_wait_for_a_replica_has_a_limit_and_so_has_its_queue() {
    let mut asleep = endpoint(1, "m", &[]);
    asleep.wakes = true;
    asleep.not_ready_because = "the model does not fit into memory".to_owned();
    let mut snapshot = snapshot(&[]);
    add_endpoint(&mut snapshot, asleep);
    let bounds = Bounds { wake: SHORT, wake_queue_max: 1, ..Bounds::default() };
    let mut site = Site::start_hurried(snapshot, bounds).await;
    let first = site.tasks.spawn(site.post("/v1/chat/completions", &chat_body(json!({}))).send());
    site.wakes.recv().await.expect("the gateway asks");
    let second = site.chat(json!({})).await;
    assert_eq!((second.status, second.code().as_str()), (503, "overloaded"));
    let first = first.await.expect("no panic").expect("an answer");
    assert_eq!(first.status().as_u16(), 503);
    let text = first.text().await.expect("whole");
    assert!(text.contains("the model does not fit into memory"), "{text}");
}

#[tokio::test]
async fn the_series_have_their_names_and_count() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    site.chat(json!({})).await;
    site.chat(json!({"model": "none"})).await;
    site.settled(1).await;
    let mut registry = prometheus_client::registry::Registry::default();
    site.gateway.register_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    for line in [
        "galerne_gateway_requests_total{operation=\"chat\",outcome=\"completed\"} 1",
        "galerne_gateway_refusals_total{code=\"model_not_found\"} 1",
        "galerne_gateway_tokens_total{kind=\"completion\"} 8",
        "galerne_gateway_in_flight_requests 0",
        "galerne_gateway_retries_total 0",
        "galerne_gateway_energy_joules_total 0.08",
        "galerne_gateway_request_seconds_count{surface=\"v1\",tier=\"default\"} 1",
        "# TYPE galerne_spool_bytes gauge",
        "galerne_gateway_waiting_requests 0",
    ] {
        assert!(text.contains(line), "`{line}` is not in:\n{text}");
    }
}
