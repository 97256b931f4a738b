//! Whether advice helps: it is followed, and the planner is asked again.

use super::scene::{NOW, Scene, find};
use crate::event::Event;
use crate::fleet::Health;
use crate::planner::Planner;
use crate::reason::{Awaited, Cause, Mark, Next, Resource, Step, Then, Why};
use crate::request::{Gpus, Nodes, Request};
use crate::units::{At, LeaseId};

/// Leases that plans make begin here.
const FIRST_LEASE: u64 = 1_000_000;

/// What a step freed went to others, who come first: advice is for the first in line.
pub(super) const OTHERS: &str = "others took it";

/// All steps of a tree.
pub(super) fn steps(why: &Why) -> Vec<Next> {
    let mut all = why.next.clone();
    for part in &why.because {
        all.extend(steps(part));
    }
    all
}

/// Follows a step; the request starts, or exactly the obstacle it is about is gone.
pub(super) fn check(scene: &Scene, before: &Why, next: &Next) -> Result<(), String> {
    let (planner, plan) = scene.planned();
    check_in(planner, &plan, scene.request(), before, next)
}

pub(super) fn check_in(
    mut planner: Planner,
    plan: &crate::plan::Plan,
    request: Request,
    before: &Why,
    next: &Next,
) -> Result<(), String> {
    let mut lease = FIRST_LEASE;
    let id = request.id;
    planner
        .commit(plan, NOW, |_| {
            lease += 1;
            LeaseId(lease)
        })
        .map_err(|refusal| format!("the plan is refused: {refusal}"))?;
    let at = follow(&mut planner, plan, request, next).map_err(|refusal| format!("the step is refused: {refusal}"))?;
    let after = planner.plan(at);
    if after.placements.iter().any(|placement| placement.request == id) {
        return match next.then {
            Then::Starts => Ok(()),
            // While it waits to begin, promises to others that are long overdue are dropped.
            Then::Clears { .. } if matches!(next.step, Step::Wait { on: Awaited::Begin, .. }) => Ok(()),
            Then::Clears { .. } => Err("it starts, though obstacles were said to be left".to_owned()),
        };
    }
    if !after.placements.is_empty() {
        return Err(OTHERS.to_owned());
    }
    let after = find(&after, id).ok_or("it neither starts nor waits")?;
    let is_near = |why: &Why| why.obstacles().any(|part| matches!(part.cause, Cause::ForNearness { .. }));
    // With the obstacles gone it could start, and waits by its own wish: it is told so then. Known to be open: who waits
    // for nearness is told no more than its promise where what it could have now spans as few domains.
    let waits_for_promise = after.obstacles().any(|part| matches!(part.cause, Cause::Promised { .. }));
    if next.then == Then::Starts && (is_near(&after) || waits_for_promise) && !is_near(before) {
        return Ok(());
    }
    let left = u32::try_from(after.obstacles().count()).unwrap();
    match next.then {
        Then::Starts => Err(format!("it does not start: {after:#?}")),
        Then::Clears { left: said } if left != said => Err(format!("{left} obstacles are left, {said} were said")),
        Then::Clears { .. } if left >= u32::try_from(before.obstacles().count()).unwrap() => {
            Err("no obstacle is gone".to_owned())
        }
        Then::Clears { .. } => {
            let known = |part: &Why| before.obstacles().any(|other| other.cause.code() == part.cause.code());
            // While it waits to begin, leases end: what was hidden behind their nodes may be in the way then.
            let has_begun = matches!(next.step, Step::Wait { on: Awaited::Begin, .. })
                && !after.obstacles().any(|part| matches!(part.cause, Cause::NotBefore { .. }));
            if has_begun || after.obstacles().all(known) {
                Ok(())
            } else {
                Err(format!("another obstacle came: {after:#?}"))
            }
        }
    }
}

