//! B1, packing: the lists of Weng et al. (USENIX ATC 2023) in their arrival orders, and any list in the same format.
//!
//! The same work as the authors': tasks come one by one, none leaves, each that fits somewhere must be placed, none is
//! moved. The planner decides through its own interface, an event for each task. `galerne` is told the frequencies of
//! the list, as FGD is; `galerne_online` knows only what came before.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::openb::{self, List, Site};
use crate::random::SplitMix64;
use crate::table::{Bound, Csv, Row, Table};
use crate::timing::{Samples, mean};
use galerne_bench_chart::{Axes, Series, lines};

pub(crate) mod cluster;
pub(crate) mod peers;
pub(crate) mod replay;

use peers::{BestFit, Fgd, Random};
use replay::{Curve, Demand, at};

/// Where the authors compare.
const HEADLINE: i32 = 130;

/// One policy over every order of a list.
struct Result1 {
    policy: &'static str,
    curves: Vec<Curve>,
}

impl Result1 {
    fn mean_at(&self, percent: i32) -> f64 {
        mean(&self.curves.iter().map(|curve| at(curve, percent)).collect::<Vec<f64>>())
    }
}

pub(crate) fn run(data: &Path, out: &Path) -> Result<Table> {
    let (site, lists) = openb::read(data)?;
    let published = Published::read(data);
    let mut table = Table::new("B1 packing: GPUs allocated, percent, when 130 % were requested (mean of all seeds)");
    let mut csv = Csv::new(out.join("b1.csv"), "list,policy,seed,requested_percent,allocated_percent");
    let (mut told, mut seen) = (Samples::default(), Samples::default());
    for list in &lists {
        let begun = Instant::now();
        let results = replay_all(&site, list, &mut told, &mut seen)?;
        for result in &results {
            for ((seed, _), curve) in list.orders.iter().zip(&result.curves) {
                for (percent, value) in curve {
                    csv.line(&[&list.name, &result.policy, seed, percent, &format!("{value:.4}")]);
                }
            }
        }
        rows(&mut table, list, &results, &published, begun.elapsed().as_secs_f64());
        draw(out, list, &results)?;
    }
    csv.finish()?;
    let micros = |seconds: f64| 1e6 * seconds;
    table.push(Row {
        what: "time per decision, median (told and planned)".to_owned(),
        ours: format!("{:.1} us", micros(told.p50())),
        bound: Some(Bound::new("<= 50 us", micros(told.p50()) <= 50.0)),
        ..Row::default()
    });
    table.note(format!(
        "per decision, p99: {:.1} us; learning online {:.1} us median, {:.1} us p99; {} nodes",
        micros(told.p99()),
        micros(seen.p50()),
        micros(seen.p99()),
        site.nodes.len()
    ));
    table.note("peer: published FGD where there is one, else ours of it; same work, same lists, same orders");
    Ok(table)
}

fn replay_all(site: &Site, list: &List, told: &mut Samples, seen: &mut Samples) -> Result<Vec<Result1>> {
    let orders: Vec<&[usize]> = list.orders.iter().map(|(_, order)| order.as_slice()).collect();
    let ours = |demand, samples: &mut Samples| {
        orders.iter().map(|order| replay::planner(site, list, order, demand, samples)).collect::<Result<Vec<Curve>>>()
    };
    let peers = |make: &dyn Fn(u32) -> Box<dyn cluster::Peer>| {
        let one = |(seed, order): &(u32, Vec<usize>)| replay::peer(site, list, order, &mut *make(*seed));
        list.orders.iter().map(one).collect::<Vec<Curve>>()
    };
    Ok(vec![
        Result1 { policy: "galerne", curves: ours(Demand::Told, told)? },
        Result1 { policy: "galerne_online", curves: ours(Demand::Seen, seen)? },
        Result1 { policy: "fgd", curves: peers(&|_| Box::new(Fgd::new(list))) },
        Result1 { policy: "bestfit", curves: peers(&|_| Box::new(BestFit)) },
        Result1 { policy: "random", curves: peers(&|seed| Box::new(Random(SplitMix64::new(u64::from(seed))))) },
    ])
}

