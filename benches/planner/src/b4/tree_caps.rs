//! B4b: a site's watts shared among its nodes once a second for an hour, under the caps of site, hall, row, PDU, rack
//! and node, with floors for two tenant classes. Every answer is proved: no cap exceeded, the optimum of the linear
//! programme, max-min fair.
//!
//! What nodes ask is drawn from the power distribution of the Acme servers, scaled to a node's nameplate. Nodes of one
//! job draw together: a job keeps its quantile for half a minute to five minutes, its nodes differ by a few percent.
//! Were nodes drawn one by one, a row of a hundred would never come near its cap and nothing were to be decided.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "drawn shares become whole watts and places"
)]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use galerne_planner::fleet::PowerSpec;
use galerne_planner::power::PowerTree;
use galerne_planner::power::allocate::{Allocation, Allocator, Ask};
use galerne_planner::power::certificate::{self, Breach};
use galerne_planner::units::{PowerId, TenantClass};

use super::admission;
use crate::random::SplitMix64;
use crate::table::{Bound, Csv, Row, Table};
use crate::timing::Samples;
use galerne_bench_chart::{self as chart, Axes, Series};

const HOUR: u32 = 3600;
const SEED: u64 = 40;
/// nvPAX (arXiv 2605.01837), on telemetry of its own: a reference, not the same work.
const PEER_SATISFACTION: f64 = 98.92;
const PEER_MS: f64 = 264.69;
const SITE_WATTS: i64 = 40_000_000;
/// The grid asks for less from minute 40 to 50, in every case.
const CURTAILED: std::ops::Range<u32> = 2400..3000;

/// A fleet. Each level groups so many of the one below.
pub(super) struct Case {
    pub(super) name: &'static str,
    gpus: u32,
    /// What draws power by itself: a node, or an NVL72 tray.
    nodes: u32,
    pub(super) node_watts: i64,
    nodes_in_rack: u32,
    racks_in_pdu: u32,
    pdus_in_row: u32,
    rows_in_hall: u32,
    /// Allocations, one a second.
    seconds: u32,
}

impl Case {
    const fn boxes(name: &'static str, nodes: u32, node_watts: i64) -> Self {
        let (nodes_in_rack, racks_in_pdu, pdus_in_row, rows_in_hall) = (4, 8, 4, 8);
        let (gpus, seconds) = (nodes * 8, HOUR);
        Self { name, gpus, nodes, node_watts, nodes_in_rack, racks_in_pdu, pdus_in_row, rows_in_hall, seconds }
    }

    /// 40 MW for 45,000 GPUs, in proportion for fewer.
    fn site_watts(&self) -> i64 {
        SITE_WATTS * i64::from(self.gpus) / 45_000
    }
}

const CASES: [Case; 5] = [
    Case::boxes("S1 2,250 x 10.2 kW", 2250, 10_200),
    Case::boxes("S2 5,625 x 10.2 kW", 5625, 10_200),
    Case::boxes("S2 5,625 x 14.3 kW", 5625, 14_300),
    // 132 kW a rack of 18 trays with four GPUs each.
    Case {
        name: "NVL72 625 x 132 kW",
        gpus: 45_000,
        nodes: 11_250,
        node_watts: 7333,
        nodes_in_rack: 18,
        racks_in_pdu: 2,
        pdus_in_row: 4,
        rows_in_hall: 10,
        seconds: HOUR,
    },
    // How the cost grows: ten sites as one, for the first minutes.
    Case { seconds: 120, ..Case::boxes("10 x S2, 56,250 x 14.3 kW", 56_250, 14_300) },
];
/// The one that is drawn.
const DRAWN: usize = 2;

/// What an hour came to.
#[derive(Default)]
struct Hour {
    asked: i128,
    given: i128,
    static_split: i128,
    gap_watts: i64,
    breaches: Vec<String>,
    violations: u32,
    times: Samples,
    /// Asked, given and cap in MW, each second.
    curves: [Vec<(f64, f64)>; 3],
}

