//! Latency as curves: over the share of answers, and over the number of connections.

use std::path::Path;

use anyhow::Result;
use galerne_bench_chart::{Axes, Scale, Series, lines};

use crate::load::{Load, Report, run};
use crate::peers::{Peer, Running};
use crate::stats::{Millionths, P50, P99, quantile};

const CONNECTIONS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// One answer in so many is slower, and the share that is not.
const SLOWER: [(f64, Millionths); 9] = [
    (2.0, 500_000),
    (4.0, 750_000),
    (10.0, 900_000),
    (20.0, 950_000),
    (50.0, 980_000),
    (100.0, 990_000),
    (200.0, 995_000),
    (500.0, 998_000),
    (1_000.0, 999_000),
];

/// Latencies at one connection, of every round of everybody.
pub(crate) fn shares(folder: &Path, latencies: &[(Peer, Vec<u64>)]) -> Result<()> {
    let series: Vec<Series> = latencies
        .iter()
        .map(|(peer, nanos)| {
            let mut sorted = nanos.clone();
            sorted.sort_unstable();
            let point = |(slower, share): &(f64, Millionths)| (*slower, quantile(&sorted, *share) as f64 / 1e3);
            Series::new(peer.name(), SLOWER.iter().map(point).collect())
        })
        .collect();
    let axes = Axes {
        title: "Latency of plain answers at one connection".to_owned(),
        x: "one answer in … is slower".to_owned(),
        y: "microseconds".to_owned(),
        scale: Scale::Logarithmic,
        ..Axes::default()
    };
    lines(&folder.join("latency-1-connection.svg"), &axes, &series)
}

/// Measures everybody at a growing number of connections, in turn, and draws rates and latencies.
pub(crate) fn connections(folder: &Path, running: &[Running], seconds: f64) -> Result<()> {
    let mut reports: Vec<(Peer, Vec<Report>)> = running.iter().map(|one| (one.peer, Vec::new())).collect();
    for count in CONNECTIONS {
        for (one, (_, reports)) in running.iter().zip(&mut reports) {
            reports.push(run(one.target(), Load::plain(count, seconds))?);
            if let Some(site) = one.site() {
                site.settle()?;
            }
        }
    }
    let draw = |file: &str, title: &str, y: &str, of: fn(&Report) -> f64| {
        let curve = |(peer, reports): &(Peer, Vec<Report>)| {
            let points = CONNECTIONS.iter().zip(reports).filter(|(_, report)| report.answered > 0);
            Series::new(peer.name(), points.map(|(count, report)| (*count as f64, of(report))).collect())
        };
        let series: Vec<Series> = reports.iter().map(curve).collect();
        let (x, scale) = ("connections, each with one request at a time".to_owned(), Scale::Logarithmic);
        let axes = Axes { title: title.to_owned(), x, y: y.to_owned(), scale, ..Axes::default() };
        lines(&folder.join(file), &axes, &series)
    };
    draw("latency-p50.svg", "Median latency of plain answers", "microseconds", |report| report.latency_us(P50))?;
    draw("latency-p99.svg", "99th percentile of plain answers", "microseconds", |report| report.latency_us(P99))?;
    draw("rate.svg", "Plain answers per second", "answers per second", |report| {
        report.answered as f64 / report.seconds.max(1e-9)
    })
}
