//! Links that read a file without a key, until their time is over: Mistral's `/v1/files/{id}/url`.
//!
//! A link is signed under the site's pepper. It dies with its file, and with a new pepper.

use axum::extract::{Path, State};
use axum::response::Response;
use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_model::ids::FileId;
use http::{HeaderMap, Uri, header};
use jiff::SignedDuration;
use serde_json::json;

use crate::app::App;
use crate::surface::{self, Guest};

/// Life of a link, in hours, when nothing is said.
const HOURS: i64 = 24;
/// Longest life of a link.
const HOURS_MAX: i64 = 168;

pub(super) async fn create(
    State(app): State<App>,
    guest: Guest,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut hours = HOURS;
    for (name, value) in surface::query(&uri)? {
        match name.as_str() {
            "expiry" => hours = surface::number("expiry", &value, 1..=HOURS_MAX)?,
            _ => return Err(surface::unknown_parameter(&name)),
        }
    }
    let file = super::find(&app, &guest, &id).await?;
    let until = App::now().saturating_add(SignedDuration::from_hours(hours)).map_or(i64::MAX, |at| at.as_second());
    let signature = signature(&app, file.id, until);
    let base = base(&app, &headers);
    let url = format!("{base}/v1/files/{}/content?expires={until}&signature={signature}", file.id);
    Ok(surface::json(&json!({ "url": url })))
}

/// The file that a link opens; nothing when the request carries no signature.
pub(super) fn opened(app: &App, id: &str, uri: &Uri) -> Result<Option<FileId>, Refusal> {
    let (mut until, mut given) = (None, None);
    for (name, value) in surface::query(uri)? {
        match name.as_str() {
            "expires" => until = value.parse::<i64>().ok(),
            "signature" => given = Some(value),
            _ => return Err(surface::unknown_parameter(&name)),
        }
    }
    let Some(given) = given else { return Ok(None) };
    let bad = || Refusal::new(Code::LinkInvalid, "the link is not one that was handed out, or its time is over");
    let (file_id, until) = (id.parse::<FileId>().map_err(|_| bad())?, until.ok_or_else(bad)?);
    // Digests of both are compared: how far they agree tells nothing of what was right.
    let digest = |text: &str| app.pepper().digest(text);
    let right = digest(&signature(app, file_id, until)) == digest(&given);
    if right && until > App::now().as_second() { Ok(Some(file_id)) } else { Err(bad()) }
}

fn signature(app: &App, id: FileId, until: i64) -> String {
    app.pepper().digest(&format!("file link\n{id}\n{until}"))
}

/// Where the caller reached this server.
fn base(app: &App, headers: &HeaderMap) -> String {
    let url = &app.files().url;
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    let is_host = |host: &&str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
        !host.is_empty() && host.bytes().all(allowed)
    };
    match headers.get(header::HOST).and_then(|value| value.to_str().ok()).filter(is_host) {
        Some(host) => format!("{scheme}://{host}"),
        None => url.clone(),
    }
}
