//! Mistral's `/v1/batch/jobs`.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::response::Response;
use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_model::batch::{Batch, Surface as Words};
use galerne_model::file::File;
use galerne_model::limits;
use galerne_store::{BatchQuery, Order};
use http::{HeaderMap, Uri};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Asked, shape};
use crate::app::App;
use crate::files;
use crate::surface::{self, Guest, Whole};

/// Hours of a job when nothing is said, and the most.
const HOURS: i64 = 24;
const HOURS_MAX: i64 = 168;
/// Files of one job.
const FILES_MAX: usize = 100;
/// A page, when nothing is said, and the longest.
const PAGE_SIZE: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;
/// Jobs that are looked through for one page: those of months, in the order that was asked for.
const LISTED_MAX: i64 = 10_000;
/// Answers that are sent inside a job.
const INLINE_MAX_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create<'a> {
    endpoint: String,
    #[serde(default)]
    input_files: Option<Vec<String>>,
    #[serde(default, borrow)]
    requests: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    agent_id: Option<Value>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    timeout_hours: Option<i64>,
}

pub(super) async fn create(
    State(app): State<App>,
    guest: Guest,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Result<Response, Refusal> {
    let countries = surface::countries(&app, &headers, super::KEPT)?;
    let create: Create<'_> = serde_json::from_slice(&body).map_err(|error| {
        let code = if error.is_data() { Code::InvalidBody } else { Code::MalformedJson };
        Refusal::new(code, format!("the body cannot be read: {error}"))
    })?;
    if create.agent_id.is_some_and(|agent| !agent.is_null()) {
        return Err(Refusal::new(Code::NotServed, "agents are not served here: name a `model`").param("agent_id"));
    }
    let operation = super::operation(&create.endpoint)?;
    let hours = create.timeout_hours.unwrap_or(HOURS);
    if !(1..=HOURS_MAX).contains(&hours) {
        return Err(surface::invalid("timeout_hours", format!("it takes 1 to {HOURS_MAX} hours")));
    }
    let metadata = super::metadata(create.metadata)?;
    let inputs = match (create.input_files, create.requests) {
        (Some(_), Some(_)) => return Err(surface::invalid("requests", "`input_files` or `requests`, not both")),
        (Some(ids), None) if (1..=FILES_MAX).contains(&ids.len()) => {
            let mut inputs = Vec::with_capacity(ids.len());
            for id in &ids {
                inputs.push(super::input(&app, &guest, "input_files", id).await?);
            }
            inputs
        }
        (None, Some(requests)) if !requests.is_empty() => vec![keep(&app, &guest, &requests).await?],
        _ => return Err(surface::invalid("input_files", format!("1 to {FILES_MAX} files, or `requests`"))),
    };
    let (words, model, life_seconds) = (Words::Mistral, create.model, hours * 3600);
    let output_life_seconds = None;
    let asked = Asked { words, operation, model, inputs, metadata, countries, output_life_seconds, life_seconds };
    let batch = super::make(&app, &guest, asked).await?;
    Ok(surface::json(&shape::mistral(&batch, None)))
}

/// Keeps requests that came inside a job as a file of their own.
async fn keep(app: &App, guest: &Guest, requests: &[&RawValue]) -> Result<File, Refusal> {
    if requests.len() as u64 > limits::BATCH_REQUESTS_MAX {
        return Err(surface::invalid("requests", format!("at most {} of them", limits::BATCH_REQUESTS_MAX)));
    }
    let mut bytes = Vec::new();
    for request in requests {
        let value: Value = serde_json::from_str(request.get())
            .map_err(|error| surface::invalid("requests", format!("one is not JSON: {error}")))?;
        bytes.extend_from_slice(value.to_string().as_bytes());
        bytes.push(b'\n');
    }
    files::store_made(app, guest, "requests.jsonl", bytes.into()).await
}

pub(super) async fn show(
    State(app): State<App>,
    guest: Guest,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let mut inline = false;
    for (name, value) in surface::query(&uri)? {
        match name.as_str() {
            "inline" => inline = value == "true",
            _ => return Err(surface::unknown_parameter(&name)),
        }
    }
    let batch = super::find(&app, &guest, &id).await?;
    let outputs = if inline { outputs(&app, &guest, &batch).await? } else { None };
    Ok(surface::json(&shape::mistral(&batch, outputs.as_deref())))
}

