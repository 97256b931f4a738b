//! No start takes a queue, or one above it, over its limit.

use std::collections::BTreeMap;

use crate::fleet::Amount;
use crate::plan::{GpuGrant, Grant, Plan};
use crate::reason::Resource;
use crate::request::{Gpus, Shape};
use crate::units::{GPU_MILLI, QueueId};

use super::{Facts, Violation};

/// Compute slots of a GPU: a slice counts for those it takes, rounded up.
const COMPUTE_SLOTS: i64 = 7;

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let before = used_by_leases(facts);
    let mut after = before.clone();
    for placement in &plan.placements {
        let Some(request) = facts.requests.get(&placement.request) else { continue };
        charge(facts, &mut after, request.queue, &amount(facts, &request.shape, &placement.grants));
    }
    for (&queue, used) in &after {
        let Some(limit) = spec(facts, queue).and_then(|queue| queue.limit) else { continue };
        let had = before.get(&queue).copied().unwrap_or_default();
        for resource in [Resource::Gpu, Resource::Cpu, Resource::Memory, Resource::Power] {
            let (had, used, limit) = (of(&had, resource), of(used, resource), of(&limit, resource));
            // A limit that was lowered below what is used is no fault of this plan, as long as it adds nothing.
            if used > had && used > limit {
                found.push(Violation::Limit { queue, resource, used, limit });
            }
        }
    }
}

/// What each queue and those above it use before the plan.
pub(super) fn used_by_leases(facts: &Facts<'_>) -> BTreeMap<QueueId, Amount> {
    let mut used = BTreeMap::new();
    for lease in facts.before.leases {
        charge(facts, &mut used, lease.request.queue, &amount(facts, &lease.request.shape, &lease.grants));
    }
    used
}

/// Adds to a queue and those above it.
pub(super) fn charge(facts: &Facts<'_>, used: &mut BTreeMap<QueueId, Amount>, queue: QueueId, amount: &Amount) {
    change(facts, used, queue, amount, 1);
}

/// Takes from a queue and those above it.
pub(super) fn refund(facts: &Facts<'_>, used: &mut BTreeMap<QueueId, Amount>, queue: QueueId, amount: &Amount) {
    change(facts, used, queue, amount, -1);
}

fn change(facts: &Facts<'_>, used: &mut BTreeMap<QueueId, Amount>, queue: QueueId, amount: &Amount, times: i64) {
    let mut at = Some(queue);
    while let Some(queue) = at {
        add(used.entry(queue).or_default(), amount, times);
        at = spec(facts, queue).and_then(|queue| queue.parent);
    }
}

/// Adds an amount so many times.
pub(super) const fn add(sum: &mut Amount, amount: &Amount, times: i64) {
    sum.gpu_milli += amount.gpu_milli * times;
    sum.cpu_milli += amount.cpu_milli * times;
    sum.memory_mib += amount.memory_mib * times;
    sum.watts += amount.watts * times;
}

/// The limits of a queue that it exceeds with what was asked among what it uses.
pub(super) fn exceeded(facts: &Facts<'_>, queue: QueueId, used: &Amount, asked: &Amount) -> Vec<Violation> {
    let Some(limit) = spec(facts, queue).and_then(|queue| queue.limit) else { return Vec::new() };
    let resources = [Resource::Gpu, Resource::Cpu, Resource::Memory, Resource::Power];
    let over = resources.into_iter().filter(|resource| of(asked, *resource) > 0);
    let over = over.map(|resource| (resource, of(used, resource), of(&limit, resource)));
    let over = over.filter(|(_, used, limit)| used > limit);
    over.map(|(resource, used, limit)| Violation::Limit { queue, resource, used, limit }).collect()
}

/// What a queue is guaranteed: what it says, or what those right below it have together where that is more.
pub(super) fn guaranteed(facts: &Facts<'_>, queue: QueueId) -> Amount {
    let mut below = Amount::default();
    for (child, spec) in (0..).map(QueueId).zip(&facts.before.fleet.queues) {
        if spec.parent == Some(queue) {
            let child = guaranteed(facts, child);
            add(&mut below, &child, 1);
        }
    }
    let own = spec(facts, queue).map(|spec| spec.guaranteed).unwrap_or_default();
    Amount {
        gpu_milli: own.gpu_milli.max(below.gpu_milli),
        cpu_milli: own.cpu_milli.max(below.cpu_milli),
        memory_mib: own.memory_mib.max(below.memory_mib),
        watts: own.watts.max(below.watts),
    }
}

/// Two amounts, resource by resource.
pub(super) const fn pairs(one: &Amount, two: &Amount) -> [(i64, i64); 4] {
    [
        (one.gpu_milli, two.gpu_milli),
        (one.cpu_milli, two.cpu_milli),
        (one.memory_mib, two.memory_mib),
        (one.watts, two.watts),
    ]
}

/// What grants take of what queues share.
pub(super) fn amount(facts: &Facts<'_>, shape: &Shape, grants: &[Grant]) -> Amount {
    let mut sum = Amount::default();
    for grant in grants {
        sum.gpu_milli += match grant.gpus {
            GpuGrant::Whole(mask) => i64::from(mask.count_ones()) * i64::from(GPU_MILLI),
            GpuGrant::Milli { milli, .. } => i64::from(milli),
            GpuGrant::Slice { .. } => slice_milli(facts, shape),
        };
        sum.cpu_milli += i64::from(shape.cpu_milli);
        sum.memory_mib += i64::from(shape.memory_mib);
        sum.watts += i64::from(shape.peak_watts);
    }
    sum
}

/// What so many members of a shape would take.
pub(super) fn asked(facts: &Facts<'_>, shape: &Shape, nodes: usize) -> Amount {
    let gpu_milli = match shape.gpus {
        Gpus::Whole(count) => i64::from(count) * i64::from(GPU_MILLI),
        Gpus::Milli(milli) => i64::from(milli),
        Gpus::Slice(_) => slice_milli(facts, shape),
    };
    let (cpu_milli, memory_mib) = (i64::from(shape.cpu_milli), i64::from(shape.memory_mib));
    let one = Amount { gpu_milli, cpu_milli, memory_mib, watts: i64::from(shape.peak_watts) };
    let mut sum = Amount::default();
    add(&mut sum, &one, i64::try_from(nodes).unwrap_or(i64::MAX));
    sum
}

fn slice_milli(facts: &Facts<'_>, shape: &Shape) -> i64 {
    let Gpus::Slice(slice) = shape.gpus else { return 0 };
    let model =
        usize::try_from(shape.models.trailing_zeros()).ok().and_then(|model| facts.before.fleet.models.get(model));
    let profile = model.and_then(|model| model.slices.get(usize::from(slice.0)));
    let milli = profile.map_or(0, |profile| i64::from(profile.compute) * i64::from(GPU_MILLI));
    (milli + COMPUTE_SLOTS - 1) / COMPUTE_SLOTS
}

pub(super) fn spec<'a>(facts: &Facts<'a>, queue: QueueId) -> Option<&'a crate::fleet::QueueSpec> {
    facts.before.fleet.queues.get(usize::try_from(queue.0).ok()?)
}

pub(super) const fn of(amount: &Amount, resource: Resource) -> i64 {
    match resource {
        Resource::Gpu => amount.gpu_milli,
        Resource::Cpu => amount.cpu_milli,
        Resource::Memory => amount.memory_mib,
        Resource::Power => amount.watts,
    }
}
