//! Preemptions, replayed one request after the other: only those are stopped who may be, for one who waits and has the
//! right by then, within its limits, and not at a higher loss than the policy allows.
//!
//! Deliberately absent: whether another set would have lost less; `check::bounds::covering` bounds that.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::{Amount, Lease};
use crate::plan::{Plan, Preemption, PreemptionCause};
use crate::request::{Request, Stop};
use crate::units::{LeaseId, QueueId, RequestId};

use super::promises::is_standing;
use super::{Facts, Violation, queues};

/// What is gained beyond a day is not counted.
const MOST_GAINED_SECONDS: i64 = 24 * 3600;

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let decisions = decisions(plan);
    check_names(facts, plan, &decisions, found);
    let most = facts.before.fleet.policy.preemptions;
    if decisions.len() > usize::from(most) {
        found.push(Violation::TooManyPreemptions { requests: decisions.len(), most });
    }
    let mut replay = Replay::new(facts, plan, &decisions);
    for (request, victims) in &decisions {
        replay.decide(*request, victims, found);
    }
}

/// Leases that have left or stop when a promise is made: those that stopped before, and of this plan those that stop
/// for the request or for one before it.
pub(super) fn gone_for(facts: &Facts<'_>, plan: &Plan, request: RequestId) -> BTreeSet<LeaseId> {
    let mut gone: BTreeSet<LeaseId> = stopping(facts, plan).collect();
    let decisions = decisions(plan);
    if let Some(last) = decisions.iter().position(|(other, _)| *other == request) {
        gone.extend(decisions[..=last].iter().flat_map(|(_, victims)| victims).map(|victim| victim.lease));
    }
    gone
}

/// Leases that stop already for promises that stand.
fn stopping<'a>(facts: &'a Facts<'_>, plan: &'a Plan) -> impl Iterator<Item = LeaseId> + 'a {
    // Who starts elsewhere needs nobody's place any more.
    let starts = |request| plan.placements.iter().any(|placement| placement.request == request);
    let standing = facts.before.reservations.iter().filter(|promise| is_standing(promise, plan.at));
    let standing = standing.filter(move |promise| !starts(promise.request));
    standing.flat_map(|promise| promise.stops.iter().copied())
}

/// A request, and those that stop for it.
type Decision<'a> = (RequestId, Vec<&'a Preemption>);

/// Who stops for whom, in the order of the plan.
fn decisions(plan: &Plan) -> Vec<Decision<'_>> {
    let mut decisions: Vec<Decision<'_>> = Vec::new();
    for preemption in &plan.preemptions {
        match decisions.iter_mut().find(|(request, _)| *request == preemption.for_request) {
            Some((_, victims)) => victims.push(preemption),
            None => decisions.push((preemption.for_request, vec![preemption])),
        }
    }
    decisions
}

/// What a plan promises names just those that stop for it; whoever others stop for is promised a start.
fn check_names(facts: &Facts<'_>, plan: &Plan, decisions: &[Decision<'_>], found: &mut Vec<Violation>) {
    for (request, victims) in decisions {
        let promise = plan.reservations.iter().find(|promise| promise.request == *request);
        let named: Option<BTreeSet<LeaseId>> = promise.map(|promise| promise.stops.iter().copied().collect());
        if named != Some(victims.iter().map(|victim| victim.lease).collect()) {
            found.push(Violation::StopsNotNamed { request: *request });
        }
    }
    for promise in &plan.reservations {
        let before = facts.before.reservations.contains(promise);
        if !promise.stops.is_empty() && !before && decisions.iter().all(|(request, _)| *request != promise.request) {
            found.push(Violation::StopsNotNamed { request: promise.request });
        }
    }
}

/// Who has what, as one decision follows the other.
struct Replay<'a, 'p> {
    facts: &'a Facts<'a>,
    plan: &'p Plan,
    starting: BTreeSet<RequestId>,
    stopped: BTreeSet<LeaseId>,
    /// By queue: what leases have that stay.
    stays: BTreeMap<QueueId, Amount>,
    /// By queue: what leases, starts and promises have, stopping or not.
    charged: BTreeMap<QueueId, Amount>,
}

