//! Why something is as it is: facts are loaded here, the reasons are `core::why`'s.

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::why::Why;
use galerne_core::authorize::{Noun, Verb};
use galerne_core::why::{self, BudgetView};
use galerne_model::event::Event;
use galerne_model::identity::ApiKey;
use galerne_model::ids::{EventId, RequestId};
use galerne_model::inference::{Endpoint, Pull, Replica};
use galerne_model::limits::{DENIAL_WINDOW_MS, PAGE_MAX};
use galerne_model::money::{Amounts, Budget, BudgetSubject};
use galerne_model::units::Micros;
use galerne_store::{CostFilter, CostGroup, EventFilter, Filter, Reader, StoreError};
use http::StatusCode;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use utoipa_axum::router::OpenApiRouter;

use super::managed::scope;
use super::place::{Place, resolve};
use super::read::PlaceParams;
use super::usage::charged;
use crate::app::App;
use crate::http::body::{Params, Segments, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::refusal::Refusal;

/// Counted refusals are told at most this long after they happened.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_millis(2 * DENIAL_WINDOW_MS.cast_signed());
/// Pages of counts looked at: a window ends in at most 340 (320 groups, ten codes on either side), and three ends fall
/// into the time above.
const SUM_PAGES_MAX: usize = 4;

/// Kinds of things that can be explained.
const KINDS: [&str; 6] = ["endpoint", "request", "budget", "pull", "batch", "event"];

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::get(
        "/api/v1/why/{kind}/{name}",
        "explain_why",
        "why an endpoint, request, budget, pull, batch or event is as it is",
    )
    .placed()
    .answers::<Why>(200)
    .on(router, explain)
}

async fn explain(
    State(app): State<App>,
    caller: Caller,
    Segments(kind, name): Segments,
    Params(params): Params<PlaceParams>,
) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let place = Place::find(&mut reader, &caller, params.tenant.as_deref(), params.project.as_deref()).await?;
    let why = match kind.as_str() {
        "endpoint" => endpoint(&mut reader, &caller, place, &name).await?,
        "pull" => {
            let pull: Pull = resolve(&mut reader, &caller, place, &name).await?;
            Why { kind, id: pull.id.to_string(), name: pull.name.clone(), reason: why::pull(&pull) }
        }
        "budget" => budget(&app, &mut reader, &caller, place, &name).await?,
        "request" => request(&mut reader, &caller, &name).await?,
        "batch" => batch(&mut reader, &caller, &name).await?,
        "event" => event(&mut reader, &caller, &name).await?,
        _ => {
            let refusal = Refusal::new(
                Code::NotFound,
                format!("`{}` is not something to explain", kind.chars().take(40).collect::<String>()),
            );
            return Err(refusal.hint(format!("one of {}", KINDS.map(|kind| format!("`{kind}`")).join(", "))));
        }
    };
    Ok(answer(StatusCode::OK, &why))
}

async fn endpoint(reader: &mut Reader, caller: &Caller, place: Place, name: &str) -> Result<Why, Refusal> {
    let endpoint: Endpoint = resolve(reader, caller, place, name).await?;
    let inside = Filter { tenant_id: endpoint.tenant_id, project_id: endpoint.project_id, name: None };
    let mut replicas = reader.list_all::<Replica>(&inside).await?;
    replicas.retain(|replica| replica.spec.endpoint_id == endpoint.id);
    let reason = why::endpoint(&endpoint, &replicas, App::now());
    Ok(Why { kind: "endpoint".to_owned(), id: endpoint.id.to_string(), name: endpoint.name, reason })
}

async fn budget(app: &App, reader: &mut Reader, caller: &Caller, place: Place, name: &str) -> Result<Why, Refusal> {
    let budget: Budget = resolve(reader, caller, place, name).await?;
    let now = App::now();
    let spent = reader.spent(&budget.spec.subject, budget.spec.period, now).await?;
    let held = app.gateway().held_under(&spent.subject);
    let shares = reader.shares_of_budget(budget.id).await?;
    let of_now = shares.iter().filter(|(_, share)| share.is_of(&spent.subject, spent.period_start));
    let lent: Vec<(String, Amounts)> =
        of_now.map(|(spool, share)| (format!("the gateway of spool {spool}"), share.share.rounded_down())).collect();
    let spent = spent.spent;
    let (start, _) = galerne_core::budget::period_at(budget.spec.period, now);
    let mut filter = CostFilter {
        tenant_id: budget.tenant_id,
        project_id: budget.project_id,
        from: Some(start.to_zoned(TimeZone::UTC).date()),
        ..CostFilter::default()
    };
    let (group, keys) = match budget.spec.subject {
        BudgetSubject::Tenant { .. } => (CostGroup::Project, vec![None]),
        BudgetSubject::Project { .. } => (CostGroup::Key, vec![None]),
        BudgetSubject::Key { key_id } => {
            let keys = reader.keys_of_line(key_id).await?;
            // Of a line the keys are told apart, of a single key what it called.
            let group = if keys.len() > 1 { CostGroup::Key } else { CostGroup::Endpoint };
            (group, keys.into_iter().map(Some).collect())
        }
    };
    let mut spenders = Vec::new();
    for key_id in keys {
        filter.key_id = key_id;
        for row in reader.costs(&filter, group).await? {
            let spent = Amounts {
                micros: charged(&row.quantities).micros().unwrap_or(Micros::ZERO),
                millijoules: row.quantities.millijoules,
                co2e_micrograms: row.quantities.co2e_micrograms,
            };
            spenders.push((spender(reader, group, row.group).await?, spent));
        }
    }
    let reason = why::budget(&BudgetView { budget: &budget, spent, held, lent: &lent, spenders: &spenders, now });
    Ok(Why { kind: "budget".to_owned(), id: budget.id.to_string(), name: budget.name.clone(), reason })
}

