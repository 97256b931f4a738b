//! The first steps of `galerne up` against a server that is played: what is said, and what is left behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use galerne_cli::up::phases::Phases;
use galerne_cli::up::{Site, UpArguments, first_steps, keep_profile};
use galerne_cli::{Arguments, Command, Failure, Profile};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::canned::{ENDPOINT, REQUEST, endpoint, model, problem, resource};
use crate::{Buffer, KEY};

const PULL: &str = "pull_01972000000070008000000000000010";

/// A server that remembers what was made, and takes three looks for each thing to be ready.
#[derive(Default)]
struct Played {
    looks: AtomicUsize,
    endpoints: Mutex<Vec<Value>>,
    /// Code with which every pull fails, if it does.
    pull_fails: Option<&'static str>,
}

impl Played {
    fn ready_at_third_look(&self) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed) % 3 == 2
    }
}

fn router(played: Arc<Played>) -> Router {
    let nothing = || async { Json(json!({ "items": [] })) };
    Router::new()
        .route(
            "/api/v1/whoami",
            get(|| async { (StatusCode::UNAUTHORIZED, problem("invalid_key", 401, "no").to_string()) }),
        )
        .route("/api/v1/catalogue", get(nothing))
        .route("/api/v1/models", get(nothing))
        .route("/api/v1/models/{id}", get(|| async { Json(model()) }))
        .route(
            "/api/v1/pulls",
            get(nothing).post(|State(played): State<Arc<Played>>| async move { Json(pull(&played, "pending")) }),
        )
        .route("/api/v1/pulls/{id}", get(pull_state))
        .route("/api/v1/replicas", get(nothing))
        .route("/api/v1/endpoints", get(list_endpoints).post(make_endpoint))
        .route("/api/v1/endpoints/{name}", get(endpoint_state))
        .route("/api/v1/usage", get(nothing))
        .route("/v1/chat/completions", post(|| async { ([("x-request-id", REQUEST)], answer()) }))
        .with_state(played)
}

fn pull(played: &Played, state: &str) -> Value {
    let reason = played
        .pull_fails
        .map(|code| json!({ "code": code, "holds": false, "text": "the name of the host cannot be resolved" }));
    let status = json!({ "state": state, "done": 10, "total": 100, "model_id": "model_01972000000070008000000000000001", "reason": reason });
    resource(PULL, "smollm2-135m-instruct", json!({ "source": "smollm2-135m-instruct" }), status)
}

async fn pull_state(State(played): State<Arc<Played>>) -> Json<Value> {
    let ended = if played.pull_fails.is_some() { "failed" } else { "done" };
    let state = if played.ready_at_third_look() { ended } else { "fetching" };
    Json(pull(&played, state))
}

async fn list_endpoints(State(played): State<Arc<Played>>) -> Json<Value> {
    Json(json!({ "items": *played.endpoints.lock().expect("no handler panics") }))
}

async fn make_endpoint(State(played): State<Arc<Played>>, Json(body): Json<Value>) -> Response {
    assert_eq!(body["name"], "smollm2-135m-instruct", "the endpoint has the model's name");
    let made = endpoint("starting", 0, "its worker loads the model");
    played.endpoints.lock().expect("no handler panics").push(made.clone());
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn endpoint_state(State(played): State<Arc<Played>>, Segment(id): Segment<String>) -> Json<Value> {
    assert_eq!(id, ENDPOINT);
    let ready = played.ready_at_third_look();
    Json(if ready {
        endpoint("ready", 1, "1 replica passed its last probe")
    } else {
        endpoint("starting", 0, "its worker loads the model")
    })
}

fn answer() -> String {
    let chunk = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "smol", "system_fingerprint": null,
        "choices": [{ "index": 0, "delta": { "content": "The capital of France is Paris." }, "logprobs": null, "finish_reason": "stop" }] });
    format!("data: {chunk}\n\ndata: [DONE]\n\n")
}

struct Start {
    outcome: Result<(), Failure>,
    said: String,
}

async fn start(played: Arc<Played>, folder: &Path, first_key: Option<&str>, words: &[&str]) -> Start {
    let ready_file = folder.join("ready.json").display().to_string();
    let words: Vec<&str> = ["galerne", "up", "--ready-file", &ready_file].iter().chain(words).copied().collect();
    start_with(played, folder, first_key, &words).await
}

async fn start_without_script(folder: &Path) -> Start {
    start_with(Arc::default(), folder, None, &["galerne", "up", "--no-model"]).await
}

