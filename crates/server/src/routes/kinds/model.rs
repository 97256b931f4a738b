//! Models: made by pulls, deleted by people.

use axum::extract::{Request, State};
use axum::response::Response;
use galerne_core::authorize::Noun;
use galerne_model::ids::ModelId;
use galerne_model::inference::{Backend, Endpoint, Model, ModelStatus, Pull, PullState};
use galerne_store::{Filter, Tx};
use jiff::Timestamp;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::tenancy::in_use;
use crate::app::App;
use crate::http::body::Segment;
use crate::http::caller::Caller;
use crate::http::operation as op;
use crate::http::refusal::{Refusal, chain};
use crate::http::write::Terms;
use crate::routes::delete;
use crate::routes::managed::{Level, Managed};

impl Managed for Model {
    const RIGHTS: Noun = Noun::Model;
    const LEVEL: Level = Level::Project;

    fn mint(uuid: Uuid) -> ModelId {
        ModelId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> ModelStatus {
        ModelStatus::default()
    }

    async fn check_unused(tx: &mut Tx, _caller: &Caller, resource: &Self) -> Result<(), Refusal> {
        let endpoints = tx.list_all::<Endpoint>(&Filter::default()).await?;
        let serves = |endpoint: &&Endpoint| matches!(endpoint.spec.backend, Backend::Worker { model_id, .. } if model_id == resource.id);
        match endpoints.iter().find(serves) {
            Some(endpoint) => Err(in_use(format!("endpoint `{}` serves it", endpoint.name))),
            None => Ok(()),
        }
    }
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::delete(
        "/api/v1/models/{name}",
        "delete_model",
        "delete one that no endpoint serves, and its bytes when no other model has them",
    )
    .answers_kind::<Model>(200)
    .on(router, delete_model)
}

async fn delete_model(
    state: State<App>,
    caller: Caller,
    name: Segment,
    terms: Terms,
    request: Request,
) -> Result<Response, Refusal> {
    let app = state.0.clone();
    let keeps = terms.dry_run;
    let response = delete::delete::<Model>(state, caller, name, terms, request).await?;
    if !keeps {
        sweep(&app).await?;
    }
    Ok(response)
}

/// Removes blobs that no living model names, unless a pull is under way: it may be about to name one.
async fn sweep(app: &App) -> Result<(), Refusal> {
    let mut reader = app.store().reader().await?;
    let pulls = reader.list_all::<Pull>(&Filter::default()).await?;
    if pulls
        .iter()
        .any(|pull| matches!(pull.status.state, PullState::Pending | PullState::Fetching | PullState::Importing))
    {
        return Ok(());
    }
    let kept: Vec<String> =
        reader.list_all::<Model>(&Filter::default()).await?.into_iter().map(|model| model.spec.sha256).collect();
    drop(reader);
    let folder = app.data().join("blobs").join("sha256");
    let swept = tokio::task::spawn_blocking(move || remove_unnamed(&folder, &kept)).await;
    match swept {
        Ok(Ok(())) => Ok(()),
        // The model is gone; its bytes are tried again with the next deletion.
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "bytes of a deleted model could not be removed");
            Ok(())
        }
        Err(error) => {
            tracing::error!(error = %chain(&error), "removing bytes of a deleted model broke off");
            Ok(())
        }
    }
}

fn remove_unnamed(folder: &std::path::Path, kept: &[String]) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let digest = name.to_str().filter(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if digest.is_some_and(|digest| !kept.iter().any(|kept| kept == digest)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
