//! Why a request is not answered with what it asked for.
//!
//! The body is rendered by `frame`, which knows the request's id and records denials as events.

use axum::response::{IntoResponse, Response};
use galerne_api::error::{Code, Problem};
use galerne_model::event::Actor;
use galerne_model::ids::{ProjectId, TenantId};
use galerne_store::StoreError;
use http::{StatusCode, header};

/// An answer that ends a handler early.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Something is wrong.
    Problem(Box<Problem>),
    /// The caller may not; an event is written.
    Denied(Box<Problem>, Box<Denial>),
    /// The same request was answered before.
    Replay {
        /// Its status.
        status: u16,
        /// Its body.
        body: String,
    },
}

/// What was denied, for the event.
#[derive(Debug, Clone)]
pub(crate) struct Denial {
    /// Who asked.
    pub(crate) actor: Actor,
    /// What for, as `noun.verb`.
    pub(crate) action: String,
    /// Tenant whose event this is.
    pub(crate) tenant_id: Option<TenantId>,
    /// Project it concerns.
    pub(crate) project_id: Option<ProjectId>,
    /// What it was about.
    pub(crate) resource: Option<String>,
    /// Why, for whoever reads the event; the caller may have been told less.
    pub(crate) text: String,
}

/// A problem that travels to `frame` in the extensions of a response.
#[derive(Debug, Clone)]
pub(crate) struct Unrendered(pub(crate) Problem);

impl Refusal {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::Problem(Box::new(Problem::new(code, detail)))
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Problem(problem) => Self::Problem(Box::new(problem.hint(hint))),
            Self::Denied(problem, denial) => Self::Denied(Box::new(problem.hint(hint)), denial),
            Self::Replay { .. } => self,
        }
    }

    pub(crate) fn at(self, path: impl Into<String>, detail: impl Into<String>) -> Self {
        match self {
            Self::Problem(problem) => Self::Problem(Box::new(problem.at(path, detail))),
            Self::Denied(..) | Self::Replay { .. } => self,
        }
    }

    /// There is nothing of this kind and name that the caller may see.
    pub(crate) fn not_found(noun: &str, name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        Self::new(Code::NotFound, format!("there is no {noun} `{shown}`"))
            .hint(format!("`galerne {noun} list` shows those you can see"))
    }

    /// A value breaks a rule.
    pub(crate) fn invalid(path: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::new(Code::InvalidValue, format!("`{path}`: {detail}")).at(path, detail)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => unrendered(*problem),
            Self::Denied(problem, denial) => {
                let mut response = unrendered(*problem);
                response.extensions_mut().insert(*denial);
                response
            }
            Self::Replay { status, body } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                let headers = [
                    (header::CONTENT_TYPE, "application/json"),
                    (header::HeaderName::from_static("idempotency-replayed"), "true"),
                ];
                (status, headers, body).into_response()
            }
        }
    }
}

pub(crate) fn unrendered(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status.into_response();
    response.extensions_mut().insert(Unrendered(problem));
    response
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { current } => {
                let mut problem = Problem::new(
                    Code::GenerationConflict,
                    format!("it was changed in between: its generation is now {current}"),
                )
                .hint("read it again and repeat the change on the generation you then see");
                problem.current_generation = Some(current);
                Self::Problem(Box::new(problem))
            }
            StoreError::NotFound { kind, id } => Self::not_found(kind, &id),
            StoreError::Exists { kind, name } => {
                Self::new(Code::AlreadyExists, format!("a {kind} named `{name}` exists already"))
                    .hint("choose another name")
            }
            StoreError::Forsaken { spool } => Self::new(
                Code::InvalidValue,
                format!("spool {spool} was forsaken by an operator, its usage is not settled"),
            )
            .hint("give the gateway an empty data directory: galerne gateway --data FOLDER"),
            StoreError::DiskFull(_) => {
                Self::new(Code::StoreUnavailable, "the change could not be written: the disk is full")
                    .hint("free space on the disk of the data directory")
            }
            StoreError::Busy(_) | StoreError::Database(_) | StoreError::Fenced { .. } | StoreError::Served { .. } => {
                tracing::warn!(error = %chain(&error), "the database did not answer a request");
                Self::new(Code::StoreUnavailable, "the database did not answer in time").hint("try again in a moment")
            }
            StoreError::Gap { .. }
            | StoreError::BadRecord { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::OldSchema { .. }
            | StoreError::Corrupt(_)
            | StoreError::Backup(_)
            | StoreError::File { .. } => {
                tracing::error!(error = %chain(&error), "a request met a broken store");
                Self::new(Code::Internal, "the state could not be read or written")
                    .hint("the server's log says more under this request id")
            }
        }
    }
}

/// An error with everything below it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
