//! How long the planner takes: full passes, single events, preemption; and that its plans are the same every time.
//!
//! One thread, nothing else at work in this process; times are of the calls alone.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use galerne_planner::event::Event;
use galerne_planner::fleet::{Health, Policy};
use galerne_planner::plan::Plan;
use galerne_planner::planner::Planner;
use galerne_planner::request::{Gpus, Stop};
use galerne_planner::units::{At, LeaseId, NodeId, PowerId, RequestId};

use super::fleet::{Layout, boxes};
use super::workload::{Generator, Job, Size, request};
use crate::random::SplitMix64;
use crate::timing::Samples;

/// Requests that wait at 45,000 GPUs; other fleets have as many for each GPU.
const PENDING: usize = 20_000;
const RUNS: usize = 100;

/// How much the waiting requests differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variety {
    /// The shapes of the workload: some fifty.
    Usual,
    /// CPU and memory of every request of one node drawn for it alone: four fifths of all have a shape of their own.
    EachItsOwn,
}

/// A fleet, and so many requests.
pub(crate) fn waiting(layout: &Layout, count: usize, variety: Variety) -> Result<Planner> {
    let mut planner = Planner::new(layout.spec(Policy::default()))?;
    add(&mut planner, layout, 0..count, variety)?;
    Ok(planner)
}

fn add(planner: &mut Planner, layout: &Layout, numbers: std::ops::Range<usize>, variety: Variety) -> Result<()> {
    let mut generator = Generator::new(*layout, 11 + numbers.start as u64);
    let mut random = SplitMix64::new(23);
    for number in numbers {
        let mut job = generator.job(0);
        // A small fleet is not asked for what it could never hold.
        while job.size.nodes > layout.nodes {
            job = generator.job(0);
        }
        let mut request = request(number, &job, 0, job.said_seconds);
        if variety == Variety::EachItsOwn && job.size.nodes == 1 {
            request.shape.cpu_milli = request.shape.cpu_milli / 2 + random.below(request.shape.cpu_milli / 2);
            request.shape.memory_mib = request.shape.memory_mib / 2 + random.below(request.shape.memory_mib / 2);
        }
        planner.apply(Event::RequestAdded(request))?;
    }
    Ok(())
}

/// Requests that wait on a fleet of this size.
pub(crate) fn pending(layout: &Layout) -> usize {
    (PENDING * layout.gpus() as usize / 45_000).max(1)
}

/// The same fleet after its first plan was carried out, with as many waiting as before.
pub(crate) fn busy(layout: &Layout, variety: Variety) -> Result<Planner> {
    let count = pending(layout);
    let mut planner = waiting(layout, count, variety)?;
    let plan = planner.plan(At(0));
    carry_out(&mut planner, &plan, At(0), 0)?;
    add(&mut planner, layout, count..count + plan.placements.len(), variety)?;
    // What the newcomers get is carried out as well, so that what is timed is a full fleet.
    let plan = planner.plan(At(1));
    carry_out(&mut planner, &plan, At(1), count as u64)?;
    Ok(planner)
}

fn carry_out(planner: &mut Planner, plan: &Plan, now: At, first_lease: u64) -> Result<()> {
    let mut next = first_lease;
    planner.commit(plan, now, |_| {
        next += 1;
        LeaseId(next - 1)
    })?;
    Ok(())
}

/// Times of full passes, and the plan of the last.
pub(crate) fn full_pass(planner: &mut Planner, runs: usize) -> Result<(Samples, Plan)> {
    // A cap that is told again: nothing changes but that proposals are given up.
    let settle = Event::CapChanged { power: PowerId(0), cap_watts: planner.fleet().power[0].cap_watts };
    let mut samples = Samples::default();
    let mut plan = planner.plan(At(10));
    for _ in 0..runs {
        // What the last plan proposed was not carried out: taking it back is not part of a pass.
        planner.apply(settle.clone())?;
        let begun = Instant::now();
        let next = planner.plan(At(10));
        samples.push(begun.elapsed());
        plan = next;
    }
    Ok((samples, plan))
}

