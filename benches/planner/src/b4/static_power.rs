//! B4a: what a site draws while the published lists arrive, by who places them.
//!
//! The power model is the one of Lettich et al. (CCGrid 2025): a GPU with any task on it draws its full watts, an idle
//! one its idle watts; a processor socket (16 cores, two virtual CPUs each) with any busy core likewise. Saving is
//! against FGD at the same percent requested. Ours is the planner's packer; its caller lets it use only nodes whose
//! extra watts are at most `slack` above the least possible, which is how power is asked for outside this benchmark.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use galerne_planner::fleet::ModelSpec;
use galerne_planner::pack::{GpuFree, NodeFree, NodeKind, Packer, SingleAsk};
use galerne_planner::plan::GpuGrant;
use galerne_planner::request::Gpus;
use galerne_planner::units::{ModelId, ResidencyId};

use crate::b1::cluster::{Cluster, Peer, State};
use crate::b1::peers::{Fgd, hundredths};
use crate::b1::replay::Meter;
use crate::openb::{self, List, Node, Site, Task};
use crate::table::{Bound, Csv, Row, Table};
use crate::timing::mean;
use galerne_bench_chart::{Axes, Series, lines};

/// Lists with published savings, percent: from, to.
const PUBLISHED: [(&str, &str, f64); 2] = [("default", "13-16 %", 13.0), ("multigpu20", "11-15 %", 11.0)];
/// The published runs end here.
const LAST: i32 = 120;
/// Watts above the least that a place may cost, and the percent allocated up to which that holds: beyond it nearly
/// every GPU will be awake anyway, and only harm counts. The last lets all be used from the beginning.
const FRONTIER: [(i64, f64); 6] = [(0, 100.0), (0, 85.0), (0, 70.0), (0, 55.0), (120, 100.0), (i64::MAX, 0.0)];
/// Weights of power in the peer's sum.
const ALPHAS: [f64; 2] = [0.05, 0.2];
/// Savings are averaged up to here, and once more to the end: above 90 % the site is full, and draws what it draws.
/// Neither is a definition of others: what was published gives a saving at each percent requested and no range.
const FULL: i32 = 90;
const MAX_LOSS: f64 = 0.5;

/// Idle and full watts of a GPU model.
fn gpu_watts(model: &str) -> (i64, i64) {
    match model {
        "T4" => (10, 70),
        "P100" => (25, 250),
        "G3" => (50, 400),
        _ if model.starts_with("V100") => (30, 300),
        _ => (30, 150),
    }
}

const SOCKET_WATTS: (i64, i64) = (15, 120);
/// Virtual CPUs of a socket, in thousandths.
const SOCKET_MILLI: u32 = 32_000;

/// Watts of one node with so many of its GPUs busy and so much CPU used.
fn node_watts(site: &Site, node: &Node, busy_gpus: i64, used_cpu_milli: u32) -> i64 {
    let (idle, full) = gpu_watts(&site.models[usize::from(node.model)]);
    let sockets = i64::from(node.cpu_milli.div_ceil(SOCKET_MILLI));
    let active = i64::from(used_cpu_milli.div_ceil(SOCKET_MILLI)).min(sockets);
    let cpu = active * SOCKET_WATTS.1 + (sockets - active) * SOCKET_WATTS.0;
    busy_gpus * full + (i64::from(node.gpus) - busy_gpus) * idle + cpu
}

fn state_watts(site: &Site, state: &State) -> i64 {
    let idle = i64::try_from(state.whole()).unwrap_or(0);
    node_watts(site, &state.node, i64::from(state.node.gpus) - idle, state.node.cpu_milli - state.cpu_milli)
}

/// Watts of the whole site with nothing on it.
fn idle_watts(site: &Site) -> i64 {
    site.nodes.iter().map(|node| node_watts(site, node, 0, 0)).sum()
}

/// Mean watts and allocated percent by percent requested.
#[derive(Debug, Default)]
struct Run {
    watts: BTreeMap<i32, (f64, f64)>,
    allocated: Vec<(i32, f64)>,
}

impl Run {
    fn count(&mut self, percent: i32, watts: i64) {
        let sum = self.watts.entry(percent).or_insert((0.0, 0.0));
        *sum = (sum.0 + watts as f64, sum.1 + 1.0);
    }
}

/// One policy over all orders.
struct Policy {
    name: String,
    runs: Vec<Run>,
}

impl Policy {
    fn watts(&self, percent: i32) -> f64 {
        let at = |run: &Run| run.watts.range(..=percent).next_back().map_or(0.0, |(_, (sum, events))| sum / events);
        mean(&self.runs.iter().map(at).collect::<Vec<f64>>())
    }