/// Rows of one list: the headline with its bounds, then the variant that learns, then our own peers.
fn rows(table: &mut Table, list: &List, results: &[Result1], published: &Published, seconds: f64) {
    let [ours, online, fgd, bestfit, random] = results else { return };
    let peer = |seed: u32, curve: &Curve| published.fgd(&list.name, seed).unwrap_or_else(|| at(curve, HEADLINE));
    let peers: Vec<f64> = list.orders.iter().zip(&fgd.curves).map(|((seed, _), curve)| peer(*seed, curve)).collect();
    let mut row = |result: &Result1, is_headline: bool| {
        let (mine, theirs) = (result.mean_at(HEADLINE), mean(&peers));
        let wins = result.curves.iter().zip(&peers).filter(|(curve, peer)| at(curve, HEADLINE) > **peer).count();
        // A promise for the lists of the paper; of others the table tells, and nothing was promised.
        let least = if list.name == "default" { 95.7 } else { theirs };
        let is_held = mine > theirs && mine >= least && wins * 10 >= peers.len() * 8;
        table.push(Row {
            what: format!("{} {}", list.name, result.policy),
            peer: format!("{theirs:.2}"),
            ours: format!("{mine:.2}"),
            difference: format!("{:+.2}, {wins} of {}", mine - theirs, peers.len()),
            bound: is_headline.then(|| Bound::new(format!("> peer, 8 of 10, >= {least:.2}"), is_held)),
            seconds: is_headline.then_some(seconds),
        });
    };
    row(ours, true);
    row(online, false);
    let figures = |result: &Result1| format!("{} {:.2}", result.policy, result.mean_at(HEADLINE));
    let at_load = [90, 95, 100, 110].map(|k| format!("{k} %: {:.2} / {:.2}", ours.mean_at(k), fgd.mean_at(k)));
    let made = if list.is_order_made { "; no arrival order found: made by the published procedure" } else { "" };
    table.note(format!(
        "{}: our runs of {}, {}, {}; galerne / fgd at {}{made}",
        list.name,
        figures(fgd),
        figures(bestfit),
        figures(random),
        at_load.join(", ")
    ));
}

fn draw(out: &Path, list: &List, results: &[Result1]) -> Result<()> {
    let curve = |result: &Result1| {
        let points = (60..=HEADLINE).map(|percent| (f64::from(percent), result.mean_at(percent))).collect();
        Series::new(result.policy, points)
    };
    let axes = Axes {
        title: format!("GPU allocation, list {}", list.name),
        x: "GPUs requested, % of the site".to_owned(),
        y: "GPUs allocated, % of the site".to_owned(),
        ..Axes::default()
    };
    let series: Vec<Series> = results.iter().filter(|result| result.policy != "random").map(curve).collect();
    lines(&out.join(format!("b1_{}.svg", list.name)), &axes, &series)
}

/// The authors' results: workload, policy, seed, percent at 130 %.
struct Published(Vec<(String, String, u32, f64)>);

impl Published {
    /// Nothing where the folder has no such file: then our own runs of the peers are compared with.
    fn read(data: &Path) -> Self {
        let folder = if data.join("openb").is_dir() { data.join("openb") } else { data.to_owned() };
        let text = openb::text(&folder, "published_alloc.csv").unwrap_or_default();
        let row = |line: &str| {
            let cells: Vec<&str> = line.split(',').collect();
            let (workload, policy) = (cells.first()?.to_string(), cells.get(1)?.to_string());
            Some((workload, policy, cells.get(2)?.parse().ok()?, cells.last()?.parse().ok()?))
        };
        Self(text.lines().filter_map(row).collect())
    }

    fn fgd(&self, list: &str, seed: u32) -> Option<f64> {
        let is_it = |row: &&(String, String, u32, f64)| row.0 == list && row.1 == "FGD" && row.2 == seed;
        self.0.iter().find(is_it).map(|row| row.3)
    }
}
