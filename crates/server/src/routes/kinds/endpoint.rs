//! Endpoints.

use galerne_core::authorize::{Denial, Noun, Verb};
use galerne_model::identity::Scope;
use galerne_model::ids::{EndpointId, ModelId};
use galerne_model::inference::{Backend, Endpoint, EndpointSpec, EndpointState, EndpointStatus, Model, Visibility};
use galerne_model::limits::REPLICAS_MAX;
use galerne_model::power::{Metering, PowerSource};
use galerne_model::reason::Reason;
use galerne_store::{Filter, StoreError, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use super::{check_limits, check_price};
use crate::http::caller::{About, Caller};
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed};

mod policy;

/// Sequences one worker decodes together; past it a batch no longer gets faster.
const SEQUENCES_MAX: u32 = 256;
/// Threads of one worker.
const THREADS_MAX: u32 = 1_024;
/// Longest context anybody trains today, with room.
const CONTEXT_MAX: u32 = 16_777_216;
/// Most that a token weighs: a thousand times another is more than any hardware shows.
const WEIGHT_MAX: u32 = 1_000;
/// Longest name of a model on an external server.
const UPSTREAM_NAME_MAX: usize = 200;
/// Longest address of an external server.
const URL_MAX: usize = 500;

impl Managed for Endpoint {
    const RIGHTS: Noun = Noun::Endpoint;
    const LEVEL: Level = Level::Project;

    fn mint(uuid: Uuid) -> EndpointId {
        EndpointId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> EndpointStatus {
        EndpointStatus {
            state: EndpointState::Starting,
            replicas_ready: 0,
            replicas_wanted: 0,
            observed_generation: 0,
            reason: Reason::blocks("endpoint_new", "it was just asked for and has not been looked at yet"),
            last_request_at: None,
        }
    }

    async fn check(tx: &mut Tx, caller: &Caller, draft: &Self, before: Option<&EndpointSpec>) -> Result<(), Refusal> {
        let spec = &draft.spec;
        check_numbers(spec)?;
        check_limits("spec.limits", spec.limits)?;
        let operators_only = |what: &str| only_operators(caller, draft, what);
        if spec.visibility == Visibility::Site && before.is_none_or(|before| before.visibility != Visibility::Site) {
            operators_only("offer an endpoint to the whole site")?;
        }
        if spec.price.is_some() && before.is_none_or(|before| before.price != spec.price) {
            operators_only("set the price of an endpoint")?;
        }
        if before.map_or_else(|| !spec.metering.is_default(), |before| before.metering != spec.metering) {
            operators_only("say where the energy of replicas is read")?;
            check_meters_apart(tx, draft).await?;
        }
        check_metering(&spec.metering)?;
        if let Some(price) = spec.price {
            check_price("spec.price", price)?;
        }
        if spec.routing.shadow.iter().any(|share| before.is_none_or(|before| !before.routing.shadow.contains(share))) {
            // Nobody pays for the work of a shadow, so whoever runs the site says whether it is done.
            operators_only("have requests copied to a shadow")?;
        }
        if !spec.routing.kv_events.is_empty()
            && before.is_none_or(|before| before.routing.kv_events != spec.routing.kv_events)
        {
            operators_only("have the gateway listen at an address")?;
        }
        policy::check(tx, caller, draft).await?;
        match &spec.backend {
            Backend::Worker { model_id, context_tokens, sequences, threads } => {
                check_worker(*context_tokens, *sequences, *threads)?;
                check_model(tx, caller, *model_id, *context_tokens).await
            }
            Backend::External { urls, upstream_model, context_tokens, power, residency } => {
                // The gateway will call these addresses from inside the site's network.
                if before.is_none_or(|before| before.backend != spec.backend) {
                    operators_only("point an endpoint at an external server")?;
                }
                let is_country = |code: &String| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
                if residency.as_ref().is_some_and(|code| !is_country(code)) {
                    let text = "a country is two capital letters, such as `FR`";
                    return Err(Refusal::invalid("spec.backend.residency", text));
                }
                check_external(urls, upstream_model, *context_tokens, power.map_or(0, |power| power.0))
            }
        }
    }
}

fn only_operators(caller: &Caller, draft: &Endpoint, what: &str) -> Result<(), Refusal> {
    let about = About { noun: "endpoint", verb: "update", name: &draft.name, id: Some(draft.id.to_string()) };
    if caller.can(Verb::Update, Noun::Node, Scope::Site) {
        return Ok(());
    }
    let needs = vec!["the role `operator` and a key with the scope `admin`".to_owned()];
    let denial = Denial { code: "role_missing", text: format!("only operators may {what}"), needs };
    Err(caller.forbid(&denial, draft.change_scope(), &about))
}

fn check_metering(metering: &Metering) -> Result<(), Refusal> {
    if metering.sources.len() > REPLICAS_MAX as usize {
        return Err(Refusal::invalid("spec.metering.sources", format!("it takes at most {REPLICAS_MAX} meters")));
    }
    let weights = [("prefill_weight", metering.prefill_weight), ("decode_weight", metering.decode_weight)];
    match weights.into_iter().find(|(_, weight)| weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight))) {
        Some((name, _)) => {
            Err(Refusal::invalid(&format!("spec.metering.{name}"), format!("it takes 1 to {WEIGHT_MAX}")))
        }
        None => Ok(()),
    }
}

