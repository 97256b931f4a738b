//! An engine that speaks the worker's wire. `x_do` among a request's extra arguments says how it behaves.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Prompt tokens every request has, half of them cached.
pub(crate) const PROMPT_TOKENS: i64 = 10;
/// What a long prompt on a large model takes to be left alone.
const LATE: Duration = Duration::from_secs(6);
/// CPU time per generated token.
pub(crate) const CPU_MICROS_PER_TOKEN: i64 = 2_000;

/// A running engine.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) url: String,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    /// Requests whose connection went away before they ended.
    left: AtomicUsize,
    /// What was computed for requests that were told to stall at work, by their id.
    worked: Mutex<HashMap<String, i64>>,
    /// It takes longer to say what was computed than one batch of a large model does.
    accounts_late: AtomicBool,
    /// Milliseconds that the last request was given.
    deadline_ms: AtomicU64,
    /// With whom the last request was told to share cached prompts.
    cache_scope: Mutex<String>,
    changed: Notify,
}

impl Engine {
    pub(crate) async fn start(tasks: &TaskTracker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let engine = Self { url: url(&listener), seen: Arc::default(), stop: CancellationToken::new() };
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(chat))
            .route("/v1/embeddings", post(embed))
            .route("/tokenize", post(tokenize))
            .route("/usage/{request_id}", get(account))
            .with_state(engine.clone());
        let stop = engine.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                served = axum::serve(listener, app).into_future() => served.expect("serves until stopped"),
                () = stop.cancelled() => {}
            }
        });
        engine
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// Milliseconds that the last request was given.
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.seen.deadline_ms.load(Ordering::SeqCst)
    }

    /// With whom the last request was told to share cached prompts.
    pub(crate) fn cache_scope(&self) -> String {
        self.seen.cache_scope.lock().expect("whole").clone()
    }

    /// Waits until `count` requests have arrived.
    pub(crate) async fn asked(&self, count: usize) {
        self.until(|seen| seen.requests.load(Ordering::SeqCst) >= count).await;
    }

    /// Waits until `count` requests were left by the gateway.
    pub(crate) async fn was_left(&self, count: usize) {
        self.until(|seen| seen.left.load(Ordering::SeqCst) >= count).await;
    }

    async fn until(&self, reached: impl Fn(&Seen) -> bool) {
        loop {
            let changed = self.seen.changed.notified();
            if reached(&self.seen) {
                return;
            }
            tokio::time::timeout(Duration::from_secs(20), changed).await.expect("the engine sees it within 20 s");
        }
    }
}

/// A server that accepts, reads a request and closes without a word, every time.
pub(crate) async fn start_breaking(tasks: &TaskTracker) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = url(&listener);
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let read = socket.read(&mut buffer).await;
            drop((read, socket));
        }
    });
    url
}

/// A URL at which nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    url(&listener)
}

fn url(listener: &TcpListener) -> String {
    let addr: SocketAddr = listener.local_addr().expect("bound");
    format!("http://{addr}")
}

/// Counts as left unless it is told that the request ended.
struct Presence {
    seen: Arc<Seen>,
    ended: bool,
}

impl Presence {
    fn arrive(engine: &Engine) -> Self {
        engine.seen.requests.fetch_add(1, Ordering::SeqCst);
        engine.seen.changed.notify_waiters();
        Self { seen: Arc::clone(&engine.seen), ended: false }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.ended {
            self.seen.left.fetch_add(1, Ordering::SeqCst);
            self.seen.changed.notify_waiters();
        }
    }
}

async fn chat(State(engine): State<Engine>, headers: HeaderMap, Json(asked): Json<Value>) -> Response {
    let extra = &asked["vllm_xargs"];
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    *engine.seen.cache_scope.lock().expect("whole") = header("x-galerne-cache-scope").to_owned();
    engine.seen.deadline_ms.store(header("x-galerne-deadline-ms").parse().expect("a number"), Ordering::SeqCst);
    let mut presence = Presence::arrive(&engine);
    let tokens = extra["x_tokens"].as_i64().or_else(|| asked["max_tokens"].as_i64()).unwrap_or(8);
    // Exact surfaces have no extra arguments.
    let by_words = if asked["messages"].to_string().contains("tell no usage") { "no usage" } else { "answer" };
    let wants = extra["x_do"].as_str().unwrap_or(by_words).to_owned();
    if let Some(status) = wants.strip_prefix("status ") {
        presence.ended = true;
        return refuse(status.parse().expect("a number"));
    }
    match wants.as_str() {
        "stall" => {
            std::future::pending::<()>().await;
        }
        "stall at work" | "stall at work, and account late" => {
            if wants.ends_with("late") {
                engine.seen.accounts_late.store(true, Ordering::SeqCst);
            }
            engine.seen.worked.lock().expect("whole").insert(header("x-request-id").to_owned(), tokens);
            std::future::pending::<()>().await;
        }
        "too late" => {
            presence.ended = true;
            let error = json!({"error": {"message": "the deadline of the request has passed", "type": "server_error", "param": null, "code": "deadline_exceeded"}});
            return (StatusCode::GATEWAY_TIMEOUT, Json(error)).into_response();
        }
        "busy once" if engine.requests() == 1 => {
            presence.ended = true;
            return refuse(500);
        }
        "nonsense" => {
            presence.ended = true;
            return "<html>".into_response();
        }
        _ => {}
    }
    if asked["stream"] == json!(true) {
        assert_eq!(asked["stream_options"]["include_usage"], json!(true), "the gateway always asks for usage");
        return stream_answer(tokens, &wants, presence);
    }
    presence.ended = true;
    let reply = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked["model"], "system_fingerprint": null,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": extra["x_says"].as_str().unwrap_or("xxx"), "refusal": null}, "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(tokens),
    });
    Json(without_usage(reply, &wants)).into_response()
}

