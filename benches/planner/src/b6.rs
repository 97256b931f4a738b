//! B6: how much of its time a gang works, under faults, checkpoints, spares and nodes that fail often: simulated,
//! beside the closed form of the planner.
//!
//! The closed form assumes: failures come one by one with exponential gaps at the summed rate of the gang's nodes, in
//! work, while a checkpoint is written and during restarts alike; each loses half an interval and the part of it that
//! was written; a spare is at once there. The simulation assumes none but the first: it counts what each failure
//! loses, lets failures hit restarts, and waits where no spare is left.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "measured rates become whole ones")]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use galerne_planner::reliability::{self, Checkpointing, FailureRate};

use crate::table::{Bound, Csv, Row, Table};
use galerne_bench_chart::{self as chart, Axes, Series};

mod simulation;

use simulation::{Fleet, Outcome, Replace, Scenario};

/// Restart 5 min, checkpoint written in 10 s, one every 5 min: as in the published figures.
const COST: Checkpointing = Checkpointing { write_ms: 10_000, restart_ms: 300_000 };
const INTERVAL_MS: u32 = 300_000;
const REPAIR_SECONDS: u32 = 86_400;
const SPARE_QUANTILE_PPM: u32 = 999_000;
const GPUS: [u32; 5] = [1024, 2048, 4096, 8192, 16_384];
const WITH_LEMONS: [u32; 2] = [4096, 16_384];
const EVEN: &str = "even";
const BY_ID: &str = "lemons, by id";
const RANKED: &str = "lemons, ranked";
const NO_SPARES: &str = "even, no spares";
const RATES: [(&str, FailureRate); 2] = [("6.50", FailureRate::RSC_1), ("3.79", FailureRate::LLAMA_3)];

const HEADER: &str = "case,failures_per_1000_node_days,gpus,interval_s,spares,failures,days,ettr_simulated,ettr_closed_form,\
                      difference_percent,ettr_renewal,rate_in_use_percent,spare_hit_percent,wait_p99_s,goodput_percent";

pub(crate) fn run(data: &Path, out: &Path) -> Result<Table> {
    let causes = read_causes(&data.join("ops/llama3_405b_interruptions.csv"))?;
    let mut table = Table::new("B6 goodput: effective training time ratio (ETTR), simulated against the closed form");
    let mut csv = Csv::new(out.join("b6.csv"), HEADER);
    let mut drawn = Vec::new();
    let mut lines = Vec::new();
    for (name, rate) in RATES {
        let mut curves = [Vec::new(), Vec::new()];
        for gpus in GPUS {
            let best = reliability::best_interval_ms(gpus / 8, rate, COST).unwrap_or(INTERVAL_MS);
            lines.push(measure(EVEN, name, rate, gpus, INTERVAL_MS, &causes));
            let line = measure(EVEN, name, rate, gpus, best, &causes);
            curves[0].push((f64::from(gpus), line.outcome.ettr));
            curves[1].push((f64::from(gpus), line.closed));
            lines.push(line);
        }
        let [simulated, closed] = curves;
        drawn.push(Series::new(format!("simulated, {name} per 1,000 node-days"), simulated));
        drawn.push(Series::new(format!("closed form, {name}"), closed));
    }
    for gpus in WITH_LEMONS {
        for case in [BY_ID, RANKED, NO_SPARES] {
            lines.push(measure(case, "6.50", FailureRate::RSC_1, gpus, INTERVAL_MS, &causes));
        }
    }
    for line in &lines {
        line.write(&mut csv);
        line.show(&mut table);
    }
    summary(&lines, &mut table);
    notes(&mut table, &causes);
    csv.finish()?;
    draw(&out.join("b6.svg"), &drawn)?;
    Ok(table)
}

