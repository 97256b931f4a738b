//! Days of each fleet at each load, under our planner and under its peers: for some weeks drawn anew, several at once.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::fleet::{Layout, S1, S2, S3};
use super::galerne::Galerne;
use super::measure::{CLASSES, Gang, Measures, Way};
use super::site::Site;
use super::workload::Generator;
use super::{MAIN_LOAD, peers};
use crate::table::{Bound, Csv, Row, Table};
use crate::timing::{mean, quantile};
use galerne_bench_chart::{Axes, Series, bars};

/// Weeks drawn anew where figures are compared: one differs from the next by more than schedulers do.
const SEEDS: u64 = 3;
/// Where somebody always waits, so that waits and shares can be compared.
const BUSY_LOAD: f64 = 0.95;
const LOADS: [f64; 3] = [MAIN_LOAD, BUSY_LOAD, 1.1];

/// One run and what came of it.
pub(crate) struct Run {
    layout: Layout,
    load: f64,
    seed: u64,
    scheduler: &'static str,
    days: i64,
    jobs: usize,
    measures: Measures,
    seconds: f64,
}

/// All runs, on as many threads as there are processors. Each run is alone with its planner and its site.
pub(crate) fn all() -> Result<Vec<Run>> {
    let mut todo: Vec<(Layout, f64, u64, Option<usize>)> = Vec::new();
    // Ours at the highest load take longest: they begin, so that the threads end together.
    for load in LOADS.into_iter().rev() {
        for layout in [S3, S2, S1] {
            for seed in 1..=seeds(load) {
                todo.push((layout, load, seed, None));
                todo.extend((0..4).map(|peer| (layout, load, seed, Some(peer))));
            }
        }
    }
    let todo = Mutex::new(todo.into_iter());
    let next = || todo.lock().ok().and_then(|mut todo| todo.next());
    let work = || -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        while let Some((layout, load, seed, peer)) = next() {
            let run = one(layout, load, peer, days(layout, load), seed)?;
            let (scheduler, days, seconds) = (run.scheduler, run.days, run.seconds);
            eprintln!("b5: {} load {load}, {days} days, seed {seed}, {scheduler}: {seconds:.1} s", layout.name);
            runs.push(run);
        }
        Ok(runs)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            runs.extend(worker.join().map_err(|_| anyhow!("a replay panicked"))??);
        }
        Ok(())
    })?;
    runs.sort_by(|a, b| {
        let key = |run: &Run| (run.layout.name, run.load, run.scheduler, run.seed);
        key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
    });
    Ok(runs)
}

/// Days that are replayed, the first two of which are not counted: fourteen where a bound is set. Elsewhere work piles
/// up, decisions take longer and a fleet of 45,000 GPUs starts ten thousands of jobs within a day.
fn days(layout: Layout, load: f64) -> i64 {
    match (load == MAIN_LOAD, layout == S1, load == BUSY_LOAD) {
        (true, ..) => 14,
        (false, true, _) => 7,
        (false, false, true) => 4,
        (false, false, false) => 3,
    }
}

/// Seeds that are replayed: at the highest load, where the queue only grows, one.
fn seeds(load: f64) -> u64 {
    if load > BUSY_LOAD { 1 } else { SEEDS }
}