    fn allocated(&self, percent: i32) -> f64 {
        mean(&self.runs.iter().map(|run| crate::b1::replay::at(&run.allocated, percent)).collect::<Vec<f64>>())
    }

    /// Percent less than another draws, mean over every percent requested up to one.
    fn saving(&self, other: &Self, to: i32) -> f64 {
        mean(&(1..=to).map(|percent| self.saving_at(other, percent)).collect::<Vec<f64>>())
    }

    fn saving_at(&self, other: &Self, percent: i32) -> f64 {
        100.0 * (1.0 - self.watts(percent) / other.watts(percent))
    }

    fn loss(&self, other: &Self) -> f64 {
        other.allocated(LAST) - self.allocated(LAST)
    }
}

/// FGD's score and the watts that a place adds, in one weighted sum, both from 0 to 100.
struct FgdWithPower<'a> {
    fgd: Fgd,
    alpha: f64,
    site: &'a Site,
}

impl Peer for FgdWithPower<'_> {
    #[allow(clippy::cast_possible_truncation, reason = "scores are small")]
    fn score(&mut self, state: &State, task: &Task) -> (i64, usize) {
        let (gain, choice) = self.fgd.gain(state, task);
        let added = state_watts(self.site, &state.after(task, choice)) - state_watts(self.site, state);
        let most = i64::from(task.gpus) * 350 + i64::from(task.cpu_milli.div_ceil(SOCKET_MILLI)) * 105;
        let saved = 100.0 * (1.0 - added as f64 / most.max(1) as f64);
        let score = (1.0 - self.alpha) * hundredths(gain) as f64 + self.alpha * saved;
        // Hundredths of a point: the sum is compared as finely as power differs.
        ((score * 100.0).floor() as i64, choice)
    }
}

fn peer_run(site: &Site, list: &List, order: &[usize], peer: &mut dyn Peer) -> Run {
    let (mut cluster, mut meter, mut run) = (Cluster::new(site), Meter::new(site), Run::default());
    let mut watts = idle_watts(site);
    for row in order {
        let task = &list.tasks[*row];
        let placed = cluster.place(task, peer);
        if let Some((before, after)) = &placed {
            watts += state_watts(site, after) - state_watts(site, before);
        }
        let percent = meter.count(task, placed.is_some());
        run.count(percent, watts);
        if percent > LAST {
            break;
        }
    }
    run.allocated = meter.curve();
    run
}

/// The packer and what is free, as its caller keeps them.
struct Ours<'a> {
    site: &'a Site,
    packer: Packer,
    free: Vec<NodeFree>,
}

impl<'a> Ours<'a> {
    fn new(site: &'a Site, list: &List) -> Self {
        let mut packer = Packer::new(&vec![ModelSpec::default(); site.models.len()]);
        let mut free = Vec::new();
        for (number, node) in (0..).zip(&site.nodes) {
            let Node { gpus, cpu_milli, memory_mib, .. } = *node;
            let kind = NodeKind { model: ModelId(node.model), gpus, cpu_milli, memory_mib, residency: ResidencyId(0) };
            let mut all = NodeFree { cpu_milli, memory_mib, ..NodeFree::default() };
            all.gpus.iter_mut().take(usize::from(gpus)).for_each(|gpu| *gpu = GpuFree::WHOLE);
            packer.insert(number, kind, &all);
            free.push(all);
        }
        packer.tell(&list.frequencies().iter().map(|(task, count)| (ask(task), *count)).collect::<Vec<_>>());
        packer.refresh();
        Self { site, packer, free }
    }

    fn watts(&self, node: usize) -> i64 {
        let (spec, free) = (&self.site.nodes[node], &self.free[node]);
        let idle: i64 = free.gpus.iter().map(|gpu| i64::from(gpu.is_whole())).sum();
        node_watts(self.site, spec, i64::from(spec.gpus) - idle, spec.cpu_milli - free.cpu_milli)
    }

    /// Least watts that the task would add to a node; `None` where it does not fit.
    fn added(&self, node: usize, task: &Task) -> Option<i64> {
        let (spec, free) = (&self.site.nodes[node], &self.free[node]);
        let whole = free.gpus.iter().filter(|gpu| gpu.is_whole()).count();
        let is_allowed = task.gpus == 0 || task.models == 0 || task.models >> spec.model & 1 == 1;
        if !is_allowed || free.cpu_milli < task.cpu_milli || free.memory_mib < task.memory_mib {
            return None;
        }
        let is_awake = |gpu: &GpuFree| !gpu.is_whole() && gpu.free_milli() >= task.milli;
        let woken = if task.is_share() && free.gpus.iter().any(is_awake) { 0 } else { task.gpus };
        if whole < usize::from(woken) {
            return None;
        }
        let (idle, full) = gpu_watts(&self.site.models[usize::from(spec.model)]);
        let used = spec.cpu_milli - free.cpu_milli;
        let sockets = (used + task.cpu_milli).div_ceil(SOCKET_MILLI) - used.div_ceil(SOCKET_MILLI);
        Some(i64::from(woken) * (full - idle) + i64::from(sockets) * (SOCKET_WATTS.1 - SOCKET_WATTS.0))
    }