/// GPUs, waiting requests, and times of a full pass, from 256 to 450,000 GPUs.
pub(crate) fn growth() -> Result<Vec<(u32, usize, Samples)>> {
    let mut all = Vec::new();
    for nodes in [32, 128, 512, 2_250, 5_625, 16_875, 56_250] {
        let layout = boxes("growth", nodes);
        let mut planner = waiting(&layout, pending(&layout), Variety::Usual)?;
        let runs = if nodes > 6_000 { RUNS / 5 } else { RUNS };
        let (samples, _) = full_pass(&mut planner, runs)?;
        all.push((layout.gpus(), pending(&layout), samples));
    }
    Ok(all)
}

/// Times of events on a full fleet.
pub(crate) struct EventTimes {
    /// Each kind together with the step after it.
    pub(crate) answered: Vec<(&'static str, Samples)>,
    /// Of all kinds, taking the event over without a step.
    pub(crate) alone: Samples,
    /// Of those whose step starts many requests: event and step, divided by how many.
    pub(crate) each_start: Samples,
}

/// Requests that a step starts after one event: from here on they are many.
pub(crate) const MANY_STARTS: usize = 8;

/// Times of each kind of event together with the step after it, on a full fleet.
pub(crate) fn events(planner: &Planner, layout: &Layout) -> Result<EventTimes> {
    let mut timer = Events {
        planner: planner.clone(),
        now: 100,
        next: 10_000_000,
        started: HashSet::new(),
        alone: Samples::default(),
        each_start: Samples::default(),
    };
    // The first step after a full pass settles what that proposed.
    timer.settle()?;
    let mut generator = Generator::new(*layout, 77);
    let mut added = Samples::default();
    let mut withdrawn = Samples::default();
    for _ in 0..10 * RUNS {
        let job = generator.job(timer.now);
        let number = timer.number();
        let request = request(number, &job, timer.now, job.said_seconds);
        added.push(timer.time(Event::RequestAdded(request))?);
        if !timer.started.contains(&RequestId(number as u64)) {
            withdrawn.push(timer.time(Event::RequestWithdrawn(RequestId(number as u64)))?);
        }
    }
    let ended = timer.ends(10 * RUNS)?;
    let (down, up) = timer.nodes(layout, RUNS)?;
    let answered = vec![
        ("request added", added),
        ("request withdrawn", withdrawn),
        ("lease ended", ended),
        ("node down", down),
        ("node up", up),
    ];
    Ok(EventTimes { answered, alone: timer.alone, each_start: timer.each_start })
}

struct Events {
    planner: Planner,
    now: i64,
    next: usize,
    /// Requests that were started meanwhile: to ask the planner would clear the processor's caches before each event.
    started: HashSet<RequestId>,
    alone: Samples,
    each_start: Samples,
}

impl Events {
    const fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn settle(&mut self) -> Result<()> {
        for _ in 0..3 {
            let plan = self.planner.step(At(self.now));
            self.tell(&plan)?;
        }
        Ok(())
    }

    /// The event and the step that answers it; telling back what the step started is not in the time.
    fn time(&mut self, event: Event) -> Result<std::time::Duration> {
        self.now += 1;
        let begun = Instant::now();
        self.planner.apply(event)?;
        let applied = begun.elapsed();
        let plan = self.planner.step(At(self.now));
        let taken = begun.elapsed();
        self.alone.push(applied);
        if plan.placements.len() >= MANY_STARTS {
            self.each_start.push(taken.div_f64(plan.placements.len() as f64));
        }
        self.tell(&plan)?;
        Ok(taken)
    }

    fn tell(&mut self, plan: &Plan) -> Result<()> {
        let first = self.next as u64;
        self.next += plan.placements.len();
        self.started.extend(plan.placements.iter().map(|placement| placement.request));
        carry_out(&mut self.planner, plan, At(self.now), first)?;
        for preemption in &plan.preemptions {
            self.planner.apply(Event::LeaseEnded(preemption.lease))?;
        }
        Ok(())
    }

    fn ends(&mut self, runs: usize) -> Result<Samples> {
        let mut random = SplitMix64::new(3);
        let mut leases: Vec<LeaseId> = self.planner.leases().map(|lease| lease.id).collect();
        random.shuffle(&mut leases);
        let mut samples = Samples::default();
        // A step stops nobody: all of them run until they are ended here.
        for lease in leases.into_iter().take(runs) {
            samples.push(self.time(Event::LeaseEnded(lease))?);
        }
        Ok(samples)
    }

