//! The gateway's series. Labels come from closed sets; nobody's name is in them: an endpoint and a replica go by their ids.

mod replicas;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use galerne_api::error::Code;
use galerne_api::surface::Dialect;
use galerne_core::routing::Counts;
use galerne_model::identity::ServiceTier;
use galerne_model::ledger::{Operation, Outcome, UsageRecord};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder, MetricEncoder,
    NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::activity::ActivityTable;
use crate::buckets::{Buckets, Shown};
use crate::meter::Counted;
use crate::spool::Spool;

pub(crate) use replicas::register as register_replicas;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    operation: OperationLabel,
    outcome: OutcomeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    code: CodeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTier {
    tier: TierLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
enum TierLabel {
    flex,
    default,
    priority,
}

/// How a request came and was served.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWay {
    surface: SurfaceLabel,
    tier: TierLabel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
enum SurfaceLabel {
    v1,
    openai,
    mistral,
}

impl SurfaceLabel {
    const ALL: [Self; Dialect::ALL.len()] = [Self::v1, Self::openai, Self::mistral];

    const fn of(surface: Dialect) -> Self {
        match surface {
            Dialect::Union => Self::v1,
            Dialect::OpenAi => Self::openai,
            Dialect::Mistral => Self::mistral,
        }
    }
}

impl OfTier {
    const fn of(tier: ServiceTier) -> Self {
        let tier = match tier {
            ServiceTier::Flex => TierLabel::flex,
            ServiceTier::Default => TierLabel::default,
            ServiceTier::Priority => TierLabel::priority,
        };
        Self { tier }
    }
}

/// One request in a line, for as long as this lives.
pub(crate) struct InLine {
    gauge: Gauge,
    tier: ServiceTier,
    since: Instant,
    waits: Arc<Waits>,
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.gauge.dec();
        self.waits.line[self.tier.index()].add(self.since.elapsed());
    }
}