fn notes(table: &mut Table, causes: &Causes) {
    table.note("reference: Llama 3 405B, 16,384 H100: more than 90 % effective (3.79); closed form at the RSC-1 rate 0.901 (Kokolis et al.).");
    table.note(format!(
        "even: all nodes fail alike. lemons: 5 % of the nodes fail ten times as often, the mean is the same; the fleet has 15 % more nodes than the gang, where work runs that gives way. {:.0} % of failures ({} of {}) are of hardware and take a node away for 24 h.",
        100.0 * causes.hardware_share(),
        causes.hardware,
        causes.all
    ));
    table.note("by id: the lowest id takes a lost node's place. ranked: the planner's `replacements` and lemon ranks; at each restart nodes of rank above zero are left out where better ones are free.");
    table.note("the closed form is taken at the mean rate of the nodes in use, which ranks lower; without spares it does not apply (waiting for a repair is not in it).");
}

/// Failures by what they mean for the node.
pub(crate) struct Causes {
    /// The node leaves for repair.
    hardware: u32,
    all: u32,
}

impl Causes {
    fn hardware_share(&self) -> f64 {
        f64::from(self.hardware) / f64::from(self.all)
    }
}

/// Software and unknown causes (categories `Dependency`, `Unknown`) restart in place; all others take the node away.
fn read_causes(path: &Path) -> Result<Causes> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut causes = Causes { hardware: 0, all: 0 };
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        ensure!(cells.len() >= 3, "`{}`: `{line}` has fewer than three columns", path.display());
        let count: u32 = cells[2].parse().with_context(|| format!("`{}`: `{line}`", path.display()))?;
        causes.all += count;
        causes.hardware += if matches!(cells[1], "Dependency" | "Unknown") { 0 } else { count };
    }
    ensure!(causes.all > 0, "`{}` has no causes", path.display());
    Ok(causes)
}

/// One simulated case beside its closed form.
struct Line {
    case: &'static str,
    rate_name: &'static str,
    gpus: u32,
    interval_ms: u32,
    spares: u32,
    closed: f64,
    renewal: f64,
    outcome: Outcome,
    seconds: f64,
}

fn measure(
    case: &'static str,
    rate_name: &'static str,
    rate: FailureRate,
    gpus: u32,
    interval_ms: u32,
    causes: &Causes,
) -> Line {
    let begun = Instant::now();
    let nodes = gpus / 8;
    // Of all failures those that take a node away, rounded up.
    let hardware = FailureRate((f64::from(rate.0) * causes.hardware_share()).ceil() as u32);
    let needed = reliability::spares(nodes, hardware, REPAIR_SECONDS, SPARE_QUANTILE_PPM);
    let (fleet, replace, spares) = match case {
        NO_SPARES => (Fleet::Even, Replace::ById, 0),
        BY_ID => (Fleet::WithLemons, Replace::ById, nodes * 15 / 85),
        RANKED => (Fleet::WithLemons, Replace::Ranked, nodes * 15 / 85),
        _ => (Fleet::Even, Replace::ById, needed),
    };
    let scenario = Scenario {
        nodes,
        spares,
        fleet,
        replace,
        failures_per_day: f64::from(rate.0) / 1e6,
        hardware_share: causes.hardware_share(),
        repair: f64::from(REPAIR_SECONDS),
        write: f64::from(COST.write_ms) / 1000.0,
        restart: f64::from(COST.restart_ms) / 1000.0,
        interval: f64::from(interval_ms) / 1000.0,
    };
    let outcome = scenario.run();
    let in_use = FailureRate((outcome.mean_rate * 1e6).round() as u32);
    let closed = f64::from(reliability::expected_ettr_ppm(nodes, in_use, COST, interval_ms)) / 1e6;
    let renewal = scenario.renewal(outcome.mean_rate);
    let seconds = begun.elapsed().as_secs_f64();
    Line { case, rate_name, gpus, interval_ms, spares, closed, renewal, outcome, seconds }
}

impl Line {
    fn difference_percent(&self) -> f64 {
        (self.outcome.ettr / self.closed - 1.0) * 100.0
    }