    fn nodes(&mut self, layout: &Layout, runs: usize) -> Result<(Samples, Samples)> {
        let mut random = SplitMix64::new(5);
        let (mut down, mut up) = (Samples::default(), Samples::default());
        for _ in 0..runs {
            let node = NodeId(u64::from(random.below(layout.nodes)));
            down.push(self.time(Event::NodeHealth { node, health: Health::Down })?);
            up.push(self.time(Event::NodeHealth { node, health: Health::Ready })?);
        }
        Ok((down, up))
    }
}

/// Times of a step in which a gang with the highest priority, of a team below its guarantee, must stop others.
pub(crate) fn preemption(layout: &Layout) -> Result<(Samples, usize)> {
    let planner = overrun(layout)?;
    let mut samples = Samples::default();
    let mut stopped = 0;
    for run in 0..RUNS {
        let mut planner = planner.clone();
        let nodes = [8, 32, 64, 128][run % 4];
        let job = Job {
            team: 3,
            priority: 2,
            arrives_at: 100,
            run_seconds: 40_000,
            said_seconds: Some(40_000),
            size: Size { nodes, per_node: Gpus::Whole(layout.gpus_per_node) },
            watts_per_gpu: layout.rated_watts_per_gpu() * 3 / 4,
            stop: Stop::Never,
        };
        planner.apply(Event::RequestAdded(request(9_000_000 + run, &job, 100, job.said_seconds)))?;
        let begun = Instant::now();
        let plan = planner.tick(At(100));
        samples.push(begun.elapsed());
        stopped += usize::from(!plan.preemptions.is_empty());
    }
    Ok((samples, stopped))
}

/// A fleet that one team has filled with what may be stopped: 1 to 8 GPUs, and gangs up to four nodes.
fn overrun(layout: &Layout) -> Result<Planner> {
    let mut planner = Planner::new(layout.spec(Policy::default()))?;
    let mut random = SplitMix64::new(9);
    let mut gpus = 0;
    let mut number = 0;
    while gpus < layout.gpus() {
        let size = match random.below(4) {
            0 => Size { nodes: 1, per_node: Gpus::Whole(1) },
            1 => Size { nodes: 1, per_node: Gpus::Whole(layout.gpus_per_node / 2) },
            2 => Size { nodes: 1, per_node: Gpus::Whole(layout.gpus_per_node) },
            _ => Size { nodes: 1 + random.below(4), per_node: Gpus::Whole(layout.gpus_per_node) },
        };
        let stop = if random.below(2) == 0 { Stop::Restart } else { Stop::Checkpoint { cost_seconds: 300 } };
        let job = Job {
            team: 7,
            priority: 0,
            arrives_at: 0,
            run_seconds: 50_000,
            said_seconds: Some(50_000),
            size,
            watts_per_gpu: layout.rated_watts_per_gpu() * 3 / 4,
            stop,
        };
        gpus += size.nodes * u32::from(size.whole());
        planner.apply(Event::RequestAdded(request(number, &job, 0, job.said_seconds)))?;
        number += 1;
    }
    let plan = planner.plan(At(0));
    carry_out(&mut planner, &plan, At(0), 0)?;
    Ok(planner)
}

/// Hashes of the plan of `runs` planners built anew, and of one in each of 1 to 16 threads at once; all must be equal.
pub(crate) fn same_every_time(layout: &Layout, runs: usize) -> Result<[u8; 32]> {
    let hash =
        |_: usize| -> Result<[u8; 32]> { Ok(waiting(layout, pending(layout), Variety::Usual)?.plan(At(10)).hash()) };
    let first = hash(0)?;
    for run in 1..runs {
        ensure!(hash(run)? == first, "run {run} of {} gave another plan", layout.name);
    }
    for threads in [2, 4, 8, 16] {
        let hashes: Vec<Result<[u8; 32]>> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|run| scope.spawn(move || hash(run))).collect();
            all.into_iter().map(|one| one.join().unwrap_or_else(|_| Ok([0; 32]))).collect()
        });
        for one in hashes {
            ensure!(one? == first, "{threads} planners at once on {} did not give the same plan", layout.name);
        }
    }
    Ok(first)
}

/// Most memory that a process has had that does nothing but a full pass: `VmHWM` of this one, in MiB.
pub(crate) fn resident_mib() -> Result<f64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("this system does not tell the memory of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no line `VmHWM`")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("`VmHWM` is not a number")?;
    Ok(kib / 1024.0)
}
