//! What a simulated site tells of its scheduler: allocation, waits, spans of gangs, room for gangs, shares, losses.

use galerne_planner::fair::filling::max_min;
use galerne_planner::fleet::{Level, QueueSpec};
use galerne_planner::reason::Resource;

use super::fleet::{Layout, queue_of};
use super::occupancy::Occupancy;
use super::site::{Progress, Running};
use super::workload::{DAY, Job};

/// The site fills during these days; nothing of them is counted.
const WARM_UP: i64 = 2 * DAY;

/// Size classes of waits, by GPUs: part of one, 1, 2–8, 16–64, 128–256, 512–1024.
pub(crate) const CLASSES: [&str; 6] = ["<1", "1", "2-8", "16-64", "128-256", "512-1024"];

/// How a gang came to its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It never had a promise; what our peers start is all told so.
    Open,
    /// On nodes that were promised to it.
    Promised,
    /// On others, before its promise.
    Elsewhere,
    /// Others were stopped for it.
    Stopped,
}

/// A gang that started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gang {
    pub(crate) way: Way,
    /// Its size, by place in `CLASSES`.
    pub(crate) class: usize,
    /// Units spanned, the fewest that could hold it, and the fewest of those that were idle then.
    pub(crate) units: u32,
    pub(crate) fewest: u32,
    pub(crate) fewest_then: u32,
}

/// Figures of one run.
#[derive(Debug, Clone)]
pub(crate) struct Measures {
    layout: Layout,
    queues: Vec<QueueSpec>,
    /// GPUs in use of those on nodes that are up, hourly.
    pub(crate) allocation: Vec<f64>,
    /// GPUs of the largest whole-node gang that would fit now, of all free ones, hourly; anywhere, and within one unit
    /// of the GPUs that a unit could have given.
    pub(crate) largest: Vec<f64>,
    pub(crate) largest_in_unit: Vec<f64>,
    /// Part of the GPUs in use that the wrong team has, hourly, while somebody waits.
    pub(crate) share_error: Vec<f64>,
    /// Seconds until the first start, by size class.
    pub(crate) waits: [Vec<f64>; 6],
    /// Domains spanned by each gang and the fewest that could hold it were they empty, at the unit and at the rack.
    pub(crate) units: Vec<(u32, u32)>,
    pub(crate) racks: Vec<(u32, u32)>,
    /// The units of gangs that started while at most 85 % of the GPUs were in use.
    pub(crate) units_with_room: Vec<(u32, u32)>,
    /// Units spanned and the fewest that could be had of the nodes that were idle then.
    pub(crate) units_then: Vec<(u32, u32)>,
    pub(crate) gangs: Vec<Gang>,
    /// How the next start came about.
    pub(crate) way: Way,
    /// GPU-seconds lost by stopping, and GPU-seconds of waiting spared.
    lost: f64,
    gained: Vec<(usize, f64)>,
    pub(crate) stops: u32,
    /// Jobs that had not started at the end.
    pub(crate) backlog: u32,
    /// Starts that committed more watts than a cap allows.
    pub(crate) over_cap: u32,
    committed: [Vec<i64>; 4],
}

impl Measures {
    pub(crate) fn new(layout: Layout) -> Self {
        let domains = |level: Level| vec![0; layout.nodes.div_ceil(layout.nodes_per(level)) as usize];
        Self {
            layout,
            queues: layout.queues(),
            allocation: Vec::new(),
            largest: Vec::new(),
            largest_in_unit: Vec::new(),
            share_error: Vec::new(),
            waits: Default::default(),
            units: Vec::new(),
            racks: Vec::new(),
            units_with_room: Vec::new(),
            units_then: Vec::new(),
            gangs: Vec::new(),
            way: Way::Open,
            lost: 0.0,
            gained: Vec::new(),
            stops: 0,
            backlog: 0,
            over_cap: 0,
            committed: super::occupancy::LEVELS.map(domains),
        }
    }

    /// GPU-seconds by which stopping others brought starts forward.
    fn gained(&self) -> f64 {
        self.gained.iter().map(|(_, seconds)| seconds).sum()
    }

    /// GPU-seconds lost for each gained; zero when nothing was stopped.
    pub(crate) fn lost_per_gained(&self) -> f64 {
        let gained = self.gained();
        if gained > 0.0 { self.lost / gained } else { 0.0 }
    }

    /// Domains spanned by all gangs over the fewest possible.
    pub(crate) fn spanned(spans: &[(u32, u32)]) -> f64 {
        let (spanned, fewest) = spans.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if fewest == 0 { 1.0 } else { f64::from(spanned) / f64::from(fewest) }
    }

    /// A job starts; the occupancy has it already.
    pub(crate) fn started(&mut self, of: &Job, progress: &Progress, is_first: bool, occupancy: &Occupancy, now: i64) {
        let Some(running) = &progress.running else { return };
        self.commit(of, running, 1);
        if now < WARM_UP {
            return;
        }
        if is_first && of.arrives_at >= WARM_UP {
            self.waits[class(of)].push((now - of.arrives_at) as f64);
        }
        if of.size.nodes > 1 {
            let units = self.span(running, Level::Unit);
            self.units.push(units);
            if occupancy.used_milli() * 100 <= occupancy.up_milli() * 85 {
                self.units_with_room.push(units);
            }
            let then = self.fewest_now(running, occupancy);
            self.units_then.push((units.0, then));
            self.gangs.push(Gang {
                way: self.way,
                class: class(of),
                units: units.0,
                fewest: units.1,
                fewest_then: then,
            });
            self.racks.push(self.span(running, Level::Rack));
        }
    }

