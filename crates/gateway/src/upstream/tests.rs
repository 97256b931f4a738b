//! Peers on real sockets that behave, misbehave and lie.

use std::io;
use std::sync::atomic::AtomicUsize;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What a peer does with a connection, which it closes at the end.
#[derive(Clone)]
enum Step {
    /// Reads a request, body included.
    Hear,
    /// Reads to the end of a head and not further.
    HearHead,
    Say(Vec<u8>),
    /// Says the same until nobody listens.
    Repeat(&'static [u8]),
    /// Lets time pass.
    Rest(Duration),
    /// Keeps the connection until the other side closes it, and counts that.
    Stay,
}

/// What a peer saw.
struct Seen {
    connections: AtomicUsize,
    requests: std::sync::Mutex<Vec<Vec<u8>>>,
    left: tokio::sync::Semaphore,
}

struct Peer {
    url: String,
    seen: Arc<Seen>,
    _tasks: TaskTracker,
}

impl Peer {
    /// Does `scripts` one after the other, a connection each, and closes all further ones at once.
    async fn start(scripts: Vec<Vec<Step>>) -> Self {
        Self::start_with(scripts, None).await
    }

    async fn start_with(scripts: Vec<Vec<Step>>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr().expect("bound").port());
        let url = if tls.is_some() { url } else { url.replace("localhost", "127.0.0.1") };
        let left = tokio::sync::Semaphore::new(0);
        let seen = Arc::new(Seen { connections: AtomicUsize::new(0), requests: std::sync::Mutex::default(), left });
        let tasks = TaskTracker::new();
        let (told, played) = (Arc::clone(&seen), tasks.clone());
        tasks.spawn(async move {
            let mut scripts = scripts.into_iter();
            while let Ok((socket, _)) = listener.accept().await {
                told.connections.fetch_add(1, Ordering::SeqCst);
                let (script, told) = (scripts.next().unwrap_or_default(), Arc::clone(&told));
                match tls.clone() {
                    None => drop(played.spawn(play(socket, script, told))),
                    Some(tls) => drop(played.spawn(async move {
                        if let Ok(socket) = tls.accept(socket).await {
                            play(socket, script, told).await;
                        }
                    })),
                }
            }
        });
        Self { url, seen, _tasks: tasks }
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    fn request(&self, n: usize) -> String {
        String::from_utf8_lossy(&self.seen.requests.lock().expect("whole")[n]).into_owned()
    }

