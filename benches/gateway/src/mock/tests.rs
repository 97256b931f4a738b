use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

use super::request::{Asked, Request, Route};
use super::{answers, micros_now, serve};
use crate::wire::{Chunked, Connection, Events};

fn body_of(stream: &[u8]) -> Vec<u8> {
    let (mut chunked, mut body) = (Chunked::default(), Vec::new());
    chunked.feed(stream, |part| body.extend_from_slice(part)).unwrap();
    assert!(chunked.is_done(), "the chunks end");
    body
}

#[test]
fn a_stream_is_chunks_of_one_event_each_that_parse_and_end_with_done() {
    let [even, odd] = answers::events(Route::Chat);
    assert_eq!(even.len(), odd.len());
    let mut bytes = [&even[..], &odd, &even].concat();
    bytes.extend(answers::last_events(Route::Chat, 3));
    let body = String::from_utf8(body_of(&bytes)).unwrap();
    let mut events = Events::default();
    events.feed(body.as_bytes());
    assert_eq!(events.count(), 6, "three tokens, the reason, the usage, the word that it is done");
    let parts: Vec<&str> = body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    assert_eq!(parts.last(), Some(&"[DONE]"));
    let objects: Vec<Value> = parts[..5].iter().map(|part| serde_json::from_str(part).unwrap()).collect();
    assert_eq!(objects[0]["choices"][0]["delta"]["content"], " tok");
    assert_eq!(objects[1]["choices"][0]["delta"]["content"], " kot");
    assert_eq!(objects[4]["usage"]["completion_tokens"], 3);
}

#[test]
fn what_is_asked_is_found_wherever_a_gateway_puts_it() {
    let body = br#"{"stream": true, "messages":[{"content":"0001 pace=250 id=42 x"}],"max_completion_tokens":7}"#;
    let asked = Asked::read(body);
    assert_eq!(asked, Asked { tokens: 7, stream: true, pace: Duration::from_micros(250), id: Some(42) });
    let plain = Asked::read(br#"{"stream":false}"#);
    assert_eq!(plain, Asked { tokens: 16, stream: false, pace: Duration::ZERO, id: None });
}

#[test]
fn a_request_is_read_once_its_head_is_whole() {
    let text = b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(Request::read(&text[..20]).unwrap(), None);
    let request = Request::read(text).unwrap().unwrap();
    assert_eq!((request.route, request.body_at, request.body_length), (Route::Chat, text.len() - 2, 2));
}

#[expect(clippy::disallowed_methods, reason = "it lives as long as the test's runtime")]
async fn started() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener));
    address
}

fn request(body: &str) -> Vec<u8> {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[tokio::test]
async fn a_connection_serves_plain_and_streamed_answers_in_turn() {
    let mut connection = Connection::open(&started().await.to_string()).await.unwrap();
    for (stream, pace) in [(false, 0), (true, 0), (true, 100), (false, 100)] {
        let text = format!(r#"{{"stream":{stream},"max_tokens":300,"prompt":"pace={pace}"}}"#);
        let (reply, ended) = connection.ask(&request(&text)).await.unwrap();
        ended.unwrap();
        assert_eq!(reply.head.status, 200);
        assert_eq!(reply.events, if stream { 303 } else { 0 });
        assert_eq!(reply.is_whole(), stream);
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_is_told_with_its_time() {
    let address = started().await.to_string();
    for stream in [false, true] {
        let mut leaving = Connection::open(&address).await.unwrap();
        let text = format!(r#"{{"stream":{stream},"max_tokens":1000,"prompt":"pace=10000 id=7"}}"#);
        leaving.send(&request(&text)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(leaving);
    }
    let left_at = micros_now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut connection = Connection::open(&address).await.unwrap();
    let (reply, ended) = connection.ask(b"GET /stats HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    ended.unwrap();
    let stats: Value = serde_json::from_slice(&reply.tail).unwrap();
    assert_eq!((&stats["started"], &stats["cancelled"], &stats["running"]), (&2.into(), &2.into(), &0.into()));
    let cancel = &stats["cancels"][1];
    assert_eq!(cancel[0], 7);
    assert!(cancel[1].as_u64().unwrap().abs_diff(left_at) < 1_000_000, "{stats}");
}

/// A mock on a thread of this process, for tests of other modules; its address.
pub(crate) fn in_thread() -> String {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tell.send(started().await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap().to_string()
}
