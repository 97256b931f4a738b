//! Errors as OpenAI's clients parse them. The one place where a failure becomes a status.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use galerne_api::openai::ErrorBody;

use crate::adapter::Unfit;
use crate::job::{Busy, Failure};
use crate::request::Refused;
use crate::template::TemplateError;

/// An error reply.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    body: ErrorBody,
}

const BAD_REQUEST: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, code: &str, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody::new(kind, code, None, message) }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, BAD_REQUEST, "invalid_value", message)
    }

    pub(super) fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, code, message)
    }

    pub(super) fn no_model(asked: &str, served: &str) -> Self {
        let asked: String = asked.chars().take(80).collect();
        let message = format!("the model `{asked}` does not exist here; this worker serves {served}");
        Self::new(StatusCode::NOT_FOUND, BAD_REQUEST, "model_not_found", message).param("model")
    }

    pub(super) fn no_adapter(name: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        let message = format!("the adapter `{name}` cannot be found; hint: GET /v1/models lists those attached");
        Self::new(StatusCode::NOT_FOUND, BAD_REQUEST, "adapter_not_found", message).param("lora_name")
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the request body exceeds {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, BAD_REQUEST, "request_too_large", message)
    }

    /// The engine thread has died; the process is about to follow.
    pub(super) fn engine_gone() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_failed", "the engine has ended unexpectedly")
    }

    pub(super) fn code(mut self, code: &str) -> Self {
        self.body.error.code = Some(code.to_owned());
        self
    }

    pub(super) fn param(mut self, param: &str) -> Self {
        self.body.error.param = Some(param.to_owned());
        self
    }

    pub(super) fn body(&self) -> &ErrorBody {
        &self.body
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let problem = Self::bad_request(refused.message).code(refused.code);
        match refused.param {
            Some(param) => problem.param(&param),
            None => problem,
        }
    }
}

impl From<TemplateError> for Problem {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Refused(_) => {
                Self::bad_request(format!("the model's chat template refuses: {error}")).param("messages")
            }
            TemplateError::Broken(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "template_failed", error.to_string())
            }
        }
    }
}

impl From<Unfit> for Problem {
    fn from(unfit: Unfit) -> Self {
        let (status, code) = match unfit {
            Unfit::Closed => (StatusCode::FORBIDDEN, "adapters_closed"),
            Unfit::Missing(_) => (StatusCode::NOT_FOUND, "adapter_missing"),
            Unfit::File(_) | Unfit::Architecture { .. } => (StatusCode::BAD_REQUEST, "adapter_invalid"),
            Unfit::Memory { .. } => (StatusCode::INSUFFICIENT_STORAGE, "adapter_memory"),
        };
        Self::new(status, BAD_REQUEST, code, format!("the adapter cannot be attached: {unfit}")).param("lora_path")
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Full { waiting } => {
                Self::unavailable("queue_full", format!("{waiting} requests are waiting already; try again shortly"))
            }
            Busy::Stopped => Self::engine_gone(),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Deadline => {
                let text = "the deadline of the request has passed";
                Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, "deadline_exceeded", text)
            }
            Failure::Engine => {
                let text = "the engine could not compute the request";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_failed", text)
            }
            Failure::Stopping => Self::unavailable("stopping", "this worker is stopping"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self.body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