fn one(layout: Layout, load: f64, peer: Option<usize>, days: i64, seed: u64) -> Result<Run> {
    let begun = Instant::now();
    let jobs = Generator::new(layout, seed).jobs(load, days);
    let count = jobs.len();
    let mut site = Site::new(layout, jobs, days, seed);
    let scheduler = match peer.and_then(|peer| peers::all().into_iter().nth(peer)) {
        Some(mut peer) => {
            site.run(&mut peer)?;
            peer.name
        }
        None => {
            site.run(&mut Galerne::new(&layout, count)?)?;
            "galerne"
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Run { layout, load, seed, scheduler, days, jobs: count, measures: site.measures, seconds })
}

/// One run and its figures, those of the CSV file.
pub(crate) fn alone(layout: Layout, load: f64, scheduler: &str, days: i64, seed: u64) -> Result<Table> {
    let peer = peers::all().iter().position(|peer| peer.name == scheduler);
    ensure!(peer.is_some() || scheduler == "galerne", "there is no scheduler `{scheduler}`");
    let run = one(layout, load, peer, days, seed)?;
    let mut table = Table::new(format!("B5  one replay: {} load {load}, {scheduler}, {days} days", layout.name));
    for figure in figures(&run) {
        table.push(Row {
            what: figure.metric,
            ours: format!("{:.4} / {:.4} {}", figure.p50, figure.p99, figure.unit),
            ..Row::default()
        });
    }
    ways(&run.measures, &mut table);
    table.note(format!("took {:.1} s", run.seconds));
    Ok(table)
}

/// Where units beyond the fewest come from, by how gangs came to their nodes; and means.
fn ways(measures: &Measures, table: &mut Table) {
    let fewest: u32 = measures.gangs.iter().map(|gang| gang.fewest).sum();
    let part = |of: u32| f64::from(of) / f64::from(fewest.max(1));
    for way in [Way::Open, Way::Promised, Way::Elsewhere, Way::Stopped] {
        let gangs: Vec<&Gang> = measures.gangs.iter().filter(|gang| gang.way == way).collect();
        let excess = |class: usize| {
            let of = gangs.iter().filter(|gang| gang.class == class);
            of.map(|gang| gang.units - gang.fewest).sum::<u32>()
        };
        let forced: u32 = gangs.iter().map(|gang| gang.fewest_then - gang.fewest).sum();
        let classes: Vec<String> =
            (0..CLASSES.len()).map(|class| format!("{:.3} ({})", part(excess(class)), CLASSES[class])).collect();
        let all = (0..CLASSES.len()).map(excess).sum();
        table.push(Row {
            what: format!("{way:?}: {} gangs; units too many, by the idle nodes", gangs.len()),
            ours: format!("{:.3}, {:.3}", part(all), part(forced)),
            difference: classes[2..].join(" "),
            ..Row::default()
        });
    }
    let waits: Vec<String> = measures.waits.iter().map(|waits| format!("{:.0}", mean(waits))).collect();
    table.push(Row { what: "mean wait by class, s".to_owned(), ours: waits.join(" "), ..Row::default() });
    let gangs: Vec<f64> = measures.waits[3..].iter().flatten().copied().collect();
    table.push(Row {
        what: "mean wait of gangs, s".to_owned(),
        ours: format!("{:.0}", mean(&gangs)),
        ..Row::default()
    });
    let allocation = format!("{:.4}", mean(&measures.allocation));
    table.push(Row { what: "mean allocation".to_owned(), ours: allocation, ..Row::default() });
}

/// Runs of one scheduler on one fleet at one load, a seed each.
type Seeds<'a> = &'a [Run];

/// Runs by fleet, load and scheduler.
fn by_scheduler(runs: &[Run]) -> impl Iterator<Item = Seeds<'_>> {
    runs.chunk_by(|a, b| (a.layout.name, a.load, a.scheduler) == (b.layout.name, b.load, b.scheduler))
}

/// Rows of the table: ours beside the best peer.
pub(crate) fn rows(runs: &[Run], table: &mut Table) {
    for layout in [S1, S2, S3] {
        for load in LOADS {
            let here = |seeds: &Seeds<'_>| seeds[0].layout.name == layout.name && seeds[0].load == load;
            let (ours, peers): (Vec<_>, Vec<_>) =
                by_scheduler(runs).filter(here).partition(|seeds| seeds[0].scheduler == "galerne");
            if let [ours] = ours[..] {
                rows_of(ours, &peers, table);
            }
        }
    }
}

/// A figure of a run, and whether more of it is better.
type Figure = (&'static str, fn(&Measures) -> f64, bool, usize);

const FIGURES: [Figure; 8] = [
    ("units spanned / ceil(size / unit)", |m| Measures::spanned(&m.units), false, 3),
    ("  the same, started at <= 85 % in use", |m| Measures::spanned(&m.units_with_room), false, 3),
    ("  / fewest the idle nodes allowed", |m| Measures::spanned(&m.units_then), false, 3),
    ("racks spanned / ceil(size / rack)", |m| Measures::spanned(&m.racks), false, 3),
    ("largest gang / free GPUs", |m| mean(&m.largest), true, 3),
    ("GPUs allocated, part of those up", |m| mean(&m.allocation), true, 3),
    ("GPUs with the wrong team, part", |m| mean(&m.share_error), false, 3),
    ("wait of gangs of 128 GPUs and more, h", |m| gang_wait(m) / 3600.0, false, 2),
];

fn rows_of(ours: Seeds<'_>, peers: &[Seeds<'_>], table: &mut Table) {
    let run = &ours[0];
    let seeds = if ours.len() == 1 { String::new() } else { format!(", {} seeds", ours.len()) };
    for (place, (what, figure, is_more_better, digits)) in FIGURES.into_iter().enumerate() {
        let each: Vec<f64> = ours.iter().map(|run| figure(&run.measures)).collect();
        let mine = mean(&each);
        let of_all = |seeds: Seeds<'_>| mean(&seeds.iter().map(|run| figure(&run.measures)).collect::<Vec<f64>>());
        let better = |a: f64, b: f64| if is_more_better { b.total_cmp(&a) } else { a.total_cmp(&b) };
        let best = peers.iter().map(|peer| (peer[0].scheduler, of_all(peer))).min_by(|a, b| better(a.1, b.1));
        let (least, most) = (quantile(&each, 0.0), quantile(&each, 1.0));
        let range = if each.len() == 1 { String::new() } else { format!(" ({least:.digits$} to {most:.digits$})") };
        let is_promised = place == 0 && run.load == MAIN_LOAD;
        table.push(Row {
            what: format!("{} load {}, {} days{seeds}: {what}", run.layout.name, run.load, run.days),
            peer: best.map_or_else(String::new, |(peer, theirs)| format!("{peer} {theirs:.digits$}")),
            ours: format!("{mine:.digits$}{range}"),
            difference: best.map_or_else(String::new, |(_, theirs)| format!("{:+.digits$}", mine - theirs)),
            bound: is_promised.then(|| Bound::new("<= 1.05", mine <= 1.05)),
            seconds: (place == 0).then(|| ours.iter().map(|run| run.seconds).sum()),
        });
    }
}

