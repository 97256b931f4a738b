//! Series by replica: read from the board and the routing's book when they are scraped.
//!
//! A replica goes by its id, as in the series of its meter; of those that are gone nothing is shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use galerne_core::routing::{BreakerState, ReplicaSeen};
use galerne_model::ids::{EndpointId, ReplicaId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::encode_buckets;
use crate::board::{Cell, FailureClass};
use crate::buckets::{Buckets, Shown};
use crate::config::Shared;

const FIRST_TOKEN: &str = "galerne_gateway_first_token";
const OUTPUT_TOKEN: &str = "galerne_gateway_output_token";
const UPSTREAM: &str = "galerne_gateway_upstream";
const REQUESTS: &str = "galerne_gateway_replica_requests";
const TOKENS: &str = "galerne_gateway_replica_tokens";
const FAILURES: &str = "galerne_gateway_upstream_failures";
const IN_FLIGHT: &str = "galerne_gateway_replica_in_flight_requests";
const BREAKER: &str = "galerne_gateway_breaker_state";
const OPENINGS: &str = "galerne_gateway_breaker_openings";

/// The states of a breaker, with their names.
const STATES: [(BreakerState, &str); 5] = [
    (BreakerState::Closed, "closed"),
    (BreakerState::HalfOpen, "half_open"),
    (BreakerState::Trying, "trying"),
    (BreakerState::Aside, "aside"),
    (BreakerState::Open, "open"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReplica {
    endpoint: String,
    replica: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    endpoint: String,
    replica: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    endpoint: String,
    replica: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    endpoint: String,
    replica: String,
    state: &'static str,
}

impl OfReplica {
    fn new(endpoint_id: EndpointId, replica_id: ReplicaId) -> Self {
        Self { endpoint: endpoint_id.to_string(), replica: replica_id.to_string() }
    }
}

/// Puts the series of the replicas into `registry`.
pub(crate) fn register(registry: &mut Registry, shared: Arc<Shared>) {
    registry.register_collector(Box::new(ReplicaSeries(shared)));
}

struct ReplicaSeries(Arc<Shared>);

impl std::fmt::Debug for ReplicaSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplicaSeries")
    }
}

impl Collector for ReplicaSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let cells = self.0.board.cells();
        // The lock of the book is not held while text is written.
        let seen = self.0.replicas().seen(self.0.now());
        encode_times(&mut encoder, &cells)?;
        encode_counts(&mut encoder, &cells)?;
        encode_states(&mut encoder, &seen)
    }
}

fn encode_times(encoder: &mut DescriptorEncoder<'_>, cells: &[(ReplicaId, Arc<Cell>)]) -> Result<(), std::fmt::Error> {
    type Of = fn(&Cell) -> &Buckets;
    let families: [(&str, &str, Shown, Of); 3] = [
        (
            FIRST_TOKEN,
            "Time from admission to the first content of streams that were answered whole",
            Shown::WAITS,
            |of| &of.first_token,
        ),
        (OUTPUT_TOKEN, "Time per token after the first, of streams that were answered whole", Shown::TOKENS, |of| {
            &of.output_token
        }),
        (UPSTREAM, "Time from the last asking of a replica to the end of the request", Shown::WAITS, |of| &of.upstream),
    ];
    for (name, help, shown, of) in families {
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (id, cell) in cells {
            encode_buckets(&mut family, &OfReplica::new(cell.endpoint_id, *id), of(cell), shown)?;
        }
    }
    Ok(())
}

fn encode_counts(encoder: &mut DescriptorEncoder<'_>, cells: &[(ReplicaId, Arc<Cell>)]) -> Result<(), std::fmt::Error> {
    let help = "Admitted requests that ended and that this replica was the last to be asked";
    let mut family = encoder.encode_descriptor(REQUESTS, help, None, MetricType::Counter)?;
    for (id, cell) in cells {
        let labels = OfReplica::new(cell.endpoint_id, *id);
        ConstCounter::new(cell.totals().requests).encode(family.encode_family(&labels)?)?;
    }
    let help = "Tokens of requests; cached ones are those of prompts that were not computed again";
    let mut family = encoder.encode_descriptor(TOKENS, help, None, MetricType::Counter)?;
    for (id, cell) in cells {
        let totals = cell.totals();
        let kinds = [("prompt", totals.prompt), ("cached", totals.cached), ("completion", totals.completion)];
        for (kind, count) in kinds {
            let OfReplica { endpoint, replica } = OfReplica::new(cell.endpoint_id, *id);
            let labels = OfKind { endpoint, replica, kind };
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Attempts at a replica that failed, by how; copies for shadows count";
    let mut family = encoder.encode_descriptor(FAILURES, help, None, MetricType::Counter)?;
    for (id, cell) in cells {
        for class in FailureClass::ALL {
            let OfReplica { endpoint, replica } = OfReplica::new(cell.endpoint_id, *id);
            let labels = OfClass { endpoint, replica, class: class.as_str() };
            ConstCounter::new(cell.failures(class)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_states(encoder: &mut DescriptorEncoder<'_>, seen: &[ReplicaSeen]) -> Result<(), std::fmt::Error> {
    let of: BTreeMap<ReplicaId, OfReplica> =
        seen.iter().map(|seen| (seen.replica_id, OfReplica::new(seen.endpoint_id, seen.replica_id))).collect();
    let help = "Requests of this gateway in flight on a replica";
    let mut family = encoder.encode_descriptor(IN_FLIGHT, help, None, MetricType::Gauge)?;
    for seen in seen {
        ConstGauge::new(i64::from(seen.in_flight)).encode(family.encode_family(&of[&seen.replica_id])?)?;
    }
    let help = "1 for the state that a replica's breaker is in, 0 for the others";
    let mut family = encoder.encode_descriptor(BREAKER, help, None, MetricType::Gauge)?;
    for seen in seen {
        for (state, name) in STATES {
            let OfReplica { endpoint, replica } = of[&seen.replica_id].clone();
            let labels = OfState { endpoint, replica, state: name };
            ConstGauge::new(i64::from(seen.breaker == state)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Times a replica's breaker opened after failures in a row";
    let mut family = encoder.encode_descriptor(OPENINGS, help, None, MetricType::Counter)?;
    for seen in seen {
        ConstCounter::new(seen.opened).encode(family.encode_family(&of[&seen.replica_id])?)?;
    }
    Ok(())
}