/// Each meter belongs to one replica: read for two, its energy would be charged twice.
async fn check_meters_apart(tx: &mut Tx, draft: &Endpoint) -> Result<(), Refusal> {
    let sources = &draft.spec.metering.sources;
    for (index, source) in sources.iter().enumerate() {
        if let Some(meter) = sources[..index].iter().find_map(|before| source.shared_with(before)) {
            let text = format!("`{meter}` is named for two replicas, and its energy would be charged twice");
            return Err(Refusal::invalid(&format!("spec.metering.sources[{index}]"), text)
                .hint("give each replica its own meter"));
        }
    }
    if sources.is_empty() {
        return Ok(());
    }
    let others = tx.list_all::<Endpoint>(&Filter::default()).await?;
    for other in others.iter().filter(|other| other.id != draft.id) {
        let named = |(index, source): (usize, &PowerSource)| {
            Some((index, other.spec.metering.sources.iter().find_map(|theirs| source.shared_with(theirs))?))
        };
        if let Some((index, meter)) = sources.iter().enumerate().find_map(named) {
            let text =
                format!("`{meter}` is the meter of endpoint `{}`, and its energy would be charged twice", other.name);
            return Err(Refusal::invalid(&format!("spec.metering.sources[{index}]"), text)
                .hint(format!("galerne endpoint meter {} --none", other.name)));
        }
    }
    Ok(())
}

fn check_numbers(spec: &EndpointSpec) -> Result<(), Refusal> {
    if spec.replicas_max == 0 || spec.replicas_max > REPLICAS_MAX {
        return Err(Refusal::invalid(
            "spec.replicas_max",
            format!("it takes 1 to {REPLICAS_MAX} replicas; `paused` stops an endpoint"),
        ));
    }
    if spec.replicas_min > spec.replicas_max {
        let detail = format!("{} is more than `replicas_max`, which is {}", spec.replicas_min, spec.replicas_max);
        return Err(Refusal::invalid("spec.replicas_min", detail));
    }
    Ok(())
}

fn check_worker(context: Option<u32>, sequences: Option<u32>, threads: Option<u32>) -> Result<(), Refusal> {
    let ranges = [
        ("spec.backend.context_tokens", context, CONTEXT_MAX),
        ("spec.backend.sequences", sequences, SEQUENCES_MAX),
        ("spec.backend.threads", threads, THREADS_MAX),
    ];
    match ranges.into_iter().find(|(_, value, most)| value.is_some_and(|value| value == 0 || value > *most)) {
        Some((path, _, most)) => Err(Refusal::invalid(path, format!("it takes 1 to {most}"))),
        None => Ok(()),
    }
}

async fn check_model(tx: &mut Tx, caller: &Caller, id: ModelId, context: Option<u32>) -> Result<(), Refusal> {
    let missing = || {
        Refusal::invalid("spec.backend.model_id", "there is no such model")
            .hint("`galerne model list` shows those you can serve")
    };
    let model = match tx.get::<Model>(id).await {
        Err(StoreError::NotFound { .. }) => return Err(missing()),
        other => other?,
    };
    if !caller.can(Verb::Read, Noun::Model, model.read_scope()) {
        return Err(missing());
    }
    let trained = model.spec.facts.context_tokens;
    match context.filter(|asked| trained > 0 && i64::from(*asked) > trained) {
        Some(asked) => Err(Refusal::invalid(
            "spec.backend.context_tokens",
            format!("{asked} is more than the {trained} tokens the model was trained for"),
        )),
        None => Ok(()),
    }
}

fn check_external(urls: &[String], upstream_model: &str, context: u32, power: i64) -> Result<(), Refusal> {
    if urls.is_empty() || urls.len() > REPLICAS_MAX as usize {
        return Err(Refusal::invalid("spec.backend.urls", format!("it takes 1 to {REPLICAS_MAX} addresses")));
    }
    for (index, url) in urls.iter().enumerate() {
        let path = format!("spec.backend.urls[{index}]");
        let parsed: http::Uri = url.parse().map_err(|_| Refusal::invalid(&path, "this is not an address"))?;
        let host = parsed.authority().map(|authority| authority.as_str()).filter(|text| !text.contains('@'));
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || host.is_none() || url.len() > URL_MAX {
            return Err(Refusal::invalid(&path, "write it as `http://HOST:PORT`, without a user"));
        }
        if parsed.query().is_some() || parsed.path().trim_end_matches('/').ends_with("/v1") {
            return Err(Refusal::invalid(&path, "it ends before `/v1`"));
        }
    }
    if upstream_model.is_empty() || upstream_model.len() > UPSTREAM_NAME_MAX {
        return Err(Refusal::invalid(
            "spec.backend.upstream_model",
            format!("it takes 1 to {UPSTREAM_NAME_MAX} characters"),
        ));
    }
    if context == 0 || context > CONTEXT_MAX {
        return Err(Refusal::invalid("spec.backend.context_tokens", format!("it takes 1 to {CONTEXT_MAX}")));
    }
    if power < 0 { Err(Refusal::invalid("spec.backend.power", "a power is not negative")) } else { Ok(()) }
}
