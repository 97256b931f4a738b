//! Backups: made while everything runs, kept below the data directory.

use std::path::Path;

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::backup::{Backup, CreateBackup};
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::Scope;
use galerne_model::ids::BackupId;
use galerne_model::units::Bytes;
use galerne_store::BackupManifest;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::app::App;
use crate::http::body::{Json, Params, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::paging::{self, PageParams};
use crate::http::refusal::{Refusal, chain};
use crate::http::write::{Terms, Told, Write};

/// Folder below the data directory.
const FOLDER: &str = "backups";

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = op::get("/api/v1/backups", "list_backups", "those that are kept on this server, oldest first")
        .answers_page::<Backup>()
        .on(router, list);
    op::post("/api/v1/backups", "create_backup", "copy the whole state to a folder of the data directory")
        .body::<CreateBackup>()
        .answers::<Backup>(201)
        .answers::<Backup>(200)
        .on(router, create)
}

async fn list(State(app): State<App>, caller: Caller, Params(params): Params<PageParams>) -> Result<Response, Refusal> {
    caller.may(Verb::Read, Noun::Backup, Scope::Site, &About::all("backup", "list"))?;
    let folder = app.data().join(FOLDER);
    let found = tokio::task::spawn_blocking(move || read(&folder)).await;
    let backups = found.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
    Ok(answer(StatusCode::OK, &paging::cut(backups, &params)?))
}

async fn create(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    Json { value: CreateBackup {}, digest }: Json<CreateBackup>,
) -> Result<Response, Refusal> {
    caller.may(Verb::Create, Noun::Backup, Scope::Site, &About::all("backup", "create"))?;
    let id = BackupId::from_uuid(Uuid::now_v7());
    let folder = app.data().join(FOLDER);
    if terms.dry_run {
        let body = Backup { id, created_at: App::now(), folder: format!("{FOLDER}/{id}"), size: Bytes::ZERO };
        return Ok(answer(StatusCode::OK, &body));
    }
    let made = folder.clone();
    let created = tokio::task::spawn_blocking(move || std::fs::create_dir_all(made)).await;
    created.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
    // First the copy, which opens transactions of its own; then its event and the answer to the key, together.
    let manifest = app.store().backup(&folder.join(id.to_string()), id, App::now()).await?;
    let body = shown(&manifest);
    let mut write = match Write::begin(&app, &caller, &terms, &digest).await {
        Ok(write) => write,
        Err(refusal) => {
            // Made before under the same key, or not to be recorded: a copy nobody knows of only takes room.
            discard(folder.join(id.to_string())).await;
            return Err(refusal);
        }
    };
    write.record(Told {
        action: "backup.create".to_owned(),
        tenant_id: None,
        project_id: None,
        resource: &id.to_string(),
        before: None,
        after: None,
        text: format!("backed the state up to `{}`", body.folder),
    });
    write.finish(StatusCode::CREATED, &body).await
}

async fn discard(folder: std::path::PathBuf) {
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = %chain(&error), "a backup that is not needed could not be removed"),
        Err(error) => tracing::error!(error = %chain(&error), "removing a backup broke off"),
    }
}

fn shown(manifest: &BackupManifest) -> Backup {
    let size: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    Backup {
        id: manifest.id,
        created_at: manifest.created_at,
        folder: format!("{FOLDER}/{}", manifest.id),
        size: Bytes(i64::try_from(size).unwrap_or(i64::MAX)),
    }
}

fn read(folder: &Path) -> std::io::Result<Vec<Backup>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut backups = Vec::new();
    for entry in entries {
        let path = entry?.path().join("manifest.json");
        let manifest = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<BackupManifest>(&bytes),
            // A folder without a manifest is a backup that broke off.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        match manifest {
            Ok(manifest) => backups.push(shown(&manifest)),
            Err(error) => tracing::warn!(error = %chain(&error), "a backup's manifest cannot be read"),
        }
    }
    backups.sort_by_key(|backup| backup.id);
    Ok(backups)
}

fn broken(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(error = %chain(error), "the folder of backups cannot be used");
    Refusal::new(Code::Internal, "the folder of backups cannot be used")
}