async fn start_with(played: Arc<Played>, folder: &Path, first_key: Option<&str>, words: &[&str]) -> Start {
    drop(rustls::crypto::ring::default_provider().install_default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let Command::Up(arguments) = Arguments::try_parse_from(words).expect("the words are right").command else {
        unreachable!()
    };
    let arguments: UpArguments = *arguments;
    let buffer = Buffer::default();
    let site = Site {
        url: url.clone(),
        first_key: first_key.map(str::to_owned),
        ca_file: None,
        listens_after: Duration::from_millis(300),
    };
    let phases = Phases::written_to(buffer.writer());
    let config = folder.join("config");
    let server = async { axum::serve(listener, router(played)).await };
    let steps = async {
        let profile = keep_profile(&phases, &arguments, &config, &site, async || Ok(KEY.to_owned())).await?;
        first_steps(&phases, &arguments, &config, &site, profile).await
    };
    let outcome = tokio::select! {
        outcome = steps => outcome,
        served = server => panic!("the played server ended: {served:?}"),
    };
    let said = buffer.text().replace(&url, "URL").replace(&folder.display().to_string(), "FOLDER");
    Start { outcome, said: without_durations(&said) }
}

/// Durations differ from run to run.
fn without_durations(text: &str) -> String {
    let lines = text.lines().map(|line| match line.rsplit_once("  ") {
        Some((rest, duration)) if line.starts_with('✓') && duration.ends_with(" s") => rest.trim_end().to_owned(),
        _ if line.contains("first after") => {
            line.split("first after").next().unwrap_or("").to_owned() + "first after …"
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_first_start_ends_with_an_answer_and_what_to_type() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start = start(Arc::default(), folder.path(), Some(KEY), &[]).await;
    start.outcome.expect("every step is done");
    assert_snapshot!("first_start", start.said);
    let ready = folder.path().join("ready.json");
    assert_eq!(std::fs::metadata(&ready).expect("written").permissions().mode() & 0o777, 0o600);
    let ready: Value = serde_json::from_str(&std::fs::read_to_string(ready).expect("reads")).expect("JSON");
    assert_eq!((ready["api_key"].as_str(), ready["endpoint"].as_str()), (Some(KEY), Some("smol")));
    let profile = Profile::load(&folder.path().join("config")).expect("was saved");
    assert_eq!((profile.api_key.as_deref(), profile.endpoint.as_deref()), (Some(KEY), Some("smol")));
}

#[tokio::test]
async fn a_start_without_a_model_only_says_where_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start = start(Arc::default(), folder.path(), Some(KEY), &["--no-model"]).await;
    start.outcome.expect("there is nothing to fail");
    assert_snapshot!("start_without_model", start.said);
}

#[tokio::test]
async fn a_script_leaves_the_profile_of_another_server_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config");
    let other = Profile { url: Some("https://cloud.example".into()), api_key: Some(KEY.into()), ..Profile::default() };
    other.save(&config).expect("writes");
    let start = start(Arc::default(), folder.path(), None, &[]).await;
    start.outcome.expect("every step is done");
    assert_eq!(Profile::load(&config).expect("reads"), other);
    assert!(folder.path().join("ready.json").exists());
}

#[tokio::test]
async fn a_key_of_another_server_is_kept_aside_and_not_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config");
    let other = Profile { url: Some("https://cloud.example".into()), api_key: Some(KEY.into()), ..Profile::default() };
    other.save(&config).expect("writes");
    let start = start_without_script(folder.path()).await;
    start.outcome.expect("there is nothing to fail");
    assert!(
        start.said.contains("the profile of https://cloud.example was moved to FOLDER/config/config."),
        "{}",
        start.said
    );
    assert_eq!(std::fs::read_dir(&config).expect("lists").count(), 2);
}

#[tokio::test]
async fn without_a_network_a_first_start_says_how_to_give_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let played = Arc::new(Played { pull_fails: Some("source_unreachable"), ..Played::default() });
    let start = start(played, folder.path(), Some(KEY), &[]).await;
    let failure = start.outcome.expect_err("the pull fails");
    assert_eq!(failure.code().as_str(), "source_unreachable");
    assert!(start.said.contains("⨯ Model not fetched"), "{}", start.said);
    assert_snapshot!("no_network", anstream::adapter::strip_str(&failure.render()).to_string());
    assert!(!folder.path().join("ready.json").exists(), "nothing is ready");
}
