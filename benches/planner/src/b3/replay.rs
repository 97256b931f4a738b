//! A year hour by hour, under each policy. Whatever a policy says is carried out and counted here, by the true costs.

use std::time::Instant;

use anyhow::{Result, ensure};
use galerne_planner::shift::certificate;
use galerne_planner::shift::flow::{Problem, Work};
use galerne_planner::shift::rolling::{Rolling, Task};

use super::input::{Job, Jobs, Zone, milligrams};
use crate::random::SplitMix64;

/// Who decides, and what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The planner's flow, everything known: the optimum, proved by its prices.
    Clairvoyant,
    /// The planner hour by hour: jobs unknown before they arrive, true costs known.
    Online,
    /// Likewise, and costs known with an error of 5 % of the mean (standard deviation).
    OnlineError,
    /// Peer: everything runs as soon as there is room, least slack first.
    RunAtOnce,
    /// Peer: each job takes at arrival the cheapest hours that still have room, and keeps them.
    Greedy,
    /// Peer: the flow over the known jobs anew in every hour, expecting no others.
    RollingFlow,
    /// Peer: each job in one piece at its cheapest start, without capacity.
    OnePiece,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Clairvoyant => "clairvoyant",
            Self::Online => "online",
            Self::OnlineError => "online-error-5",
            Self::RunAtOnce => "run-at-once",
            Self::Greedy => "greedy-at-arrival",
            Self::RollingFlow => "rolling-flow",
            Self::OnePiece => "non-interruptible",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Milligrams for each kW of a unit.
    pub(crate) spent: i64,
    pub(crate) missed: i64,
    pub(crate) seconds: f64,
}

/// Units that run every job at once.
pub(crate) const UNLIMITED: i64 = 1 << 32;
const ERROR: f64 = 0.05;

/// One list of jobs in one zone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) zone: &'a Zone,
    pub(crate) jobs: &'a Jobs,
}