pub(crate) fn run(data: &Path, out: &Path, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let distribution = read_distribution(&data.join("power/acme_power_cdf.csv"))?;
    for (place, case) in CASES.iter().enumerate() {
        let begun = Instant::now();
        let hour = run_case(case, &distribution);
        report(case, &hour, begun.elapsed().as_secs_f64(), table, csv);
        if place == DRAWN {
            draw(case, &hour, &out.join("b4_power.svg"))?;
            admission::run(case, &distribution, table, csv);
        }
    }
    table.note("B4b reference: nvPAX 98.92 % and 264.69 ms on production telemetry of its own; satisfaction here is the optimum of the linear programme, which caps and demand decide.");
    table.note("B4b proofs: every cap at every level, the optimum of the linear programme, max-min fairness, floors; by a checker that shares no code with the allocator.");
    table.note("B4b static split: each node gets its share of every cap above it, idle watts of others unused.");
    Ok(())
}

/// Watts of the 8-GPU Acme server at every thousandth of its distribution, as a share of the greatest.
fn read_distribution(path: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = header.iter().position(|name| *name == "gpu_server_8xa100_w");
    let column = column.with_context(|| format!("`{}` has no column `gpu_server_8xa100_w`", path.display()))?;
    let mut watts = Vec::new();
    for line in lines {
        let cell = line.split(',').nth(column).unwrap_or_default();
        watts.push(cell.parse::<f64>().with_context(|| format!("`{}`: `{cell}` is no number", path.display()))?);
    }
    let most = watts.iter().copied().fold(0.0, f64::max);
    anyhow::ensure!(most > 0.0, "`{}` has no watts", path.display());
    Ok(watts.iter().map(|watts| watts / most).collect())
}

fn run_case(case: &Case, distribution: &[f64]) -> Hour {
    let (specs, points) = power_points(case);
    let mut tree = PowerTree::new(&specs);
    let mut allocator = Allocator::new(&tree, &points);
    let mut demand = Demand::new(case, distribution);
    let shares = static_shares(&tree, &points, case.node_watts);
    let (mut hour, mut answer) = (Hour::default(), Allocation::default());
    for second in 0..case.seconds {
        let cap = if CURTAILED.contains(&second) { case.site_watts() * 4 / 5 } else { case.site_watts() };
        tree.set_cap(PowerId(0), cap);
        demand.step();
        let begun = Instant::now();
        allocator.allocate(&tree, &demand.asks, &mut answer);
        hour.times.push(begun.elapsed());
        let asked: i64 = demand.asks.iter().map(|ask| ask.ask_watts).sum();
        let given: i64 = answer.watts.iter().zip(&demand.asks).map(|(&watts, ask)| watts.min(ask.ask_watts)).sum();
        match certificate::check(&tree, &points, &demand.asks, &answer) {
            Ok(proof) => hour.gap_watts += proof.optimum_watts - given,
            Err(breach) => {
                hour.violations += u32::from(matches!(breach, Breach::OverCap { .. }));
                hour.breaches.push(format!("second {second}: {breach}"));
            }
        }
        hour.asked += i128::from(asked);
        hour.given += i128::from(given);
        let split = demand.asks.iter().zip(&shares).map(|(ask, share)| {
            let share = if CURTAILED.contains(&second) { share.1 } else { share.0 };
            i128::from(ask.ask_watts.min(share))
        });
        hour.static_split += split.sum::<i128>();
        for (curve, watts) in hour.curves.iter_mut().zip([given, asked, cap]) {
            curve.push((f64::from(second) / 60.0, watts as f64 / 1e6));
        }
    }
    hour
}

/// Site, halls, rows, PDUs, racks and nodes; each node's point. Rows carry a tenth less than their nodes' nameplates;
/// racks and PDUs carry theirs. Class 1 keeps a tenth of every hall's, class 2 a fifth of the site's cap (before the
/// grid asks for less).
pub(super) fn power_points(case: &Case) -> (Vec<PowerSpec>, Vec<PowerId>) {
    let point = |parent: Option<PowerId>, cap_watts: i64| PowerSpec { parent, cap_watts, floors: vec![] };
    let mut specs = vec![point(None, case.site_watts())];
    specs[0].floors = vec![(TenantClass(2), case.site_watts() / 5)];
    let groups = [case.rows_in_hall, case.pdus_in_row, case.racks_in_pdu, case.nodes_in_rack];
    let sizes: Vec<u32> = (0..groups.len()).map(|from| groups[from..].iter().product()).collect();
    let mut points = Vec::new();
    let mut open = [PowerId(0); 5];
    for node in 0..case.nodes {
        for (level, &size) in sizes.iter().enumerate() {
            if node % size == 0 {
                let nameplate = i64::from(size.min(case.nodes - node)) * case.node_watts;
                // Halls are fed for what their rows may draw.
                let cap = if level <= 1 { nameplate * 10 / 11 } else { nameplate };
                let mut spec = point(Some(open[level]), cap);
                if level == 0 {
                    spec.floors = vec![(TenantClass(1), cap / 10)];
                }
                open[level + 1] = PowerId(specs.len() as u32);
                specs.push(spec);
            }
        }
        points.push(PowerId(specs.len() as u32));
        specs.push(point(Some(open[4]), case.node_watts));
    }
    (specs, points)
}

