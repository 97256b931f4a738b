//! Adapters attached and detached while the worker serves, by vLLM's routes; and the list of models, in which they are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use galerne_api::openai::{ModelCard, ModelList};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::problem::Problem;
use super::{App, read};
use crate::adapter::{self, Adapter, Unfit};
use crate::fingerprint::Fingerprint;
use crate::job::{Attach, Detach, Job};
use crate::limits;
use crate::loaded::Task;
use crate::machine;

/// vLLM's names, and a scale.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadRequest {
    lora_name: String,
    lora_path: String,
    /// How much of it is added to the model; 1 when absent.
    scale: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnloadRequest {
    lora_name: String,
}

/// The model, then its adapters.
pub(super) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let max_model_len = app.loaded.get().map(|loaded| loaded.context as u64);
    let card = |id: &str, created: i64, root: &str, parent: Option<&str>| ModelCard {
        id: id.to_owned(),
        object: "model".into(),
        created,
        owned_by: "galerne".into(),
        max_model_len,
        root: Some(root.to_owned()),
        parent: parent.map(str::to_owned),
    };
    let adapters = app.adapters.all();
    let adapters = adapters.iter().map(|one| card(&one.name, one.attached_at, &one.root, Some(&app.name)));
    let data = std::iter::once(card(&app.name, app.started_at, &app.name, None)).chain(adapters).collect();
    Json(ModelList { object: "list".into(), data })
}

/// Answers when the adapter can be asked for.
pub(super) async fn load(State(app): State<Arc<App>>, http: Request) -> Result<String, Problem> {
    app.ready_for(Task::Generate)?;
    let request: LoadRequest = read::json(http).await?;
    let scale = request.scale.unwrap_or(1.0);
    if !scale.is_finite() {
        return Err(Problem::bad_request("`scale` must be a number").param("scale"));
    }
    // One after the other: names and places are given here.
    let mut last_id = app.adapters.attaching.lock().await;
    check_name(&app, &request.lora_name)?;
    let path = app.adapters.file(&request.lora_path)?;
    let fingerprint = {
        let (app, path) = (Arc::clone(&app), path.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let architecture = app.ready()?.architecture.clone();
            adapter::check(&path, &architecture, machine::available_memory())?;
            let print = Fingerprint::default().with(&scale.to_le_bytes()).with_file(&path);
            print.map_err(|e| Problem::from(Unfit::File(format!("it cannot be read: {e}"))))
        });
        checked.await.unwrap_or_else(|_| Err(Problem::engine_gone()))?
    };
    let adapter = Arc::new(Adapter {
        id: last_id.next(),
        name: request.lora_name.clone(),
        root: request.lora_path,
        attached_at: jiff::Timestamp::now().as_second(),
        scale,
        fingerprint,
    });
    let (reply, done) = oneshot::channel();
    app.queue.manage(Job::Attach(Attach { adapter: Arc::clone(&adapter), path, reply }))?;
    let told = done.await.map_err(|_| Problem::engine_gone())?;
    told.map_err(|why| Problem::from(Unfit::File(format!("llama.cpp does not take it: {why}"))))?;
    app.adapters.add(adapter);
    Ok(format!("Success: LoRA adapter '{}' added successfully.", request.lora_name))
}

fn check_name(app: &App, name: &str) -> Result<(), Problem> {
    let bad = |text: String| Err(Problem::bad_request(text).param("lora_name"));
    if name.is_empty() || name.len() > limits::ADAPTER_NAME_BYTES || name.chars().any(char::is_control) {
        return bad(format!("`lora_name` takes 1 to {} bytes of text", limits::ADAPTER_NAME_BYTES));
    }
    if name == app.name {
        return bad(format!("`{name}` is the model itself; hint: give the adapter a name of its own"));
    }
    let attached = app.adapters.all();
    if attached.iter().any(|adapter| adapter.name == name) {
        return bad(format!(
            "the adapter `{name}` has already been loaded; hint: POST /v1/unload_lora_adapter first, or take another name"
        ));
    }
    if attached.len() >= limits::ADAPTERS {
        return bad(format!("{} adapters are attached, and no more are taken; hint: unload one", attached.len()));
    }
    Ok(())
}

/// Answers when the adapter's memory is free: requests that it is computing are answered first, later ones are refused.
pub(super) async fn unload(State(app): State<Arc<App>>, http: Request) -> Result<String, Problem> {
    app.ready_for(Task::Generate)?;
    let request: UnloadRequest = read::json(http).await?;
    let name = request.lora_name;
    let Some(adapter) = app.adapters.remove(&name) else {
        return Err(Problem::no_adapter(&name));
    };
    let (reply, gone) = oneshot::channel();
    if let Err(busy) = app.queue.manage(Job::Detach(Detach { id: adapter.id, reply })) {
        app.adapters.add(adapter);
        return Err(busy.into());
    }
    drop(adapter);
    gone.await.map_err(|_| Problem::engine_gone())?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}
