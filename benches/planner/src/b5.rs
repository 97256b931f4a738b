//! B5: gangs, topology, sharing and speed, on generated fleets and jobs.
//!
//! Speed is measured first and alone; then days are replayed under the planner and under peers that were written again
//! from their descriptions.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::table::{Bound, Csv, Row, Table};
use crate::timing::Samples;
use galerne_bench_chart::{Axes, Scale, Series, lines};

mod fleet;
mod galerne;
mod measure;
mod occupancy;
mod peers;
mod replay;
mod site;
mod speed;
mod workload;

use fleet::{Layout, S1, S2, S3};
use speed::Variety;

/// The load at which gangs must lie compactly.
const MAIN_LOAD: f64 = 0.85;

const FULL_PASS_SECONDS: f64 = 0.010;
const EVENT_SECONDS: f64 = 50e-6;
const PREEMPTION_SECONDS: f64 = 0.010;
const MEMORY_MIB: f64 = 256.0;

pub(crate) fn run(_data: &Path, out: &Path) -> Result<Table> {
    let mut table = Table::new(
        "B5  gangs, topology, sharing, speed (generated; peers written again, published times for reference only)",
    );
    let mut csv = Csv::new(out.join("b5.csv"), "fleet,metric,p50,p99,unit");
    for layout in [S2, S3] {
        speed_of(&layout, &mut table, &mut csv)?;
    }
    growth(out, &mut table, &mut csv)?;
    eprintln!("b5: replays, three fleets, three loads, five schedulers");
    let begun = Instant::now();
    let runs = replay::all()?;
    table.note(format!(
        "Replays took {:.1} s on as many threads as there are processors.",
        begun.elapsed().as_secs_f64()
    ));
    replay::rows(&runs, &mut table);
    replay::lines(&runs, &mut csv);
    replay::draw(&runs, out)?;
    csv.finish()?;
    table.note(
        "Times: one thread, median / p99 of 100 runs (3 where singles are all different); the bound is on the p99.",
    );
    table.note("Published times are of other programs on other machines with other work: for orientation only.");
    table.note("Peers of the replay: same jobs, failures and ticks of 30 s; they know neither power caps nor shares.");
    Ok(table)
}

/// The times of one fleet alone: `FLEET`, or `FLEET:PART`.
pub(crate) fn times(what: &str) -> Result<Table> {
    let (fleet, part) = what.split_once(':').unwrap_or((what, ""));
    let layout = layout_of(fleet)?;
    let mut table = Table::new("B5  times of one fleet");
    let mut csv = Csv::new(std::path::PathBuf::new(), "fleet,metric,p50,p99,unit");
    match part {
        "" => times_of(&layout, &mut table, &mut csv)?,
        "passes" => pass_times(&layout, Variety::Usual, &mut table, &mut csv)?,
        "events" => event_times(&layout, &mut table, &mut csv)?,
        "preemption" => preemption_times(&layout, &mut table, &mut csv)?,
        other => bail!("there is no part `{other}`\nhint: passes, events and preemption are all there are"),
    }
    Ok(table)
}

/// The figures of one replay alone: `FLEET:LOAD:SCHEDULER`, `FLEET:LOAD:SCHEDULER:DAYS` or
/// `FLEET:LOAD:SCHEDULER:DAYS:SEED`.
pub(crate) fn one_replay(which: &str) -> Result<Table> {
    let parts: Vec<&str> = which.split(':').collect();
    let (fleet, load, scheduler, days, seed) = match parts[..] {
        [fleet, load, scheduler] => (fleet, load, scheduler, "14", "1"),
        [fleet, load, scheduler, days] => (fleet, load, scheduler, days, "1"),
        [fleet, load, scheduler, days, seed] => (fleet, load, scheduler, days, seed),
        _ => bail!("`{which}` is no replay\nhint: FLEET:LOAD:SCHEDULER:DAYS:SEED, as S1:0.85:galerne:14:1"),
    };
    let layout = layout_of(fleet)?;
    let load: f64 = load.parse().with_context(|| format!("`{load}` is no load"))?;
    let days: i64 = days.parse().with_context(|| format!("`{days}` is no number of days"))?;
    let seed: u64 = seed.parse().with_context(|| format!("`{seed}` is no seed"))?;
    replay::alone(layout, load, scheduler, days, seed)
}

fn layout_of(fleet: &str) -> Result<Layout> {
    let known = [S1, S2, S3].into_iter().find(|layout| layout.name == fleet);
    known.with_context(|| format!("there is no fleet `{fleet}`\nhint: S1, S2 and S3 are all there are"))
}

/// What a process that does nothing else needs for one full pass; called by the child that `memory` starts.
pub(crate) fn resident_memory(fleet: &str) -> Result<f64> {
    let mut planner = speed::busy(&layout_of(fleet)?, Variety::Usual)?;
    let plan = planner.plan(galerne_planner::units::At(10));
    let resident = speed::resident_mib()?;
    // The plan is needed until here: it is a part of what is held.
    drop(plan);
    Ok(resident)
}

fn memory(layout: &Layout) -> Result<f64> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let output = Command::new(program).args(["--memory-of", layout.name]).output().context("cannot start a process")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().with_context(|| format!("the process that measures memory said `{}`", text.trim()))
}

fn speed_of(layout: &Layout, table: &mut Table, csv: &mut Csv) -> Result<()> {
    times_of(layout, table, csv)?;
    memory_and_hash(layout, table, csv)
}

fn times_of(layout: &Layout, table: &mut Table, csv: &mut Csv) -> Result<()> {
    pass_times(layout, Variety::Usual, table, csv)?;
    // The worst case is for orientation, without a bound: one fleet and three runs must do.
    if layout.name == S2.name {
        pass_times(layout, Variety::EachItsOwn, table, csv)?;
    }
    event_times(layout, table, csv)?;
    preemption_times(layout, table, csv)
}

