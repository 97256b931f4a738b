//! The client against an OS socket that plays a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::*;

/// Answers one connection after another with the given replies and keeps the heads it saw.
fn serve(replies: Vec<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    // The second time another test has installed the provider already.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        for reply in replies {
            let Ok((stream, _)) = listener.accept() else { return };
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = text.trim().parse().unwrap_or(0);
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body arrives whole");
            kept.lock().expect("no test panicked with it").push(head);
            reader.get_mut().write_all(reply.as_bytes()).expect("the client listens");
        }
    });
    (address, seen)
}

fn reply(status: &str, body: &str) -> &'static str {
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\nretry-after: 0\r\n\r\n{body}",
        body.len()
    );
    Box::leak(text.into_boxed_str())
}

fn client(address: &str) -> Client {
    let _already_installed = rustls_provider();
    Client::new(address, Some("galerne_x".to_owned()), None).expect("an address")
}

fn rustls_provider() -> bool {
    rustls::crypto::ring::default_provider().install_default().is_ok()
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(&format!("{name}: ")).map(str::to_owned))
}

#[tokio::test]
async fn a_post_is_repeated_under_the_same_idempotency_key() {
    let (address, seen) = serve(vec![reply("503 Service Unavailable", "{}"), reply("201 Created", r#"{"ok":true}"#)]);
    let answer =
        client(&address).raw(Call::new(Method::POST, "/api/v1/projects").body(b"{}".to_vec())).await.expect("answers");
    assert_eq!(answer.status, 201);
    let heads = seen.lock().expect("kept").clone();
    let keys: Vec<_> = heads.iter().map(|head| header(head, "idempotency-key").expect("sent")).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_put_is_never_repeated() {
    let (address, seen) = serve(vec![reply("503 Service Unavailable", "{}"), reply("200 OK", "{}")]);
    let answer =
        client(&address).raw(Call::new(Method::PUT, "/api/v1/projects/x").body(b"{}".to_vec())).await.expect("answers");
    assert_eq!(answer.status, 503);
    assert_eq!(seen.lock().expect("kept").len(), 1);
}

#[tokio::test]
async fn a_problem_keeps_its_code_and_hint() {
    let problem = Problem::new(Code::GenerationConflict, "it changed").hint("read it again");
    let body = serde_json::to_string(&problem).expect("serialises");
    let (address, _) = serve(vec![reply("409 Conflict", &body)]);
    let failure = client(&address).call(Call::new(Method::GET, "/api/v1/projects/x")).await.expect_err("refused");
    assert_eq!(failure.code(), Code::GenerationConflict);
    assert_eq!(failure.hint().as_deref(), Some("read it again"));
}

#[tokio::test]
async fn the_key_never_leaves_for_another_server() {
    let client = client("http://127.0.0.1:9");
    let failure = client.call(Call::new(Method::GET, "http://127.0.0.1:10/api/v1/whoami")).await.expect_err("refused");
    assert!(matches!(failure, Failure::BadAddress { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_a_failure_and_one_with_an_end_mark_is_not() {
    let chunk = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":null,"choices":[]}"#;
    let whole = reply("200 OK", &format!("{chunk}\n\ndata: [DONE]\n\n"));
    let broken = reply("200 OK", &format!("{chunk}\n\n"));
    let (address, _) = serve(vec![whole, broken]);
    let client = client(&address);
    let mut events = client.chat(&crate::openai::ChatRequest::default()).await.expect("answers");
    assert_eq!(events.next().await.expect("a chunk").map(|chunk| chunk.id), Some("c".to_owned()));
    assert!(events.next().await.expect("the end").is_none());
    let mut events = client.chat(&crate::openai::ChatRequest::default()).await.expect("answers");
    assert!(events.next().await.expect("a chunk").is_some());
    assert!(events.next().await.is_err());
}

#[test]
fn names_with_slashes_fit_into_one_segment() {
    assert_eq!(encode_segment("mistralai/Ministral 8B"), "mistralai%2FMinistral%208B");
}

#[test]
fn addresses_of_this_machine_are_told_from_others() {
    let is_here = |text: &str| is_this_machine(&text.parse().expect("an address"));
    for here in
        ["http://127.0.0.1:8080", "https://localhost", "http://LOCALHOST:1", "http://[::1]:8080", "http://127.1"]
    {
        assert!(is_here(here), "{here}");
    }
    for elsewhere in ["https://galerne.example", "http://10.0.0.1", "http://localhost.example", "http://[fd00::1]"] {
        assert!(!is_here(elsewhere), "{elsewhere}");
    }
}

/// Another test of this file, in an environment whose proxy is nobody: a call that went there would fail.
#[test]
fn a_call_to_this_machine_does_not_show_its_key_to_a_proxy() {
    let mut command = std::process::Command::new(std::env::current_exe().expect("this test runs from a file"));
    command.args(["--exact", "client::tests::a_put_is_never_repeated"]);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    for name in ["NO_PROXY", "no_proxy", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    let output = command.output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