async fn spender(reader: &mut Reader, group: CostGroup, id: String) -> Result<String, Refusal> {
    if group == CostGroup::Key
        && let Ok(key_id) = id.parse()
    {
        return match reader.get::<ApiKey>(key_id).await {
            Ok(key) => Ok(format!("key `{}`", key.name)),
            Err(StoreError::NotFound { .. }) => Ok(id),
            Err(error) => Err(error.into()),
        };
    }
    Ok(id)
}

async fn request(reader: &mut Reader, caller: &Caller, name: &str) -> Result<Why, Refusal> {
    let missing = || {
        let shown: String = name.chars().take(80).collect();
        Refusal::new(Code::NotFound, format!("nothing is known of a request `{shown}`")).hint(
            "what was used or refused is known about a second later; answers 400, 404 of a path, 413 and 503 say why \
             themselves and leave no record",
        )
    };
    let id: RequestId = name.parse().map_err(|_| missing())?;
    // Not the denial of `may`: its text would tell a request of others from one that never was.
    let sees = |tenant, project| caller.can(Verb::Read, Noun::Usage, scope(tenant, project));
    let explained = |reason| Ok(Why { kind: "request".to_owned(), id: id.to_string(), name: String::new(), reason });
    if let Some(record) = reader.usage_by_request(id).await? {
        if !sees(Some(record.tenant_id), Some(record.project_id)) {
            return Err(missing());
        }
        let endpoint = match reader.get::<Endpoint>(record.endpoint_id).await {
            Ok(endpoint) => endpoint.name,
            Err(StoreError::NotFound { .. }) => record.endpoint_id.to_string(),
            Err(error) => return Err(error.into()),
        };
        let mut reason = why::request(&record, &endpoint);
        if let Some(corrected) = reader.correction(record.source, record.sequence).await? {
            let change = (corrected.millijoules, corrected.co2e_micrograms);
            reason = reason.because(why::corrected(&record, change, &corrected.how));
        }
        return explained(reason);
    }
    if let Some(event) = reader.denial_of(id).await? {
        if !sees(event.tenant_id, event.project_id) {
            return Err(missing());
        }
        // What the gateway writes begins with the code of the refusal.
        let code = event.text.split_once(": ").and_then(|(code, _)| Code::parse(code));
        return explained(why::refused(&event, code.map(Code::as_str)));
    }
    let sums = counted_around(reader, id, |event| sees(event.tenant_id, event.project_id)).await?;
    if sums.is_empty() { Err(missing()) } else { explained(why::counted(&sums)) }
}

async fn batch(reader: &mut Reader, caller: &Caller, name: &str) -> Result<Why, Refusal> {
    let missing = || Refusal::not_found("batch", name);
    let found = reader.batch(name.parse().map_err(|_| missing())?).await?.ok_or_else(missing)?;
    if !caller.can(Verb::Read, Noun::Usage, scope(Some(found.tenant_id), Some(found.project_id))) {
        return Err(missing());
    }
    let reason = galerne_core::batch::why(&found);
    Ok(Why { kind: "batch".to_owned(), id: found.id.to_string(), name: String::new(), reason })
}

/// Events with the counts of refusals that were not recorded one by one when a request came; its id tells when that was.
/// Of all tenants' counts only those that `sees` admits.
async fn counted_around(
    reader: &mut Reader,
    id: RequestId,
    sees: impl Fn(&Event) -> bool,
) -> Result<Vec<Event>, StoreError> {
    let millis = i64::try_from(id.uuid().as_u128() >> 80).unwrap_or(i64::MAX);
    let Ok(came_at) = Timestamp::from_millisecond(millis) else { return Ok(Vec::new()) };
    // A count is told at the end of its window, and in time unless the database was away.
    let until = came_at.saturating_add(TOLD_WITHIN).unwrap_or(Timestamp::MAX);
    let latest = came_at.saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
    let (mut sums, mut after) = (Vec::new(), None);
    for _ in 0..SUM_PAGES_MAX {
        let page = reader.denials_told(galerne_gateway::COUNTED_BY, came_at, until, after, PAGE_MAX).await?;
        let is_last = page.len() < PAGE_MAX as usize;
        after = page.last().map(|event| event.id);
        sums.extend(page.into_iter().filter(|event| event.at <= latest && sees(event)));
        if is_last {
            break;
        }
    }
    Ok(sums)
}

async fn event(reader: &mut Reader, caller: &Caller, name: &str) -> Result<Why, Refusal> {
    let missing = || Refusal::not_found("event", name);
    let found: Option<Event> = if let Ok(sequence) = name.parse::<i64>() {
        let only =
            EventFilter { after: sequence.checked_sub(1), before: sequence.checked_add(1), ..EventFilter::default() };
        reader.events(&only, 1).await?.pop()
    } else {
        let id: EventId = name.parse().map_err(|_| missing())?;
        reader.event(id).await?
    };
    let event = found.ok_or_else(missing)?;
    let about = About { noun: "event", verb: "read", name, id: Some(event.id.to_string()) };
    caller.may(Verb::Read, Noun::Event, scope(event.tenant_id, event.project_id), &about)?;
    Ok(Why {
        kind: "event".to_owned(),
        id: event.id.to_string(),
        name: event.action.clone(),
        reason: why::event(&event),
    })
}
