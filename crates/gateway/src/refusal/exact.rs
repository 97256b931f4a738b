//! The errors of the exact surfaces: OpenAI's own words, Mistral's own shapes.

use axum::http::StatusCode;
use galerne_api::error::Code;
use galerne_model::ids::RequestId;
use serde::Serialize;

use super::{Refusal, kind_of};

/// OpenAI has no 402: who has spent all is told so with 429, which `x-should-retry: false` keeps from being tried again.
pub(super) fn openai_status(refusal: &Refusal) -> StatusCode {
    if refusal.code == Code::BudgetExhausted { StatusCode::TOO_MANY_REQUESTS } else { refusal.status() }
}

/// OpenAI's `type` and `code`, where it has words of its own for the cause.
pub(super) fn openai_words(refusal: &Refusal) -> (&str, Option<&str>) {
    if refusal.relayed.is_some() {
        return ("invalid_request_error", refusal.told_code());
    }
    match refusal.code {
        Code::Unauthenticated | Code::InvalidKey | Code::KeyExpired | Code::KeyRevoked => {
            ("invalid_request_error", Some("invalid_api_key"))
        }
        Code::BudgetExhausted => ("insufficient_quota", Some("insufficient_quota")),
        Code::RateLimited => ("requests", Some("rate_limit_exceeded")),
        code => {
            let kind = if refusal.status().is_client_error() { "invalid_request_error" } else { "server_error" };
            (kind, Some(code.as_str()))
        }
    }
}

/// Mistral answers what is wrong with a body's fields with 422 and a list.
pub(super) fn mistral_status(refusal: &Refusal) -> StatusCode {
    if detail_kind(refusal).is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { refusal.status() }
}

/// The kind of validation error, if it is one.
fn detail_kind(refusal: &Refusal) -> Option<&'static str> {
    if refusal.told_code() == Some(Code::ContextLengthExceeded.as_str()) {
        return None;
    }
    match refusal.code {
        Code::UnknownParameter => Some("extra_forbidden"),
        Code::InvalidBody | Code::UnsupportedParameter | Code::UnsupportedValue => Some("value_error"),
        Code::MalformedJson => Some("json_invalid"),
        _ => None,
    }
}

#[derive(Serialize)]
struct Invalid<'a> {
    detail: [Detail<'a>; 1],
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    loc: Vec<&'a str>,
    msg: &'a str,
}

#[derive(Serialize)]
struct Flat<'a> {
    object: &'a str,
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
    request_id: RequestId,
}

pub(super) fn mistral_json(refusal: &Refusal, request_id: RequestId) -> Vec<u8> {
    let (message, param) = (refusal.message.as_str(), refusal.param.as_deref());
    let written = match detail_kind(refusal) {
        Some(kind) => {
            let loc = std::iter::once("body").chain(param).collect();
            serde_json::to_vec(&Invalid { detail: [Detail { kind, loc, msg: message }] })
        }
        None => {
            let kind = if refusal.code == Code::ModelNotFound { "invalid_model" } else { kind_of(refusal.status()) };
            let code = refusal.told_code();
            serde_json::to_vec(&Flat { object: "error", message, kind, param, code, request_id })
        }
    };
    written.expect("texts serialise into memory")
}