    /// Places a task; the watts it adds, or `None` when it fits nowhere.
    fn place(&mut self, task: &Task, slack: i64) -> Option<i64> {
        let added: Vec<Option<i64>> = (0..self.free.len()).map(|node| self.added(node, task)).collect();
        let most = added.iter().flatten().min()?.saturating_add(slack);
        let usable = |node: u32| added[node as usize].is_some_and(|watts| watts <= most);
        let (number, grant) = self.packer.best(&ask(task), usable)?;
        let node = number as usize;
        let before = self.watts(node);
        let free = &mut self.free[node];
        free.cpu_milli -= task.cpu_milli;
        free.memory_mib -= task.memory_mib;
        match grant {
            GpuGrant::Whole(mask) => {
                let taken = free.gpus.iter_mut().enumerate().filter(|(gpu, _)| mask >> gpu & 1 == 1);
                taken.for_each(|(_, gpu)| *gpu = GpuFree::NONE);
            }
            GpuGrant::Milli { gpu, milli } => {
                let gpu = &mut free.gpus[usize::from(gpu)];
                *gpu = GpuFree::milli(gpu.free_milli() - milli);
            }
            GpuGrant::Slice { .. } => return None,
        }
        self.packer.changed(number, &self.free[node]);
        Some(self.watts(node) - before)
    }
}

const fn ask(task: &Task) -> SingleAsk {
    let gpus = if task.is_share() { Gpus::Milli(task.milli) } else { Gpus::Whole(task.gpus) };
    SingleAsk { gpus, models: task.models, residencies: 0, cpu_milli: task.cpu_milli, memory_mib: task.memory_mib }
}

fn our_run(site: &Site, list: &List, order: &[usize], (slack, until): (i64, f64)) -> Run {
    let (mut ours, mut meter, mut run) = (Ours::new(site, list), Meter::new(site), Run::default());
    let mut watts = idle_watts(site);
    for row in order {
        let task = &list.tasks[*row];
        let slack = if meter.allocated_percent() < until { slack } else { i64::MAX };
        let added = ours.place(task, slack);
        watts += added.unwrap_or(0);
        let percent = meter.count(task, added.is_some());
        run.count(percent, watts);
        if percent > LAST {
            break;
        }
    }
    run.allocated = meter.curve();
    run
}

pub(super) fn run(data: &Path, out: &Path, table: &mut Table, csv: &mut Csv) -> Result<()> {
    let (site, lists) = openb::read(data)?;
    for (name, peer_text, goal) in PUBLISHED {
        let Some(list) = lists.iter().find(|list| list.name == name) else { continue };
        one(&site, list, peer_text, goal, out, table, csv).with_context(|| format!("list {name}"))?;
    }
    Ok(())
}

fn policies(site: &Site, list: &List) -> (Policy, Vec<Policy>, Vec<Policy>) {
    let orders = || list.orders.iter().map(|(_, order)| order.as_slice());
    let fgd = Policy {
        name: "fgd".to_owned(),
        runs: orders().map(|order| peer_run(site, list, order, &mut Fgd::new(list))).collect(),
    };
    let weighted = |alpha: &f64| Policy {
        name: format!("fgd+pwr {alpha}"),
        runs: orders()
            .map(|order| peer_run(site, list, order, &mut FgdWithPower { fgd: Fgd::new(list), alpha: *alpha, site }))
            .collect(),
    };
    let slacked = |(slack, until): &(i64, f64)| Policy {
        name: match *slack {
            i64::MAX => "galerne, no power".to_owned(),
            _ => format!("galerne, slack {slack} W to {until} %"),
        },
        runs: orders().map(|order| our_run(site, list, order, (*slack, *until))).collect(),
    };
    (fgd, ALPHAS.iter().map(weighted).collect(), FRONTIER.iter().map(slacked).collect())
}

