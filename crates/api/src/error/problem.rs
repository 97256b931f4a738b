//! The error body: RFC 9457 `application/problem+json`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Code;

/// What went wrong. Public text only; internal detail stays in the server's log under `request_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Path of the page that explains the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in a few words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What failed and why, in this case.
    pub detail: String,
    /// Stable code.
    pub code: Code,
    /// What to do, with the command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request, to find it in logs and events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The generation that is current, for `generation_conflict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_generation: Option<i64>,
    /// Single problems inside the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One problem at one place of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Path from the root, e.g. `spec.limits.tokens_per_minute`.
    pub path: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Problem {
    /// A problem with its text.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/api/v1/errors/{code}"),
            title: code.title().to_owned(),
            status: code.http_status(),
            detail: detail.into(),
            code,
            hint: None,
            request_id: None,
            current_generation: None,
            errors: Vec::new(),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a problem at one place of the body.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError { path: path.into(), detail: detail.into() });
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}
