//! Usage records and what they cost.

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::Page;
use galerne_api::v1::usage::{CostRow, Costs, GroupBy};
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::{ApiKey, Principal, Project, Scope};
use galerne_model::ids::RequestId;
use galerne_model::inference::Endpoint;
use galerne_model::ledger::{Quantities, UsageRecord};
use galerne_model::units::Money;
use galerne_store::{CostFilter, CostGroup, Kind as StoreKind, Reader, StoreError, UsageFilter};
use http::StatusCode;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use utoipa::PartialSchema;
use utoipa_axum::router::OpenApiRouter;

use super::managed::{Managed, scope};
use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Params, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::paging;
use crate::http::refusal::Refusal;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageParams {
    tenant: Option<String>,
    project: Option<String>,
    request: Option<String>,
    from: Option<String>,
    until: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CostParams {
    tenant: Option<String>,
    project: Option<String>,
    endpoint: Option<String>,
    key: Option<String>,
    principal: Option<String>,
    from: Option<String>,
    until: Option<String>,
    #[serde(default)]
    group_by: GroupBy,
}

/// Where usage may be read: a tenant, a project of it, or the whole site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) tenant_id: Option<galerne_model::ids::TenantId>,
    pub(crate) project_id: Option<galerne_model::ids::ProjectId>,
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let days = [("from", "first day, `YYYY-MM-DD` in UTC"), ("until", "day after the last, `YYYY-MM-DD` in UTC")];
    let router = op::get("/api/v1/usage", "list_usage", "what requests used, newest first")
        .placed()
        .queries(&days)
        .queries(&[("request", "id of one request")])
        .answers_page::<UsageRecord>()
        .on(router, usage);
    op::get("/api/v1/costs", "get_costs", "what was charged, by group; reversals are taken off")
        .placed()
        .queries(&days)
        .queries(&[
            ("endpoint", "only of this endpoint"),
            ("key", "only of this key"),
            ("principal", "only of this principal"),
        ])
        .query("group_by", "what the rows are", GroupBy::schema())
        .answers::<Costs>(200)
        .on(router, costs)
}

/// The widest place inside what was asked for in which the caller may read: tenant, else the key's own project.
pub(crate) async fn reach(
    reader: &mut Reader,
    caller: &Caller,
    noun: Noun,
    about: &About<'_>,
    tenant: Option<&str>,
    project: Option<&str>,
) -> Result<Reach, Refusal> {
    let place = Place::find(reader, caller, tenant, project).await?;
    if place.named_project {
        caller.may(Verb::Read, noun, scope(place.tenant_id, place.project_id), about)?;
        return Ok(Reach { tenant_id: place.tenant_id, project_id: place.project_id });
    }
    let wide = scope(place.tenant_id, None);
    let own = Scope::Project { tenant_id: caller.tenant_id, project_id: caller.project_id };
    if !caller.can(Verb::Read, noun, wide)
        && place.tenant_id == Some(caller.tenant_id)
        && caller.can(Verb::Read, noun, own)
    {
        return Ok(Reach { tenant_id: place.tenant_id, project_id: Some(caller.project_id) });
    }
    caller.may_list(noun, wide, about)?;
    caller.may(Verb::Read, noun, wide, about)?;
    Ok(Reach { tenant_id: place.tenant_id, project_id: None })
}

async fn usage(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<UsageParams>,
) -> Result<Response, Refusal> {
    let limit = paging::limit(params.limit)?;
    if let Some(request) = &params.request {
        return one_request(&app, &caller, request).await;
    }
    let mut reader = app.store().reader().await?;
    let about = About::all("usage", "list");
    let reach =
        reach(&mut reader, &caller, Noun::Usage, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    drop(reader);
    let filter = UsageFilter {
        tenant_id: reach.tenant_id,
        project_id: reach.project_id,
        from: day("from", params.from.as_deref())?.map(start_of),
        until: day("until", params.until.as_deref())?.map(start_of),
    };
    let before = params.cursor.as_deref().map(key).transpose()?;
    let items = app.store().usage_page(&filter, before, limit).await?;
    let full = items.len() == limit as usize;
    let next_cursor = items.last().filter(|_| full).map(|last| format!("{}.{}", last.source, last.sequence));
    Ok(answer(StatusCode::OK, &Page { items, next_cursor }))
}

async fn one_request(app: &App, caller: &Caller, text: &str) -> Result<Response, Refusal> {
    let id: RequestId =
        text.parse().map_err(|bad: galerne_model::ids::BadId| Refusal::new(Code::InvalidQuery, bad.to_string()))?;
    let found = app.store().usage_by_request(id).await?;
    let visible = found
        .filter(|record| caller.can(Verb::Read, Noun::Usage, scope(Some(record.tenant_id), Some(record.project_id))));
    Ok(answer(StatusCode::OK, &Page { items: visible.into_iter().collect(), next_cursor: None }))
}

async fn costs(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<CostParams>,
) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let about = About::all("costs", "read");
    let reach =
        reach(&mut reader, &caller, Noun::Usage, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    let place = Place {
        tenant_id: reach.tenant_id,
        project_id: reach.project_id.or(Some(caller.project_id)),
        named_project: false,
    };
    let filter = CostFilter {
        tenant_id: reach.tenant_id,
        project_id: reach.project_id,
        endpoint_id: narrowed::<Endpoint>(&mut reader, &caller, place, params.endpoint.as_deref()).await?,
        key_id: narrowed::<ApiKey>(&mut reader, &caller, place, params.key.as_deref()).await?,
        principal_id: narrowed::<Principal>(&mut reader, &caller, place, params.principal.as_deref()).await?,
        from: day("from", params.from.as_deref())?,
        until: day("until", params.until.as_deref())?,
    };
    let rows = reader.costs(&filter, group(params.group_by)).await?;
    let mut total = (0_i64, Quantities::default());
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        total.0 += row.requests;
        add(&mut total.1, &row.quantities);
        let name = name_of(&mut reader, params.group_by, &row.group).await?;
        items.push(CostRow {
            name,
            requests: row.requests,
            charged: charged(&row.quantities),
            quantities: row.quantities,
            group: row.group,
        });
    }
    let total = CostRow {
        group: "total".to_owned(),
        name: String::new(),
        requests: total.0,
        charged: charged(&total.1),
        quantities: total.1,
    };
    Ok(answer(StatusCode::OK, &Costs { group_by: params.group_by, items, total }))
}

