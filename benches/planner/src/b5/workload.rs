//! The generated workload: jobs of 30 teams, mostly small, most GPU time in gangs, log-normal run times.
//!
//! 88 % of jobs ask for 1 to 8 GPUs (8 % of all for a part of one), 12 % for 16 to 1,024.

use galerne_planner::fleet::Level;
use galerne_planner::request::{Gpus, Nodes, Request, Shape, Stop};
use galerne_planner::units::{At, RequestId, TenantClass};

use super::fleet::{Layout, TEAMS, queue_of};
use crate::random::SplitMix64;

/// One job. Its number is its place in the list, and its request's id.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) team: u32,
    /// 0, 1 or 2.
    pub(crate) priority: i16,
    pub(crate) arrives_at: i64,
    /// How long it really runs.
    pub(crate) run_seconds: i64,
    /// What its user says: never too little, up to twice; one in ten says nothing.
    pub(crate) said_seconds: Option<i64>,
    pub(crate) size: Size,
    pub(crate) watts_per_gpu: u32,
    pub(crate) stop: Stop,
}

/// What a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) nodes: u32,
    pub(crate) per_node: Gpus,
}

impl Size {
    /// Thousandths of GPUs in all.
    pub(crate) fn gpu_milli(self) -> i64 {
        let one = match self.per_node {
            Gpus::Whole(gpus) => i64::from(gpus) * 1000,
            Gpus::Milli(milli) => i64::from(milli),
            Gpus::Slice(_) => 0,
        };
        one * i64::from(self.nodes)
    }

    /// Whole GPUs of each node; zero for a part of one.
    pub(crate) const fn whole(self) -> u8 {
        match self.per_node {
            Gpus::Whole(gpus) => gpus,
            Gpus::Milli(_) | Gpus::Slice(_) => 0,
        }
    }
}

/// GPUs of a job below a node's, and how often.
const SMALL: [(u32, f64); 5] = [(1, 0.37), (2, 0.16), (4, 0.13), (6, 0.03), (8, 0.11)];
/// Parts of a GPU, in thousandths: 8 % of all jobs.
const PARTS: [(u16, f64); 4] = [(100, 0.02), (250, 0.02), (500, 0.03), (700, 0.01)];
/// GPUs of gangs: 12 % of all jobs, near four fifths of GPU time.
const GANGS: [(u32, f64); 7] =
    [(16, 0.048), (32, 0.030), (64, 0.018), (128, 0.012), (256, 0.0072), (512, 0.0036), (1024, 0.0012)];

/// Median and sigma of log-normal run times, and the longest run: mean 6.2 h.
const RUN_MEDIAN_SECONDS: f64 = 3.0 * 3600.0;
const RUN_SIGMA: f64 = 1.2;
const RUN_LIMIT_SECONDS: f64 = 3.0 * 86_400.0;

/// Days after which measuring begins.
pub(crate) const DAY: i64 = 86_400;

/// Draws jobs, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    random: SplitMix64,
    layout: Layout,
    /// How often each team submits: not as its weight says, so that sharing has something to do.
    activity: Vec<f64>,
}

impl Generator {
    pub(crate) fn new(layout: Layout, seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let activity = (0..TEAMS).map(|_| random.log_normal(1.0, 0.7)).collect();
        Self { random, layout, activity }
    }

    /// All jobs of `days`, arriving evenly at random, whose GPU time is `load` of the fleet's.
    ///
    /// A few gangs of a thousand GPUs make much of the whole, so the rate is corrected by what was drawn.
    pub(crate) fn jobs(&self, load: f64, days: i64) -> Vec<Job> {
        let wanted = load * f64::from(self.layout.gpus()) * (days * DAY) as f64;
        let mut per_second = wanted / (days * DAY) as f64 / self.mean_gpu_seconds();
        let mut jobs = Vec::new();
        for _ in 0..8 {
            jobs = self.clone().arrivals(per_second, days);
            let drawn: f64 = jobs.iter().map(|job| job.size.gpu_milli() as f64 / 1000.0 * job.run_seconds as f64).sum();
            if (drawn / wanted - 1.0).abs() < 0.01 {
                break;
            }
            per_second *= wanted / drawn;
        }
        jobs
    }

