//! Quotas that can be kept: guarantees within limits, within their parents', and within what the fleet has.

use crate::event::Forecast;
use crate::fleet::{Amount, NodeSpec, QueueSpec};
use crate::reason::Resource;
use crate::refusal::{FleetRule, ForecastRule, Refusal, Tree};
use crate::units::{GPU_MILLI, QueueId};

use super::{Census, MAX_AMOUNT, MAX_FORECAST_STEPS, children_first, in_calendar, place};

/// All that the fleet has, in service or not. Watts are absent: caps change by the hour, and a guarantee of watts
/// above them is no contradiction in itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    gpu_milli: i128,
    cpu_milli: i128,
    memory_mib: i128,
}

impl Capacity {
    pub(super) fn of(nodes: &[NodeSpec]) -> Self {
        let mut all = Self { gpu_milli: 0, cpu_milli: 0, memory_mib: 0 };
        for node in nodes {
            all.gpu_milli += i128::from(node.gpus) * i128::from(GPU_MILLI);
            all.cpu_milli += i128::from(node.cpu_milli);
            all.memory_mib += i128::from(node.memory_mib);
        }
        all
    }
}

const RESOURCES: [Resource; 4] = [Resource::Gpu, Resource::Cpu, Resource::Memory, Resource::Power];

impl Census {
    /// Whether a queue may have this quota, the others' being as in `queues`.
    pub fn check_quota(
        &self,
        queues: &[QueueSpec],
        queue: QueueId,
        weight: u32,
        guaranteed: Amount,
        limit: Option<Amount>,
    ) -> Result<(), Refusal> {
        let refuse = |rule| Refusal::Quota { queue, rule };
        let mut changed = queues.to_vec();
        let spec = place(queue.0).and_then(|at| changed.get_mut(at));
        let spec = spec.ok_or_else(|| refuse(FleetRule::UnknownQueue { queue }))?;
        *spec = QueueSpec { parent: spec.parent, weight, guaranteed, limit };
        check_queues(&changed, &self.capacity).map_err(refuse)
    }
}

/// Whether the forecast can be.
pub fn check_forecast(forecast: &Forecast) -> Result<(), Refusal> {
    let refuse = |rule| Err(Refusal::Forecast(rule));
    if forecast.step_seconds == 0 && !forecast.cost.is_empty() {
        return refuse(ForecastRule::NoStep);
    }
    let count = forecast.cost.len().max(forecast.gpu_milli.len());
    if count > MAX_FORECAST_STEPS {
        return refuse(ForecastRule::TooLong { count });
    }
    if let Some((step, &gpu_milli)) = forecast.gpu_milli.iter().enumerate().find(|(_, allowed)| **allowed < 0) {
        return refuse(ForecastRule::NegativeAllowance { step, gpu_milli });
    }
    if !in_calendar(forecast.from) {
        return refuse(ForecastRule::Instant { at: forecast.from });
    }
    Ok(())
}

pub(super) fn check_queues(queues: &[QueueSpec], capacity: &Capacity) -> Result<(), FleetRule> {
    let parents: Vec<_> = queues.iter().map(|queue| queue.parent.map(|parent| parent.0)).collect();
    let order = children_first(Tree::Queue, &parents)?;
    for (queue, spec) in (0..).map(QueueId).zip(queues) {
        check_numbers(queue, spec)?;
    }
    for resource in RESOURCES {
        check_guarantees(queues, &order, resource, capacity)?;
    }
    Ok(())
}

fn check_numbers(queue: QueueId, spec: &QueueSpec) -> Result<(), FleetRule> {
    if spec.weight == 0 {
        return Err(FleetRule::ZeroWeight { queue });
    }
    for resource in RESOURCES {
        let amount = of(&spec.guaranteed, resource);
        if !(0..=MAX_AMOUNT).contains(&amount) {
            return Err(FleetRule::GuaranteeRange { queue, resource, amount });
        }
        if let Some(amount) = spec.limit.map(|limit| of(&limit, resource)).filter(|amount| *amount < 0) {
            return Err(FleetRule::NegativeLimit { queue, resource, amount });
        }
    }
    Ok(())
}

/// Checks guarantees of one resource, from the leaves up. An inner queue that names none has the sum of its children's.
fn check_guarantees(
    queues: &[QueueSpec],
    order: &[usize],
    resource: Resource,
    capacity: &Capacity,
) -> Result<(), FleetRule> {
    let mut below = vec![0_i128; queues.len()];
    let mut roots = 0_i128;
    for &at in order {
        let (spec, children) = (&queues[at], below[at]);
        let queue = QueueId(u32::try_from(at).unwrap_or(u32::MAX));
        let own = i128::from(of(&spec.guaranteed, resource));
        if own > 0 && own < children {
            let (guaranteed, children) = (shown(own), shown(children));
            return Err(FleetRule::GuaranteeBelowChildren { queue, resource, guaranteed, children });
        }
        let all = own.max(children);
        if let Some(limit) = spec.limit.map(|limit| of(&limit, resource)).filter(|limit| all > i128::from(*limit)) {
            return Err(FleetRule::GuaranteeAboveLimit { queue, resource, guaranteed: shown(all), limit });
        }
        match spec.parent.and_then(|parent| place(parent.0)) {
            Some(parent) => below[parent] += all,
            None => roots += all,
        }
    }
    let there = match resource {
        Resource::Gpu => capacity.gpu_milli,
        Resource::Cpu => capacity.cpu_milli,
        Resource::Memory => capacity.memory_mib,
        Resource::Power => return Ok(()),
    };
    if roots > there {
        return Err(FleetRule::GuaranteeAboveCapacity { resource, guaranteed: shown(roots), capacity: shown(there) });
    }
    Ok(())
}

const fn of(amount: &Amount, resource: Resource) -> i64 {
    match resource {
        Resource::Gpu => amount.gpu_milli,
        Resource::Cpu => amount.cpu_milli,
        Resource::Memory => amount.memory_mib,
        Resource::Power => amount.watts,
    }
}

/// For the text of a refusal: a sum too large for it is shown as the largest number.
fn shown(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}
