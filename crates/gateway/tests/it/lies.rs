//! Replicas that lie, seen by a client: each on a real socket, through the whole gateway. What a lie costs is a failure that is
//! said, or another replica's answer; never a wrong answer, a hang or memory.

use std::time::Duration;

use galerne_model::ledger::Outcome;
use galerne_model::units::Tokens;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Site, snapshot};

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A replica that reads a request, says `start`, then `more` until nobody listens, and closes.
async fn liar(tasks: &TaskTracker, start: String, more: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (start, more) = (start.clone(), more.clone());
            connections.spawn(async move {
                let mut asked = vec![0; 64 * 1024];
                let mut told =
                    socket.read(&mut asked).await.is_ok() && socket.write_all(start.as_bytes()).await.is_ok();
                while let (true, Some(more)) = (told, &more) {
                    told = socket.write_all(more.as_bytes()).await.is_ok();
                }
            });
        }
    });
    url
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn content(n: u32) -> String {
    chunk(&format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"t{n}\"}},\"finish_reason\":null}}]}}\n\n"))
}

#[tokio::test]
async fn a_plain_answer_that_lies_about_itself_is_a_failure() {
    let lies = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{}", "it closed its connection before the end of its answer"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{}", "its answer is larger than 134217728 bytes"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            "the head of its response does not say clearly where the body ends",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n",
            "a chunk's size is no hexadecimal number of at most 15 digits",
        ),
        ("SMTP ready\r\n\r\n", "what it sent is no head of an HTTP response: invalid HTTP version"),
    ];
    for (lie, text) in lies {
        let tasks = TaskTracker::new();
        let site = Site::start(snapshot(&[&liar(&tasks, lie.to_owned(), None).await])).await;
        let reply = site.chat(json!({})).await;
        assert_eq!((reply.status, reply.code().as_str()), (502, "replica_failed"), "{lie}");
        assert_eq!(reply.message(), format!("the replica failed: {text}"));
        assert_eq!(site.settled(1).await[0].outcome, Outcome::Failed);
        site.is_idle().await;
    }
}

#[tokio::test]
async fn where_another_replica_lives_a_lie_before_the_first_byte_costs_nothing() {
    let tasks = TaskTracker::new();
    let engine = Engine::start(&tasks).await;
    let endless = liar(&tasks, "HTTP/1.1 200 OK\r\n".to_owned(), Some("x: y\r\n".repeat(100))).await;
    let site = Site::start(snapshot(&[&endless, &engine.url])).await;
    for n in 0..4 {
        assert_eq!(site.chat(json!({"stream": n % 2 == 0})).await.status, 200, "request {n}");
    }
    site.is_idle().await;
}

#[tokio::test]
async fn a_line_without_end_is_cut_and_what_came_before_it_is_charged() {
    let tasks = TaskTracker::new();
    let start = format!("{STREAM}{}{}", content(0), chunk("data: "));
    let endless = liar(&tasks, start, Some(chunk(&"x".repeat(64 * 1024)))).await;
    let site = Site::start(snapshot(&[&endless])).await;
    let reply = tokio::time::timeout(Duration::from_secs(20), site.chat(json!({"stream": true}))).await.expect("cut");
    assert_eq!(reply.status, 200);
    assert!(reply.text.contains("\"t0\"") && reply.text.len() < 4096, "{} bytes", reply.text.len());
    assert!(reply.text.contains("\"code\":\"replica_failed\"") && !reply.text.contains("[DONE]"), "{}", reply.text);
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Failed, Tokens(1)));
    site.is_idle().await;
}

#[tokio::test]
async fn half_an_event_is_not_passed_on() {
    let tasks = TaskTracker::new();
    for half in ["data: {\"choices\":[{\"delta\":{\"content\":\"ha", "data: [DO", "data: [DONE]"] {
        let start = format!("{STREAM}{}{}0\r\n\r\n", content(0), chunk(half));
        let site = Site::start(snapshot(&[&liar(&tasks, start, None).await])).await;
        let reply = site.chat(json!({"stream": true})).await;
        assert!(reply.text.contains("\"t0\""), "{}", reply.text);
        assert!(!reply.text.contains(half) && reply.text.contains("\"code\":\"replica_failed\""), "{}", reply.text);
        assert_eq!(site.settled(1).await[0].outcome, Outcome::Failed);
    }
}

#[tokio::test]
async fn an_event_stream_whose_coding_breaks_is_cut_with_an_error_event() {
    let tasks = TaskTracker::new();
    for broken in ["zz\r\n", "3\r\nabcdef", "0\r\n\r\n"] {
        let start = format!("{STREAM}{}{broken}", content(0));
        let site = Site::start(snapshot(&[&liar(&tasks, start, None).await])).await;
        let reply = site.chat(json!({"stream": true})).await;
        assert!(reply.text.contains("\"code\":\"replica_failed\"") && !reply.text.contains("[DONE]"), "{}", reply.text);
        assert_eq!(site.settled(1).await[0].quantities.completion_tokens, Tokens(1));
        site.is_idle().await;
    }
}