    /// Work done per node-time of the gang and its spares together.
    fn goodput_percent(&self) -> f64 {
        let nodes = f64::from(self.gpus / 8);
        let held = if matches!(self.case, BY_ID | RANKED) { nodes } else { nodes + f64::from(self.spares) };
        100.0 * self.outcome.ettr * nodes / held
    }

    fn write(&self, csv: &mut Csv) {
        let outcome = &self.outcome;
        let nominal: f64 = self.rate_name.parse().unwrap_or(f64::NAN);
        csv.line(&[
            &self.case,
            &self.rate_name,
            &self.gpus,
            &format!("{:.1}", f64::from(self.interval_ms) / 1000.0),
            &self.spares,
            &outcome.failures,
            &format!("{:.0}", outcome.days),
            &format!("{:.5}", outcome.ettr),
            &format!("{:.5}", self.closed),
            &format!("{:.3}", self.difference_percent()),
            &format!("{:.5}", self.renewal),
            &format!("{:.1}", outcome.mean_rate * 1e5 / nominal),
            &format!("{:.2}", outcome.spare_hit_percent),
            &format!("{:.0}", outcome.wait_p99),
            &format!("{:.2}", self.goodput_percent()),
        ]);
    }

    fn show(&self, table: &mut Table) {
        let within = Bound::new("within 2 %", self.difference_percent().abs() <= 2.0);
        table.push(Row {
            what: format!(
                "{}, {} GPUs at {}, every {:.1} min, {} spares",
                self.case,
                self.gpus,
                self.rate_name,
                f64::from(self.interval_ms) / 60_000.0,
                self.spares,
            ),
            peer: format!("{:.4}", self.closed),
            ours: format!("{:.4}", self.outcome.ettr),
            difference: format!("{:+.2} %", self.difference_percent()),
            bound: (self.case != NO_SPARES).then_some(within),
            seconds: Some(self.seconds),
        });
    }
}

/// What the lines together say of spares, ranks and published figures.
fn summary(lines: &[Line], table: &mut Table) {
    let of = |case: &'static str, gpus: u32| lines.iter().filter(move |line| line.gpus == gpus && line.case == case);
    let least = lines.iter().filter(|line| line.case == EVEN).map(|line| line.outcome.spare_hit_percent);
    let least = least.fold(100.0, f64::min);
    table.push(Row {
        what: "failures that find a spare at once, %, worst even case".to_owned(),
        ours: format!("{least:.1}"),
        bound: Some(Bound::new(">= 99 %", least >= 99.0)),
        ..Row::default()
    });
    for gpus in WITH_LEMONS {
        for (by_id, ranked) in of(BY_ID, gpus).zip(of(RANKED, gpus)) {
            let gain = (ranked.outcome.ettr / by_id.outcome.ettr - 1.0) * 100.0;
            table.push(Row {
                what: format!("lemons, {gpus} GPUs: ranked against by id"),
                peer: format!("{:.4}", by_id.outcome.ettr),
                ours: format!("{:.4}", ranked.outcome.ettr),
                difference: format!("{gain:+.2} %"),
                bound: Some(Bound::new("ranked is better", gain > 0.0)),
                ..Row::default()
            });
        }
    }
    let effective = of(EVEN, 16_384).filter(|line| line.rate_name == "3.79").map(|line| line.outcome.ettr);
    let effective = effective.fold(0.0, f64::max);
    table.push(Row {
        what: "16384 GPUs at 3.79, best interval (reference: Llama 3)".to_owned(),
        peer: "> 0.90".to_owned(),
        ours: format!("{effective:.4}"),
        ..Row::default()
    });
}

fn draw(path: &Path, series: &[Series]) -> Result<()> {
    let axes = Axes {
        title: "Effective time of a gang under failures, best checkpoint interval".to_owned(),
        x: "GPUs".to_owned(),
        y: "effective training time ratio".to_owned(),
        y_range: Some((0.85, 1.04)),
        ..Axes::default()
    };
    chart::lines(path, &axes, series)
}
