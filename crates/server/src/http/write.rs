//! One change: its transaction, idempotency key, events and answer.
//!
//! INVARIANT: a dry run takes the same path to the end and is then rolled back.
//! INVARIANT: what was answered before under the same key is answered again, without doing it again.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_model::event::{Decision, Event};
use galerne_model::ids::{EventId, ProjectId, TenantId};
use galerne_model::limits::IDEMPOTENCY_KEY_MAX_CHARS;
use galerne_store::{Idempotency, Tx};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::body::{self, Params};
use super::caller::Caller;
use super::refusal::Refusal;
use crate::app::App;

/// What headers and query say about a change.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    idempotency_key: Option<String>,
    if_match: Option<i64>,
    /// Whether nothing must change.
    pub(crate) dry_run: bool,
    /// Tenant in which names are looked up.
    pub(crate) tenant: Option<String>,
    /// Project in which names are looked up.
    pub(crate) project: Option<String>,
}

/// A change that is being made.
pub(crate) struct Write<'a> {
    app: &'a App,
    caller: &'a Caller,
    pub(crate) terms: &'a Terms,
    pub(crate) tx: Tx,
    pub(crate) now: Timestamp,
    reloads_directory: bool,
}

/// A change as an event tells it.
pub(crate) struct Told<'a> {
    pub(crate) action: String,
    pub(crate) tenant_id: Option<TenantId>,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) resource: &'a str,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
    pub(crate) text: String,
}

impl FromRequestParts<App> for Terms {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Params(query) = Params::<Query>::from_request_parts(parts, app).await?;
        Ok(Self {
            idempotency_key: idempotency_key(&parts.headers)?,
            if_match: if_match(&parts.headers)?,
            dry_run: query.dry_run,
            tenant: query.tenant,
            project: query.project,
        })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= IDEMPOTENCY_KEY_MAX_CHARS => Ok(Some(text.to_owned())),
        _ => Err(Refusal::new(
            Code::InvalidQuery,
            format!("`Idempotency-Key` takes 1 to {IDEMPOTENCY_KEY_MAX_CHARS} visible ASCII characters"),
        )),
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Refusal::new(Code::InvalidQuery, "`If-Match` takes a generation in quotes, such as `\"3\"`"))
}

/// What the query of a change may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    #[serde(default)]
    dry_run: bool,
    tenant: Option<String>,
    project: Option<String>,
}

impl Terms {
    /// The generation a change is based on: header or body, which must not disagree.
    pub(crate) fn generation(&self, in_body: Option<i64>) -> Result<i64, Refusal> {
        match (self.if_match, in_body) {
            (Some(header), Some(body)) if header != body => Err(Refusal::new(
                Code::InvalidQuery,
                format!("`If-Match` says generation {header}, the body says {body}"),
            )),
            (Some(generation), _) | (None, Some(generation)) => Ok(generation),
            (None, None) => {
                Err(Refusal::new(Code::GenerationRequired, "the change does not say which generation it is based on")
                    .hint("send `If-Match: \"GENERATION\"` or `generation` in the body, as GET shows it"))
            }
        }
    }
}

impl<'a> Write<'a> {
    /// Opens the transaction; ends early when the same request was answered before.
    pub(crate) async fn begin(
        app: &'a App,
        caller: &'a Caller,
        terms: &'a Terms,
        digest: &str,
    ) -> Result<Self, Refusal> {
        let now = App::now();
        let mut tx = app.store().begin().await?;
        if let Some(key) = terms.idempotency_key.as_deref().filter(|_| !terms.dry_run) {
            match tx.begin_idempotent(caller.principal.id, key, digest, now).await? {
                Idempotency::Fresh => {}
                Idempotency::Replay { status, body } => return Err(Refusal::Replay { status, body }),
                Idempotency::Mismatch => {
                    return Err(Refusal::new(
                        Code::IdempotencyMismatch,
                        "this `Idempotency-Key` was used for another request",
                    )
                    .hint("use a new key"));
                }
            }
        }
        Ok(Self { app, caller, terms, tx, now, reloads_directory: false })
    }

    /// Keys, principals or roles change: the directory is read again before the answer.
    pub(crate) fn touches_identities(&mut self) {
        self.reloads_directory = true;
    }

    /// Adds the event of this change.
    pub(crate) fn record(&mut self, told: Told<'_>) {
        self.tx.record(Event {
            id: EventId::from_uuid(Uuid::now_v7()),
            sequence: 0,
            at: self.now,
            actor: self.caller.actor.clone(),
            action: told.action,
            tenant_id: told.tenant_id,
            project_id: told.project_id,
            resource: Some(told.resource.to_owned()),
            decision: Decision::Allowed,
            before_digest: told.before,
            after_digest: told.after,
            text: told.text,
        });
    }

    /// Makes the change durable and answers; in a dry run only answers.
    pub(crate) async fn finish<T: Serialize>(self, status: StatusCode, body: &T) -> Result<Response, Refusal> {
        self.finish_with(status, body, body).await
    }

    /// The same, with another body for whoever repeats the request: secrets are not kept.
    pub(crate) async fn finish_with<T: Serialize>(
        mut self,
        status: StatusCode,
        body: &T,
        kept: &T,
    ) -> Result<Response, Refusal> {
        if self.terms.dry_run {
            return Ok(body::answer(StatusCode::OK, body));
        }
        if let Some(key) = &self.terms.idempotency_key {
            self.tx.finish_idempotent(self.caller.principal.id, key, status.as_u16(), &body::text(kept)).await?;
        }
        self.tx.commit().await?;
        if self.reloads_directory {
            self.app.directory().refresh(self.app.store()).await?;
        }
        Ok(body::answer(status, body))
    }
}

/// SHA-256 of a resource as it is shown.
pub(crate) fn digest_of<T: Serialize>(resource: &T) -> String {
    hex::encode(Sha256::digest(body::text(resource).as_bytes()))
}