fn follow(
    planner: &mut Planner,
    plan: &crate::plan::Plan,
    mut request: Request,
    next: &Next,
) -> Result<At, crate::refusal::Refusal> {
    let shape = &mut request.shape;
    match next.step {
        Step::Wait { until, on } => {
            let until = if until == At::NEVER { NOW } else { until };
            let stopped = plan.preemptions.iter().map(|preemption| preemption.lease);
            let ended = planner.leases().filter(|lease| lease.ends_at.is_some_and(|end| end <= until));
            let mut ended: Vec<LeaseId> = ended.map(|lease| lease.id).collect();
            if matches!(on, Awaited::Stop(_)) {
                ended.extend(stopped);
            }
            for lease in ended {
                planner.apply(Event::LeaseEnded(lease))?;
            }
            return Ok(until);
        }
        Step::SayRunTime { seconds } => request.run_seconds = Some(seconds),
        Step::Relax { to, .. } => shape.within = to,
        Step::DropPreference { .. } => shape.prefer = None,
        Step::AllowModel { model, .. } => shape.models |= 1 << model.0,
        Step::AllowResidency { residencies, .. } => shape.residencies |= residencies,
        Step::Less { resource: Resource::Cpu, amount } => shape.cpu_milli = amount,
        Step::Less { resource: Resource::Memory, amount } => shape.memory_mib = amount,
        Step::Less { amount, .. } => {
            shape.gpus = match shape.gpus {
                Gpus::Whole(_) => Gpus::Whole(u8::try_from(amount / 1000).unwrap()),
                Gpus::Milli(_) | Gpus::Slice(_) => Gpus::Milli(u16::try_from(amount).unwrap()),
            }
        }
        Step::LessBoth { cpu_milli, memory_mib } => (shape.cpu_milli, shape.memory_mib) = (cpu_milli, memory_mib),
        Step::Spread { nodes, .. } => *shape = shape.spread(u8::try_from(nodes).unwrap()),
        Step::Draw { peak_watts } => {
            shape.peak_watts = peak_watts;
            shape.expected_watts = shape.expected_watts.min(peak_watts);
        }
        Step::Fewer { nodes } => {
            let min = u16::try_from(nodes).unwrap();
            let max = if shape.nodes.min == shape.nodes.max { min } else { shape.nodes.max };
            shape.nodes = Nodes { min, max };
        }
        Step::End { lease } => {
            planner.apply(Event::LeaseEnded(lease))?;
            return Ok(NOW);
        }
        Step::Restore { node } => {
            planner.apply(Event::NodeHealth { node, health: Health::Ready })?;
            return Ok(NOW);
        }
        Step::RaiseQuota { queue, resource, by } => {
            let spec = planner.fleet().queues[queue.0 as usize].clone();
            let mut limit = spec.limit.expect("a limit that blocks");
            match resource {
                Resource::Gpu => limit.gpu_milli += by,
                Resource::Cpu => limit.cpu_milli += by,
                Resource::Memory => limit.memory_mib += by,
                Resource::Power => limit.watts += by,
            }
            let (weight, guaranteed) = (spec.weight, spec.guaranteed);
            planner.apply(Event::QuotaChanged { queue, weight, guaranteed, limit: Some(limit) })?;
            return Ok(NOW);
        }
        Step::RaiseCap { power, by_watts } => {
            let cap_watts = planner.fleet().power[power.0 as usize].cap_watts + by_watts;
            planner.apply(Event::CapChanged { power, cap_watts })?;
            return Ok(NOW);
        }
    }
    planner.apply(Event::RequestChanged(request))?;
    Ok(NOW)
}

/// Nodes that could do are each in one part.
pub(super) fn check_sums(name: &str, why: &Why) {
    for part in &why.because {
        check_sums(name, part);
    }
    let Cause::Nodes { could, free, .. } = why.cause else { return };
    if why.mark == Mark::Holds {
        return;
    }
    let counted: u32 = why.because.iter().map(|part| nodes_of(&part.cause)).sum();
    assert_eq!(counted, could, "{name}: parts of {why:#?}");
    assert!(free <= could, "{name}");
}

fn nodes_of(cause: &Cause) -> u32 {
    match *cause {
        Cause::Free { nodes }
        | Cause::Busy { nodes }
        | Cause::Behind { nodes }
        | Cause::Scattered { nodes, .. }
        | Cause::Cpu { nodes, .. }
        | Cause::Memory { nodes, .. }
        | Cause::Reserved { nodes, .. } => nodes,
        Cause::OutOfService { cordoned, held, down, .. } => cordoned + held + down,
        Cause::Waits
        | Cause::NotBefore { .. }
        | Cause::BetterHour { .. }
        | Cause::Quota { .. }
        | Cause::Nodes { .. }
        | Cause::Gap { .. }
        | Cause::Apart { .. }
        | Cause::Power { .. }
        | Cause::Model { .. }
        | Cause::Promised { .. }
        | Cause::ForNearness { .. }
        | Cause::Preempting { .. }
        | Cause::EndsUnknown { .. } => 0,
    }
}
