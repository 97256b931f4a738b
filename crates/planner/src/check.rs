//! Proof from outside: what a plan must keep, checked from the fleet, what was there before, and the plan alone.
//!
//! Purpose: to find mistakes of the planner, so it shares none of its code: everything is counted again, slowly and
//! plainly, from public words. All violations are returned, each naming the objects and the rule.
//! Deliberately absent: whether a plan is good. Bounds on that are in `check::bounds`.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::fleet::{FleetSpec, Lease, Level};
use crate::plan::{Plan, Reservation};
use crate::reason::Resource;
use crate::request::Request;
use crate::units::{At, LeaseId, NodeId, PowerId, QueueId, RequestId};

pub mod bounds;
mod givings;
mod power;
mod preemptions;
mod promises;
mod queues;
mod rooms;

/// All that was known when the plan was made.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// With health, holds, caps and quotas as they are now.
    pub fleet: &'a FleetSpec,
    pub leases: &'a [Lease],
    /// Those that wait.
    pub requests: &'a [Request],
    /// Promises of plans before that still stand.
    pub reservations: &'a [Reservation],
}

/// Who has or gets GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Holder {
    #[error("lease `{}`", .0.0)]
    Lease(LeaseId),
    #[error("request `{}`", .0.0)]
    Request(RequestId),
}

