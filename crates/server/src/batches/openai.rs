//! OpenAI's `/v1/batches`.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::response::Response;
use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_model::batch::{Batch, Surface as Words};
use galerne_store::{BatchQuery, Order};
use http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::json;

use super::{Asked, shape};
use crate::app::App;
use crate::files;
use crate::surface::{self, Guest, Whole};

/// The only window there is.
const WINDOW: &str = "24h";
/// It in seconds.
const WINDOW_SECONDS: i64 = 24 * 3600;
/// A page, when nothing is said, and the longest.
const LIMIT: usize = 20;
const LIMIT_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    output_expires_after: Option<ExpiresAfter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiresAfter {
    anchor: String,
    seconds: i64,
}

pub(super) async fn create(
    State(app): State<App>,
    guest: Guest,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Result<Response, Refusal> {
    let countries = surface::countries(&app, &headers, super::KEPT)?;
    let create: Create = super::parse(&body)?;
    if create.completion_window != WINDOW {
        return Err(surface::invalid("completion_window", format!("the only one is `{WINDOW}`")));
    }
    let output_life_seconds = match create.output_expires_after {
        None => None,
        Some(after) if after.anchor != "created_at" => {
            return Err(surface::invalid("output_expires_after.anchor", "the only one is `created_at`"));
        }
        Some(after) if !files::LIFE_SECONDS.contains(&after.seconds) => {
            let (from, to) = (files::LIFE_SECONDS.start(), files::LIFE_SECONDS.end());
            return Err(surface::invalid("output_expires_after.seconds", format!("it takes {from} to {to} seconds")));
        }
        Some(after) => Some(after.seconds),
    };
    let asked = Asked {
        words: Words::OpenAi,
        operation: super::operation(&create.endpoint)?,
        model: None,
        inputs: vec![super::input(&app, &guest, "input_file_id", &create.input_file_id).await?],
        metadata: super::metadata(create.metadata)?,
        countries,
        output_life_seconds,
        life_seconds: WINDOW_SECONDS,
    };
    let batch = super::make(&app, &guest, asked).await?;
    Ok(surface::json(&shape::openai(&batch)))
}

pub(super) async fn show(State(app): State<App>, guest: Guest, Path(id): Path<String>) -> Result<Response, Refusal> {
    let batch = super::find(&app, &guest, &id).await?;
    Ok(surface::json(&shape::openai(&batch)))
}

pub(super) async fn cancel(State(app): State<App>, guest: Guest, Path(id): Path<String>) -> Result<Response, Refusal> {
    let batch = super::stop(&app, &guest, &id).await?;
    Ok(surface::json(&shape::openai(&batch)))
}

pub(super) async fn list(State(app): State<App>, guest: Guest, uri: Uri) -> Result<Response, Refusal> {
    let (mut after, mut limit) = (None, LIMIT);
    for (name, value) in surface::query(&uri)? {
        match name.as_str() {
            "after" => {
                let known = super::find(&app, &guest, &value).await.map_err(|_| {
                    Refusal::new(Code::InvalidCursor, "`after` is not the id of a batch of this project").param("after")
                })?;
                after = Some(known.id);
            }
            "limit" => limit = surface::number("limit", &value, 1..=LIMIT_MAX)?,
            _ => return Err(surface::unknown_parameter(&name)),
        }
    }
    let project_id = guest.visitor.key.project_id;
    let query = BatchQuery { project_id, after, order: Order::Newest, limit: limit as i64 + 1 };
    let mut batches = app.store().batches(&query).await.map_err(|error| surface::of_store(&error))?;
    let has_more = batches.len() > limit;
    batches.truncate(limit);
    let id = |batch: Option<&Batch>| batch.map(|batch| batch.id);
    Ok(surface::json(&json!({
        "object": "list",
        "data": batches.iter().map(shape::openai).collect::<Vec<_>>(),
        "first_id": id(batches.first()),
        "last_id": id(batches.last()),
        "has_more": has_more,
    })))
}