/// The most saved at little loss, averaged over both ranges, and the frontier: saving against allocation loss.
fn averages(
    list: &List,
    published: &str,
    goal: f64,
    (fgd, peers, ours): (&Policy, &[Policy], &[Policy]),
    seconds: f64,
    table: &mut Table,
) {
    let best = |candidates: &[Policy], to: i32| {
        let allowed = |policy: &&Policy| policy.loss(fgd) <= MAX_LOSS;
        let by_saving = |left: &&Policy, right: &&Policy| left.saving(fgd, to).total_cmp(&right.saving(fgd, to));
        let best = candidates.iter().filter(allowed).max_by(by_saving);
        best.map(|policy| (policy.saving(fgd, to), policy.name.clone()))
    };
    for (to, is_promised) in [(FULL, true), (LAST, false)] {
        let (mine, name) = best(ours, to).unwrap_or_else(|| (0.0, "none loses so little".to_owned()));
        let own = best(peers, to).map_or_else(
            || format!("none of ours of it loses <= {MAX_LOSS}"),
            |(saving, name)| format!("own run {saving:.1} % ({name})"),
        );
        table.push(Row {
            what: format!("a: {} power saving, mean of 1-{to} % requested, loss <= {MAX_LOSS} point", list.name),
            peer: format!("{published}; {own}"),
            ours: format!("{mine:.1} % ({name})"),
            bound: is_promised.then(|| Bound::new(format!(">= {goal} %"), mine >= goal)),
            seconds: is_promised.then_some(seconds),
            ..Row::default()
        });
    }
    for policy in peers.iter().chain(ours) {
        let at = [20, 50, 80, 100, 120].map(|percent| format!("{percent} %: {:.1}", policy.saving_at(fgd, percent)));
        table.note(format!(
            "a: {} {}: loss at 120 % {:+.2} points; saving 1-90 %: {:.1}, 1-120 %: {:.1}; at {}",
            list.name,
            policy.name,
            policy.loss(fgd),
            policy.saving(fgd, FULL),
            policy.saving(fgd, LAST),
            at.join(", ")
        ));
    }
}

/// The frontier as a drawing: what each policy saves, averaged over both ranges, against what it fails to allocate.
fn draw_frontier(list: &List, (fgd, peers, ours): (&Policy, &[Policy], &[Policy]), out: &Path) -> Result<()> {
    let points = |policies: &[Policy], to: i32| {
        let mut points: Vec<(f64, f64)> =
            policies.iter().map(|policy| (policy.loss(fgd), policy.saving(fgd, to))).collect();
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
        points
    };
    let mut series = Vec::new();
    for to in [FULL, LAST] {
        series.push(Series::new(format!("galerne, mean of 1-{to} %"), points(ours, to)));
        series.push(Series::new(format!("fgd+pwr, mean of 1-{to} %"), points(peers, to)));
    }
    let axes = Axes {
        title: format!("Power saved against allocation lost at 120 % requested, list {}", list.name),
        x: "GPUs allocated less than FGD, points".to_owned(),
        y: "power saved against FGD, %".to_owned(),
        ..Axes::default()
    };
    lines(&out.join(format!("b4a_frontier_{}.svg", list.name)), &axes, &series)
}

fn one(
    site: &Site,
    list: &List,
    published: &str,
    goal: f64,
    out: &Path,
    table: &mut Table,
    csv: &mut Csv,
) -> Result<()> {
    let begun = std::time::Instant::now();
    let (fgd, peers, ours) = policies(site, list);
    for policy in std::iter::once(&fgd).chain(&peers).chain(&ours) {
        for percent in (10..=LAST).step_by(10) {
            let case = format!("{} {}", list.name, policy.name);
            csv.line(&[
                &"a",
                &case,
                &format!("saving at {percent}"),
                &format!("{:.3}", policy.saving_at(&fgd, percent)),
                &"%",
                &"",
            ]);
            csv.line(&[
                &"a",
                &case,
                &format!("allocated at {percent}"),
                &format!("{:.3}", policy.allocated(percent)),
                &"%",
                &"",
            ]);
        }
    }
    averages(list, published, goal, (&fgd, &peers, &ours), begun.elapsed().as_secs_f64(), table);
    let curve = |policy: &Policy| {
        let points = (5..=LAST).map(|percent| (f64::from(percent), policy.saving_at(&fgd, percent))).collect();
        Series::new(policy.name.clone(), points)
    };
    let axes = Axes {
        title: format!("Power saved against FGD, list {}", list.name),
        x: "GPUs requested, % of the site".to_owned(),
        y: "power saved, %".to_owned(),
        ..Axes::default()
    };
    draw_frontier(list, (&fgd, &peers, &ours), out)?;
    let series: Vec<Series> = ours.iter().chain(&peers).map(curve).collect();
    lines(&out.join(format!("b4a_{}.svg", list.name)), &axes, &series)
}
