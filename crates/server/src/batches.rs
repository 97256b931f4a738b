//! Batches on `/v1`: OpenAI's `/v1/batches` and Mistral's `/v1/batch/jobs`, one engine behind both.
//!
//! A batch belongs to a project and runs as the key that made it: that key's limits and budgets hold for its requests.

use axum::Router;
use axum::routing::{get, post};
use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_model::batch::{Batch, BatchStatus, Surface as Words};
use galerne_model::file::{File, Purpose, Visibility};
use galerne_model::ids::BatchId;
use galerne_model::ledger::Operation;
use galerne_model::limits;
use std::collections::BTreeMap;
use uuid::Uuid;

pub(crate) mod engine;
mod finish;
mod input;
mod lines;
mod live;
mod mistral;
mod openai;
mod shape;

use crate::app::App;
use crate::files;
use crate::surface::{self, Guest, Surface};

/// Pairs of `metadata`.
const METADATA_MAX: usize = 16;
/// Longest key of one.
const METADATA_KEY_MAX_CHARS: usize = 64;
/// Longest value of one.
const METADATA_VALUE_MAX_CHARS: usize = 512;

/// The routes of a surface, below its prefix.
pub(crate) fn routes(surface: Surface) -> Router<App> {
    let openai = || {
        Router::new()
            .route("/batches", get(openai::list).post(openai::create).fallback(surface::wrong_method))
            .route("/batches/{id}", get(openai::show).fallback(surface::wrong_method))
            .route("/batches/{id}/cancel", post(openai::cancel).fallback(surface::wrong_method))
    };
    let mistral = || {
        let one = get(mistral::show).delete(mistral::delete).fallback(surface::wrong_method);
        Router::new()
            .route("/batch/jobs", get(mistral::list).post(mistral::create).fallback(surface::wrong_method))
            .route("/batch/jobs/{id}", one)
            .route("/batch/jobs/{id}/cancel", post(mistral::cancel).fallback(surface::wrong_method))
    };
    match surface {
        Surface::Union => openai().merge(mistral()),
        Surface::OpenAi => openai(),
        Surface::Mistral => mistral(),
    }
}

/// A batch that is asked for, in the words of either.
struct Asked {
    words: Words,
    operation: Operation,
    model: Option<String>,
    inputs: Vec<File>,
    metadata: BTreeMap<String, String>,
    countries: Vec<String>,
    output_life_seconds: Option<i64>,
    life_seconds: i64,
}

/// How answers are kept, for whoever demands something of that.
const KEPT: &str = "the answers of a batch are kept here";

/// Who may see what is made of some files: nobody who may not see all of them.
fn visibility(inputs: &[File]) -> Visibility {
    let is_private = inputs.iter().any(|file| file.visibility == Visibility::Principal);
    if is_private { Visibility::Principal } else { Visibility::Project }
}

/// Makes a batch and tells the engine.
async fn make(app: &App, guest: &Guest, asked: Asked) -> Result<Batch, Refusal> {
    let (now, key) = (App::now(), &guest.visitor.key);
    let of_store = |error| surface::of_store(&error);
    let batch = Batch {
        id: BatchId::from_uuid(Uuid::now_v7()),
        tenant_id: key.tenant_id,
        project_id: key.project_id,
        principal_id: key.principal_id,
        key_id: key.id,
        surface: asked.words,
        operation: asked.operation,
        model: asked.model,
        visibility: visibility(&asked.inputs),
        inputs: asked.inputs.iter().map(|file| file.id).collect(),
        metadata: asked.metadata,
        output_life_seconds: asked.output_life_seconds,
        countries: asked.countries,
        created_at: now,
        expires_at: files::ends(now, asked.life_seconds),
        status: BatchStatus { reason: "its lines are being read".to_owned(), ..BatchStatus::default() },
    };
    let mut tx = app.store().begin().await.map_err(of_store)?;
    if tx.batches_open_in(key.project_id).await.map_err(of_store)? >= limits::BATCHES_OPEN_MAX {
        let most = limits::BATCHES_OPEN_MAX;
        let text = format!(
            "the project has {most} batches that have not ended, the most it may; wait for one, or cancel one; hint: galerne batch list"
        );
        return Err(Refusal::new(Code::RateLimited, text).retry_after(std::time::Duration::from_secs(60)));
    }
    tx.batch_insert(&batch).await.map_err(of_store)?;
    let text = format!("made a batch of {} files for `{}`", batch.inputs.len(), lines::path_of(batch.operation));
    tx.record(guest.event("batch.create", batch.id.to_string(), text, now));
    tx.commit().await.map_err(of_store)?;
    app.batch_bell().ring();
    Ok(batch)
}

/// A batch of the caller's project.
async fn find(app: &App, guest: &Guest, id: &str) -> Result<Batch, Refusal> {
    let missing = || surface::not_found("batch", id);
    let batch_id: BatchId = id.parse().map_err(|_| missing())?;
    let found = app.store().batch(batch_id).await.map_err(|error| surface::of_store(&error))?;
    found.filter(|batch| batch.project_id == guest.visitor.key.project_id).ok_or_else(missing)
}

/// Asks for a batch to be cancelled.
async fn stop(app: &App, guest: &Guest, id: &str) -> Result<Batch, Refusal> {
    let batch = find(app, guest, id).await?;
    if batch.has_ended() {
        return Err(Refusal::new(Code::WrongState, "the batch has ended: there is nothing to cancel"));
    }
    let of_store = |error| surface::of_store(&error);
    let now = App::now();
    let mut tx = app.store().begin().await.map_err(of_store)?;
    if tx.batch_cancel(batch.id, now).await.map_err(of_store)? {
        tx.record(guest.event("batch.cancel", batch.id.to_string(), "cancelled a batch".to_owned(), now));
        tx.commit().await.map_err(of_store)?;
        app.batch_bell().ring();
    }
    find(app, guest, id).await
}

/// A file that may be the input of a batch.
async fn input(app: &App, guest: &Guest, param: &str, id: &str) -> Result<File, Refusal> {
    let file = files::find(app, guest, id).await.map_err(|refusal| refusal.param(param))?;
    if file.purpose == Purpose::Batch {
        return Ok(file);
    }
    Err(surface::invalid(param, format!("file `{id}` was not uploaded with the purpose `batch`")))
}

/// What kind of work a path is.
fn operation(path: &str) -> Result<Operation, Refusal> {
    lines::PATHS.iter().find(|(_, known)| *known == path).map(|(operation, _)| *operation).ok_or_else(|| {
        let known: Vec<String> = lines::PATHS.iter().map(|(_, path)| format!("`{path}`")).collect();
        surface::invalid("endpoint", format!("batches are served for {}", known.join(", ")))
    })
}

/// Notes of a batch's maker, within their limits.
fn metadata(given: Option<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>, Refusal> {
    let given = given.unwrap_or_default();
    let is_long = |text: &str, most: usize| text.chars().count() > most;
    let too_long = |(key, value): (&String, &String)| {
        is_long(key, METADATA_KEY_MAX_CHARS) || is_long(value, METADATA_VALUE_MAX_CHARS)
    };
    if given.len() > METADATA_MAX || given.iter().any(too_long) {
        let text = format!(
            "it takes {METADATA_MAX} pairs, keys of {METADATA_KEY_MAX_CHARS} and values of {METADATA_VALUE_MAX_CHARS} characters"
        );
        return Err(surface::invalid("metadata", text));
    }
    Ok(given)
}

/// Reads a body that is a JSON object.
fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { Code::InvalidBody } else { Code::MalformedJson };
        Refusal::new(code, format!("the body cannot be read: {error}"))
    })
}