/// What each node would get if every cap were divided among the nodes below it once and for all: on ordinary days, and
/// while the grid asks for less.
fn static_shares(tree: &PowerTree, points: &[PowerId], node_watts: i64) -> Vec<(i64, i64)> {
    let path = |&point: &PowerId| std::iter::successors(Some(point), |&power| tree.parent(power));
    let mut nodes = vec![0_i64; tree.len()];
    points.iter().flat_map(path).for_each(|power| nodes[power.0 as usize] += 1);
    let share = |point: &PowerId, site_fifths: i64| {
        let caps = path(point).map(|power| {
            let cap = if power.0 == 0 { tree.cap(power) * site_fifths / 5 } else { tree.cap(power) };
            cap / nodes[power.0 as usize]
        });
        caps.min().unwrap_or(node_watts)
    };
    points.iter().map(|point| (share(point, 5), share(point, 4))).collect()
}

/// What the nodes ask, second by second.
struct Demand<'a> {
    random: SplitMix64,
    distribution: &'a [f64],
    node_watts: i64,
    jobs: Vec<Job>,
    asks: Vec<Ask>,
}

/// Nodes side by side that draw together.
struct Job {
    nodes: std::ops::Range<usize>,
    quantile: f64,
    seconds_left: u32,
}

impl<'a> Demand<'a> {
    fn new(case: &Case, distribution: &'a [f64]) -> Self {
        let mut random = SplitMix64::new(SEED);
        let (mut jobs, mut asks) = (Vec::new(), Vec::new());
        // What a node draws at least, as the lowest thousandth of the servers that were on.
        let idle = distribution.iter().copied().find(|&share| share > 0.0).unwrap_or(0.0);
        let least_watts = (idle * case.node_watts as f64) as i64;
        while asks.len() < case.nodes as usize {
            // One node to 256, each doubling as likely.
            let size = (1_usize << random.below(9)).min(case.nodes as usize - asks.len());
            let priority = [0, 0, 0, 1, 1, 2][random.below(6) as usize];
            let class = TenantClass([0, 0, 1, 2][random.below(4) as usize]);
            jobs.push(Job { nodes: asks.len()..asks.len() + size, quantile: 0.0, seconds_left: 0 });
            asks.extend(std::iter::repeat_n(Ask { class, priority, least_watts, ask_watts: 0 }, size));
        }
        Self { random, distribution, node_watts: case.node_watts, jobs, asks }
    }

    fn step(&mut self) {
        for job in &mut self.jobs {
            if job.seconds_left == 0 {
                job.quantile = self.random.unit();
                job.seconds_left = 30 + self.random.below(270);
            }
            job.seconds_left -= 1;
            for node in job.nodes.clone() {
                let quantile = (job.quantile + 0.05 * (self.random.unit() - 0.5)).clamp(0.0, 1.0);
                let place = (quantile * (self.distribution.len() - 1) as f64).round() as usize;
                self.asks[node].ask_watts = (self.distribution[place] * self.node_watts as f64) as i64;
            }
        }
    }
}

