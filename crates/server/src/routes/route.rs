//! How a request would be routed now: the live gateway is asked.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use galerne_api::v1::route::{RouteBreaker, RouteCost, RouteExplained, RouteQuestion, RouteReplica};
use galerne_core::routing::{BreakerState, Weighed};
use galerne_gateway::RouteView;
use galerne_model::ids::ReplicaId;
use galerne_model::inference::{Endpoint, Replica};
use galerne_model::reason::Reason;
use galerne_store::Filter;
use http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;

use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Json, Params, Segment, answer};
use crate::http::caller::Caller;
use crate::http::operation as op;
use crate::http::refusal::Refusal;

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::post(
        "/api/v1/endpoints/{name}/route",
        "explain_route",
        "how a request would be routed now: what each replica costs it, and which would be chosen; nothing is changed",
    )
    .body::<RouteQuestion>()
    .answers::<RouteExplained>(200)
    .on(router, explain)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteParams {
    tenant: Option<String>,
    project: Option<String>,
    /// Every POST takes it; this one never changes anything.
    #[serde(default, rename = "dry_run")]
    _dry_run: Option<bool>,
}

async fn explain(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    Params(params): Params<RouteParams>,
    question: Json<RouteQuestion>,
) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let place = Place::find(&mut reader, &caller, params.tenant.as_deref(), params.project.as_deref()).await?;
    let endpoint: Endpoint = resolve(&mut reader, &caller, place, &name).await?;
    let inside = Filter { tenant_id: endpoint.tenant_id, project_id: endpoint.project_id, name: None };
    let replicas = reader.list_all::<Replica>(&inside).await?;
    drop(reader);
    let names: BTreeMap<ReplicaId, String> = replicas.into_iter().map(|replica| (replica.id, replica.name)).collect();
    // What replicas have is known by tenant: that of whoever asks, as its own requests would see it.
    let tenant_id = place.tenant_id.unwrap_or(caller.tenant_id);
    let request = question.value.request.as_deref().unwrap_or("");
    let view = app.gateway().explain_route(endpoint.id, tenant_id, request).unwrap_or_default();
    let RouteView { replicas, chosen, index_bytes } = &view;
    let name_of = |id: ReplicaId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let explained = RouteExplained {
        endpoint_id: endpoint.id,
        reason: reason(&endpoint.name, replicas, *chosen, name_of),
        name: endpoint.name,
        chosen: chosen.map(|at| replicas[at].replica_id),
        prompt_tokens: replicas.first().map_or(0, |one| one.prompt_tokens),
        replicas: replicas.iter().map(|one| told(one, name_of(one.replica_id))).collect(),
        routing: endpoint.spec.routing,
        index_bytes: wide(index_bytes.0),
        index_bytes_max: wide(index_bytes.1),
    };
    Ok(answer(StatusCode::OK, &explained))
}

fn told(one: &Weighed, name: String) -> RouteReplica {
    let Weighed { replica_id, compared, state, until, load, cached_tokens, cost, .. } = *one;
    RouteReplica {
        replica_id,
        name,
        compared,
        breaker: breaker(state),
        until,
        in_flight: load.in_flight,
        others: load.others,
        prompt_tokens_ahead: load.prompt_tokens,
        kv_thousandths: load.kv_thousandths,
        cached_tokens,
        cost: RouteCost {
            queue_micros: cost.queue,
            prompt_micros: cost.prompt,
            decode_micros: cost.decode,
            kv_micros: cost.kv,
            pace_thousandths: cost.pace,
            ramp_thousandths: cost.ramp,
            total_micros: cost.total,
        },
    }
}

/// The state of a breaker in the API's words.
pub(super) const fn breaker(state: BreakerState) -> RouteBreaker {
    match state {
        BreakerState::Closed => RouteBreaker::Closed,
        BreakerState::HalfOpen => RouteBreaker::HalfOpen,
        BreakerState::Trying => RouteBreaker::Trying,
        BreakerState::Aside => RouteBreaker::Aside,
        BreakerState::Open => RouteBreaker::Open,
    }
}

fn reason(endpoint: &str, all: &[Weighed], chosen: Option<usize>, name_of: impl Fn(ReplicaId) -> String) -> Reason {
    let Some(chosen) = chosen.map(|at| all[at]) else {
        let text = format!("endpoint `{endpoint}` has no ready replica");
        return Reason::blocks("no_ready_replica", text).next("see why", format!("galerne why endpoint/{endpoint}"));
    };
    let name = name_of(chosen.replica_id);
    let gets = |one: &Weighed| matches!(one.state, BreakerState::Closed | BreakerState::HalfOpen);
    let others: Vec<&Weighed> =
        all.iter().filter(|one| one.compared && gets(one) && one.replica_id != chosen.replica_id).collect();
    let cheaper = others.iter().find(|one| one.cost.total < chosen.cost.total);
    let why = if !gets(&chosen) {
        "every replica rests, and its rest ends first".to_owned()
    } else if others.is_empty() {
        "it is the only one that takes requests".to_owned()
    } else if let Some(cheaper) = cheaper {
        format!("`{}` costs less by so little that having more of the prompt decides", name_of(cheaper.replica_id))
    } else if others.iter().any(|one| one.cost.total == chosen.cost.total) {
        "none costs less, and it has had no request for the longest".to_owned()
    } else {
        "it costs the request the least time".to_owned()
    };
    Reason::holds("route_chosen", format!("replica `{name}` would be chosen: {why}"))
}