/// A rule that a plan broke.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Violation {
    #[error("{holder} has node `{}`, which does not exist", .node.0)]
    UnknownNode { holder: Holder, node: NodeId },
    #[error("{holder} has GPU `{gpu}` of node `{}`, which does not exist", .node.0)]
    UnknownGpu { holder: Holder, node: NodeId, gpu: u8 },
    #[error("{holder} has what others have of GPU `{gpu}` of node `{}`", .node.0)]
    GpuTwice { holder: Holder, node: NodeId, gpu: u8 },
    #[error("{holder} takes `{over}` of {resource} that node `{}` does not have", .node.0)]
    NodeOverfull { holder: Holder, node: NodeId, resource: Resource, over: i64 },
    #[error("{holder} has other GPUs on node `{}` than it asks for", .node.0)]
    OtherThanAsked { holder: Holder, node: NodeId },
    #[error("request `{}` starts, and does not wait", .request.0)]
    UnknownRequest { request: RequestId },
    #[error("request `{}` starts twice", .request.0)]
    StartsTwice { request: RequestId },
    #[error("request `{}` starts on `{nodes}` nodes, and asks for `{min}` to `{max}`", .request.0)]
    NodeCount { request: RequestId, nodes: usize, min: u16, max: u16 },
    #[error("request `{}` starts twice on node `{}`", .request.0, .node.0)]
    NodeTwice { request: RequestId, node: NodeId },
    #[error("request `{}` starts on node `{}`, which is out of service", .request.0, .node.0)]
    OutOfService { request: RequestId, node: NodeId },
    #[error("request `{}` starts on node `{}`, a model that it does not allow", .request.0, .node.0)]
    Model { request: RequestId, node: NodeId },
    #[error("request `{}` starts on node `{}`, a residency that it does not allow", .request.0, .node.0)]
    Residency { request: RequestId, node: NodeId },
    #[error("request `{}` is not within one {level}", .request.0)]
    Apart { request: RequestId, level: Level },
    #[error("request `{}` starts, and may not begin before `{}`", .request.0, .not_before.0)]
    TooEarly { request: RequestId, not_before: At },
    #[error("power point `{}` has `{reserved_watts} W` taken or kept, and the cap `{cap_watts} W`", .power.0)]
    Power { power: PowerId, reserved_watts: i64, cap_watts: i64 },
    #[error("queue `{}` uses `{used}` of {resource}, and its limit is `{limit}`", .queue.0)]
    Limit { queue: QueueId, resource: Resource, used: i64, limit: i64 },
    #[error("request `{}` neither starts nor waits with a reason", .request.0)]
    Forgotten { request: RequestId },
    #[error("request `{}` has more than one answer", .request.0)]
    AnsweredTwice { request: RequestId },
    #[error("request `{}` waits for reason `{reason}`, which the plan does not have", .request.0)]
    NoReason { request: RequestId, reason: u32 },
    #[error("request `{}` is answered, and does not wait", .request.0)]
    AnswerToNobody { request: RequestId },
    #[error("request `{}` is held until `{}`, which is not after now", .request.0, .until.0)]
    HeldForNothing { request: RequestId, until: At },
    #[error("request `{}` is held until `{}`, too late for its deadline", .request.0, .until.0)]
    HeldTooLong { request: RequestId, until: At },
    #[error("lease `{}` is stopped or moved, and does not exist", .lease.0)]
    UnknownLease { lease: LeaseId },
    #[error("lease `{}` is stopped twice", .lease.0)]
    StoppedTwice { lease: LeaseId },
    #[error("lease `{}` is stopped, and may not be", .lease.0)]
    MayNotStop { lease: LeaseId },
    #[error("lease `{}` is stopped for request `{}`, which has no right to that", .lease.0, .request.0)]
    NoRight { lease: LeaseId, request: RequestId },
    #[error("lease `{}` is stopped for request `{}`, which does not wait", .lease.0, .request.0)]
    StoppedForNobody { lease: LeaseId, request: RequestId },
    #[error("lease `{}` is said to lose `{said}` GPU-seconds, and loses others", .lease.0)]
    WrongLoss { lease: LeaseId, said: i64 },
    #[error("more is lost for request `{}` than what is gained allows", .request.0)]
    LossTooHigh { request: RequestId },
    #[error("the promise of request `{}` does not name the leases that stop for it", .request.0)]
    StopsNotNamed { request: RequestId },
    #[error("leases are stopped for `{requests}` requests, and the policy allows `{most}`")]
    TooManyPreemptions { requests: usize, most: u16 },
    #[error("request `{}` was promised a start at `{}`, and the promise is gone", .request.0, .starts_at.0)]
    PromiseGone { request: RequestId, starts_at: At },
    #[error("request `{}` was promised a start at `{}`, and now at `{}`", .request.0, .before.0, .after.0)]
    PromiseSlipped { request: RequestId, before: At, after: At },
    #[error("request `{}` is promised node `{}` at `{}`, where it has no room then", .request.0, .node.0, .starts_at.0)]
    PromiseWithoutRoom { request: RequestId, node: NodeId, starts_at: At },
    #[error("request `{}` is promised a start, and nodes that it could not have", .request.0)]
    PromiseOfWrongNodes { request: RequestId },
    #[error("`{promises}` starts are promised, and the policy allows `{most}`")]
    TooManyPromises { promises: usize, most: u16 },
    #[error("request `{}` could start, and waits for nearness longer than policy allows", .request.0)]
    WaitsTooLong { request: RequestId, starts_at: At },
    #[error("lease `{}` is moved to or from what it cannot be", .lease.0)]
    WrongMove { lease: LeaseId },
    #[error("`{moves}` moves are proposed, and the policy allows `{most}`")]
    TooManyMoves { moves: usize, most: u16 },
}

/// All rules that the plan breaks; empty for a good plan.
pub fn check_plan(before: &Before<'_>, plan: &Plan) -> Vec<Violation> {
    let facts = Facts::new(before);
    let mut found = Vec::new();
    rooms::check(&facts, plan, &mut found);
    givings::check(&facts, plan, &mut found);
    power::check(&facts, plan, &mut found);
    queues::check(&facts, plan, &mut found);
    preemptions::check(&facts, plan, &mut found);
    promises::check(&facts, plan, &mut found);
    check_answers(&facts, plan, &mut found);
    found.sort();
    found.dedup();
    found
}

/// What was before, to be looked up by id.
struct Facts<'a> {
    before: Before<'a>,
    nodes: BTreeMap<NodeId, &'a crate::fleet::NodeSpec>,
    requests: BTreeMap<RequestId, &'a Request>,
    leases: BTreeMap<LeaseId, &'a Lease>,
}

