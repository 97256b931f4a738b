//! Refusals, in each surface's shape. On `/v1` that is the one both OpenAI's and Mistral's clients read: nested `error`, and
//! the same fields flat beside it.
//!
//! OpenAI's client shows only the nested message, so that carries the whole sentence.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use galerne_api::error::{Code, Severity};
use galerne_api::surface::Dialect;
use galerne_model::ids::RequestId;
use serde::Serialize;

use crate::denial::Asker;

mod exact;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Our own code, where a surface's body has the original's.
const X_ERROR_CODE: HeaderName = HeaderName::from_static("x-galerne-error-code");

/// How vLLM, SGLang and llama-server say that a prompt is too long.
const OVERFLOWS: [&str; 2] = ["context length", "context size"];

/// A few headers beside a response.
pub(crate) type Headers = Vec<(HeaderName, HeaderValue)>;

/// Why a request is not answered. One per cause; the text names the values.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    /// When to come back; also sent when waiting does not help (then absent).
    pub(crate) retry_after: Option<Duration>,
    /// More headers, e.g. `x-ratelimit-*` and `allow`.
    pub(crate) headers: Headers,
    /// The engine's own status and code, when it refused and not we.
    pub(crate) relayed: Option<Box<Relayed>>,
    /// Who was refused, where whoever tells it does not know.
    pub(crate) asker: Option<Box<Asker>>,
}

/// What an engine said about a request that it refused.
#[derive(Debug, Clone)]
pub(crate) struct Relayed {
    pub(crate) status: StatusCode,
    pub(crate) kind: Option<String>,
    pub(crate) code: Option<String>,
}

impl Refusal {
    /// A refusal of a cause; the text names the values.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, param: None, retry_after: None, headers: Headers::new(), relayed: None, asker: None }
    }

    /// Its cause.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What it says.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same, about a field.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn asked_by(mut self, asker: Asker) -> Self {
        self.asker = Some(Box::new(asker));
        self
    }

    /// The same, with when to come back.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The status on `/v1`, and in the usage record.
    pub(crate) fn status(&self) -> StatusCode {
        // OpenAI answers 400 where `/api/v1` says 422, and its clients raise another exception for each.
        let own = || match self.code.http_status() {
            422 => StatusCode::BAD_REQUEST,
            status => StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        self.relayed.as_ref().map_or_else(own, |relayed| relayed.status)
    }

    /// The body as JSON.
    pub(crate) fn json(&self, dialect: Dialect, request_id: RequestId) -> Vec<u8> {
        let written = match dialect {
            Dialect::Union => {
                let nested = self.nested();
                let Nested { message, kind, param, code } = nested;
                serde_json::to_vec(&Union { error: nested, object: "error", message, kind, param, code, request_id })
            }
            Dialect::OpenAi => {
                let (kind, code) = exact::openai_words(self);
                serde_json::to_vec(&Wrapped { error: Nested { kind, code, ..self.nested() } })
            }
            Dialect::Mistral => return exact::mistral_json(self, request_id),
        };
        written.expect("texts serialise into memory")
    }

    fn nested(&self) -> Nested<'_> {
        let relayed = self.relayed.as_ref();
        let kind = relayed.and_then(|r| r.kind.as_deref()).unwrap_or_else(|| kind_of(self.status()));
        Nested { message: &self.message, kind, param: self.param.as_deref(), code: self.told_code() }
    }

    /// The engine's code where it refused, ours where we did. Engines without codes tell of an overflow in words.
    fn told_code(&self) -> Option<&str> {
        let Some(relayed) = &self.relayed else { return Some(self.code.as_str()) };
        let is_overflow = || OVERFLOWS.iter().any(|words| self.message.contains(words));
        relayed.code.as_deref().or_else(|| is_overflow().then_some(Code::ContextLengthExceeded.as_str()))
    }

    pub(crate) fn response(self, dialect: Dialect, request_id: RequestId) -> Response<Body> {
        self.log(request_id);
        let mut response = Response::new(Body::from(self.json(dialect, request_id)));
        let status = match dialect {
            Dialect::Union => self.status(),
            Dialect::OpenAi => exact::openai_status(&self),
            Dialect::Mistral => exact::mistral_status(&self),
        };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_ERROR_CODE, HeaderValue::from_static(self.code.as_str()));
        let retry = match self.retry_after {
            Some(wait) => {
                let millis = wait.as_millis().max(1);
                headers.insert(header::RETRY_AFTER, number(millis.div_ceil(1000)));
                headers.insert(RETRY_AFTER_MS, number(millis));
                "true"
            }
            None => "false",
        };
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static(retry));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        headers.extend(self.headers);
        response
    }

    fn log(&self, request_id: RequestId) {
        let (code, status) = (self.code.as_str(), self.status().as_u16());
        match self.code.severity() {
            Severity::Caller => tracing::debug!(%request_id, code, status, "request refused"),
            Severity::Unexpected => {
                tracing::warn!(%request_id, code, status, reason = %self.message, "request refused")
            }
            Severity::Broken => tracing::error!(%request_id, code, status, reason = %self.message, "request refused"),
        }
    }
}

#[derive(Clone, Copy, Serialize)]
struct Nested<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// OpenAI's shape.
#[derive(Serialize)]
struct Wrapped<'a> {
    error: Nested<'a>,
}

/// OpenAI's and Mistral's at once.
#[derive(Serialize)]
struct Union<'a> {
    error: Nested<'a>,
    object: &'a str,
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
    request_id: RequestId,
}

/// OpenAI's word for a class of errors.
fn kind_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "insufficient_quota",
        429 => "rate_limit_error",
        403 => "permission_error",
        404 => "not_found_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn number(n: u128) -> HeaderValue {
    HeaderValue::from_str(&n.to_string()).expect("digits are a header value")
}

#[cfg(test)]
mod tests;