/// Whole micros, those that sum up below a micro included.
pub(crate) fn charged(quantities: &Quantities) -> Money {
    let carried = quantities.picos.0.div_euclid(galerne_model::units::PICOS_PER_MICRO);
    Money::eur(quantities.micros.saturating_add(galerne_model::units::Micros(carried)))
}

fn add(sum: &mut Quantities, more: &Quantities) {
    sum.prompt_tokens = sum.prompt_tokens.saturating_add(more.prompt_tokens);
    sum.cached_tokens = sum.cached_tokens.saturating_add(more.cached_tokens);
    sum.completion_tokens = sum.completion_tokens.saturating_add(more.completion_tokens);
    sum.micros = sum.micros.saturating_add(more.micros);
    sum.picos = sum.picos.saturating_add(more.picos);
    sum.millijoules = sum.millijoules.saturating_add(more.millijoules);
    sum.co2e_micrograms = sum.co2e_micrograms.saturating_add(more.co2e_micrograms);
}

async fn narrowed<K: Managed>(
    reader: &mut Reader,
    caller: &Caller,
    place: Place,
    name: Option<&str>,
) -> Result<Option<<K as StoreKind>::Id>, Refusal> {
    match name {
        Some(name) => Ok(Some(resolve::<K>(reader, caller, place, name).await?.resource().id)),
        None => Ok(None),
    }
}

const fn group(by: GroupBy) -> CostGroup {
    match by {
        GroupBy::Project => CostGroup::Project,
        GroupBy::Endpoint => CostGroup::Endpoint,
        GroupBy::Key => CostGroup::Key,
        GroupBy::Principal => CostGroup::Principal,
        GroupBy::Model => CostGroup::Model,
        GroupBy::Day => CostGroup::Day,
    }
}

async fn name_of(reader: &mut Reader, by: GroupBy, group: &str) -> Result<String, Refusal> {
    match by {
        GroupBy::Project => Ok(name::<Project>(reader, group).await?),
        GroupBy::Endpoint => Ok(name::<Endpoint>(reader, group).await?),
        GroupBy::Key => Ok(name::<ApiKey>(reader, group).await?),
        GroupBy::Principal => Ok(name::<Principal>(reader, group).await?),
        GroupBy::Model | GroupBy::Day => Ok(group.to_owned()),
    }
}

/// The name, also of what was deleted since: the charge stays.
pub(crate) async fn name<K: Managed>(reader: &mut Reader, id: &str) -> Result<String, StoreError> {
    let Ok(id) = id.parse::<<K as StoreKind>::Id>() else { return Ok(String::new()) };
    let found = match reader.get::<K>(id).await {
        Err(StoreError::NotFound { .. }) => reader.get_deleted::<K>(id).await,
        other => other,
    };
    match found {
        Ok(found) => Ok(found.resource().name.clone()),
        Err(StoreError::NotFound { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

pub(crate) fn day(name: &str, text: Option<&str>) -> Result<Option<Date>, Refusal> {
    let bad = |_| Refusal::new(Code::InvalidQuery, format!("`{name}` is a day such as `2026-11-22`"));
    text.map(|text| text.parse().map_err(bad)).transpose()
}

pub(crate) fn start_of(day: Date) -> Timestamp {
    day.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

fn key(cursor: &str) -> Result<(i64, i64), Refusal> {
    let parsed =
        cursor.split_once('.').and_then(|(source, sequence)| Some((source.parse().ok()?, sequence.parse().ok()?)));
    parsed.ok_or_else(|| {
        Refusal::new(Code::InvalidCursor, "`cursor` is not one that this list handed out")
            .hint("start again without `cursor`")
    })
}