fn gang_wait(measures: &Measures) -> f64 {
    let waits: Vec<f64> = measures.waits[4..].iter().flatten().copied().collect();
    mean(&waits)
}

/// Lines of the CSV file: every figure of every scheduler, the mean of its seeds.
pub(crate) fn lines(runs: &[Run], csv: &mut Csv) {
    for seeds in by_scheduler(runs) {
        let run = &seeds[0];
        let each: Vec<Vec<Spread>> = seeds.iter().map(figures).collect();
        for (place, Spread { metric, unit, .. }) in each[0].iter().enumerate() {
            let of_all = |figure: fn(&Spread) -> f64| {
                mean(&each.iter().map(|figures| figure(&figures[place])).collect::<Vec<f64>>())
            };
            let (p50, p99) = (of_all(|figure| figure.p50), of_all(|figure| figure.p99));
            let metric = format!("{metric}_{}_load_{}", run.scheduler, run.load);
            csv.line(&[&run.layout.name, &metric, &format!("{p50:.4}"), &format!("{p99:.4}"), unit]);
        }
    }
}

/// One metric of one run.
struct Spread {
    metric: String,
    p50: f64,
    p99: f64,
    unit: &'static str,
}

fn figures(run: &Run) -> Vec<Spread> {
    let m = &run.measures;
    let spread = |metric: &str, values: &[f64], unit| Spread {
        metric: metric.to_owned(),
        p50: quantile(values, 0.5),
        p99: quantile(values, 0.99),
        unit,
    };
    let mut all = vec![
        spread("allocation", &m.allocation, "part"),
        spread("largest_gang_of_free", &m.largest, "part"),
        spread("largest_gang_in_unit", &m.largest_in_unit, "part"),
        spread("share_error", &m.share_error, "part"),
    ];
    for (class, waits) in CLASSES.iter().zip(&m.waits) {
        all.push(spread(&format!("wait_{class}_gpus"), waits, "s"));
    }
    for (level, spans) in [
        ("unit", &m.units),
        ("unit_at_85_percent_in_use", &m.units_with_room),
        ("unit_of_fewest_then", &m.units_then),
        ("rack", &m.racks),
    ] {
        let ratios: Vec<f64> = spans.iter().map(|(spanned, fewest)| f64::from(*spanned) / f64::from(*fewest)).collect();
        all.push(spread(&format!("{level}s_spanned_per_gang"), &ratios, "ratio"));
        all.push(spread(&format!("{level}s_spanned_all"), &[Measures::spanned(spans)], "ratio"));
    }
    all.push(spread("stops", &[f64::from(m.stops)], "stops"));
    all.push(spread("lost_per_gained", &[m.lost_per_gained()], "ratio"));
    all.push(spread("starts_over_cap", &[f64::from(m.over_cap)], "starts"));
    all.push(spread("never_started", &[f64::from(m.backlog)], "jobs"));
    all.push(spread("jobs", &[run.jobs as f64], "jobs"));
    all.push(spread("days", &[run.days as f64], "days"));
    all
}

/// Mean wait of each size class under each scheduler, at the load at which somebody always waits.
pub(crate) fn draw(runs: &[Run], out: &Path) -> Result<()> {
    let of = |seeds: &Seeds<'_>| seeds[0].layout.name == "S1" && seeds[0].load == BUSY_LOAD;
    let hours = |seeds: Seeds<'_>| {
        let of_class = |class: usize| {
            let waits = seeds.iter().flat_map(|run| run.measures.waits[class].iter().copied());
            (0.0, mean(&waits.collect::<Vec<f64>>()) / 3600.0)
        };
        (0..CLASSES.len()).map(of_class).collect()
    };
    let mut chosen: Vec<Seeds<'_>> = by_scheduler(runs).filter(of).collect();
    chosen.sort_by_key(|seeds| seeds[0].scheduler != "galerne");
    let series: Vec<Series> = chosen.into_iter().map(|seeds| Series::new(seeds[0].scheduler, hours(seeds))).collect();
    let axes = Axes {
        title: format!(
            "Wait until the first start: S1, 18,000 GPUs, load {BUSY_LOAD}, {} days, {SEEDS} seeds",
            days(S1, BUSY_LOAD)
        ),
        x: "GPUs asked for".to_owned(),
        y: "mean wait, h".to_owned(),
        ..Axes::default()
    };
    bars(&out.join("b5_wait.svg"), &axes, &CLASSES.map(str::to_owned), &series)
}
