//! Who is asked for a request, in turn: a canary by chance, the endpoint itself, its fallbacks.
//!
//! Whoever answers is paid by its own price; the hold covers the dearest of them. A canary's answer goes by the name that
//! was asked for, a fallback's by its own. One step deep: the policies of those named in a policy are not followed.

use std::sync::Arc;

use axum::body::Bytes;
use galerne_api::error::Code;
use galerne_core::admission::Subject;
use galerne_core::routing;
use galerne_model::identity::RateLimits;
use galerne_model::ids::EndpointId;
use galerne_model::ledger::Operation;
use galerne_model::money::TokenPrice;
use galerne_model::snapshot::{EndpointEntry, EnergyBound, KeyEntry, ReplicaEnergy, Snapshot};

use crate::admit::visible;
use crate::config::Shared;
use crate::rates;
use crate::request::{Asked, Delivery};
use crate::segments::Segments;
use crate::voice::Voice;

/// Why an endpoint is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It answers a share of the other's requests.
    Canary,
    /// It was named.
    Named,
    /// Nobody before it could answer.
    Fallback,
}

/// One endpoint that may answer.
pub(crate) struct Step {
    pub(crate) part: Part,
    pub(crate) endpoint: Arc<EndpointEntry>,
    pub(crate) body: Segments,
    /// How its answer is told.
    pub(crate) voice: Voice,
    /// How to ask for the prompt's tokens.
    pub(crate) tokenize_body: Option<Segments>,
    /// Limits on this endpoint that the request was not admitted under.
    pub(crate) limits: Vec<(Subject, RateLimits)>,
    /// Tokens, for those limits.
    pub(crate) estimate: u32,
}

/// All that a request is sent to.
pub(crate) struct Chain {
    /// In the order in which they are asked; never empty.
    pub(crate) steps: Vec<Step>,
    /// Who gets a copy.
    pub(crate) shadow: Option<Step>,
}

/// What a hold must cover: the price of the dearest of those that may answer, the longest context, and the most energy,
/// which is unknown where that of one of them is.
pub(crate) fn most(snapshot: &Snapshot, endpoint: &EndpointEntry) -> (TokenPrice, u32, Option<EnergyBound>) {
    let canary = endpoint.routing.canary.iter().map(|share| share.endpoint_id);
    let others = canary.chain(endpoint.routing.fallback.iter().copied());
    let own = (endpoint.price, endpoint.context_tokens, endpoint.energy_bound);
    others.filter_map(|id| snapshot.endpoints.get(&id)).fold(own, |(price, context, energy), other| {
        let price = TokenPrice {
            prompt: price.prompt.max(other.price.prompt),
            cached: price.cached.max(other.price.cached),
            completion: price.completion.max(other.price.completion),
        };
        let energy = energy.zip(other.energy_bound).map(|(one, other)| EnergyBound {
            prompt_microjoules: one.prompt_microjoules.max(other.prompt_microjoules),
            completion_microjoules: one.completion_microjoules.max(other.completion_microjoules),
            source: one.source,
        });
        (price, context.max(other.context_tokens), energy)
    })
}

impl Chain {
    /// Draws for one request of `key`; `source` is the body that was parsed, `voice` that of the endpoint.
    pub(crate) fn draw(
        shared: &Shared,
        snapshot: &Snapshot,
        key: &KeyEntry,
        endpoint: &Arc<EndpointEntry>,
        asked: &Asked<'_>,
        source: &Bytes,
        voice: Voice,
    ) -> Self {
        let routing = &endpoint.routing;
        let mut chain = Self { steps: Vec::with_capacity(1), shadow: None };
        if routing.is_default() {
            chain.steps.push(Step::new(Part::Named, Arc::clone(endpoint), asked, source, voice));
            return chain;
        }
        let find = |id: EndpointId| {
            snapshot.endpoints.get(&id).filter(|other| !other.paused && can(other, asked.operation)).cloned()
        };
        let shares = |shares: &[galerne_model::inference::Share]| -> Vec<u32> {
            shares.iter().map(|share| share.thousandths).collect()
        };
        let drawn = routing::draw(&shares(&routing.canary), &shares(&routing.shadow), shared.draw());
        let canary = drawn.canary.and_then(|at| find(routing.canary.get(at)?.endpoint_id));
        // A canary without a replica is no reason to wait.
        if let Some(canary) = canary.filter(|canary| !canary.replicas.is_empty()) {
            let voice = voice.under(&endpoint.name, &canary.upstream_model);
            let limits = rates::subjects_on(snapshot, key, &canary);
            chain.steps.push(Step { limits, ..Step::new(Part::Canary, canary, asked, source, voice) });
        }
        chain.steps.push(Step::new(Part::Named, Arc::clone(endpoint), asked, source, voice.clone()));
        for id in &routing.fallback {
            // Under the caller's own rights, as if it had been named.
            if let Some(other) = find(*id).filter(|other| visible(snapshot, key).any(|seen| seen.id == other.id)) {
                let voice = voice.under(&other.name, &other.upstream_model);
                let limits = rates::subjects_on(snapshot, key, &other);
                chain.steps.push(Step { limits, ..Step::new(Part::Fallback, other, asked, source, voice) });
            }
        }
        let shadow = drawn.shadow.filter(|_| computes(asked.operation));
        let shadow = shadow.and_then(|at| find(routing.shadow.get(at)?.endpoint_id));
        chain.shadow = shadow.map(|shadow| Step::new(Part::Named, shadow, asked, source, voice));
        chain
    }

    /// Leaves out those that may not have the request. The one that was named is told to the caller if it may not.
    pub(crate) fn keep(&mut self, may: impl Fn(&EndpointEntry) -> bool) {
        self.steps.retain(|step| step.part == Part::Named || may(&step.endpoint));
        self.shadow = self.shadow.take().filter(|shadow| may(&shadow.endpoint));
    }
}

impl Step {
    fn new(part: Part, endpoint: Arc<EndpointEntry>, asked: &Asked<'_>, source: &Bytes, voice: Voice) -> Self {
        let tells = endpoint.replicas.iter().any(|replica| replica.kv_events.is_some());
        // Workers of ours always report what they used; others may have to be asked.
        let may_be_asked = endpoint.replicas.iter().any(|replica| replica.energy != ReplicaEnergy::CpuTime);
        let tokenize_body = match asked.delivery {
            Delivery::Whole if !tells && !may_be_asked => None,
            Delivery::Whole | Delivery::Stream(_) => asked.tokenize_body(source, &endpoint.upstream_model),
        };
        let body = asked.upstream_body(source, &endpoint.upstream_model);
        let estimate = asked.estimate(endpoint.context_tokens);
        Self { part, endpoint, body, voice, tokenize_body, limits: Vec::new(), estimate }
    }
}

/// Whether another endpoint may answer what this one could not. What the caller did wrong stays wrong, and who is out of
/// time has none left.
pub(crate) fn may_go_on(code: Code) -> bool {
    matches!(code, Code::NoReadyReplica | Code::ReplicaFailed | Code::Overloaded)
}

fn computes(operation: Operation) -> bool {
    match operation {
        Operation::Chat | Operation::Completion | Operation::Fim | Operation::Embedding => true,
        Operation::Tokenise | Operation::Detokenise => false,
    }
}

fn can(endpoint: &EndpointEntry, operation: Operation) -> bool {
    match operation {
        Operation::Chat | Operation::Completion | Operation::Fim => endpoint.can_chat,
        Operation::Embedding => endpoint.can_embed,
        Operation::Tokenise | Operation::Detokenise => true,
    }
}
