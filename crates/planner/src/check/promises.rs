//! Promises are kept: none vanishes or slips while it could be held, each has room at its instant, and nothing that
//! starts now is in the way of one.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::Lease;
use crate::plan::{GpuGrant, Grant, Plan, Reservation};
use crate::request::Request;
use crate::units::{At, LeaseId, ModelId, NodeId, RequestId, ResidencyId};

use super::rooms::Rooms;
use super::{Facts, Holder, Violation, preemptions};

/// So long after its start a promise need not be kept any more: ten minutes.
const MOST_OVERDUE_SECONDS: i64 = 600;

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let starting: BTreeSet<RequestId> = plan.placements.iter().map(|placement| placement.request).collect();
    let mut promised = BTreeMap::new();
    for promise in &plan.reservations {
        let request = promise.request;
        let Some(asked) = facts.requests.get(&request) else {
            found.push(Violation::AnswerToNobody { request });
            continue;
        };
        if starting.contains(&request) || promised.insert(request, promise).is_some() {
            found.push(Violation::AnsweredTwice { request });
        }
        check_promise(facts, plan, promise, asked, found);
        check_patience(facts, plan, promise, asked, found);
    }
    check_counts(facts, plan, found);
    for old in facts.before.reservations {
        let Some(asked) = facts.requests.get(&old.request).filter(|_| !starting.contains(&old.request)) else {
            continue;
        };
        let (request, starts_at) = (old.request, old.starts_at);
        match promised.get(&request) {
            Some(new) if new.starts_at <= starts_at => {}
            // Nodes are kept for nobody longer than that, whatever keeps it from starting.
            Some(_) | None if !is_standing(old, plan.at) => {}
            // It may go or slip only where the fleet, not this plan, made it impossible.
            Some(_) | None if !stands(facts, plan, old, asked) => {}
            Some(new) => found.push(Violation::PromiseSlipped { request, before: starts_at, after: new.starts_at }),
            None => found.push(Violation::PromiseGone { request, starts_at }),
        }
    }
}

/// Whether a promise that stood still counts.
pub(super) fn is_standing(promise: &Reservation, now: At) -> bool {
    promise.starts_at.plus(MOST_OVERDUE_SECONDS) >= now
}

/// No more promises than policy allows: to those who have no room for each class of nodes, and to those who wait for
/// nearness.
fn check_counts(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let policy = &facts.before.fleet.policy;
    let mut old: BTreeMap<_, usize> = BTreeMap::new();
    for promise in facts.before.reservations {
        kinds(facts, promise).into_iter().for_each(|kind| *old.entry(kind).or_default() += 1);
    }
    let mut now: BTreeMap<_, usize> = BTreeMap::new();
    // Those that begin at once are made by leases that give way, not by waiting.
    for promise in plan.reservations.iter().filter(|promise| promise.starts_at > plan.at) {
        kinds(facts, promise).into_iter().for_each(|kind| *now.entry(kind).or_default() += 1);
    }
    for (kind, promises) in now {
        let most = if kind.is_none() { policy.nearness_reservations } else { policy.reservations };
        if promises > usize::from(most).max(old.get(&kind).copied().unwrap_or(0)) {
            found.push(Violation::TooManyPromises { promises, most });
        }
    }
}

/// What a promise counts for: each class of its nodes, or, where it waits for nearness, that.
fn kinds(facts: &Facts<'_>, promise: &Reservation) -> BTreeSet<Option<(ModelId, ResidencyId, u8)>> {
    if promise.for_nearness {
        return BTreeSet::from([None]);
    }
    let nodes = promise.nodes.iter().filter_map(|node| facts.nodes.get(node));
    nodes.map(|node| Some((node.model, node.residency, node.gpus))).collect()
}

/// Whoever could start waits for nearness no longer than policy says.
fn check_patience(facts: &Facts<'_>, plan: &Plan, promise: &Reservation, asked: &Request, found: &mut Vec<Violation>) {
    let policy = &facts.before.fleet.policy;
    let is_new = promise.for_nearness && !facts.before.reservations.contains(promise);
    let share = asked.run_seconds.map(|run| i64::from(run).saturating_mul(policy.nearness_milli.into()) / 1000);
    let most = i64::from(policy.nearness_seconds).min(share.unwrap_or(i64::MAX));
    if is_new && promise.starts_at > plan.at.plus(most) {
        let (request, starts_at) = (promise.request, promise.starts_at);
        found.push(Violation::WaitsTooLong { request, starts_at });
    }
}