/// As servers answer that do not report what was used, or only the half of it.
fn without_usage(mut reply: Value, wants: &str) -> Value {
    match wants {
        "no usage" => drop(reply.as_object_mut().expect("an object").remove("usage")),
        "half a usage" => reply["usage"] = json!({"prompt_tokens": PROMPT_TOKENS}),
        "null usage" => reply["usage"] = Value::Null,
        _ => {}
    }
    reply
}

fn stream_answer(tokens: i64, wants: &str, presence: Presence) -> Response {
    let chunk = |delta: Value, finish: Value| json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "w", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let mut events = vec![format!("data: {}\n\n", chunk(json!({"role": "assistant", "content": ""}), Value::Null))];
    for n in 0..tokens {
        events.push(format!("data: {}\n\n", chunk(json!({"content": format!("t{n}")}), Value::Null)));
    }
    if wants.starts_with("error") {
        events.push("data: {\"error\":{\"message\":\"the engine could not compute\",\"type\":\"server_error\",\"code\":\"engine_failed\"}}\n\n".to_owned());
    }
    if wants == "error, then done" {
        events.push("data: [DONE]\n\n".to_owned());
    }
    let ends_well = !matches!(wants, "break" | "stall after" | "error" | "error, then done");
    if ends_well {
        if wants != "no finish" {
            events.push(format!("data: {}\n\n", chunk(json!({}), json!("stop"))));
        }
        if !matches!(wants, "no usage" | "no finish") {
            let apart = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "w", "choices": [], "usage": usage(tokens)});
            events.push(format!("data: {}\n\n", without_usage(apart, wants)));
        }
        events.push("data: [DONE]\n\n".to_owned());
    }
    // Cut in odd places: an event may come in any number of parts.
    let joined = events.concat().into_bytes();
    let parts: Vec<Bytes> = joined.chunks(97).map(Bytes::copy_from_slice).collect();
    let presence = Arc::new(std::sync::Mutex::new(presence));
    let body = stream::iter(parts).map(Ok::<_, std::io::Error>);
    let wants = wants.to_owned();
    let end = stream::once(async move {
        if wants == "stall after" {
            std::future::pending::<()>().await;
        }
        presence.lock().expect("nobody panics with it").ended = true;
        if wants == "break" { Err(std::io::Error::other("the engine dies")) } else { Ok(Bytes::new()) }
    });
    // What is written must have left before the connection breaks.
    let pause = stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(Bytes::new())
    });
    let body = body.chain(pause).chain(end);
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

async fn embed(State(engine): State<Engine>, Json(asked): Json<Value>) -> Response {
    Presence::arrive(&engine).ended = true;
    let wants = if asked["input"] == "not counted" { "no usage" } else { "answer" };
    let reply = json!({
        "object": "list", "model": asked["model"],
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 1e-7]}],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS, "galerne": {"cpu_micros": CPU_MICROS_PER_TOKEN}},
    });
    Json(without_usage(reply, wants)).into_response()
}

/// As the worker: known once the request has ended, by whatever.
async fn account(State(engine): State<Engine>, Path(request_id): Path<String>) -> Response {
    let worked = engine.seen.worked.lock().expect("whole").get(&request_id).copied();
    let Some(tokens) = worked else { return StatusCode::NOT_FOUND.into_response() };
    engine.was_left(1).await;
    if engine.seen.accounts_late.load(Ordering::SeqCst) {
        tokio::time::sleep(LATE).await;
    }
    Json(usage(tokens)).into_response()
}

async fn tokenize(State(engine): State<Engine>, asked: String) -> Response {
    if asked.contains("once you were left") {
        engine.was_left(1).await;
    }
    let tokens: Vec<u32> = if asked.contains("alike") { (0..1_024).collect() } else { Vec::new() };
    if asked.contains("do not count") {
        return StatusCode::NOT_FOUND.into_response();
    }
    // What an engine wrote has no tokens that frame a prompt.
    let count = if asked.contains("\"add_special_tokens\":false") { 5 } else { 77 };
    Json(json!({"tokens": tokens, "count": count})).into_response()
}

fn usage(tokens: i64) -> Value {
    json!({
        "prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens,
        "prompt_tokens_details": {"cached_tokens": PROMPT_TOKENS / 2},
        "galerne": {"cpu_micros": tokens * CPU_MICROS_PER_TOKEN, "cached_tokens": PROMPT_TOKENS / 2},
    })
}

fn refuse(status: u16) -> Response {
    let code = if status == 400 { "context_length_exceeded" } else { "oops" };
    let error = json!({"error": {"message": "the prompt has 5000 tokens and the context 2048", "type": "invalid_request_error", "param": "messages", "code": code}});
    (StatusCode::from_u16(status).expect("a status"), [("retry-after", "7")], Json(error)).into_response()
}
