//! A simulated site: jobs arrive, run, end and fail; a scheduler decides at every tick; everything it does is checked.
//!
//! All schedulers see the same jobs, the same failures and the same ticks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::{Context as _, Result, ensure};
use galerne_planner::plan::Grant;
use galerne_planner::request::{Gpus, Stop};

use super::fleet::Layout;
use super::measure::Measures;
use super::occupancy::Occupancy;
use super::workload::{DAY, Job};
use crate::random::SplitMix64;

/// Seconds between two decisions, when something happened: the half of Slurm's usual minute.
pub(crate) const TICK: i64 = 30;
/// Failures of a node per day (RSC-1), and the time until it is back.
const FAILURES_PER_NODE_DAY: f64 = 6.5e-3;
const REPAIR_SECONDS: i64 = DAY;
/// How often gangs save their work.
const SAVE_SECONDS: i64 = 3600;

/// Who decides. It hears of everything that happens, in order, and starts and stops jobs through the site.
pub(crate) trait Scheduler {
    fn submitted(&mut self, site: &Site, job: usize, now: i64) -> Result<()>;
    fn ended(&mut self, site: &Site, job: usize, now: i64) -> Result<()>;
    fn saved(&mut self, job: usize, now: i64) -> Result<()>;
    fn node_changed(&mut self, node: u32, is_up: bool) -> Result<()>;
    fn decide(&mut self, site: &mut Site, now: i64) -> Result<()>;
}

/// A job on its nodes.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) grants: Vec<Grant>,
    pub(crate) started_at: i64,
    /// When it ends if nothing happens; known to the simulation only.
    ends_at: i64,
    /// When its user says that it ends.
    pub(crate) said_end_at: Option<i64>,
    pub(crate) saved_at: i64,
}

/// Where a job stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Seconds still to run, with what was lost.
    left_seconds: i64,
    pub(crate) said_left_seconds: Option<i64>,
    pub(crate) running: Option<Running>,
    pub(crate) is_waiting: bool,
    first_started_at: Option<i64>,
    /// How often it was started: an end that belongs to an earlier start is not this one's.
    starts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    End { job: usize, start: u32 },
    Save { job: usize, start: u32 },
    Repair { node: u32 },
    Fail { node: u32 },
    Submit { job: usize },
    Sample,
}

/// The site and all that is known of its jobs.
pub(crate) struct Site {
    pub(crate) jobs: Vec<Job>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) occupancy: Occupancy,
    /// Jobs on each node.
    pub(crate) on_node: Vec<Vec<usize>>,
    pub(crate) measures: Measures,
    happenings: BinaryHeap<Reverse<(i64, Happening)>>,
    ends_at: i64,
}

impl Site {
    /// A site on which `jobs` arrive during `days`.
    pub(crate) fn new(layout: Layout, jobs: Vec<Job>, days: i64, seed: u64) -> Self {
        let ends_at = days * DAY;
        let mut happenings: Vec<(i64, Happening)> =
            jobs.iter().enumerate().map(|(job, one)| (one.arrives_at, Happening::Submit { job })).collect();
        happenings.extend((1..=days * 24).map(|hour| (hour * 3600, Happening::Sample)));
        happenings.extend(failures(layout, days, seed));
        let fresh = |job: &Job| Progress {
            left_seconds: job.run_seconds,
            said_left_seconds: job.said_seconds,
            ..Progress::default()
        };
        Self {
            progress: jobs.iter().map(fresh).collect(),
            measures: Measures::new(layout),
            jobs,
            occupancy: Occupancy::new(layout),
            on_node: vec![Vec::new(); layout.nodes as usize],
            happenings: happenings.into_iter().map(Reverse).collect(),
            ends_at,
        }
    }

    /// Lets time pass to the end. A decision that breaks a rule of the site is an error.
    ///
    /// There is one decision at a tick: what it stops waits again, and what it stops them for starts, at the next. So
    /// time passes whatever is decided, and two jobs that stop each other are a count of stops, not a loop.
    pub(crate) fn run(&mut self, scheduler: &mut dyn Scheduler) -> Result<()> {
        let mut next = 0;
        while let Some(Reverse((at, _))) = self.happenings.peek() {
            let now = next.max((at + TICK - 1).div_euclid(TICK) * TICK);
            if now > self.ends_at {
                break;
            }
            next = now + TICK;
            self.happen_until(now, scheduler)?;
            scheduler.decide(self, now)?;
        }
        self.measures.finish(&self.jobs, &self.progress, self.ends_at);
        Ok(())
    }

    fn happen_until(&mut self, now: i64, scheduler: &mut dyn Scheduler) -> Result<()> {
        while let Some(Reverse((at, _))) = self.happenings.peek()
            && *at <= now
            && let Some(Reverse((at, happening))) = self.happenings.pop()
        {
            match happening {
                Happening::End { job, start } if self.is_current(job, start) => {
                    self.leave(job)?;
                    scheduler.ended(self, job, at)?;
                }
                Happening::Save { job, start } if self.is_current(job, start) => {
                    if let Some(running) = &mut self.progress[job].running {
                        running.saved_at = at;
                    }
                    self.happenings.push(Reverse((at + SAVE_SECONDS, happening)));
                    scheduler.saved(job, at)?;
                }
                Happening::End { .. } | Happening::Save { .. } => {}
                Happening::Repair { node } => {
                    self.occupancy.set_up(node, true);
                    scheduler.node_changed(node, true)?;
                }
                Happening::Fail { node } => self.fail(node, at, scheduler)?,
                Happening::Submit { job } => {
                    self.progress[job].is_waiting = true;
                    scheduler.submitted(self, job, at)?;
                }
                Happening::Sample => self.measures.sample(at, &self.jobs, &self.progress, &self.occupancy),
            }
        }
        Ok(())
    }

