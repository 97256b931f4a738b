//! What endpoints and replicas are doing now: the live gateway and the meters are asked, the store for names.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use galerne_api::v1::live::{Live, LiveEndpoint, LiveRates, LiveReplica};
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::Scope;
use galerne_model::ids::ReplicaId;
use galerne_model::inference::Replica;
use galerne_model::units::Milliwatts;
use galerne_store::Filter;
use http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;

use super::route::breaker;
use crate::app::App;
use crate::http::body::{Params, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::refusal::Refusal;

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::get("/api/v1/live", "get_live", "what every endpoint and replica is doing now, for operators")
        .answers::<Live>(200)
        .on(router, live)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

async fn live(
    State(app): State<App>,
    caller: Caller,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Refusal> {
    // All tenants are in it: whoever may see the site's nodes.
    caller.may(Verb::Read, Noun::Node, Scope::Site, &About::all("live", "get"))?;
    let replicas = app.store().reader().await?.list_all::<Replica>(&Filter::default()).await?;
    let names: BTreeMap<ReplicaId, String> = replicas.into_iter().map(|replica| (replica.id, replica.name)).collect();
    let meters = app.control().meter_totals();
    let power: BTreeMap<ReplicaId, Milliwatts> =
        meters.into_iter().filter_map(|meter| Some((meter.replica_id, meter.power?))).collect();
    let snapshot = app.snapshot();
    let snapshot = std::sync::Arc::clone(&snapshot.borrow());
    let mut endpoints: Vec<LiveEndpoint> = Vec::new();
    for endpoint in app.gateway().live() {
        let replicas: Vec<LiveReplica> =
            endpoint.replicas.iter().map(|replica| of_replica(replica, &names, &power)).collect();
        let metered = replicas.iter().filter_map(|replica| replica.power);
        let id = endpoint.endpoint_id;
        let name = snapshot.endpoints.get(&id).map_or_else(|| id.to_string(), |entry| entry.name.clone());
        endpoints.push(LiveEndpoint {
            endpoint_id: id,
            name,
            in_flight: endpoint.in_flight,
            queued: endpoint.waiting.saturating_add(endpoint.in_line),
            rates: of_rates(endpoint.rates),
            power: metered.reduce(|sum, more| Milliwatts(sum.0.saturating_add(more.0))),
            replicas,
        });
    }
    let other_gateways = u32::try_from(app.fleet().heard_count()).unwrap_or(u32::MAX);
    Ok(answer(StatusCode::OK, &Live { at: App::now(), other_gateways, endpoints }))
}

fn of_replica(
    replica: &galerne_gateway::LiveReplica,
    names: &BTreeMap<ReplicaId, String>,
    power: &BTreeMap<ReplicaId, Milliwatts>,
) -> LiveReplica {
    let id = replica.replica_id;
    LiveReplica {
        replica_id: id,
        name: names.get(&id).cloned().unwrap_or_else(|| id.to_string()),
        in_flight: replica.in_flight,
        others: replica.others,
        queued: replica.waiting,
        kv_thousandths: replica.kv_thousandths,
        rates: of_rates(replica.rates),
        power: power.get(&id).copied(),
        breaker: breaker(replica.breaker),
        breaker_openings: replica.opened,
    }
}

fn of_rates(rates: galerne_gateway::LiveRates) -> LiveRates {
    LiveRates {
        requests_milli: rates.requests_milli,
        prompt_tokens_milli: rates.prompt_tokens_milli,
        cached_tokens_milli: rates.cached_tokens_milli,
        completion_tokens_milli: rates.completion_tokens_milli,
        first_token_p50_micros: rates.first_token_p50_micros,
        first_token_p99_micros: rates.first_token_p99_micros,
    }
}