    async fn was_left(&self) {
        let left = timeout(Duration::from_secs(10), self.seen.left.acquire()).await;
        left.expect("it sees it in time").expect("never closed").forget();
    }
}

async fn play(mut socket: impl AsyncRead + AsyncWrite + Unpin, script: Vec<Step>, seen: Arc<Seen>) {
    for step in script {
        match step {
            Step::Hear | Step::HearHead => {
                let Ok(heard) = hear(&mut socket, matches!(step, Step::Hear)).await else { return };
                seen.requests.lock().expect("whole").push(heard);
            }
            Step::Say(bytes) => {
                if socket.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Step::Repeat(bytes) => while socket.write_all(bytes).await.is_ok() {},
            Step::Rest(time) => tokio::time::sleep(time).await,
            Step::Stay => {
                let end = socket.read(&mut [0; 16]).await;
                assert!(matches!(end, Ok(0) | Err(_)), "nothing more is said");
                seen.left.add_permits(1);
            }
        }
    }
}

async fn hear(socket: &mut (impl AsyncRead + Unpin), and_body: bool) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    let head = loop {
        heard.push(socket.read_u8().await?);
        if heard.ends_with(b"\r\n\r\n") {
            break String::from_utf8_lossy(&heard).into_owned();
        }
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
    if and_body {
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await?;
        heard.extend_from_slice(&body);
    }
    Ok(heard)
}

fn says(text: &str) -> Step {
    Step::Say(text.as_bytes().to_vec())
}

fn upstream() -> Upstream {
    Upstream { head_timeout: Duration::from_millis(200), ..Upstream::new() }
}

async fn post(upstream: &Upstream, url: &str, body: &Segments) -> Result<Reply, Fault> {
    let call = Call { method: "POST", path: "/v1/x", lines: &|head| line(head, "x-a", "b"), body: Some(body) };
    timeout(Duration::from_secs(20), upstream.send(url, &call)).await.expect("no peer holds it for so long")
}

async fn ask(upstream: &Upstream, url: &str) -> Result<(u16, String), Fault> {
    let reply = post(upstream, url, &Segments::from(b"{}".to_vec())).await?;
    let status = reply.status;
    let body = timeout(Duration::from_secs(20), reply.body.whole(1 << 20)).await.expect("no peer holds it so long")?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// What comes of a request to a peer that says `bytes` and closes.
async fn told(bytes: &[u8]) -> Result<(u16, String), Fault> {
    let peer = Peer::start(vec![vec![Step::Hear, Step::Say(bytes.to_vec())]]).await;
    ask(&upstream(), &peer.url).await
}

fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
    let empty = "HTTP/1.1 204 No Content\r\n\r\n";
    let script = vec![Step::Hear, Step::Say(OK.to_vec()), Step::Hear, says(chunked), Step::Hear, says(empty)];
    let peer = Peer::start(vec![[script, vec![Step::Hear, Step::Say(OK.to_vec()), Step::Stay]].concat()]).await;
    let upstream = upstream();
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("abcd"));
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), (204, String::new()));
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    assert_eq!(peer.connections(), 1);
    let host = peer.url.trim_start_matches("http://");
    let head = format!(
        "POST /v1/x HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\nx-a: b\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    assert_eq!(peer.request(3), head);
    let origin = upstream.pool.origin(&peer.url).expect("a good URL");
    assert_eq!(origin.idle_count(), 1);
    drop(origin);
    upstream.pool.keep_house(std::time::Instant::now() + pool::IDLE_MAX);
    peer.was_left().await;
}

#[tokio::test]
async fn a_connection_that_may_not_be_used_again_is_not() {
    let last = [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // More than it said: the next answer would begin with it.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx",
    ];
    for answer in last {
        let first = vec![Step::Hear, says(answer), Step::Stay];
        let peer = Peer::start(vec![first, vec![Step::Hear, says("HTTP/1.1 200 OK\r\n\r\nsecond")]]).await;
        let upstream = upstream();
        assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"), "{answer}");
        peer.was_left().await;
        assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("second"), "to the end of the connection");
        assert_eq!(peer.connections(), 2);
    }
}

