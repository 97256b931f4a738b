//! What would help: each step is put to the same questions as the request, and given where an obstacle is gone then.

use super::Explainer;
use super::ask::{Ask, Change};
use super::census::{Lack, Place, Row};
use crate::fleet::Level;
use crate::reason::{Awaited, Cause, Next, Resource, Step, Then};
use crate::request::{Gpus, Nodes, Shape};
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, GPU_MILLI, ModelId};

/// Which steps are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// It has a promise: only what could start it before.
    Promised,
}

/// A wait up to so many seconds costs less than changing the request: a quarter of an hour.
const SHORT_WAIT_SECONDS: i64 = 900;
/// Models told of, those with most free nodes first.
const MODELS_TOLD: usize = 2;
/// Cordoned nodes tried.
const RESTORED_TRIED: usize = 16;
/// Leases without an end that are tried.
const ENDED_TRIED: usize = 4;
/// A part of a request worth asking for: of CPU and memory a quarter. Of watts a half: below that GPUs cannot be
/// capped.
const CPU_PART: u32 = 4;
const WATTS_PART: u32 = 2;
/// A request is spread over so many nodes at most.
const SPREAD_NODES: u8 = 8;
/// A lower draw is sought so often: each time another point of the power tree may be the tightest.
const DRAWS_TRIED: usize = 4;