impl<'a, 'p> Replay<'a, 'p> {
    /// As it was before anybody was stopped.
    fn new(facts: &'a Facts<'a>, plan: &'p Plan, decisions: &[Decision<'_>]) -> Self {
        let mut charged = queues::used_by_leases(facts);
        let mut stays = charged.clone();
        let leaving: BTreeSet<LeaseId> = stopping(facts, plan).collect();
        for lease in leaving.iter().filter_map(|lease| facts.leases.get(lease)) {
            queues::refund(facts, &mut stays, lease.request.queue, &held(facts, lease));
        }
        for placement in &plan.placements {
            let Some(request) = facts.requests.get(&placement.request) else { continue };
            let amount = queues::amount(facts, &request.shape, &placement.grants);
            queues::charge(facts, &mut charged, request.queue, &amount);
        }
        for promise in &plan.reservations {
            let is_decided = decisions.iter().any(|(request, _)| *request == promise.request);
            let Some(request) = facts.requests.get(&promise.request).filter(|_| !is_decided) else { continue };
            let amount = queues::asked(facts, &request.shape, promise.nodes.len());
            queues::charge(facts, &mut charged, request.queue, &amount);
        }
        let starting = plan.placements.iter().map(|placement| placement.request).collect();
        Self { facts, plan, starting, stopped: BTreeSet::new(), stays, charged }
    }

    /// Stops for one request, in the order in which least is taken from those who lent.
    fn decide(&mut self, request: RequestId, preemptions: &[&Preemption], found: &mut Vec<Violation>) {
        let facts = self.facts;
        let asking = facts.requests.get(&request).filter(|_| !self.starting.contains(&request)).copied();
        let mut victims: Vec<(Amount, &Preemption, &Lease)> = Vec::new();
        for preemption in preemptions {
            let lease = preemption.lease;
            if !self.stopped.insert(lease) {
                found.push(Violation::StoppedTwice { lease });
                continue;
            }
            let Some(victim) = facts.leases.get(&lease) else {
                found.push(Violation::UnknownLease { lease });
                continue;
            };
            if victim.request.stop == Stop::Never {
                found.push(Violation::MayNotStop { lease });
            }
            if asking.is_none() {
                found.push(Violation::StoppedForNobody { lease, request });
            }
            victims.push((held(facts, victim), preemption, victim));
        }
        victims.sort_unstable_by_key(|(amount, preemption, _)| (*amount, preemption.lease));
        let asked = asking.map(|asking| queues::asked(facts, &asking.shape, usize::from(asking.shape.nodes.min)));
        for (amount, preemption, victim) in &victims {
            let has_right = |asking: &Request| self.has_right(preemption, victim, asking, &asked.unwrap_or_default());
            if asking.is_some_and(|asking| !has_right(asking)) {
                found.push(Violation::NoRight { lease: victim.id, request });
            }
            queues::refund(facts, &mut self.stays, victim.request.queue, amount);
        }
        let Some((asking, asked)) = asking.zip(asked) else { return };
        self.check_loss(asking, &asked, &victims, found);
        queues::charge(facts, &mut self.charged, asking.queue, &asked);
        self.check_limits(asking, &asked, found);
    }

    fn has_right(&self, preemption: &Preemption, victim: &Lease, asking: &Request, asked: &Amount) -> bool {
        let facts = self.facts;
        let (own, other) = (asking.queue, victim.request.queue);
        match preemption.cause {
            PreemptionCause::Priority => own == other && victim.request.priority < asking.priority,
            PreemptionCause::Reclaim => {
                let (own, other) = (path(facts, own), path(facts, other));
                let shared = own.iter().rev().zip(other.iter().rev()).take_while(|(one, two)| one == two).count();
                let Some(asking) = own.iter().rev().nth(shared) else { return false };
                let mut after = self.charged.get(asking).copied().unwrap_or_default();
                queues::add(&mut after, asked, 1);
                let has = |queue| self.stays.get(&queue).copied().unwrap_or_default();
                other.len() > shared
                    && other[..other.len() - shared].iter().all(|queue| borrows(facts, *queue, &has(*queue)))
                    && is_within_guarantee(facts, *asking, &after)
            }
        }
    }

    /// Each victim loses what is said, and all together no more than what is gained allows.
    fn check_loss(
        &self,
        asking: &Request,
        asked: &Amount,
        victims: &[(Amount, &Preemption, &Lease)],
        found: &mut Vec<Violation>,
    ) {
        let now = self.plan.at;
        let mut lost: i128 = 0;
        for (amount, preemption, victim) in victims {
            let seconds = match victim.request.stop {
                Stop::Never => continue,
                Stop::Restart => now.since(victim.started_at),
                Stop::Checkpoint { cost_seconds } => {
                    now.since(victim.saved_at.max(victim.started_at)) + i64::from(cost_seconds)
                }
            };
            // In thousandths of GPU-seconds; one that loses nothing counts for one.
            let loses = (i128::from(seconds) * i128::from(amount.gpu_milli)).max(1);
            let said = preemption.lost_gpu_seconds;
            if (loses + 999) / 1000 != i128::from(said) {
                found.push(Violation::WrongLoss { lease: victim.id, said });
            }
            lost += loses;
        }
        let promised = self.facts.before.reservations.iter().find(|promise| promise.request == asking.id);
        let promised = promised.filter(|promise| is_standing(promise, now));
        let waits = promised.map_or(MOST_GAINED_SECONDS, |promise| promise.starts_at.since(now));
        let seconds = waits.min(asking.run_seconds.map_or(MOST_GAINED_SECONDS, i64::from)).min(MOST_GAINED_SECONDS);
        let gained = i128::from(seconds) * i128::from(asked.gpu_milli);
        if lost * 1000 > gained * i128::from(self.facts.before.fleet.policy.preemption_loss_milli) {
            found.push(Violation::LossTooHigh { request: asking.id });
        }
    }

    /// Whoever is promised a place is within the limits once all have left that stop.
    fn check_limits(&self, asking: &Request, asked: &Amount, found: &mut Vec<Violation>) {
        let facts = self.facts;
        let leaving: BTreeSet<LeaseId> = stopping(facts, self.plan).chain(self.stopped.iter().copied()).collect();
        let mut after = self.charged.clone();
        for lease in leaving.iter().filter_map(|lease| facts.leases.get(lease)) {
            queues::refund(facts, &mut after, lease.request.queue, &held(facts, lease));
        }
        for queue in path(facts, asking.queue) {
            let used = after.get(&queue).copied().unwrap_or_default();
            found.extend(queues::exceeded(facts, queue, &used, asked));
        }
    }
}

/// What a lease's queue is charged for it.
fn held(facts: &Facts<'_>, lease: &Lease) -> Amount {
    queues::amount(facts, &lease.request.shape, &lease.grants)
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

/// Whether a queue has no more than its guarantee of all that is guaranteed to it, and something is.
fn is_within_guarantee(facts: &Facts<'_>, queue: QueueId, has: &Amount) -> bool {
    let guaranteed = queues::guaranteed(facts, queue);
    guaranteed != Amount::default()
        && queues::pairs(has, &guaranteed).into_iter().all(|(has, guaranteed)| guaranteed == 0 || has <= guaranteed)
}