fn check_promise(facts: &Facts<'_>, plan: &Plan, promise: &Reservation, asked: &Request, found: &mut Vec<Violation>) {
    let (request, starts_at) = (promise.request, promise.starts_at);
    if let Some(not_before) = asked.not_before.filter(|at| *at > starts_at) {
        found.push(Violation::TooEarly { request, not_before });
    }
    if !facts.could_be(asked, &promise.nodes) {
        found.push(Violation::PromiseOfWrongNodes { request });
        return;
    }
    // Where the start of a promise that stood has passed, whoever still stays is stopping or has overrun: that is not
    // this plan's doing.
    let stopped = preemptions::gone_for(facts, plan, request);
    let has_begun = starts_at <= plan.at && facts.before.reservations.contains(promise);
    let mut rooms = if has_begun { Rooms::new(facts) } else { still_there(facts, &stopped, plan.at, starts_at) };
    for placement in &plan.placements {
        let Some(other) = facts.requests.get(&placement.request) else { continue };
        if end(plan.at, other) > starts_at {
            take(&mut rooms, other, &placement.grants);
        }
    }
    for other in plan.reservations.iter().filter(|other| other.request != request && other.starts_at <= starts_at) {
        let Some(owner) = facts.requests.get(&other.request) else { continue };
        // Of two promises for one instant each is checked beside the other.
        if end(other.starts_at, owner) > starts_at {
            take_any(facts, &mut rooms, owner, &other.nodes);
        }
    }
    for &node in &promise.nodes {
        let in_service = facts.nodes.get(&node).is_some_and(|spec| facts.in_service(spec, starts_at));
        if !in_service || !rooms.take_any(&asked.shape, &facts.before.fleet.models, node) {
            found.push(Violation::PromiseWithoutRoom { request, node, starts_at });
        }
    }
}

/// Whether an old promise could still be held if nothing new started: the request is as it was, its nodes are in
/// service, and the leases on them end in time.
fn stands(facts: &Facts<'_>, plan: &Plan, promise: &Reservation, asked: &Request) -> bool {
    // Whom this plan stops was in the way of a promise that should have begun.
    let mut rooms = still_there(facts, &BTreeSet::new(), plan.at, promise.starts_at);
    facts.could_be(asked, &promise.nodes)
        && asked.not_before.is_none_or(|at| at <= promise.starts_at)
        && promise.nodes.iter().all(|node| {
            facts.nodes.get(node).is_some_and(|spec| facts.in_service(spec, promise.starts_at))
                && rooms.take_any(&asked.shape, &facts.before.fleet.models, *node)
        })
}

/// What leases use at an instant, seen from another; those that are stopped have ended by then.
fn still_there<'a>(facts: &Facts<'a>, stopped: &BTreeSet<LeaseId>, seen_from: At, at: At) -> Rooms<'a> {
    let mut rooms = Rooms::new(facts);
    for lease in
        facts.before.leases.iter().filter(|lease| !stopped.contains(&lease.id) && !ends_by(lease, seen_from, at))
    {
        take(&mut rooms, &lease.request, &lease.grants);
    }
    rooms
}

/// Whether a lease has ended by then, if it ends when it said. One that has not although it said so ends at any moment.
fn ends_by(lease: &Lease, now: At, at: At) -> bool {
    lease.ends_at.is_some_and(|end| end.max(now) <= at)
}

/// When a request ends that starts at `start`.
fn end(start: At, request: &Request) -> At {
    request.run_seconds.map_or(At::NEVER, |seconds| start.plus(i64::from(seconds)))
}

fn take(rooms: &mut Rooms<'_>, request: &Request, grants: &[Grant]) {
    // What is given twice is reported where all grants are counted.
    let mut elsewhere = Vec::new();
    for grant in grants {
        rooms.take(Holder::Request(request.id), &request.shape, grant, &mut elsewhere);
    }
}

fn take_any(facts: &Facts<'_>, rooms: &mut Rooms<'_>, request: &Request, nodes: &[NodeId]) {
    for &node in nodes {
        if !rooms.take_any(&request.shape, &facts.before.fleet.models, node) {
            // It has no room of its own there, which is reported where it is checked itself.
            let grant = Grant { node, gpus: GpuGrant::Whole(0) };
            take(rooms, request, &[grant]);
        }
    }
}
