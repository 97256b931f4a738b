//! The figures of the data path in under a minute, for whoever changes it.

use std::time::Duration;

use anyhow::Result;

use crate::load::{Load, run};
use crate::peers::{Mocks, Peer, Places, Running};
use crate::stats::{P50, P99, median};

/// Tokens of a stream in a burst, and of one with a pace.
const BURST_TOKENS: usize = 128;
const PACED_TOKENS: usize = 50;
const PACE: Duration = Duration::from_millis(20);

/// One connection, many, bursts, streams with a pace.
const LOADS: usize = 4;

fn load(place: usize, seconds: f64) -> Load {
    match place {
        0 => Load::plain(1, seconds * 0.7),
        1 => Load::plain(64, seconds),
        2 => Load::streams(32, seconds, BURST_TOKENS, Duration::ZERO),
        _ => Load::streams(200, seconds, PACED_TOKENS, PACE),
    }
}

/// One round of one load on one peer.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    first_us: f64,
    /// While the load was on.
    cpu_us: f64,
    /// And until the ledger had every record.
    cpu_settled_us: f64,
    errors: u64,
}

/// Measures and prints; peers that cannot be started are named and left out.
pub(crate) fn measure(places: &Places, peers: &[Peer], rounds: usize, seconds: f64) -> Result<()> {
    let mocks = Mocks::start(places)?;
    let mut running = Vec::new();
    for peer in peers {
        match Running::start(*peer, places, &mocks) {
            Ok(one) => running.push(one),
            Err(error) if *peer != Peer::Galerne => println!("skipped: {}: {error:#}", peer.name()),
            Err(error) => return Err(error),
        }
    }
    for one in &running {
        run(one.target(), Load::plain(16, 0.3))?;
    }
    let mut all = vec![vec![Vec::new(); running.len()]; LOADS];
    for _ in 0..rounds {
        for (place, of_load) in all.iter_mut().enumerate() {
            for (one, rounds) in running.iter().zip(of_load) {
                rounds.push(round(one, &mocks, load(place, seconds))?);
            }
        }
    }
    print(&running, &all, &mocks);
    Ok(())
}

fn round(one: &Running, mocks: &Mocks, load: Load) -> Result<Round> {
    let before = one.cpu_seconds(mocks);
    let report = run(one.target(), load)?;
    let after = one.cpu_seconds(mocks);
    if let Some(site) = one.site() {
        site.settle()?;
    }
    let settled = one.cpu_seconds(mocks);
    let count = if load.stream { report.events() } else { report.answered };
    let each = |cpu: f64| (cpu - before) * 1e6 / count.max(1) as f64;
    Ok(Round {
        per_second: count as f64 / report.seconds,
        p50_us: report.latency_us(P50),
        p99_us: report.latency_us(P99),
        first_us: report.first_us(P50),
        cpu_us: each(after),
        cpu_settled_us: each(settled),
        errors: report.errors(),
    })
}

fn print(running: &[Running], all: &[Vec<Vec<Round>>], mocks: &Mocks) {
    println!("medians; `+ledger`: until the ledger has every record; direct: the mock alone");
    println!(
        "{:<14} {:^31} {:^33} {:^33} {:^31}",
        "", "1 connection, plain", "64 connections, plain", "burst 32x128 SSE", "paced 200 SSE, 20 ms"
    );
    println!(
        "{:<14} {:>7} {:>7} {:>7} {:>7}  {:>8} {:>8} {:>8} {:>6}  {:>10} {:>7} {:>8} {:>5}  {:>7} {:>8} {:>8} {:>5} {:>5}",
        "",
        "p50us",
        "p99us",
        "+p50",
        "+p99",
        "req/s",
        "cpu us",
        "+ledger",
        "p99us",
        "events/s",
        "cpu us",
        "+ledger",
        "err",
        "cpu us",
        "+ledger",
        "1st ms",
        "err",
        "MiB"
    );
    for (who, one) in running.iter().enumerate() {
        let figure = |place: usize, of: fn(&Round) -> f64| {
            median(&all[place][who].iter().map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        let errors =
            |places: &[usize]| places.iter().flat_map(|place| &all[*place][who]).map(|round| round.errors).sum::<u64>();
        // Against the mock in the same round.
        let added = |of: fn(&Round) -> f64| {
            let pairs = all[0][who].iter().zip(&all[0][0]);
            median(&pairs.map(|(ours, direct)| of(ours) - of(direct)).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        println!(
            "{:<14} {:>7.0} {:>7.0} {:>7.0} {:>7.0}  {:>8.0} {:>8.1} {:>8.1} {:>6.0}  {:>10.0} {:>7.2} {:>8.2} {:>5}  {:>7.1} {:>8.1} {:>8.1} {:>5} {:>5.0}",
            one.peer.name(),
            figure(0, |round| round.p50_us),
            figure(0, |round| round.p99_us),
            added(|round| round.p50_us),
            added(|round| round.p99_us),
            figure(1, |round| round.per_second),
            figure(1, |round| round.cpu_us),
            figure(1, |round| round.cpu_settled_us),
            figure(1, |round| round.p99_us),
            figure(2, |round| round.per_second),
            figure(2, |round| round.cpu_us),
            figure(2, |round| round.cpu_settled_us),
            errors(&[0, 1, 2]),
            figure(3, |round| round.cpu_us),
            figure(3, |round| round.cpu_settled_us),
            figure(3, |round| round.first_us) / 1e3,
            errors(&[3]),
            one.memory_mib(mocks),
        );
    }
}