impl<'a> Facts<'a> {
    fn new(before: &Before<'a>) -> Self {
        Self {
            before: *before,
            nodes: before.fleet.nodes.iter().map(|node| (node.id, node)).collect(),
            requests: before.requests.iter().map(|request| (request.id, request)).collect(),
            leases: before.leases.iter().map(|lease| (lease.id, lease)).collect(),
        }
    }

    /// Whether a node may take work at `at`, as far as is known now.
    fn in_service(&self, node: &crate::fleet::NodeSpec, at: At) -> bool {
        node.health == crate::fleet::Health::Ready && node.hold_until.is_none_or(|until| until <= at)
    }

    /// The domain of a level in which a node is.
    fn domain(&self, node: &crate::fleet::NodeSpec, level: Level) -> Option<u32> {
        let mut at = if level.is_fabric() { node.fabric } else { Some(node.domain) };
        while let Some(domain) = at {
            let spec = self.before.fleet.domains.get(usize::try_from(domain.0).ok()?)?;
            if spec.level == level {
                return Some(domain.0);
            }
            at = spec.parent;
        }
        None
    }

    /// Whether these nodes may be a request's: distinct, as many, allowed, and near enough.
    fn could_be(&self, request: &Request, nodes: &[NodeId]) -> bool {
        let shape = &request.shape;
        let distinct: BTreeSet<_> = nodes.iter().collect();
        let specs: Vec<_> = nodes.iter().filter_map(|node| self.nodes.get(node)).collect();
        let allowed = |node: &&crate::fleet::NodeSpec| {
            allows(shape.models, node.model.0) && allows(shape.residencies, node.residency.0)
        };
        let together = shape.within.is_none_or(|level| {
            let domains: BTreeSet<_> = specs.iter().map(|node| self.domain(node, level)).collect();
            domains.len() == 1 && !domains.contains(&None)
        });
        (usize::from(shape.nodes.min)..=usize::from(shape.nodes.max)).contains(&nodes.len())
            && distinct.len() == nodes.len()
            && specs.len() == nodes.len()
            && specs.iter().all(|node| allowed(node))
            && together
    }
}

/// Whether a mask allows a number; an empty one allows all.
const fn allows(mask: u64, number: u8) -> bool {
    mask == 0 || (number < 64 && mask >> number & 1 == 1)
}

/// Each request that waits is answered exactly once: it starts, or waits for a reason that is there.
fn check_answers(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let mut answers: BTreeMap<RequestId, usize> = BTreeMap::new();
    for placement in &plan.placements {
        *answers.entry(placement.request).or_default() += 1;
    }
    for &(request, reason) in &plan.waiting {
        *answers.entry(request).or_default() += 1;
        if usize::try_from(reason).ok().and_then(|at| plan.reasons.get(at)).is_none() {
            found.push(Violation::NoReason { request, reason });
        }
    }
    for &request in facts.requests.keys() {
        match answers.remove(&request) {
            None => found.push(Violation::Forgotten { request }),
            Some(1) => {}
            Some(_) => found.push(Violation::AnsweredTwice { request }),
        }
    }
    found.extend(answers.into_keys().map(|request| Violation::AnswerToNobody { request }));
    let starting: BTreeSet<_> = plan.placements.iter().map(|placement| placement.request).collect();
    let mut held = BTreeSet::new();
    for hold in &plan.holds {
        let (request, until) = (hold.request, hold.until);
        let Some(asked) = facts.requests.get(&request) else {
            found.push(Violation::AnswerToNobody { request });
            continue;
        };
        if starting.contains(&request) || !held.insert(request) {
            found.push(Violation::AnsweredTwice { request });
        }
        if until <= plan.at {
            found.push(Violation::HeldForNothing { request, until });
        }
        let end = until.plus(i64::from(asked.run_seconds.unwrap_or(0)));
        if asked.deadline.is_some_and(|deadline| end > deadline) {
            found.push(Violation::HeldTooLong { request, until });
        }
    }
}
