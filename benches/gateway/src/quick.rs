//! The figures of the data path in under a minute, for whoever changes it.

use anyhow::Result;

use crate::load::{Load, run};
use crate::peers::{Mocks, Peer, Places, Running};
use crate::stats::{P50, P99, median};
use crate::steps::{Round, Step, round};

const LOADS: [Step; 4] = [Step::Latency, Step::Plain, Step::Burst, Step::Paced];

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
    let mut all = vec![vec![Vec::new(); running.len()]; LOADS.len()];
    for _ in 0..rounds {
        for (step, of_load) in LOADS.iter().zip(&mut all) {
            for (one, rounds) in running.iter().zip(of_load) {
                rounds.push(round(one, &mocks, step.load(seconds))?);
            }
        }
    }
    print(&running, &all, &mocks);
    Ok(())
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
        let errors = |places: &[usize]| {
            places.iter().flat_map(|place| &all[*place][who]).map(|round| round.report.errors()).sum::<u64>()
        };
        // Against the mock in the same round.
        let added = |of: fn(&Round) -> f64| {
            let pairs = all[0][who].iter().zip(&all[0][0]);
            median(&pairs.map(|(ours, direct)| of(ours) - of(direct)).collect::<Vec<_>>()).unwrap_or(f64::NAN)
        };
        println!(
            "{:<14} {:>7.0} {:>7.0} {:>7.0} {:>7.0}  {:>8.0} {:>8.1} {:>8.1} {:>6.0}  {:>10.0} {:>7.2} {:>8.2} {:>5}  {:>7.1} {:>8.1} {:>8.1} {:>5} {:>5.0}",
            one.peer.name(),
            figure(0, |round| round.report.latency_us(P50)),
            figure(0, |round| round.report.latency_us(P99)),
            added(|round| round.report.latency_us(P50)),
            added(|round| round.report.latency_us(P99)),
            figure(1, |round| round.per_second()),
            figure(1, |round| round.cpu_us),
            figure(1, |round| round.cpu_settled_us),
            figure(1, |round| round.report.latency_us(P99)),
            figure(2, |round| round.per_second()),
            figure(2, |round| round.cpu_us),
            figure(2, |round| round.cpu_settled_us),
            errors(&[0, 1, 2]),
            figure(3, |round| round.cpu_us),
            figure(3, |round| round.cpu_settled_us),
            figure(3, |round| round.report.first_us(P50)) / 1e3,
            errors(&[3]),
            one.memory_mib(mocks),
        );
    }
}
