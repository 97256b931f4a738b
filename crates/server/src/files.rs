//! Files on `/v1`: bytes of a project, uploaded, listed, read back, deleted.
//!
//! Scoped to the project of the key; what another project keeps does not exist. Rows are the truth: an object without
//! one is an orphan and goes with the next sweep, a row whose object is to go stays until it has gone.
//! Deliberately absent: uploads in parts (`/v1/uploads`), and purposes that nothing here reads.

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::Response;
use axum::routing::get;
use galerne_api::error::Code;
use galerne_drivers::objects::Objects;
use galerne_gateway::Refusal;
use galerne_model::file::{File, Kept};
use galerne_model::limits;
use http::{HeaderMap, StatusCode, Uri, header};
use serde_json::json;

pub(crate) mod keep;
mod link;
mod list;
mod places;
mod range;
mod shape;
mod upload;

use places::Uploads;
use shape::shown;
pub(crate) use upload::{LIFE_SECONDS, ends, store_made};

/// Life of the files that batches read and make, when nothing is said: thirty days.
pub(crate) const DEFAULT_LIFE_SECONDS: i64 = 2_592_000;

use crate::app::App;
use crate::surface::{self, Guest, Surface};

/// Where files are, and how much of them there may be.
pub(crate) struct Files {
    pub(crate) objects: Objects,
    /// Most that one project keeps.
    pub(crate) most: Kept,
    pub(crate) uploads: Uploads,
    /// Where this server answers, for links when the caller did not say how it got here.
    pub(crate) url: String,
    /// Country in which they stand, when that is known.
    pub(crate) country: Option<String>,
}

impl Files {
    pub(crate) fn new(objects: Objects, bytes_max: u64, url: String, country: Option<String>) -> Self {
        let most = Kept { bytes: bytes_max, files: limits::FILES_PER_PROJECT_MAX };
        Self { objects, most, uploads: Uploads::default(), url, country }
    }
}

/// The routes of a surface, below its prefix.
pub(crate) fn routes(surface: Surface) -> Router<App> {
    let collection = get(list::list).post(upload::create).fallback(surface::wrong_method);
    let router = Router::new()
        .route("/files", collection.layer(DefaultBodyLimit::disable()))
        .route("/files/{id}", get(show).delete(delete).fallback(surface::wrong_method))
        .route("/files/{id}/content", get(content).fallback(surface::wrong_method));
    match surface {
        Surface::OpenAi => router,
        Surface::Union | Surface::Mistral => {
            router.route("/files/{id}/url", get(link::create).fallback(surface::wrong_method))
        }
    }
}

/// A file that this caller may see now.
pub(crate) async fn find(app: &App, guest: &Guest, id: &str) -> Result<File, Refusal> {
    let missing = || surface::not_found("file", id);
    let file_id = id.parse().map_err(|_| missing())?;
    let found = app.store().file(file_id).await.map_err(|error| surface::of_store(&error))?;
    let key = &guest.visitor.key;
    let sees = |file: &File| file.project_id == key.project_id && file.is_seen_by(key.principal_id);
    found.filter(|file| sees(file) && file.is_alive(App::now())).ok_or_else(missing)
}

async fn show(State(app): State<App>, guest: Guest, Path(id): Path<String>) -> Result<Response, Refusal> {
    let file = find(&app, &guest, &id).await?;
    Ok(surface::json(&shown(&file, guest.surface)))
}

async fn delete(State(app): State<App>, guest: Guest, Path(id): Path<String>) -> Result<Response, Refusal> {
    let file = find(&app, &guest, &id).await?;
    let of_store = |error| surface::of_store(&error);
    let mut tx = app.store().begin().await.map_err(of_store)?;
    if let Some(batch) = tx.batch_reading(file.id).await.map_err(of_store)? {
        let text = format!("batch `{batch}` reads this file; hint: galerne batch cancel {batch}");
        return Err(Refusal::new(Code::InUse, text));
    }
    let now = App::now();
    if tx.file_delete(file.id, now).await.map_err(of_store)?.is_none() {
        return Err(surface::not_found("file", &id));
    }
    tx.record(guest.event("file.delete", file.id.to_string(), format!("deleted file `{}`", file.filename), now));
    tx.commit().await.map_err(of_store)?;
    keep::remove(&app, file.id).await;
    Ok(surface::json(&json!({ "id": file.id, "object": "file", "deleted": true })))
}

async fn content(
    State(app): State<App>,
    guest: Result<Guest, Refusal>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let file = match link::opened(&app, &id, &uri)? {
        Some(file_id) => {
            let found = app.store().file(file_id).await.map_err(|error| surface::of_store(&error))?;
            found.filter(|file| file.is_alive(App::now())).ok_or_else(|| surface::not_found("file", &id))?
        }
        None => find(&app, &guest?, &id).await?,
    };
    let tag = format!("\"{}\"", file.sha256);
    let part = range::asked(&headers, file.bytes, &tag)?;
    let (status, bytes) = match &part {
        Some(part) => (StatusCode::PARTIAL_CONTENT, part.clone()),
        None => (StatusCode::OK, 0..file.bytes),
    };
    let body = if bytes.is_empty() {
        Body::empty()
    } else {
        let reading = app.files().objects.read(&file.object(), Some(bytes.clone())).await;
        Body::from_stream(reading.map_err(|error| surface::of_objects(&error))?.bytes)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // Never what the uploader says it is: a page of a tenant's would be a page of this site.
    headers.insert(header::CONTENT_TYPE, surface::header_value("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, surface::header_value("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, surface::header_value(&shape::disposition(&file.filename)));
    headers.insert(header::ACCEPT_RANGES, surface::header_value("bytes"));
    headers.insert(header::ETAG, surface::header_value(&tag));
    headers.insert(header::CONTENT_LENGTH, (bytes.end - bytes.start).into());
    if part.is_some() {
        let text = format!("bytes {}-{}/{}", bytes.start, bytes.end.saturating_sub(1), file.bytes);
        headers.insert(header::CONTENT_RANGE, surface::header_value(&text));
    }
    Ok(response)
}