    fn is_current(&self, job: usize, start: u32) -> bool {
        self.progress[job].running.is_some() && self.progress[job].starts == start
    }

    /// A node goes down: its jobs are lost, and wait again with what they had saved.
    fn fail(&mut self, node: u32, at: i64, scheduler: &mut dyn Scheduler) -> Result<()> {
        if !self.occupancy.is_up(node) {
            return Ok(());
        }
        self.occupancy.set_up(node, false);
        scheduler.node_changed(node, false)?;
        for job in self.on_node[node as usize].clone() {
            self.interrupt(job, at)?;
            scheduler.ended(self, job, at)?;
        }
        self.happenings.push(Reverse((at + REPAIR_SECONDS, Happening::Repair { node })));
        Ok(())
    }

    /// Starts a waiting job where the scheduler says.
    pub(crate) fn start(&mut self, job: usize, grants: Vec<Grant>, now: i64) -> Result<()> {
        let size = self.jobs[job].size;
        ensure!(self.progress[job].is_waiting, "job {job} is not waiting");
        ensure!(
            grants.len() == size.nodes as usize,
            "job {job} asked for {} nodes and got {}",
            size.nodes,
            grants.len()
        );
        for grant in &grants {
            let is_right = match (size.per_node, grant.gpus) {
                (Gpus::Whole(gpus), galerne_planner::plan::GpuGrant::Whole(mask)) => {
                    mask.count_ones() == u32::from(gpus)
                }
                (Gpus::Milli(asked), galerne_planner::plan::GpuGrant::Milli { milli, .. }) => asked == milli,
                _ => false,
            };
            ensure!(is_right, "job {job} asked for {:?} and got {:?}", size.per_node, grant.gpus);
            self.occupancy.take(*grant).with_context(|| format!("job {job} was placed badly"))?;
            self.on_node[usize::try_from(grant.node.0)?].push(job);
        }
        let progress = &mut self.progress[job];
        progress.is_waiting = false;
        progress.starts += 1;
        progress.first_started_at.get_or_insert(now);
        let ends_at = now + progress.left_seconds;
        let said_end_at = progress.said_left_seconds.map(|left| now + left);
        let start = progress.starts;
        progress.running = Some(Running { grants, started_at: now, ends_at, said_end_at, saved_at: now });
        self.happenings.push(Reverse((ends_at, Happening::End { job, start })));
        if matches!(self.jobs[job].stop, Stop::Checkpoint { .. }) {
            self.happenings.push(Reverse((now + SAVE_SECONDS, Happening::Save { job, start })));
        }
        let first = progress.first_started_at == Some(now) && start == 1;
        self.measures.started(&self.jobs[job], &self.progress[job], first, &self.occupancy, now);
        Ok(())
    }

    /// Stops a running job so that `for_job` may start; it waits again. The scheduler hears of the new wait only.
    pub(crate) fn stop(&mut self, job: usize, for_job: usize, now: i64) -> Result<()> {
        let running = self.progress[job].running.as_ref().context("a job was stopped that does not run")?;
        ensure!(self.jobs[job].stop != Stop::Never, "job {job} may not be stopped");
        let would_free_in = running.ends_at - now;
        let lost = self.interrupt(job, now)?;
        let wait = would_free_in.min(self.progress[for_job].left_seconds);
        self.measures.stopped(lost, for_job, wait, self.jobs[for_job].size.gpu_milli());
        Ok(())
    }

    /// Ends a run before its end and returns the GPU-seconds that are lost.
    fn interrupt(&mut self, job: usize, at: i64) -> Result<f64> {
        let running = self.leave(job)?;
        let (kept, again) = match self.jobs[job].stop {
            Stop::Checkpoint { cost_seconds } => (running.saved_at - running.started_at, i64::from(cost_seconds)),
            Stop::Never | Stop::Restart => (0, 0),
        };
        let progress = &mut self.progress[job];
        progress.left_seconds += again - kept;
        progress.said_left_seconds = progress.said_left_seconds.map(|left| left + again - kept);
        self.happenings.push(Reverse((at, Happening::Submit { job })));
        let seconds = at - running.started_at - kept + again;
        Ok(seconds as f64 * self.jobs[job].size.gpu_milli() as f64 / 1000.0)
    }

    fn leave(&mut self, job: usize) -> Result<Running> {
        let running = self.progress[job].running.take().context("a job ended that did not run")?;
        for grant in &running.grants {
            self.occupancy.give_back(*grant)?;
            self.on_node[usize::try_from(grant.node.0)?].retain(|other| *other != job);
        }
        self.measures.left(&self.jobs[job], &running);
        Ok(running)
    }
}

impl Progress {
    pub(crate) const fn first_started_at(&self) -> Option<i64> {
        self.first_started_at
    }
}

/// Failures of every node, exponential; a node that is down when it fails is not counted twice.
fn failures(layout: Layout, days: i64, seed: u64) -> Vec<(i64, Happening)> {
    let mut random = SplitMix64::new(seed ^ 0x6661_696c);
    let rate = FAILURES_PER_NODE_DAY * f64::from(layout.nodes) / DAY as f64;
    let mut at = 0.0;
    let mut all = Vec::new();
    loop {
        at += random.exponential() / rate;
        if at >= (days * DAY) as f64 {
            return all;
        }
        let node = random.below(layout.nodes);
        all.push((super::workload::whole(at), Happening::Fail { node }));
    }
}
