//! Only those are stopped who may be, for one who waits and has the right, and not at too high a loss.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::{Amount, Lease};
use crate::plan::{Plan, Preemption, PreemptionCause};
use crate::request::{Request, Stop};
use crate::units::{QueueId, RequestId};

use super::{Facts, Violation, queues};

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let starting: BTreeSet<RequestId> = plan.placements.iter().map(|placement| placement.request).collect();
    let used = queues::used_by_leases(facts);
    let mut stopped = BTreeSet::new();
    for preemption in &plan.preemptions {
        let (lease, request) = (preemption.lease, preemption.for_request);
        if !stopped.insert(lease) {
            found.push(Violation::StoppedTwice { lease });
        }
        let Some(victim) = facts.leases.get(&lease) else {
            found.push(Violation::UnknownLease { lease });
            continue;
        };
        if victim.request.stop == Stop::Never {
            found.push(Violation::MayNotStop { lease });
        }
        let Some(asking) = facts.requests.get(&request).filter(|_| !starting.contains(&request)) else {
            found.push(Violation::StoppedForNobody { lease, request });
            continue;
        };
        if !has_right(facts, preemption, victim, asking, &used) {
            found.push(Violation::NoRight { lease, request });
        }
    }
}

fn has_right(
    facts: &Facts<'_>,
    preemption: &Preemption,
    victim: &Lease,
    asking: &Request,
    used: &BTreeMap<QueueId, Amount>,
) -> bool {
    let (own, other) = (asking.queue, victim.request.queue);
    match preemption.cause {
        PreemptionCause::Priority => own == other && victim.request.priority < asking.priority,
        PreemptionCause::Reclaim => {
            let has = |queue| used.get(&queue).copied().unwrap_or_default();
            let (own, other) = (path(facts, own), path(facts, other));
            let shared = own.iter().rev().zip(other.iter().rev()).take_while(|(one, two)| one == two).count();
            let Some(asking) = own.iter().rev().nth(shared) else { return false };
            let lends = |queue: &QueueId| borrows(facts, *queue, &has(*queue));
            other.len() > shared
                && other[..other.len() - shared].iter().all(lends)
                && is_owed(facts, *asking, &has(*asking))
        }
    }
}

/// A queue and those above it.
fn path(facts: &Facts<'_>, queue: QueueId) -> Vec<QueueId> {
    let above = |queue: &QueueId| queues::spec(facts, *queue).and_then(|spec| spec.parent);
    std::iter::successors(Some(queue), above).collect()
}

/// Whether a queue has more than its guarantee of something guaranteed; one without any borrows all it has.
fn borrows(facts: &Facts<'_>, queue: QueueId, has: &Amount) -> bool {
    let guaranteed = queues::guaranteed(facts, queue);
    let is_promised_nothing = guaranteed == Amount::default();
    queues::pairs(has, &guaranteed)
        .into_iter()
        .any(|(has, guaranteed)| (is_promised_nothing || guaranteed > 0) && has > guaranteed)
}

/// Whether a queue has less than its guarantee of all that is guaranteed to it, and something is.
fn is_owed(facts: &Facts<'_>, queue: QueueId, has: &Amount) -> bool {
    let guaranteed = queues::guaranteed(facts, queue);
    guaranteed != Amount::default()
        && queues::pairs(has, &guaranteed).into_iter().all(|(has, guaranteed)| guaranteed == 0 || has < guaranteed)
}