fn percent(part: i128, whole: i128) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn report(case: &Case, hour: &Hour, seconds: f64, table: &mut Table, csv: &mut Csv) {
    let satisfaction = percent(hour.given, hour.asked);
    let split = percent(hour.static_split, hour.asked);
    let (p50, p99) = (hour.times.p50() * 1000.0, hour.times.p99() * 1000.0);
    let what = |figure: &str| format!("b {}: {figure}", case.name);
    table.push(Row {
        what: what("satisfied, % (peer: static split)"),
        peer: format!("{split:.2}"),
        ours: format!("{satisfaction:.2}"),
        difference: format!("{:+.2}", satisfaction - split),
        seconds: Some(seconds),
        ..Row::default()
    });
    table.push(Row {
        what: format!("b {}: failed of {} proofs", case.name, case.seconds),
        ours: hour.breaches.len().to_string(),
        bound: Some(Bound::new("0", hour.breaches.is_empty())),
        ..Row::default()
    });
    table.push(Row {
        what: what("gap to the LP, W"),
        ours: hour.gap_watts.to_string(),
        bound: Some(Bound::new("0", hour.gap_watts == 0 && hour.breaches.is_empty())),
        ..Row::default()
    });
    table.push(Row {
        what: what("one allocation, ms p50 / p99 (nvPAX)"),
        peer: format!("{PEER_MS}"),
        ours: format!("{p50:.3} / {p99:.3}"),
        // Promised for 45,000 GPUs; of the p99, as in B5.
        bound: (case.gpus <= 45_000).then(|| Bound::new("<= 5 ms", p99 <= 5.0)),
        ..Row::default()
    });
    if let Some(first) = hour.breaches.first() {
        table.note(format!("B4b {}: {first}", case.name));
    }
    let mut line = |metric: &str, value: f64, unit: &str, peer: &str| {
        csv.line(&[&"b", &case.name, &metric, &format!("{value:.4}"), &unit, &peer]);
    };
    line("satisfaction", satisfaction, "percent", &PEER_SATISFACTION.to_string());
    line("satisfaction_static_split", split, "percent", "");
    line("cap_violations", f64::from(hour.violations), "count", "");
    line("failed_proofs", hour.breaches.len() as f64, "count", "");
    line("gap_to_lp", hour.gap_watts as f64, "W", "");
    line("allocations", hour.times.len() as f64, "count", "");
    line("allocation_p50", p50, "ms", &PEER_MS.to_string());
    line("allocation_p99", p99, "ms", "");
}

fn draw(case: &Case, hour: &Hour, path: &Path) -> Result<()> {
    let axes = Axes {
        title: format!("Power against the envelope, {}", case.name),
        x: "minute".to_owned(),
        y: "MW".to_owned(),
        y_range: Some((case.site_watts() as f64 * 0.6 / 1e6, case.site_watts() as f64 * 1.25 / 1e6)),
        x_range: Some((0.0, 60.0)),
        ..Axes::default()
    };
    let names = ["given", "asked", "cap of the site"];
    let series: Vec<Series> =
        names.iter().zip(&hour.curves).map(|(&name, curve)| Series::new(name, curve.clone())).collect();
    chart::lines(path, &axes, &series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_oversubscribed_by_a_tenth_and_every_node_has_a_path_to_the_site() {
        let case = Case::boxes("small", 300, 1100);
        let (specs, points) = power_points(&case);
        let tree = PowerTree::new(&specs);
        let path = |point: PowerId| std::iter::successors(Some(point), |&power| tree.parent(power)).collect::<Vec<_>>();
        let first = path(points[0]);
        let caps: Vec<i64> = first.iter().map(|&power| tree.cap(power)).collect();
        // Node, rack of 4, PDU of 32, row of 128 less a tenth, hall of 300 less a tenth, site.
        assert_eq!(caps, [1100, 4400, 35_200, 128_000, 300_000, case.site_watts()]);
        assert!(points.iter().all(|&point| path(point).len() == 6));
        // The last row has the 44 nodes that are left.
        assert_eq!(tree.cap(path(points[299])[3]), 44_000);
    }

    #[test]
    fn nodes_of_one_job_draw_together_within_their_nameplates() {
        let distribution: Vec<f64> = (0..=1000).map(|at| f64::from(at) / 1000.0).collect();
        let case = Case::boxes("small", 300, 10_000);
        let mut demand = Demand::new(&case, &distribution);
        for _ in 0..100 {
            demand.step();
            for job in &demand.jobs {
                let watts = demand.asks[job.nodes.clone()].iter().map(|ask| ask.ask_watts);
                let (least, most) = (watts.clone().min().unwrap_or(0), watts.max().unwrap_or(0));
                assert!((0..=10_000).contains(&least) && most <= 10_000 && most - least <= 510, "{least} to {most}");
            }
        }
    }
}