impl Explainer<'_> {
    /// All that helps, what starts it first, cheapest first.
    pub(super) fn steps(&mut self, ask: &Ask, obstacles: &[Cause], scope: Scope) -> Vec<Next> {
        if obstacles.is_empty() {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let places = |cause: &Cause| matches!(cause, Cause::Nodes { .. } | Cause::Apart { .. });
        let by_place = obstacles.iter().any(places);
        let by_power = obstacles.iter().any(|cause| matches!(cause, Cause::Power { .. }));
        if by_place || by_power {
            steps.extend(self.relax(ask, obstacles));
        }
        if (by_place || by_power) && scope == Scope::All {
            steps.extend(self.say_run_time(ask, obstacles));
            steps.extend(self.allow_model(ask, obstacles));
            steps.extend(self.allow_residency(ask, obstacles));
            steps.extend(self.restore(ask, obstacles));
        }
        if by_place && scope == Scope::All {
            steps.extend(self.spread(ask, obstacles));
            steps.extend(self.less_beside(ask, obstacles));
        }
        if scope == Scope::All {
            steps.extend(self.less_gpus(ask, obstacles));
        }
        steps.extend(self.fewer(ask, obstacles));
        if by_power {
            steps.extend(self.draw(ask, obstacles));
        }
        for cause in obstacles {
            steps.extend(self.raise(ask, obstacles, cause));
        }
        steps.extend(self.await_ends(ask));
        if scope == Scope::All && !steps.iter().any(|next| next.then == Then::Starts) {
            steps.extend(self.end_one(ask));
        }
        let now = self.facts.now;
        steps.sort_by_key(|next| (next.then, cost(&next.step, now)));
        steps.dedup();
        steps
    }

    /// What helps one that could start and waits for nearness: to prefer none, or that its promised nodes are free.
    pub(super) fn steps_to_start_apart(&mut self, ask: &Ask, level: Level) -> Vec<Next> {
        let anywhere = ask.with(Shape { prefer: None, ..ask.shape });
        let started = self.tried(&anywhere, &[], Step::DropPreference { level });
        let mut steps: Vec<Next> = started.into_iter().chain(self.await_promised(ask)).collect();
        let now = self.facts.now;
        steps.sort_by_key(|next| (next.then, cost(&next.step, now)));
        steps
    }

    /// That its promised nodes are free.
    pub(super) fn await_promised(&mut self, ask: &Ask) -> Option<Next> {
        self.await_ends(&Ask { change: Change::OnlyPromised, ..*ask })
    }

    /// The step with what the questions answer to the changed ask, where it helps.
    fn tried(&mut self, ask: &Ask, obstacles: &[Cause], step: Step) -> Option<Next> {
        let left = self.obstacles(ask);
        let then = if left.is_empty() {
            Then::Starts
        } else {
            let known = |cause: &Cause| obstacles.iter().any(|other| kind(other) == kind(cause));
            if left.len() >= obstacles.len() || !left.iter().all(known) {
                return None;
            }
            Then::Clears { left: narrow(left.len()) }
        };
        Some(Next { step, then })
    }

    fn await_ends(&mut self, ask: &Ask) -> Option<Next> {
        // A promise is of nodes; power and quota may keep it from starting then, so that it is walked to like any
        // other.
        let (until, on) = self.wait(ask)?;
        Some(Next { step: Step::Wait { until, on }, then: Then::Starts })
    }

    /// A lease that never said when it ends and is alone in the way: where nothing else helps.
    fn end_one(&mut self, ask: &Ask) -> Option<Next> {
        let endless = self.endless(ask);
        endless
            .into_iter()
            .take(ENDED_TRIED)
            .find(|lease| self.starts_without(ask, *lease))
            .map(|lease| Next { step: Step::End { lease }, then: Then::Starts })
    }

    /// The longest run that fits before promised starts; only where it starts then: whoever waits for something else as
    /// well is told of the promised nodes whatever its run time, as others that ask the same are.
    fn say_run_time(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let now = self.facts.now;
        let mut starts: Vec<At> = Vec::new();
        for stand in self.census.suited(self.facts.spec, &ask.shape) {
            let Place::Promised(request) = stand.place else { continue };
            let mut rows = self.census.with_gpus(stand, &ask.shape);
            let fits = |row: &Row| {
                row.nodes.iter().any(|node| stand.lack(row, &self.facts, *node, &ask.shape) == Lack::Nothing)
            };
            if request == ask.request || !rows.any(fits) {
                continue;
            }
            starts.extend(self.facts.promises.get(request).map(|promise| promise.starts_at).filter(|at| *at > now));
        }
        starts.sort_unstable_by(|left, right| right.cmp(left));
        starts.dedup();
        // The shorter the run, the more nodes it may have: if the shortest helps, halve towards the longest that does.
        let mut found = None;
        let (mut longest, mut shortest) = (0, starts.len());
        while longest < shortest {
            let middle = if found.is_none() { starts.len() - 1 } else { longest + (shortest - longest) / 2 };
            let seconds = u32::try_from(starts[middle].since(now)).unwrap_or(u32::MAX);
            let shorter = Ask { run_seconds: Some(seconds), ..*ask };
            match self.tried(&shorter, obstacles, Step::SayRunTime { seconds }) {
                Some(next) if next.then == Then::Starts => (found, shortest) = (Some(next), middle),
                _ if found.is_none() => return None,
                _ => longest = middle + 1,
            }
        }
        found
    }

    /// The next coarser level of the same tree that helps, or none at all.
    fn relax(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let from = ask.shape.within?;
        let coarser = Level::ALL.into_iter().rev().filter(|level| {
            *level < from
                && level.is_fabric() == from.is_fabric()
                && self.facts.state.topology.table_of(*level).is_some()
        });
        let levels: Vec<Option<Level>> = coarser.map(Some).chain(std::iter::once(None)).collect();
        levels.into_iter().find_map(|to| {
            let wider = ask.with(Shape { within: to, ..ask.shape });
            self.tried(&wider, obstacles, Step::Relax { from, to })
        })
    }

    fn allow_model(&mut self, ask: &Ask, obstacles: &[Cause]) -> Vec<Next> {
        if ask.shape.models == 0 || matches!(ask.shape.gpus, Gpus::Slice(_)) {
            return Vec::new();
        }
        let models = (0..64_u8).take(self.facts.spec.models.len()).filter(|bit| ask.shape.models >> bit & 1 == 0);
        let mut found: Vec<(u32, Next)> = Vec::new();
        for bit in models.collect::<Vec<u8>>() {
            let only = ask.with(Shape { models: 1 << bit, ..ask.shape });
            let free = self.free_count(&only);
            if free == 0 {
                continue;
            }
            let wider = ask.with(Shape { models: ask.shape.models | 1 << bit, ..ask.shape });
            let step = Step::AllowModel { model: ModelId(bit), free };
            found.extend(self.tried(&wider, obstacles, step).map(|next| (free, next)));
        }
        found.sort_by_key(|(free, next)| (next.then, std::cmp::Reverse(*free), next.step));
        found.into_iter().take(MODELS_TOLD).map(|(_, next)| next).collect()
    }

    /// One residency that helps, the one with most free nodes; all together where one is not enough.
    fn allow_residency(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        if ask.shape.residencies == 0 {
            return None;
        }
        let mut excluded: Vec<u8> = self.census.stands().map(|stand| stand.residency.0).collect();
        excluded.sort_unstable();
        excluded.dedup();
        excluded.retain(|bit| ask.shape.residencies >> (bit & 63) & 1 == 0);
        let all = excluded.iter().fold(0, |set, bit| set | 1 << (bit & 63));
        let mut best: Option<(Then, std::cmp::Reverse<u32>, Next)> = None;
        for residencies in excluded.iter().map(|bit| 1 << (bit & 63)) {
            let free = self.free_count(&ask.with(Shape { residencies, ..ask.shape }));
            let found = self.with_residencies(ask, obstacles, residencies, free);
            let found = found.map(|next| (next.then, std::cmp::Reverse(free), next));
            best = best.into_iter().chain(found).min();
        }
        if let Some((_, _, next)) = best {
            return Some(next);
        }
        let free = self.free_count(&ask.with(Shape { residencies: all, ..ask.shape }));
        self.with_residencies(ask, obstacles, all, free)
    }

    fn with_residencies(&mut self, ask: &Ask, obstacles: &[Cause], residencies: u64, free: u32) -> Option<Next> {
        if free == 0 {
            return None;
        }
        let wider = ask.with(Shape { residencies: ask.shape.residencies | residencies, ..ask.shape });
        self.tried(&wider, obstacles, Step::AllowResidency { residencies, free })
    }

    /// A cordoned node that is missing.
    fn restore(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let suited = self.census.suited(self.facts.spec, &ask.shape);
        let cordoned = suited.filter(|stand| stand.place == Place::Cordoned);
        let mut nodes: Vec<NodeIx> = cordoned.flat_map(|stand| self.census.nodes(stand)).collect();
        nodes.sort_unstable();
        nodes.into_iter().take(RESTORED_TRIED).find_map(|node| {
            let restored = Ask { change: Change::Restored(node), ..*ask };
            let step = Step::Restore { node: self.facts.state.topology.id(node) };
            self.tried(&restored, obstacles, step)
        })
    }

    /// The same GPUs on more nodes.
    fn spread(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let Gpus::Whole(gpus) = ask.shape.gpus else { return None };
        if ask.shape.nodes.max > 1 {
            return None;
        }
        (2..=SPREAD_NODES.min(gpus)).filter(|nodes| gpus % nodes == 0).find_map(|nodes| {
            let step = Step::Spread { nodes: nodes.into(), gpus: (gpus / nodes).into() };
            self.tried(&ask.with(ask.shape.spread(nodes)), obstacles, step)
        })
    }

    /// Less CPU or memory: as much as is free beside the GPUs.
    fn less_beside(&mut self, ask: &Ask, obstacles: &[Cause]) -> Vec<Next> {
        let mut found = Vec::new();
        let shape = ask.shape;
        let free = |explainer: &Self, node: NodeIx| explainer.facts.state.nodes.free[node.at()];
        let cpu = self.kth_most(&ask.with(Shape { cpu_milli: 0, ..shape }), |this, node| free(this, node).cpu_milli);
        if let Some(amount) = cpu.filter(|cpu| (shape.cpu_milli.div_ceil(CPU_PART)..shape.cpu_milli).contains(cpu)) {
            let less = ask.with(Shape { cpu_milli: amount, ..shape });
            found.extend(self.tried(&less, obstacles, Step::Less { resource: Resource::Cpu, amount }));
        }
        let memory =
            self.kth_most(&ask.with(Shape { memory_mib: 0, ..shape }), |this, node| free(this, node).memory_mib);
        if let Some(amount) =
            memory.filter(|memory| (shape.memory_mib.div_ceil(CPU_PART)..shape.memory_mib).contains(memory))
        {
            let less = ask.with(Shape { memory_mib: amount, ..shape });
            found.extend(self.tried(&less, obstacles, Step::Less { resource: Resource::Memory, amount }));
        }
        if !found.is_empty() || shape.nodes.min > 1 {
            return found;
        }
        let nodes = self.candidates(&ask.with(Shape { cpu_milli: 0, memory_mib: 0, ..shape }));
        let most = nodes
            .iter()
            .map(|node| free(self, *node))
            .map(|free| (free.cpu_milli.min(shape.cpu_milli), free.memory_mib.min(shape.memory_mib)));
        if let Some((cpu_milli, memory_mib)) = most
            .filter(|(cpu, memory)| *cpu >= shape.cpu_milli / CPU_PART && *memory >= shape.memory_mib / CPU_PART)
            .max()
        {
            let less = ask.with(Shape { cpu_milli, memory_mib, ..shape });
            found.extend(self.tried(&less, obstacles, Step::LessBoth { cpu_milli, memory_mib }));
        }
        found
    }

    /// The most that as many nodes of one domain have as the ask needs.
    fn kth_most(&self, ask: &Ask, amount: impl Fn(&Self, NodeIx) -> u32) -> Option<u32> {
        let needed = usize::from(ask.shape.nodes.min).max(1);
        let domains = self.domains(ask, self.candidates(ask));
        let kth = domains.iter().filter(|best| best.nodes.len() >= needed).map(|best| {
            let mut amounts: Vec<u32> = best.nodes.iter().map(|node| amount(self, *node)).collect();
            let (_, kth, _) = amounts.select_nth_unstable_by(needed - 1, |left, right| right.cmp(left));
            *kth
        });
        kth.max()
    }

    /// Fewer GPUs on each node, or a smaller part of one.
    fn less_gpus(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let resource = Resource::Gpu;
        match ask.shape.gpus {
            // Where one GPU is not there, none is.
            Gpus::Whole(gpus) if !self.has_one_gpu(ask, gpus, obstacles) => None,
            Gpus::Whole(gpus) => (1..gpus).rev().find_map(|fewer| {
                let less = ask.with(Shape { gpus: Gpus::Whole(fewer), ..ask.shape });
                let amount = u32::from(fewer) * u32::from(GPU_MILLI);
                self.tried(&less, obstacles, Step::Less { resource, amount })
            }),
            Gpus::Milli(milli) => {
                let any = ask.with(Shape { gpus: Gpus::Milli(1), ..ask.shape });
                let largest = self.kth_most(&any, |this, node| {
                    let free = &this.facts.state.nodes.free[node.at()];
                    free.gpus.iter().map(|gpu| u32::from(gpu.free_milli())).max().unwrap_or(0)
                })?;
                let amount = u16::try_from(largest).ok().filter(|amount| (1..milli).contains(amount))?;
                let less = ask.with(Shape { gpus: Gpus::Milli(amount), ..ask.shape });
                self.tried(&less, obstacles, Step::Less { resource, amount: amount.into() })
            }
            Gpus::Slice(_) => None,
        }
    }

    fn has_one_gpu(&mut self, ask: &Ask, gpus: u8, obstacles: &[Cause]) -> bool {
        let one = ask.with(Shape { gpus: Gpus::Whole(1), ..ask.shape });
        gpus > 1 && self.tried(&one, obstacles, Step::Less { resource: Resource::Gpu, amount: 1 }).is_some()
    }

    /// As many nodes as could start now.
    fn fewer(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let min = ask.shape.nodes.min;
        if min < 2 {
            return None;
        }
        let nodes = self.candidates(ask);
        let mut most = 0;
        for best in self.domains(ask, nodes) {
            if best.nodes.len() > most {
                most = most.max(self.powered_first(ask, &best.nodes, usize::from(min) - 1).0);
            }
        }
        let mut most = u16::try_from(most).unwrap_or(u16::MAX).min(min - 1);
        for cause in obstacles {
            if let Cause::Quota { limit, used, asked, .. } = cause {
                let each = (asked / i64::from(min)).max(1);
                most = most.min(u16::try_from((limit - used).max(0) / each).unwrap_or(u16::MAX));
            }
        }
        if most == 0 {
            return None;
        }
        let max = if ask.shape.nodes.max == min { most } else { ask.shape.nodes.max };
        let fewer = ask.with(Shape { nodes: Nodes { min: most, max }, ..ask.shape });
        self.tried(&fewer, obstacles, Step::Fewer { nodes: most.into() })
    }

    /// The most that each node could draw.
    fn draw(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<Next> {
        let mut less = *ask;
        let mut left = obstacles.to_vec();
        for _ in 0..DRAWS_TRIED {
            let short = left.iter().filter_map(|cause| {
                let Cause::Power { cap_watts, committed_watts, kept_watts, asked_watts, .. } = *cause else {
                    return None;
                };
                let members = (asked_watts / i64::from(less.shape.peak_watts)).max(1);
                Some((cap_watts - committed_watts - kept_watts).max(0) / members)
            });
            let watts = u32::try_from(short.min()?).unwrap_or(u32::MAX);
            if watts < ask.shape.peak_watts.div_ceil(WATTS_PART).max(1) || watts >= less.shape.peak_watts {
                return None;
            }
            less.shape.peak_watts = watts;
            less.shape.expected_watts = less.shape.expected_watts.min(watts);
            left = self.obstacles(&less);
            if !left.iter().any(|cause| matches!(cause, Cause::Power { .. })) {
                return self.tried(&less, obstacles, Step::Draw { peak_watts: watts });
            }
        }
        None
    }

    /// More of what a queue or a point of the power tree may have.
    fn raise(&mut self, ask: &Ask, obstacles: &[Cause], cause: &Cause) -> Option<Next> {
        if let Cause::Quota { queue, resource, limit, used, asked } = *cause {
            let by = used + asked - limit;
            let raised = Ask { change: Change::Limit(queue, resource, by), ..*ask };
            return self.tried(&raised, obstacles, Step::RaiseQuota { queue, resource, by });
        }
        let Cause::Power { power, cap_watts, committed_watts, kept_watts, asked_watts } = *cause else { return None };
        let by_watts = asked_watts - (cap_watts - committed_watts - kept_watts);
        let raised = Ask { change: Change::Cap(power, by_watts), ..*ask };
        self.tried(&raised, obstacles, Step::RaiseCap { power, by_watts })
    }
}

impl Shape {
    /// The same on so many nodes: each has its part of everything, rounded up.
    #[must_use]
    pub(crate) fn spread(&self, nodes: u8) -> Self {
        let nodes = nodes.max(1);
        let part = |amount: u32| amount.div_ceil(u32::from(nodes));
        let gpus = match self.gpus {
            Gpus::Whole(gpus) => Gpus::Whole(gpus / nodes),
            gpus @ (Gpus::Milli(_) | Gpus::Slice(_)) => gpus,
        };
        Self {
            gpus,
            nodes: Nodes { min: nodes.into(), max: nodes.into() },
            cpu_milli: part(self.cpu_milli),
            memory_mib: part(self.memory_mib),
            expected_watts: part(self.expected_watts),
            peak_watts: part(self.peak_watts),
            ..*self
        }
    }
}

/// What makes two obstacles the same one, whatever their numbers.
fn kind(cause: &Cause) -> (&'static str, u32, Option<Resource>) {
    if let Cause::Quota { queue, resource, .. } = *cause {
        return (cause.code(), queue.0, Some(resource));
    }
    let Cause::Power { power, .. } = *cause else { return (cause.code(), 0, None) };
    (cause.code(), power.0, None)
}

/// What a step costs, by rank: time of those who wait, then the wish, then the place of the data, then others' work.
fn cost(step: &Step, now: At) -> u8 {
    match step {
        Step::Wait { on: Awaited::Begin | Awaited::Stop(_), .. } => 0,
        Step::Wait { until, .. } if until.since(now) <= SHORT_WAIT_SECONDS => 0,
        Step::SayRunTime { .. } => 1,
        Step::Relax { .. } | Step::DropPreference { .. } => 2,
        Step::AllowModel { .. } => 3,
        Step::Spread { .. } => 4,
        Step::Less { .. } | Step::LessBoth { .. } => 5,
        Step::Draw { .. } => 6,
        Step::Fewer { .. } => 7,
        Step::Wait { .. } => 8,
        Step::AllowResidency { .. } => 9,
        Step::Restore { .. } => 10,
        Step::RaiseQuota { .. } => 11,
        Step::RaiseCap { .. } => 12,
        Step::End { .. } => 13,
    }
}