    fn arrivals(mut self, per_second: f64, days: i64) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut at = 0.0;
        loop {
            at += self.random.exponential() / per_second;
            if at >= (days * DAY) as f64 {
                return jobs;
            }
            jobs.push(self.job(whole(at)));
        }
    }

    /// One job arriving at `at`.
    pub(crate) fn job(&mut self, at: i64) -> Job {
        let size = self.size();
        let run = self.random.log_normal(RUN_MEDIAN_SECONDS, RUN_SIGMA).clamp(60.0, RUN_LIMIT_SECONDS);
        let over = 1.0 + self.random.unit();
        let is_said = self.random.unit() < 0.9;
        let team = u32::try_from(self.random.choose(&self.activity)).unwrap_or(0);
        let priority = [0, 1, 2][self.random.choose(&[0.6, 0.3, 0.1])];
        // Compute-heavy training draws 76 % of the rated watts on the mean and 82 % at most; single nodes may be run
        // harder.
        let hardest = if size.nodes > 1 { 0.82 } else { 1.0 };
        let watts_share = [0.62, 0.76, hardest][self.random.choose(&[0.3, 0.5, 0.2])];
        let stop = self.stop(size);
        Job {
            team,
            priority,
            arrives_at: at,
            run_seconds: whole(run),
            said_seconds: is_said.then(|| whole(run * over)),
            size,
            watts_per_gpu: u32::try_from(whole(f64::from(self.layout.rated_watts_per_gpu()) * watts_share))
                .unwrap_or(0),
            stop,
        }
    }

    fn size(&mut self) -> Size {
        let shares: Vec<f64> = SMALL
            .iter()
            .map(|(_, s)| *s)
            .chain(PARTS.iter().map(|(_, s)| *s))
            .chain(GANGS.iter().map(|(_, s)| *s))
            .collect();
        let place = self.random.choose(&shares);
        if let Some((gpus, _)) = SMALL.get(place) {
            return self.whole_gpus(*gpus);
        }
        if let Some((milli, _)) = PARTS.get(place - SMALL.len()) {
            return Size { nodes: 1, per_node: Gpus::Milli(*milli) };
        }
        self.whole_gpus(GANGS[place - SMALL.len() - PARTS.len()].0)
    }

    /// On one node where it fits, else on whole nodes.
    fn whole_gpus(&self, gpus: u32) -> Size {
        let per_node = u32::from(self.layout.gpus_per_node);
        match u8::try_from(gpus) {
            Ok(few) if gpus <= per_node => Size { nodes: 1, per_node: Gpus::Whole(few) },
            _ => Size { nodes: gpus.div_ceil(per_node), per_node: Gpus::Whole(self.layout.gpus_per_node) },
        }
    }

    /// Four of five gangs write checkpoints; most small jobs can only begin again.
    fn stop(&mut self, size: Size) -> Stop {
        let chance = self.random.unit();
        if size.nodes > 1 {
            if chance < 0.8 { Stop::Checkpoint { cost_seconds: 300 } } else { Stop::Never }
        } else if chance < 0.7 {
            Stop::Restart
        } else {
            Stop::Never
        }
    }

    /// Expected GPU-seconds of one job, from the tables above; the cut at the longest run is taken into account.
    fn mean_gpu_seconds(&self) -> f64 {
        let small: f64 = SMALL.iter().chain(&GANGS).map(|(gpus, share)| f64::from(*gpus) * share).sum();
        let parts: f64 = PARTS.iter().map(|(milli, share)| f64::from(*milli) / 1000.0 * share).sum();
        (small + parts) * mean_run_seconds()
    }
}

/// Mean of the log-normal cut to its limits, by its quantiles.
fn mean_run_seconds() -> f64 {
    let mut random = SplitMix64::new(0x6d65_616e);
    let count = 200_000;
    let one = |_| random.log_normal(RUN_MEDIAN_SECONDS, RUN_SIGMA).clamp(60.0, RUN_LIMIT_SECONDS);
    (0..count).map(one).sum::<f64>() / f64::from(count)
}

/// The request of job `number` with `left_seconds` of its said run time to go.
pub(crate) fn request(number: usize, job: &Job, submitted_at: i64, left_seconds: Option<i64>) -> Request {
    let id = number as u64;
    let whole = job.size.whole();
    let nodes = u16::try_from(job.size.nodes).unwrap_or(u16::MAX);
    let gpus = u32::from(whole);
    let peak = if whole == 0 { share(job.watts_per_gpu, job.size.gpu_milli()) } else { job.watts_per_gpu * gpus };
    Request {
        id: RequestId(id),
        queue: queue_of(job.team),
        class: TenantClass(0),
        priority: job.priority,
        submitted_at: At(submitted_at),
        order: id,
        shape: Shape {
            gpus: job.size.per_node,
            nodes: Nodes { min: nodes, max: nodes },
            models: 0,
            cpu_milli: if whole == 0 { 4_000 } else { 20_000 * gpus },
            memory_mib: if whole == 0 { 16 * 1024 } else { 200 * 1024 * gpus },
            within: None,
            prefer: (nodes > 1).then_some(Level::Unit),
            residencies: 0,
            expected_watts: peak * 4 / 5,
            peak_watts: peak,
        },
        run_seconds: left_seconds.map(|seconds| u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)),
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: job.stop,
        near: None,
    }
}

fn share(watts: u32, milli: i64) -> u32 {
    u32::try_from(i64::from(watts) * milli / 1000).unwrap_or(0)
}

/// Whole seconds.
pub(crate) fn whole(seconds: f64) -> i64 {
    #[allow(clippy::cast_possible_truncation, reason = "run times and arrivals are at most some million seconds")]
    let whole = seconds as i64;
    whole
}

#[cfg(test)]
mod tests;
