//! What the routes under `/v1` share that need the store: whose words they speak, who calls, what went wrong.

use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use galerne_api::error::Code;
pub(crate) use galerne_api::surface::Dialect as Surface;
use galerne_drivers::objects::ObjectError;
use galerne_gateway::{Refusal, Visitor};
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::EventId;
use galerne_store::StoreError;
use http::{HeaderMap, Method, header};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::app::App;
use crate::http::refusal::chain;
use crate::{batches, files, organization};

/// Somebody with a key, on a surface.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) visitor: Visitor,
    pub(crate) surface: Surface,
}

impl FromRequestParts<App> for Guest {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Extension(surface) =
            Extension::<Surface>::from_request_parts(parts, app).await.expect("every surface says which one it is");
        Ok(Self { visitor: app.gateway().visitor(parts)?, surface })
    }
}

/// The body of a request that is not a file.
pub(crate) struct Whole(pub(crate) Bytes);

impl FromRequest<App> for Whole {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        app.gateway().body(&parts.headers, body).await.map(Self)
    }
}

impl Guest {
    /// The event of something this caller did.
    pub(crate) fn event(&self, action: &str, resource: String, text: String, now: Timestamp) -> Event {
        let key = &self.visitor.key;
        Event {
            id: EventId::from_uuid(Uuid::now_v7()),
            sequence: 0,
            at: now,
            actor: Actor {
                principal_id: Some(key.principal_id),
                key_id: Some(key.id),
                request_id: Some(self.visitor.request_id),
                ..Actor::default()
            },
            action: action.to_owned(),
            tenant_id: Some(key.tenant_id),
            project_id: Some(key.project_id),
            resource: Some(resource),
            decision: Decision::Allowed,
            before_digest: None,
            after_digest: None,
            text,
        }
    }
}

/// Countries that a request names which leaves something here to be kept; refused where that cannot be as it demands.
pub(crate) fn countries(app: &App, headers: &HeaderMap, what: &str) -> Result<Vec<String>, Refusal> {
    app.gateway().countries(headers, what, app.files().country.as_deref())
}

/// Files, batches and reports on every surface that has them.
pub(crate) fn router(app: &App) -> Router {
    let on = |surface| {
        let routes = files::routes(surface).merge(batches::routes(surface)).merge(organization::routes(surface));
        routes.layer(Extension(surface))
    };
    let all = Router::new()
        .nest("/v1", on(Surface::Union))
        .nest("/openai/v1", on(Surface::OpenAi))
        .nest("/mistral/v1", on(Surface::Mistral));
    app.gateway().around(all.with_state(app.clone()))
}

/// What a path says to a method that it does not take.
pub(crate) async fn wrong_method(method: Method) -> Refusal {
    std::future::ready(Refusal::new(Code::MethodNotAllowed, format!("this path does not take {method}"))).await
}

/// A value as JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Response {
    Json(value).into_response()
}

/// A value breaks a rule.
pub(crate) fn invalid(param: &str, text: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::InvalidValue, format!("`{param}`: {text}")).param(param)
}

/// There is nothing of this kind and id that the caller may see.
pub(crate) fn not_found(noun: &str, id: &str) -> Refusal {
    let shown: String = id.chars().take(80).collect();
    Refusal::new(Code::NotFound, format!("there is no {noun} `{shown}`; hint: galerne {noun} list")).param("id")
}

/// The database did not do as asked.
pub(crate) fn of_store(error: &StoreError) -> Refusal {
    match error {
        StoreError::DiskFull(_) => {
            Refusal::new(Code::StoreUnavailable, "the change could not be written: the disk is full")
        }
        StoreError::Busy(_) | StoreError::Database(_) | StoreError::Fenced { .. } | StoreError::Served { .. } => {
            tracing::warn!(error = %chain(error), "the database did not answer a request");
            Refusal::new(Code::StoreUnavailable, "the database did not answer in time; try again in a moment")
        }
        _ => {
            tracing::error!(error = %chain(error), "a request met a broken store");
            Refusal::new(Code::Internal, "the state could not be read or written")
        }
    }
}

/// The object storage did not do as asked.
pub(crate) fn of_objects(error: &ObjectError) -> Refusal {
    if let ObjectError::NotFound(name) = error {
        tracing::error!(name, "the bytes of a file are gone from the storage");
        let text =
            "the file is known here, and its bytes are gone from the storage; hint: delete it and upload it again";
        return Refusal::new(Code::NotFound, text);
    }
    tracing::warn!(error = %chain(error), "the object storage did not do as asked");
    Refusal::new(Code::ObjectsUnavailable, "the storage of files does not answer; try again in a moment")
        .retry_after(std::time::Duration::from_secs(5))
}

/// Pairs of a query, in order.
pub(crate) fn query(uri: &http::Uri) -> Result<Vec<(String, String)>, Refusal> {
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map(|axum::extract::Query(pairs)| pairs)
        .map_err(|error| Refusal::new(Code::InvalidQuery, format!("the query cannot be read: {error}")))
}

/// The only value of a parameter.
pub(crate) fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    text: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, Refusal> {
    let parsed = text.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        let (from, to) = (range.start(), range.end());
        Refusal::new(Code::InvalidQuery, format!("`{name}` takes a number from {from} to {to}")).param(name)
    })
}

/// A parameter that this path does not know.
pub(crate) fn unknown_parameter(name: &str) -> Refusal {
    let shown: String = name.chars().take(60).collect();
    Refusal::new(Code::InvalidQuery, format!("there is no parameter `{shown}` here")).param(shown)
}

/// A value for a header that only letters, digits and a few signs may be in.
pub(crate) fn header_value(text: &str) -> header::HeaderValue {
    header::HeaderValue::from_str(text).unwrap_or_else(|_| header::HeaderValue::from_static(""))
}