    pub(crate) fn left(&mut self, of: &Job, running: &Running) {
        self.commit(of, running, -1);
    }

    pub(crate) fn stopped(&mut self, lost: f64, for_job: usize, wait: i64, gpu_milli: i64) {
        self.stops += 1;
        self.lost += lost;
        // One start is brought forward once, by the longest of those that were stopped for it.
        let gain = wait.max(0) as f64 * gpu_milli as f64 / 1000.0;
        match self.gained.iter_mut().rev().take(64).find(|(job, _)| *job == for_job) {
            Some((_, known)) => *known = known.max(gain),
            None => self.gained.push((for_job, gain)),
        }
    }

    pub(crate) fn sample(&mut self, at: i64, jobs: &[Job], progress: &[Progress], occupancy: &Occupancy) {
        if at < WARM_UP {
            return;
        }
        let up = occupancy.up_milli();
        let free = up - occupancy.used_milli();
        self.allocation.push(occupancy.used_milli() as f64 / up as f64);
        let per_node = i64::from(self.layout.gpus_per_node) * 1000;
        if free > 0 {
            let idle = i64::from(occupancy.idle(3)[0]) * per_node;
            self.largest.push((idle as f64 / free as f64).min(1.0));
            let best = occupancy.idle(1).iter().max().copied().unwrap_or(0);
            let unit = i64::from(self.layout.nodes_per_unit) * per_node;
            self.largest_in_unit.push((i64::from(best) * per_node) as f64 / free.min(unit) as f64);
        }
        if let Some(error) = share_error(&self.queues, jobs, progress) {
            self.share_error.push(error);
        }
    }

    /// Jobs that never started count with the time they have waited.
    pub(crate) fn finish(&mut self, jobs: &[Job], progress: &[Progress], ends_at: i64) {
        for (job, progress) in jobs.iter().zip(progress) {
            if progress.first_started_at().is_none() && progress.is_waiting {
                self.backlog += 1;
                if job.arrives_at >= WARM_UP {
                    self.waits[class(job)].push((ends_at - job.arrives_at) as f64);
                }
            }
        }
    }

    fn span(&self, running: &Running, level: Level) -> (u32, u32) {
        let size = u64::from(self.layout.nodes_per(level));
        let mut domains: Vec<u64> = running.grants.iter().map(|grant| grant.node.0 / size).collect();
        domains.sort_unstable();
        domains.dedup();
        let count = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
        (count(domains.len()), count(running.grants.len()).div_ceil(self.layout.nodes_per(level)))
    }

    /// Units that the idle nodes of just before made necessary: the fullest of idle nodes first.
    fn fewest_now(&self, running: &Running, occupancy: &Occupancy) -> u32 {
        let mut idle = occupancy.idle(1).to_vec();
        for grant in &running.grants {
            let unit = usize::try_from(grant.node.0 / u64::from(self.layout.nodes_per_unit)).unwrap_or(0);
            idle[unit] += 1;
        }
        idle.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = u32::try_from(running.grants.len()).unwrap_or(0);
        let mut units = 0;
        for here in idle {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(here);
            units += 1;
        }
        units
    }

    /// Adds a job's peak to every power point above its nodes.
    fn commit(&mut self, of: &Job, running: &Running, sign: i64) {
        let watts = i64::from(of.watts_per_gpu) * of.size.gpu_milli() / 1000 / i64::from(of.size.nodes);
        let mut is_over = false;
        for grant in &running.grants {
            for (place, level) in super::occupancy::LEVELS.iter().enumerate() {
                let domain = grant.node.0 / u64::from(self.layout.nodes_per(*level));
                let Some(committed) = usize::try_from(domain).ok().and_then(|at| self.committed[place].get_mut(at))
                else {
                    continue;
                };
                *committed += sign * watts;
                is_over |= *committed > self.layout.cap_watts(*level, domain);
            }
        }
        if is_over && sign > 0 {
            self.over_cap += 1;
        }
    }
}

/// The size class of a job.
fn class(job: &Job) -> usize {
    match job.size.gpu_milli() / 1000 {
        0 => 0,
        1 => 1,
        2..=8 => 2,
        9..=64 => 3,
        65..=256 => 4,
        _ => 5,
    }
}

/// Half of Σ|used − fair| over Σ used, where fair divides what is in use by guarantees and weights among what teams ask
/// for (`galerne_planner::fair::filling`); `None` while nobody waits.
fn share_error(queues: &[QueueSpec], jobs: &[Job], progress: &[Progress]) -> Option<f64> {
    let mut used = vec![0; queues.len()];
    let mut asked = vec![0; queues.len()];
    let mut is_anybody_waiting = false;
    for (job, progress) in jobs.iter().zip(progress) {
        let queue = queue_of(job.team).0 as usize;
        if progress.running.is_some() {
            used[queue] += job.size.gpu_milli();
            asked[queue] += job.size.gpu_milli();
        } else if progress.is_waiting {
            is_anybody_waiting = true;
            asked[queue] += job.size.gpu_milli();
        }
    }
    let all: i64 = used.iter().sum();
    if !is_anybody_waiting || all <= 0 {
        return None;
    }
    let fair = max_min(all, queues, &asked, Resource::Gpu);
    let leaves = used.iter().zip(&fair).skip(queue_of(0).0 as usize);
    let wrong: u64 = leaves.map(|(used, fair): (&i64, &i64)| used.abs_diff(*fair)).sum();
    Some(wrong as f64 / 2.0 / all as f64)
}
