//! Models: made by pulls, deleted by people.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

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
///
/// The folder is read before the state: what a later pull puts there is not on the list, and what an earlier one put
/// there has its model or a pull that still runs.
async fn sweep(app: &App) -> Result<(), Refusal> {
    let folder = app.data().join("blobs").join("sha256");
    let listing = folder.clone();
    let Some(found) = on_disk(move || blobs(&listing)).await else { return Ok(()) };
    let mut reader = app.store().reader().await?;
    let pulls = reader.list_all::<Pull>(&Filter::default()).await?;
    if pulls
        .iter()
        .any(|pull| matches!(pull.status.state, PullState::Pending | PullState::Fetching | PullState::Importing))
    {
        return Ok(());
    }
    let kept: BTreeSet<String> =
        reader.list_all::<Model>(&Filter::default()).await?.into_iter().map(|model| model.spec.sha256).collect();
    drop(reader);
    on_disk(move || {
        found.iter().filter(|digest| !kept.contains(*digest)).try_for_each(|digest| remove(&folder.join(digest)))
    })
    .await;
    Ok(())
}

/// Works on files away from the async threads. The model is gone: bytes that stay are tried again with the next deletion.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Option<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done);
    match done {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "bytes of a deleted model could not be removed");
            None
        }
    }
}

/// Names of the files that are weights.
fn blobs(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let is_digest = |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    names.filter(|name: &io::Result<String>| name.as_ref().is_ok_and(is_digest) || name.is_err()).collect()
}

/// Another deletion may have been here first.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_named_by_a_digest_are_ever_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let digest = "ab".repeat(32);
        for name in [digest.as_str(), "ab", "fetching.part", &"zz".repeat(32)] {
            std::fs::write(folder.path().join(name), "weights").expect("written");
        }
        assert_eq!(blobs(folder.path()).expect("read"), std::slice::from_ref(&digest));
        let path = folder.path().join(&digest);
        remove(&path).expect("removed");
        remove(&path).expect("another deletion was here first");
        assert!(blobs(folder.path()).expect("read").is_empty());
        assert!(blobs(&folder.path().join("none")).expect("no folder yet").is_empty());
    }
}