#[tokio::test]
async fn what_comes_while_a_connection_lies_idle_is_not_the_next_answer() {
    let first = vec![
        Step::Hear,
        Step::Say(OK.to_vec()),
        Step::Rest(Duration::from_millis(50)),
        says("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        Step::Stay,
    ];
    let peer = Peer::start(vec![first, vec![Step::Hear, Step::Say(OK.to_vec())]]).await;
    let upstream = upstream();
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_the_replica_had_closed_costs_nobody_anything() {
    let closes = vec![Step::Hear, Step::Say(OK.to_vec())];
    // It reads the next request and closes then: its decision and our request crossed.
    let crosses = vec![Step::Hear, Step::Say(OK.to_vec()), Step::HearHead];
    for first in [closes, crosses] {
        let peer = Peer::start(vec![first, vec![Step::Hear, Step::Say(OK.to_vec())]]).await;
        let upstream = upstream();
        for _ in 0..2 {
            assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
        }
        assert_eq!(peer.connections(), 2);
    }
}

#[tokio::test]
async fn a_replica_that_dies_at_work_was_asked_once() {
    let rest = Step::Rest(STALE_WITHIN + Duration::from_millis(100));
    let first = vec![Step::Hear, Step::Say(OK.to_vec()), Step::Hear, rest];
    let peer = Peer::start(vec![first, vec![Step::Hear, Step::Say(OK.to_vec())]]).await;
    let upstream = upstream();
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    assert!(matches!(ask(&upstream, &peer.url).await, Err(Fault::EndedEarly)));
    assert_eq!(peer.connections(), 1, "whoever chooses replicas decides what comes next");
}

#[tokio::test]
async fn a_replica_that_began_to_answer_is_not_asked_again() {
    let first = vec![Step::Hear, Step::Say(OK.to_vec()), Step::Hear, says("HTTP/1.1 2")];
    let peer = Peer::start(vec![first, vec![Step::Hear, Step::Say(OK.to_vec())]]).await;
    let upstream = upstream();
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    assert!(matches!(ask(&upstream, &peer.url).await, Err(Fault::EndedEarly)));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn lies_are_faults_and_not_answers() {
    assert!(matches!(told(b"").await, Err(Fault::EndedEarly)));
    assert!(matches!(told(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").await, Err(Fault::EndedEarly)));
    let huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nok";
    assert!(matches!(told(huge).await, Err(Fault::TooLarge(_))), "known before it is read");
    let chunked = |rest: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{rest}").into_bytes();
    assert!(matches!(told(&chunked("5\r\nab")).await, Err(Fault::EndedEarly)));
    assert!(matches!(told(&chunked("2\r\nab\r\n")).await, Err(Fault::EndedEarly)), "no last chunk");
    assert!(matches!(told(&chunked("2\r\nabc\r\n0\r\n\r\n")).await, Err(Fault::Body(_))));
    assert!(matches!(told(&chunked("ffffffffffffffffff\r\n")).await, Err(Fault::Body(_))));
    assert!(matches!(told(b"\x16\x03\x01 not HTTP\r\n\r\n").await, Err(Fault::Head(_))));
    let both = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok";
    assert!(matches!(told(both).await, Err(Fault::Head(_))));
    assert!(matches!(told(b"HTTP/1.1 101 Switching\r\n\r\n").await, Err(Fault::Head(_))));
}

#[tokio::test]
async fn heads_and_bodies_without_end_are_given_up() {
    let start = "HTTP/1.1 200 OK\r\n";
    let cases: [(Vec<Step>, &str); 5] = [
        (
            vec![says(start), Step::Repeat(b"x-more: and more\r\n")],
            "the head of its response is longer than 32768 bytes",
        ),
        (vec![says(start), Step::Repeat(b"xxxxxxxxxxxxxxxxxx")], "the head of its response is longer than 32768 bytes"),
        (vec![Step::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n")], "the head of its response is longer than 32768 bytes"),
        (vec![says("HTTP/1.1 200 OK\r\nx"), Step::Stay], "the head of its answer did not end in time"),
        (
            vec![says("HTTP/1.1 200 OK\r\n\r\n"), Step::Repeat(b"yyyyyyyyyyyyyyyyyy")],
            "its answer is larger than 1048576 bytes",
        ),
    ];
    for (script, text) in cases {
        let peer = Peer::start(vec![[vec![Step::Hear], script].concat()]).await;
        let fault = ask(&upstream(), &peer.url).await.expect_err("given up");
        assert_eq!(fault.to_string(), text);
    }
}

#[tokio::test]
async fn heads_before_the_one_that_counts_are_read_past() {
    let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-length: 7\r\n\r\n";
    let said = [hints.as_bytes(), OK].concat();
    assert_eq!(told(&said).await.expect("answered"), ok("ok"));
}

#[tokio::test]
async fn a_replica_that_refuses_what_it_has_not_read_is_heard() {
    let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let peer = Peer::start(vec![vec![Step::HearHead, says(answer), Step::Rest(Duration::from_secs(30))]]).await;
    let upstream = upstream();
    let body = Segments::from(vec![b'x'; 64 << 20]);
    let reply = post(&upstream, &peer.url, &body).await.expect("answered while the rest was still to be written");
    assert_eq!(reply.status, 413);
    assert_eq!(reply.body.whole(16).await.expect("whole"), "big");
    assert_eq!(upstream.pool.origin(&peer.url).expect("good").idle_count(), 0, "half a request is still on its way");
}

#[tokio::test]
async fn an_answer_that_nobody_wants_closes_its_connection() {
    let begins = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n";
    let peer = Peer::start(vec![vec![Step::Hear, says(begins), Step::Stay]]).await;
    let upstream = upstream();
    let mut reply = post(&upstream, &peer.url, &Segments::from(b"{}".to_vec())).await.expect("begins");
    assert!(reply.facts.is_event_stream);
    assert_eq!(reply.body.part().await.expect("goes on").expect("a part"), "ab");
    drop(reply);
    peer.was_left().await;
}

#[tokio::test]
async fn many_and_large_pieces_arrive_in_order() {
    let long: Vec<String> = (0..40).map(|n| format!("\"{}\"", n.to_string().repeat(1 + n * 7_000))).collect();
    let source = Bytes::from(format!("[{}]", long.join(",")));
    let text = std::str::from_utf8(&source).expect("text");
    let mut writer = crate::segments::SegmentWriter::new(&source);
    for value in text[1..text.len() - 1].split(',') {
        writer.raw("x", value);
    }
    let segments = writer.finish();
    assert!(segments.parts().len() > 40);
    let peer = Peer::start(vec![vec![Step::Hear, Step::Say(OK.to_vec())]]).await;
    let reply = post(&upstream(), &peer.url, &segments).await.expect("answered");
    assert_eq!(reply.status, 200);
    let expected: Vec<String> = long.iter().map(|value| format!("\"x\":{value}")).collect();
    let heard = peer.request(0);
    assert!(heard.ends_with(&format!("\r\n\r\n{{{}}}", expected.join(","))), "{} bytes", heard.len());
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let upstream = upstream();
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    assert!(matches!(ask(&upstream, &format!("http://{free}")).await, Err(Fault::Unreachable(_))));
    assert!(matches!(ask(&upstream, "http://nobody.invalid:1").await, Err(Fault::Unreachable(_))));
    assert!(matches!(ask(&upstream, "ftp://h").await, Err(Fault::Address(_))));
}

/// A certificate for `localhost` that signs itself: a server that has it, and a client that trusts it.
fn localhost() -> (TlsAcceptor, ClientConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let server = server.expect("known").with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.expect("known").with_root_certificates(roots).with_no_client_auth();
    (TlsAcceptor::from(Arc::new(server.expect("a pair"))), client)
}

#[tokio::test]
async fn a_replica_behind_tls_is_asked_when_its_certificate_is_trusted() {
    let (acceptor, client) = localhost();
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n{}", "x".repeat(300_000));
    let script = vec![Step::Hear, says(&large), Step::Hear, Step::Say(OK.to_vec()), Step::Stay];
    let peer = Peer::start_with(vec![script], Some(acceptor)).await;
    let upstream = Upstream { dialer: Dialer::with_tls(Arc::new(socket::speaking_http1(client))), ..upstream() };
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered").1.len(), 300_000);
    assert_eq!(ask(&upstream, &peer.url).await.expect("answered"), ok("ok"));
    assert_eq!(peer.connections(), 1, "both on one connection");
}

#[tokio::test]
async fn a_replica_whose_certificate_nobody_trusts_is_not_asked() {
    let (acceptor, _) = localhost();
    let peer = Peer::start_with(vec![vec![Step::Hear, Step::Say(OK.to_vec())]], Some(acceptor)).await;
    assert!(matches!(ask(&upstream(), &peer.url).await, Err(Fault::Unreachable(_))));
    assert!(peer.seen.requests.lock().expect("whole").is_empty());
}
