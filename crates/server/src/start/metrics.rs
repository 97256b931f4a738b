//! Metrics of the API and of the process. Names are constants; labels come from closed sets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use galerne_control::MeterTotals;
use galerne_control::forward::{Forwarding, ForwardingSeen};
use galerne_gateway::{Gateway, LinkSeen};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::app::Fleet;
use crate::http::frame::Strangers;

const API_REQUESTS: &str = "galerne_api_requests";
const API_DURATION: &str = "galerne_api_request_duration";
const PROCESS_MEMORY: &str = "galerne_process_resident_memory";
const PROCESS_CPU: &str = "galerne_process_cpu";
const FORWARDED: &str = "galerne_events_forwarded";
const FORWARD_FAILURES: &str = "galerne_events_forward_failures";
const FORWARD_BACKLOG: &str = "galerne_events_forward_backlog";
const FORWARD_TROUBLE: &str = "galerne_events_forward_trouble";
const BUILD: &str = "galerne_build";
const LINKED: &str = "galerne_gateway_control_plane_connected";
const SILENCE: &str = "galerne_gateway_control_plane_silence";
const METER_ENERGY: &str = "galerne_replica_energy";
const METER_APPORTIONED: &str = "galerne_replica_apportioned_energy";
const METER_IDLE: &str = "galerne_replica_idle_energy";
const METER_READ: &str = "galerne_replica_meter_readable";
const GATEWAYS: &str = "galerne_gateways_connected";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Counters the API moves.
pub(crate) struct ApiMetrics {
    requests: Family<Answered, Counter>,
    duration: Histogram,
    memory: Gauge,
    cpu: Counter<f64, std::sync::atomic::AtomicU64>,
    /// How many denials of strangers become events.
    pub(crate) strangers: Strangers,
}

impl ApiMetrics {
    /// Makes and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let metrics = Self {
            requests: Family::default(),
            duration: Histogram::new(buckets),
            memory: Gauge::default(),
            cpu: Counter::default(),
            strangers: Strangers::new(Instant::now()),
        };
        registry.register(
            API_REQUESTS,
            "Requests to /api/v1 and pages, by method and class of status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            API_DURATION,
            "Time from head to answer of requests to /api/v1",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            PROCESS_MEMORY,
            "Resident memory of this process",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        registry.register_with_unit(PROCESS_CPU, "CPU time of this process", Unit::Seconds, metrics.cpu.clone());
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register(BUILD, "The version that runs; always 1", build);
        metrics
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, method: &str, status: u16, took: Duration) {
        let method = match method {
            "GET" => "get",
            "POST" => "post",
            "PUT" => "put",
            "DELETE" => "delete",
            _ => "other",
        };
        let status = match status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&Answered { method, status }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Reads what the system says of this process.
    pub(crate) fn read_process(&self) {
        if let Some(bytes) = resident_bytes() {
            self.memory.set(bytes);
        }
        let used = cpu_seconds();
        let counted = self.cpu.get();
        if used > counted {
            self.cpu.inc_by(used - counted);
        }
    }
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
}

/// How forwarding goes, read at each scrape.
#[derive(Debug)]
struct ForwardingSeries(ForwardingSeen);

impl Collector for ForwardingSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Forwarding { backlog, delivered, failures, trouble } = self.0.now();
        let gauges = [
            (FORWARD_BACKLOG, "Events written and not yet taken by the receiver", backlog),
            (FORWARD_TROUBLE, "1 while the receiver of events takes none", i64::from(trouble.is_some())),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let counters = [
            (FORWARDED, "Events taken by the receiver", delivered),
            (FORWARD_FAILURES, "Attempts to forward events that failed", failures),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

pub(crate) fn register_forwarding(registry: &mut Registry, seen: ForwardingSeen) {
    registry.register_collector(Box::new(ForwardingSeries(seen)));
}

/// How many gateways in processes of their own are heard, read at each scrape.
#[derive(Debug)]
struct FleetSeries(Arc<Fleet>);

impl Collector for FleetSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = ConstGauge::new(i64::try_from(self.0.heard_count()).unwrap_or(i64::MAX));
        let help = "Gateways in processes of their own that reported in the last ten seconds";
        count.encode(encoder.encode_descriptor(GATEWAYS, help, None, count.metric_type())?)
    }
}