fn pass_times(layout: &Layout, variety: Variety, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let count = speed::pending(layout);
    let (name, metric, runs, bound) = match variety {
        Variety::Usual => ("", "", 100, Some(FULL_PASS_SECONDS)),
        Variety::EachItsOwn => (", singles all different", "_each_its_own", 3, None),
    };
    let (empty, plan) = speed::full_pass(&mut speed::waiting(layout, count, variety)?, runs)?;
    let what = format!("full pass, {count} waiting, {} start{name}", plan.placements.len());
    push(table, layout, &what, "KAI 2.35 s a cycle", &empty, bound);
    time(csv, layout, &format!("full_pass_empty{metric}"), &empty);
    let (full, plan) = speed::full_pass(&mut speed::busy(layout, variety)?, runs)?;
    let what = format!("full pass on a full fleet, {} waiting{name}", plan.waiting.len());
    push(table, layout, &what, "", &full, bound);
    time(csv, layout, &format!("full_pass_full{metric}"), &full);
    Ok(())
}

fn event_times(layout: &Layout, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let busy = speed::busy(layout, Variety::Usual)?;
    let times = speed::events(&busy, layout)?;
    for (kind, samples) in times.answered {
        push(table, layout, &format!("event and step: {kind}"), "", &samples, Some(EVENT_SECONDS));
        time(csv, layout, &format!("event_{}", kind.replace(' ', "_")), &samples);
    }
    push(table, layout, "event without its step, all kinds", "", &times.alone, None);
    time(csv, layout, "event_alone", &times.alone);
    let (many, each) = (speed::MANY_STARTS, &times.each_start);
    let what = format!("event and step, each of its starts, {} that start {many} or more", each.len());
    push(table, layout, &what, "", each, None);
    time(csv, layout, "event_each_start", each);
    Ok(())
}

fn preemption_times(layout: &Layout, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let (samples, stopping) = speed::preemption(layout)?;
    let what = format!("preemption decision, {stopping} of {} stop others", samples.len());
    push(table, layout, &what, "Kueue TAS up to 40 s", &samples, Some(PREEMPTION_SECONDS));
    time(csv, layout, "preemption", &samples);
    Ok(())
}

fn memory_and_hash(layout: &Layout, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let mib = memory(layout)?;
    table.push(Row {
        what: format!("{} resident memory of the whole process, MiB", layout.name),
        ours: format!("{mib:.0}"),
        bound: Some(Bound::new("<= 256 MiB", mib <= MEMORY_MIB)),
        ..Row::default()
    });
    csv.line(&[&layout.name, &"resident_memory", &format!("{mib:.1}"), &format!("{mib:.1}"), &"MiB"]);
    let begun = Instant::now();
    let hash = speed::same_every_time(layout, 100)?;
    table.push(Row {
        what: format!("{} plan hash, 100 planners, then 2, 4, 8, 16 at once", layout.name),
        ours: hash[..4].iter().map(|byte| format!("{byte:02x}")).collect(),
        bound: Some(Bound::new("all equal", true)),
        seconds: Some(begun.elapsed().as_secs_f64()),
        ..Row::default()
    });
    Ok(())
}

fn push(table: &mut Table, layout: &Layout, what: &str, peer: &str, samples: &Samples, bound: Option<f64>) {
    let ours = format!("{} / {}", duration(samples.p50()), duration(samples.p99()));
    eprintln!("b5: {} {what}: {ours}", layout.name);
    table.push(Row {
        what: format!("{} {what}", layout.name),
        peer: peer.to_owned(),
        ours,
        bound: bound.map(|bound| Bound::new(format!("<= {}", duration(bound)), samples.p99() <= bound)),
        ..Row::default()
    });
}

fn duration(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.1} us", seconds * 1e6) } else { format!("{:.2} ms", seconds * 1e3) }
}

fn time(csv: &mut Csv, layout: &Layout, metric: &str, samples: &Samples) {
    let micros = |seconds: f64| format!("{:.2}", seconds * 1e6);
    csv.line(&[&layout.name, &metric, &micros(samples.p50()), &micros(samples.p99()), &"us"]);
}

fn growth(out: &Path, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let begun = Instant::now();
    let all = speed::growth()?;
    for (gpus, waiting, samples) in &all {
        let metric = format!("full_pass_{gpus}_gpus_{waiting}_waiting");
        let micros = |seconds: f64| format!("{:.2}", seconds * 1e6);
        csv.line(&[&"boxes", &metric, &micros(samples.p50()), &micros(samples.p99()), &"us"]);
    }
    let median: Vec<(f64, f64)> = all.iter().map(|(gpus, _, times)| (f64::from(*gpus), times.p50() * 1e3)).collect();
    let tail = all.iter().map(|(gpus, _, times)| (f64::from(*gpus), times.p99() * 1e3)).collect();
    let axes = Axes {
        title: "A full pass from an empty fleet, 0.44 requests waiting for each GPU".to_owned(),
        x: "GPUs".to_owned(),
        y: "ms".to_owned(),
        scale: Scale::Logarithmic,
        ..Axes::default()
    };
    let bound = Series::new("bound at 45,000 GPUs", vec![(256.0, 10.0), (450_000.0, 10.0)]);
    let series = [Series::new("median", median.clone()), Series::new("p99", tail), bound];
    lines(&out.join("b5_growth.svg"), &axes, &series)?;
    let text: Vec<String> = median.iter().map(|(gpus, ms)| format!("{gpus:.0}: {ms:.2}")).collect();
    table.note(format!("Growth of a full pass, GPUs: median ms  {}", text.join("  ")));
    table.note(format!("(measured in {:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}
