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
            let has = |queue| used.get(&queue).map_or(0, |used: &Amount| used.gpu_milli);
            let guaranteed = |queue| queues::spec(facts, queue).map_or(0, |spec| spec.guaranteed.gpu_milli);
            own != other && has(other) > guaranteed(other) && has(own) < guaranteed(own)
        }
    }
}