/// How a gateway's link to its control plane goes, read at each scrape.
#[derive(Debug)]
struct LinkSeries(LinkSeen);

impl Collector for LinkSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let connected = ConstGauge::new(i64::from(self.0.is_connected()));
        let help = "1 while the stream of snapshots from the control plane is open";
        connected.encode(encoder.encode_descriptor(LINKED, help, None, connected.metric_type())?)?;
        let silence = ConstGauge::new(i64::try_from(self.0.silence().as_secs()).unwrap_or(i64::MAX));
        let help = "Time since the control plane was last heard";
        silence.encode(encoder.encode_descriptor(SILENCE, help, Some(&Unit::Seconds), silence.metric_type())?)
    }
}

pub(crate) fn register_link(registry: &mut Registry, link: LinkSeen) {
    registry.register_collector(Box::new(LinkSeries(link)));
}

/// Series of this process's gateway and of those in processes of their own.
pub(crate) fn register_gateways(registry: &mut Registry, own: &Gateway, fleet: &Arc<Fleet>) {
    own.register_metrics(registry);
    registry.register_collector(Box::new(FleetSeries(Arc::clone(fleet))));
}

/// Series of replicas with meters of their own.
pub(crate) fn register_meters(registry: &mut Registry, control: galerne_control::Handle) {
    registry.register_collector(Box::new(MeterSeries(control)));
}

/// What meters of replicas have shown, read at each scrape.
struct MeterSeries(galerne_control::Handle);

impl std::fmt::Debug for MeterSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeterSeries")
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReplica {
    replica: String,
}

impl Collector for MeterSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let totals = self.0.meter_totals();
        if totals.is_empty() {
            return Ok(());
        }
        // For display: exact sums are in the ledger. Micros of a joule as a fraction are what a `Duration` does.
        let joules = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64();
        type Of = fn(&MeterTotals) -> i64;
        let families: [(&str, &str, Of); 3] = [
            (METER_ENERGY, "Energy of a replica by its own meter, shared among requests and idle", |of| of.microjoules),
            (METER_APPORTIONED, "Of that, what requests were given", |of| of.microjoules - of.idle_microjoules),
            (METER_IDLE, "Of that, what no request worked in; falls when a request is told of late", |of| {
                of.idle_microjoules
            }),
        ];
        for (name, help, of) in families {
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Joules), kind)?;
            for totals in &totals {
                let labels = OfReplica { replica: totals.replica_id.to_string() };
                ConstGauge::new(joules(of(totals))).encode(family.encode_family(&labels)?)?;
            }
        }
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "1 while the meter of a replica can be read";
        let mut family = encoder.encode_descriptor(METER_READ, help, None, kind)?;
        for totals in &totals {
            let labels = OfReplica { replica: totals.replica_id.to_string() };
            ConstGauge::new(i64::from(totals.is_read)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The registry in Prometheus' text format. The library writes OpenMetrics, which names counters without their `_total`.
pub(crate) fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut open = String::new();
    prometheus_client::encoding::text::encode(&mut open, registry)?;
    let counters: Vec<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(open.len());
    for line in open.lines() {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match described.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(&name) => {
                out.push_str(&line[..7]);
                out.push_str(name);
                out.push_str("_total ");
                out.push_str(rest);
            }
            Some(_) => out.push_str(line),
            None if line.starts_with("# ") => continue,
            None => out.push_str(line),
        }
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_under_the_name_they_are_read_by() {
        let mut registry = Registry::default();
        let metrics = ApiMetrics::register(&mut registry);
        metrics.answered("GET", 200, Duration::from_millis(3));
        let text = text(&registry).expect("written");
        assert!(text.contains("# TYPE galerne_api_requests_total counter\n"), "{text}");
        assert!(text.contains("galerne_api_requests_total{method=\"get\",status=\"2xx\"} 1\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }
}