/// How long requests took and waited.
#[derive(Debug, Default)]
struct Waits {
    /// By surface and tier.
    requests: [[Buckets; ServiceTier::ALL.len()]; Dialect::ALL.len()],
    /// In the line, by tier.
    line: [Buckets; ServiceTier::ALL.len()],
    /// For a replica to be ready.
    wake: Buckets,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
enum TokenKind {
    prompt,
    cached,
    completion,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfShadow {
    outcome: ShadowOutcome,
}

/// What became of a copy for a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub(crate) enum ShadowOutcome {
    /// It was answered.
    answered,
    /// It was not.
    failed,
    /// It was not made: there was no replica, or too many are under way.
    skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRouted {
    kind: RoutedKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
enum RoutedKind {
    prompt,
    predicted,
    cached,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OperationLabel(Operation);
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OutcomeLabel(Outcome);
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CodeLabel(Code);

/// Counters of one gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) in_flight: Gauge,
    pub(crate) retries: Counter,
    pub(crate) set_aside: Counter,
    pub(crate) fallbacks: Counter,
    shadows: Family<OfShadow, Counter>,
    shadow_tokens: Family<OfKind, Counter>,
    routed_tokens: Family<OfRouted, Counter>,
    requests: Family<Ended, Counter>,
    refusals: Family<Refused, Counter>,
    sheds: Family<OfTier, Counter>,
    in_line: Family<OfTier, Gauge>,
    tokens: Family<OfKind, Counter>,
    energy: Counter<f64, AtomicU64>,
    waits: Arc<Waits>,
    spool: Arc<Spool>,
    activity: Arc<ActivityTable>,
}

impl Metrics {
    pub(crate) fn new(spool: Arc<Spool>, activity: Arc<ActivityTable>) -> Self {
        Self {
            in_flight: Gauge::default(),
            retries: Counter::default(),
            set_aside: Counter::default(),
            fallbacks: Counter::default(),
            shadows: Family::default(),
            shadow_tokens: Family::default(),
            routed_tokens: Family::default(),
            requests: Family::default(),
            refusals: Family::default(),
            sheds: Family::default(),
            in_line: Family::default(),
            tokens: Family::default(),
            energy: Counter::default(),
            waits: Arc::default(),
            spool,
            activity,
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "galerne_gateway_in_flight_requests",
            "Requests being worked on, refused ones included until they are answered",
            self.in_flight.clone(),
        );
        registry.register(
            "galerne_gateway_retries",
            "Attempts made again on a replica before the first byte",
            self.retries.clone(),
        );
        registry.register(
            "galerne_gateway_replicas_set_aside",
            "Times a replica was set aside because its errors or its pace were far from the others'",
            self.set_aside.clone(),
        );
        registry.register(
            "galerne_gateway_fallbacks",
            "Requests handed on because their endpoint, or a canary, could not answer",
            self.fallbacks.clone(),
        );
        registry.register("galerne_gateway_shadows", "Copies of requests for shadows", self.shadows.clone());
        registry.register(
            "galerne_gateway_shadow_tokens",
            "Tokens of answers that were dropped, which nobody is charged for",
            self.shadow_tokens.clone(),
        );
        registry.register(
            "galerne_gateway_routed_tokens",
            "Prompt tokens of answered requests, those predicted to be cached on the replica chosen, and those cached",
            self.routed_tokens.clone(),
        );
        registry.register("galerne_gateway_requests", "Admitted requests that ended", self.requests.clone());
        registry.register("galerne_gateway_refusals", "Requests answered with an error", self.refusals.clone());
        registry.register(
            "galerne_gateway_shed_requests",
            "Requests refused because there was not enough for all, by service tier",
            self.sheds.clone(),
        );
        registry.register(
            "galerne_gateway_line_requests",
            "Requests that wait for a seat at an endpoint, by service tier",
            self.in_line.clone(),
        );
        registry.register("galerne_gateway_tokens", "Tokens metered", self.tokens.clone());
        registry.register_with_unit("galerne_gateway_energy", "Energy of requests", Unit::Joules, self.energy.clone());
        registry.register_collector(Box::new(WaitSeries(Arc::clone(&self.waits))));
        registry.register_collector(Box::new(SpoolBytes(Arc::clone(&self.spool))));
        registry.register_collector(Box::new(WaitingRequests(Arc::clone(&self.activity))));
    }

    /// Not enough for all: this one was refused.
    pub(crate) fn shed(&self, tier: ServiceTier) {
        self.sheds.get_or_create(&OfTier::of(tier)).inc();
    }

    pub(crate) fn in_line(&self, tier: ServiceTier) -> InLine {
        let gauge = self.in_line.get_or_create(&OfTier::of(tier)).clone();
        gauge.inc();
        InLine { gauge, tier, since: Instant::now(), waits: Arc::clone(&self.waits) }
    }

    pub(crate) fn refused(&self, code: Code) {
        self.refusals.get_or_create(&Refused { code: CodeLabel(code) }).inc();
    }

    /// A request waited for a replica to be ready.
    pub(crate) fn woke(&self, after: Duration) {
        self.waits.wake.add(after);
    }

    /// A record was written.
    pub(crate) fn settled(&self, record: &UsageRecord, surface: Dialect, tier: ServiceTier, took: Duration) {
        let labels = Ended { operation: OperationLabel(record.operation), outcome: OutcomeLabel(record.outcome) };
        self.requests.get_or_create(&labels).inc();
        // Nobody waits for a request of a batch: what they take would hide what callers see.
        if record.batch.is_none() {
            self.waits.requests[SurfaceLabel::of(surface) as usize][tier.index()].add(took);
        }
        // Thousandths as a fraction: what a `Duration` does with milliseconds.
        let energy = Duration::from_millis(u64::try_from(record.quantities.millijoules.0).unwrap_or(0));
        self.energy.inc_by(energy.as_secs_f64());
    }

    /// An engine told what it had of a prompt that was routed to it.
    pub(crate) fn routed(&self, counts: Counts, predicted: u64) {
        let kinds = [
            (RoutedKind::prompt, counts.prompt),
            (RoutedKind::predicted, predicted.min(counts.prompt)),
            (RoutedKind::cached, counts.cached),
        ];
        for (kind, count) in kinds {
            self.routed_tokens.get_or_create(&OfRouted { kind }).inc_by(count);
        }
    }

    /// Tokens were counted.
    pub(crate) fn answered(&self, counted: Counted) {
        add_tokens(&self.tokens, counted);
    }

    /// A copy for a shadow ended.
    pub(crate) fn shadowed(&self, outcome: ShadowOutcome, counted: Counted) {
        self.shadows.get_or_create(&OfShadow { outcome }).inc();
        add_tokens(&self.shadow_tokens, counted);
    }
}

fn add_tokens(to: &Family<OfKind, Counter>, counted: Counted) {
    let kinds = [
        (TokenKind::prompt, counted.prompt - counted.cached),
        (TokenKind::cached, counted.cached),
        (TokenKind::completion, counted.completion),
    ];
    for (kind, count) in kinds {
        to.get_or_create(&OfKind { kind }).inc_by(u64::try_from(count).unwrap_or(0));
    }
}

/// Waits, read at each scrape.
#[derive(Debug)]
struct WaitSeries(Arc<Waits>);

impl Collector for WaitSeries {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let unit = Some(&Unit::Seconds);
        let help =
            "Time from admission to the last byte, by surface and service tier; requests of batches are left out";
        let mut family = encoder.encode_descriptor("galerne_gateway_request", help, unit, MetricType::Histogram)?;
        for surface in SurfaceLabel::ALL {
            for tier in ServiceTier::ALL {
                let labels = OfWay { surface, tier: OfTier::of(tier).tier };
                let buckets = &self.0.requests[surface as usize][tier.index()];
                encode_buckets(&mut family, &labels, buckets, Shown::WAITS)?;
            }
        }
        let help = "Time in the line before an endpoint at its limit, by service tier; only of those who stood in it";
        let mut family = encoder.encode_descriptor("galerne_gateway_line_wait", help, unit, MetricType::Histogram)?;
        for tier in ServiceTier::ALL {
            encode_buckets(&mut family, &OfTier::of(tier), &self.0.line[tier.index()], Shown::WAITS)?;
        }
        let help = "Time that admitted requests waited for a replica to be ready; only of those who waited";
        let mut metric = encoder.encode_descriptor("galerne_gateway_wake_wait", help, unit, MetricType::Histogram)?;
        let (sum, count, buckets) = self.0.wake.series(Shown::WAITS);
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// One series of a family of histograms; nothing where nothing was counted.
fn encode_buckets(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    buckets: &Buckets,
    shown: Shown,
) -> Result<(), std::fmt::Error> {
    let (sum, count, buckets) = buckets.series(shown);
    if count == 0 {
        return Ok(());
    }
    family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

/// Read when scraped: the spool knows its size.
#[derive(Debug)]
struct SpoolBytes(Arc<Spool>);

impl Collector for SpoolBytes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let bytes = ConstGauge::new(i64::try_from(self.0.bytes()).unwrap_or(i64::MAX));
        let help = "Usage records and holds on disk that the ledger has not taken yet";
        let metric = encoder.encode_descriptor("galerne_spool", help, Some(&Unit::Bytes), bytes.metric_type())?;
        bytes.encode(metric)
    }
}

/// Read when scraped, like the size of the spool.
#[derive(Debug)]
struct WaitingRequests(Arc<ActivityTable>);

impl Collector for WaitingRequests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let count = self.0.snapshot().iter().map(|activity| activity.waiting).sum::<usize>();
        let waiting = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        let help = "Admitted requests that wait for a replica of their endpoint";
        let name = "galerne_gateway_waiting_requests";
        let metric = encoder.encode_descriptor(name, help, None, waiting.metric_type())?;
        waiting.encode(metric)
    }
}

impl EncodeLabelValue for OperationLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        let word = match self.0 {
            Operation::Chat => "chat",
            Operation::Completion => "completion",
            Operation::Embedding => "embedding",
            Operation::Fim => "fim",
            Operation::Tokenise => "tokenise",
            Operation::Detokenise => "detokenise",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

impl EncodeLabelValue for OutcomeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        let word = match self.0 {
            Outcome::Completed => "completed",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

impl EncodeLabelValue for CodeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}
