//! The worker's OpenAI-speaking port: parse, check, tokenise, hand to the engine, write what comes back.
//! One thread serves all of it. INVARIANT: a dropped reply closes the request's channel, which is how a client that leaves
//! stops the engine's work.

mod adapters;
mod complete;
mod embed;
mod logprobs;
mod problem;
mod read;
mod speaker;
mod structure;
mod tokens;
mod write;

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use galerne_api::openai::Usage;
use serde_json::json;

pub(crate) use problem::Problem;

use crate::account::Accounts;
use crate::adapter::{Adapter, Adapters};
use crate::job::Queue;
use crate::limits;
use crate::loaded::{Loaded, Task};
use crate::metrics::Metrics;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    /// The name requests must ask for.
    pub name: String,
    /// Unix seconds.
    pub started_at: i64,
    pub task: Task,
    pub queue: Queue,
    pub metrics: Arc<Metrics>,
    pub accounts: Arc<Accounts>,
    pub adapters: Adapters,
    loaded: OnceLock<Loaded>,
    is_draining: AtomicBool,
    seeds: RandomState,
    requests: AtomicU64,
}

impl App {
    #[must_use]
    pub(crate) fn new(name: String, task: Task, queue: Queue, metrics: Arc<Metrics>) -> Self {
        Self {
            name,
            started_at: jiff::Timestamp::now().as_second(),
            task,
            queue,
            metrics,
            accounts: Arc::default(),
            adapters: Adapters::default(),
            loaded: OnceLock::new(),
            is_draining: AtomicBool::new(false),
            seeds: RandomState::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// Takes adapters from the files of a folder.
    #[must_use]
    pub(crate) fn with_adapters(self, folder: Option<PathBuf>) -> Self {
        Self { adapters: Adapters::in_folder(folder), ..self }
    }

    /// Opens the door: the model is loaded and has computed its first token.
    pub(crate) fn set_loaded(&self, loaded: Loaded) -> &Loaded {
        self.loaded.get_or_init(|| loaded)
    }

    /// Closes the door for new requests.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// The model, if requests can be answered now.
    fn ready(&self) -> Result<&Loaded, Problem> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err(Problem::unavailable("stopping", "this worker is stopping"));
        }
        self.loaded.get().ok_or_else(|| Problem::unavailable("loading", "the model is being loaded"))
    }

    fn ready_for(&self, task: Task) -> Result<&Loaded, Problem> {
        let loaded = self.ready()?;
        if self.task == task {
            return Ok(loaded);
        }
        Err(Problem::bad_request(match task {
            Task::Embed => "this model answers chats and completions; start it with --embeddings to embed",
            Task::Generate => "this model is served for embeddings only",
        })
        .code("wrong_task"))
    }

    /// What is asked for by this name: an adapter, or the model itself.
    fn served(&self, model: &str) -> Result<Option<Arc<Adapter>>, Problem> {
        if model.is_empty() || model == self.name {
            return Ok(None);
        }
        if let Some(adapter) = self.adapters.get(model) {
            return Ok(Some(adapter));
        }
        let names: Vec<String> = self.adapters.all().iter().map(|adapter| format!(", `{}`", adapter.name)).collect();
        Err(Problem::no_model(model, &format!("`{}`{}", self.name, names.concat())))
    }

    /// A seed for a request that names none; nobody can foresee it, nothing depends on its quality.
    fn seed(&self) -> u64 {
        self.seeds.hash_one(self.requests.fetch_add(1, Ordering::Relaxed))
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(complete::chat))
        .route("/v1/completions", post(complete::text))
        .route("/v1/embeddings", post(embed::embeddings))
        .route("/v1/models", get(adapters::models))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/usage/{request_id}", get(usage))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    match app.ready() {
        Ok(_) => Json(json!({"status": "ready"})).into_response(),
        Err(problem) => {
            let reason = problem.body().error.message.clone();
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "unready", "reason": reason}))).into_response()
        }
    }
}

/// What a request was given, once it has ended: of one that was cut off nobody else knows.
async fn usage(State(app): State<Arc<App>>, Path(request_id): Path<String>) -> Result<Json<Usage>, Problem> {
    match tokio::time::timeout(limits::ACCOUNT_WAIT, app.accounts.closed(&request_id)).await {
        Ok(Some(spent)) => Ok(Json(spent.usage())),
        Ok(None) => {
            let text = "no request of this name is known here";
            Err(Problem::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_request", text))
        }
        Err(_) => Err(Problem::unavailable("still_running", "the request is still being worked on")),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text(&app.name)).into_response()
}

async fn no_route(request: Request) -> Problem {
    let text = format!("there is no route {} {}", request.method(), request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", text)
}

async fn no_method(request: Request) -> Problem {
    let text = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", text)
}

#[cfg(test)]
mod tests;
