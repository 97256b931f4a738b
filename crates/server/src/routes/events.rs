//! The event log.

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::Page;
use galerne_core::authorize::Noun;
use galerne_model::event::{Decision, Event};
use galerne_store::EventFilter;
use http::StatusCode;
use serde::Deserialize;
use utoipa::PartialSchema;
use utoipa_axum::router::OpenApiRouter;

use super::usage::reach;
use crate::app::App;
use crate::http::body::{Params, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::paging;
use crate::http::refusal::Refusal;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventParams {
    tenant: Option<String>,
    project: Option<String>,
    resource: Option<String>,
    action: Option<String>,
    decision: Option<Decision>,
    principal: Option<String>,
    after: Option<i64>,
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::get("/api/v1/events", "list_events", "who did what, newest first; denials included")
        .placed()
        .queries(&[
            ("resource", "only about the resource with this id"),
            ("action", "only this action, such as `endpoint.create`"),
            ("principal", "only by the principal with this id"),
            ("after", "only those with a higher sequence number, oldest first"),
        ])
        .query("decision", "only what was allowed, or only what was denied", Decision::schema())
        .answers_page::<Event>()
        .on(router, events)
}

async fn events(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<EventParams>,
) -> Result<Response, Refusal> {
    let limit = paging::limit(params.limit)?;
    let cursor = paging::sequence(params.cursor.as_deref())?;
    let mut reader = app.store().reader().await?;
    let about = About::all("events", "list");
    let reach =
        reach(&mut reader, &caller, Noun::Event, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    let bad = |bad: galerne_model::ids::BadId| Refusal::new(Code::InvalidQuery, bad.to_string());
    let mut filter = EventFilter {
        tenant_id: reach.tenant_id,
        project_id: reach.project_id,
        resource: params.resource,
        action: params.action,
        decision: params.decision,
        principal_id: params.principal.map(|text| text.parse()).transpose().map_err(bad)?,
        after: params.after,
        before: None,
    };
    let forward = params.after.is_some();
    let items = if forward {
        filter.after = cursor.or(params.after);
        reader.events_forward(&filter, limit).await?
    } else {
        filter.before = cursor;
        reader.events(&filter, limit).await?
    };
    let full = items.len() == limit as usize;
    let next_cursor = items.last().filter(|_| full).map(|last| last.sequence.to_string());
    Ok(answer(StatusCode::OK, &Page { items, next_cursor }))
}
