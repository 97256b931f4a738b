//! Reading a request body: bounded, UTF-8, JSON, of the right shape; or an answer that says which of these fails and where.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

use super::problem::Problem;
use crate::limits;

/// Milliseconds after which the caller no longer wants the answer.
const DEADLINE_HEADER: &str = "x-galerne-deadline-ms";
/// The caller's name for a request, by which it may ask for its account.
const REQUEST_ID_HEADER: &str = "x-request-id";

/// Requests with different texts here never share what was computed of a prompt.
const CACHE_SCOPE_HEADER: &str = "x-galerne-cache-scope";

/// The body as `T`.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits::BODY_BYTES) {
        return Err(Problem::too_large(limits::BODY_BYTES));
    }
    let bytes = to_bytes(request.into_body(), limits::BODY_BYTES).await.map_err(|e| {
        let is_length = std::error::Error::source(&e).is_some_and(|source| source.to_string().contains("length limit"));
        if is_length {
            Problem::too_large(limits::BODY_BYTES)
        } else {
            Problem::bad_request("the request body could not be read to its end").code("incomplete_body")
        }
    })?;
    parse(&bytes)
}

/// What the headers say of a request besides its body.
#[derive(Debug)]
pub(super) struct Terms {
    /// When the caller no longer wants the answer.
    pub(super) deadline: Option<Instant>,
    /// What the caller calls it.
    pub(super) request_id: Option<String>,
    /// Whose cached prompts it may profit from; those that name nobody share.
    pub(super) cache_scope: Option<String>,
}

pub(super) fn terms(headers: &HeaderMap) -> Result<Terms, Problem> {
    let request_id = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    let request_id = request_id.filter(|id| id.len() <= limits::REQUEST_ID_BYTES).map(str::to_owned);
    Ok(Terms { deadline: deadline(headers)?, request_id, cache_scope: cache_scope(headers)? })
}

fn cache_scope(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(CACHE_SCOPE_HEADER) else { return Ok(None) };
    // Left out in silence it would share with everybody.
    match value.to_str() {
        Ok(scope) if scope.len() <= limits::CACHE_SCOPE_BYTES => Ok(Some(scope.to_owned())),
        _ => {
            let text = format!("`{CACHE_SCOPE_HEADER}` takes at most {} ASCII characters", limits::CACHE_SCOPE_BYTES);
            Err(Problem::bad_request(text).param(CACHE_SCOPE_HEADER))
        }
    }
}

fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Problem> {
    let Some(value) = headers.get(DEADLINE_HEADER) else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(ms @ 1..=limits::DEADLINE_MS) => Ok(Some(Instant::now() + Duration::from_millis(ms))),
        _ => {
            let text = format!("`{DEADLINE_HEADER}` must be a number of 1 to {}", limits::DEADLINE_MS);
            Err(Problem::bad_request(text).param(DEADLINE_HEADER))
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Problem::bad_request(format!("the request body is not UTF-8 from byte {} on", e.valid_up_to()))
            .code("invalid_utf8")
    })?;
    serde_json::from_str(text).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => wrong_shape::<T>(text, &e),
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof | serde_json::error::Category::Io => {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "invalid_json",
                format!("the body is not JSON: {e}"),
            )
        }
    })
}

fn wrong_shape<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message).to_owned();
    let missing = what.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match missing.map(str::to_owned).or_else(|| culprit::<T>(text)) {
        Some(param) => Problem::bad_request(format!("`{param}`: {what}")).param(&param).code("invalid_type"),
        None => Problem::bad_request(what).code("invalid_type"),
    }
}

/// The parameter without which the error is another one or none. Flattened types do not tell where they failed.
fn culprit<T: DeserializeOwned>(text: &str) -> Option<String> {
    const KEYS: usize = 64;
    const BYTES: usize = 64 * 1024;
    if text.len() > BYTES {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_str(text).ok()?;
    if object.len() > KEYS {
        return None;
    }
    let error =
        |object: Map<String, Value>| serde_json::from_value::<T>(Value::Object(object)).err().map(|e| e.to_string());
    let whole = error(object.clone())?;
    let after = |key: &String| {
        let mut without = object.clone();
        without.remove(key);
        error(without)
    };
    let is_needed = |error: &Option<String>| error.as_ref().is_some_and(|text| text.starts_with("missing field"));
    let changing: Vec<(&String, Option<String>)> =
        object.keys().map(|key| (key, after(key))).filter(|(_, error)| error.as_ref() != Some(&whole)).collect();
    // Without a needed parameter there is always another error: it is at fault only when no other parameter is.
    let culprit = changing.iter().find(|(_, error)| !is_needed(error)).or_else(|| changing.first());
    culprit.map(|(key, _)| (*key).clone())
}