/// The answers of a job that has ended, where the caller may see them.
async fn outputs(app: &App, guest: &Guest, batch: &Batch) -> Result<Option<Vec<Value>>, Refusal> {
    let Some(id) = batch.status.output else { return Ok(None) };
    let found = app.store().file(id).await.map_err(|error| surface::of_store(&error))?;
    let Some(file) = found.filter(|file| file.is_alive(App::now()) && file.is_seen_by(guest.visitor.key.principal_id))
    else {
        return Ok(None);
    };
    if file.bytes > INLINE_MAX_BYTES {
        let text = format!("its answers have {} bytes: read them from file `{id}`", file.bytes);
        return Err(Refusal::new(Code::BodyTooLarge, text).param("inline"));
    }
    let bytes = app.files().objects.read_range(&file.object(), 0..file.bytes).await;
    let bytes = bytes.map_err(|error| surface::of_objects(&error))?;
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let values: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
    values.map(Some).map_err(|_| Refusal::new(Code::Internal, "the answers of the batch cannot be read"))
}

pub(super) async fn cancel(State(app): State<App>, guest: Guest, Path(id): Path<String>) -> Result<Response, Refusal> {
    let batch = super::stop(&app, &guest, &id).await?;
    Ok(surface::json(&shape::mistral(&batch, None)))
}

pub(super) async fn delete(State(app): State<App>, guest: Guest, Path(id): Path<String>) -> Result<Response, Refusal> {
    let batch = super::find(&app, &guest, &id).await?;
    let of_store = |error| surface::of_store(&error);
    let now = App::now();
    let mut tx = app.store().begin().await.map_err(of_store)?;
    if !tx.batch_delete(batch.id).await.map_err(of_store)? {
        let text = format!("the batch has not ended; hint: galerne batch cancel {}", batch.id);
        return Err(Refusal::new(Code::WrongState, text));
    }
    tx.record(guest.event("batch.delete", batch.id.to_string(), "deleted a batch that had ended".to_owned(), now));
    tx.commit().await.map_err(of_store)?;
    Ok(surface::json(&json!({ "id": batch.id, "object": "batch", "deleted": true })))
}

/// What a list is filtered by.
#[derive(Default)]
struct Wanted {
    page: usize,
    page_size: Option<usize>,
    model: Option<String>,
    metadata: Vec<(String, String)>,
    created_after: Option<Timestamp>,
    mine: bool,
    status: Vec<String>,
    order: Order,
}

pub(super) async fn list(State(app): State<App>, guest: Guest, uri: Uri) -> Result<Response, Refusal> {
    let wanted = Wanted::read(surface::query(&uri)?)?;
    let key = &guest.visitor.key;
    let query = BatchQuery { project_id: key.project_id, after: None, order: wanted.order, limit: LISTED_MAX };
    let mut batches = app.store().batches(&query).await.map_err(|error| surface::of_store(&error))?;
    batches.retain(|batch| wanted.admits(batch) && (!wanted.mine || batch.principal_id == key.principal_id));
    let size = wanted.page_size.unwrap_or(PAGE_SIZE);
    let page = batches.iter().skip(wanted.page.saturating_mul(size)).take(size);
    let data: Vec<Value> = page.map(|batch| shape::mistral(batch, None)).collect();
    Ok(surface::json(&json!({ "object": "list", "data": data, "total": batches.len() })))
}

impl Wanted {
    fn read(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut wanted = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "page" => wanted.page = surface::number("page", &value, 0..=usize::MAX)?,
                "page_size" => wanted.page_size = Some(surface::number("page_size", &value, 1..=PAGE_SIZE_MAX)?),
                "model" => wanted.model = Some(value),
                "agent_id" => {
                    return Err(Refusal::new(Code::NotServed, "agents are not served here").param("agent_id"));
                }
                "created_after" => {
                    let told = || surface::invalid("created_after", "write it as `2026-01-31T12:00:00Z`");
                    wanted.created_after = Some(value.parse().map_err(|_| told())?);
                }
                "created_by_me" => wanted.mine = value == "true",
                "status" => wanted.status.push(value),
                "order_by" => {
                    wanted.order = match value.as_str() {
                        "created" => Order::Oldest,
                        "-created" => Order::Newest,
                        _ => return Err(surface::invalid("order_by", "one of `created`, `-created`")),
                    }
                }
                // Mistral's client sends each pair of `metadata` as a parameter of its own.
                _ => wanted.metadata.push((name, value)),
            }
        }
        Ok(wanted)
    }

    fn admits(&self, batch: &Batch) -> bool {
        self.model.as_ref().is_none_or(|model| batch.model.as_ref() == Some(model))
            && self.created_after.is_none_or(|at| batch.created_at > at)
            && (self.status.is_empty() || self.status.iter().any(|status| status == shape::mistral_status(batch)))
            && self.metadata.iter().all(|(key, value)| batch.metadata.get(key) == Some(value))
    }
}