impl Case<'_> {
    /// Everything at once and without capacity: what savings are measured against.
    pub(crate) fn baseline(&self) -> i64 {
        self.jobs.jobs.iter().map(|job| self.stretch(job.arrival, job.hours)).sum()
    }

    fn stretch(&self, start: usize, hours: i64) -> i64 {
        self.zone.cost.iter().skip(start).take(usize::try_from(hours).unwrap_or(0)).sum()
    }

    pub(crate) fn run(&self, mode: Mode, capacity: i64) -> Result<Outcome> {
        let begun = Instant::now();
        let mut outcome = match mode {
            Mode::Clairvoyant => self.clairvoyant(capacity)?,
            Mode::Online => self.online(&self.zone.cost, capacity)?,
            Mode::OnlineError => self.online(&self.forecast(1), capacity)?,
            Mode::RunAtOnce => self.hourly(capacity, |_, live| (0..live.len()).collect()),
            Mode::RollingFlow => self.hourly(capacity, |now, live| self.flow_now(now, live, capacity)),
            Mode::Greedy => self.greedy(capacity),
            Mode::OnePiece => self.one_piece(),
        };
        if mode != Mode::Clairvoyant {
            outcome.seconds = begun.elapsed().as_secs_f64();
        }
        Ok(outcome)
    }

    fn work(&self) -> Vec<Work> {
        let work = |job: &Job| Work { from: job.arrival, until: job.deadline, demand: job.hours, width: 1 };
        self.jobs.jobs.iter().map(work).collect()
    }

    /// The seconds are the solver's, without its checker.
    fn clairvoyant(&self, capacity: i64) -> Result<Outcome> {
        let (work, capacity) = (self.work(), vec![capacity; self.zone.cost.len()]);
        let problem = Problem { cost: &self.zone.cost, capacity: &capacity, work: &work };
        let begun = Instant::now();
        let spread = problem.spread();
        let seconds = begun.elapsed().as_secs_f64();
        let proof = certificate::check(&problem, &spread)?;
        Ok(Outcome { spent: proof.cost, missed: proof.missed, seconds })
    }

    /// Truth and an error that is drawn once for each hour.
    pub(crate) fn forecast(&self, seed: u64) -> Vec<i64> {
        let mut random = SplitMix64::new(seed);
        let mean = self.zone.cost.iter().sum::<i64>() as f64 / self.zone.cost.len() as f64 / 1000.0;
        let mut guess = |truth: &i64| (truth + milligrams(ERROR * mean * random.normal())).max(0);
        self.zone.cost.iter().map(&mut guess).collect()
    }

    fn online(&self, forecast: &[i64], capacity: i64) -> Result<Outcome> {
        let mut rolling = Rolling::new(0);
        let mut left: Vec<i64> = self.jobs.jobs.iter().map(|job| job.hours).collect();
        let mut arriving = (0_u64..).zip(&self.jobs.jobs).peekable();
        let mut spent = 0;
        for (now, cost) in self.zone.cost.iter().enumerate() {
            while let Some((number, job)) = arriving.next_if(|(_, job)| job.arrival <= now) {
                let deadline = job.deadline.min(self.zone.cost.len());
                rolling.arrive(Task { number, hours: job.hours, deadline, width: 1 });
            }
            let running = rolling.run(&forecast[now..], capacity);
            ensure!(i64::try_from(running.len())? <= capacity, "hour {now} runs {} of {capacity}", running.len());
            for number in running {
                let place = usize::try_from(number)?;
                let job = &self.jobs.jobs[place];
                ensure!((job.arrival..job.deadline).contains(&now), "job {number} runs in hour {now}");
                left[place] -= 1;
                ensure!(left[place] >= 0, "job {number} runs longer than it needs");
                spent += cost;
            }
        }
        let missed = left.iter().sum();
        ensure!(missed == rolling.missed(), "{missed} job-hours were missed, the planner says {}", rolling.missed());
        Ok(Outcome { spent, missed, seconds: 0.0 })
    }

    /// Each hour `choose` names places among the live jobs, in order; as many run as there is room for.
    fn hourly(&self, capacity: i64, choose: impl Fn(usize, &[Job]) -> Vec<usize>) -> Outcome {
        let mut live: Vec<Job> = Vec::new();
        let mut arriving = self.jobs.jobs.iter().peekable();
        let mut outcome = Outcome::default();
        for (now, cost) in self.zone.cost.iter().enumerate() {
            while let Some(job) = arriving.next_if(|job| job.arrival <= now) {
                live.push(*job);
            }
            let due = |job: &&Job| job.deadline <= now;
            outcome.missed += live.iter().filter(due).map(|job| job.hours).sum::<i64>();
            live.retain(|job| job.deadline > now && job.hours > 0);
            live.sort_by_key(|job| (job.deadline - usize::try_from(job.hours).unwrap_or(0), job.deadline));
            for place in choose(now, &live).into_iter().take(usize::try_from(capacity).unwrap_or(usize::MAX)) {
                live[place].hours -= 1;
                outcome.spent += cost;
            }
        }
        outcome.missed += live.iter().map(|job| job.hours).sum::<i64>();
        outcome
    }

    fn flow_now(&self, now: usize, live: &[Job], capacity: i64) -> Vec<usize> {
        let work = |job: &Job| Work { from: 0, until: job.deadline - now, demand: job.hours, width: 1 };
        let work: Vec<Work> = live.iter().map(work).collect();
        let hours = work.iter().map(|work| work.until).max().unwrap_or(0).min(self.zone.cost.len() - now);
        let capacity = vec![capacity; hours];
        let spread = Problem { cost: &self.zone.cost[now..now + hours], capacity: &capacity, work: &work }.served();
        (0..live.len()).filter(|&place| spread.of(place).first().is_some_and(|&units| units > 0)).collect()
    }

    fn greedy(&self, capacity: i64) -> Outcome {
        let mut room = vec![capacity; self.zone.cost.len()];
        let mut outcome = Outcome::default();
        for job in &self.jobs.jobs {
            let mut hours: Vec<usize> =
                (job.arrival..job.deadline.min(room.len())).filter(|&hour| room[hour] > 0).collect();
            hours.sort_by_key(|&hour| (self.zone.cost[hour], hour));
            hours.truncate(usize::try_from(job.hours).unwrap_or(0));
            outcome.missed += job.hours - i64::try_from(hours.len()).unwrap_or(0);
            for hour in hours {
                room[hour] -= 1;
                outcome.spent += self.zone.cost[hour];
            }
        }
        outcome
    }

    fn one_piece(&self) -> Outcome {
        let run = |job: &Job| {
            let last = job.deadline.min(self.zone.cost.len()).saturating_sub(usize::try_from(job.hours).unwrap_or(0));
            (job.arrival..=last.max(job.arrival)).map(|start| self.stretch(start, job.hours)).min().unwrap_or(0)
        };
        Outcome { spent: self.jobs.jobs.iter().map(run).sum(), ..Outcome::default() }
    }
}
