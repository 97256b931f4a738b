//! No start takes watts that a point of the power tree does not have, or that it keeps for another tenant class.

use crate::plan::Plan;
use crate::units::{MAX_TENANT_CLASSES, PowerId, TenantClass};

use super::{Facts, Violation};

type Watts = Vec<[i64; MAX_TENANT_CLASSES]>;

pub(super) fn check(facts: &Facts<'_>, plan: &Plan, found: &mut Vec<Violation>) {
    let points = &facts.before.fleet.power;
    let mut committed: Watts = vec![[0; MAX_TENANT_CLASSES]; points.len()];
    for lease in facts.before.leases {
        for grant in &lease.grants {
            draw(facts, &mut committed, grant.node, lease.request.class, lease.request.shape.peak_watts);
        }
    }
    let before = reserved(facts, &committed);
    for placement in &plan.placements {
        let Some(request) = facts.requests.get(&placement.request) else { continue };
        for grant in &placement.grants {
            draw(facts, &mut committed, grant.node, request.class, request.shape.peak_watts);
        }
    }
    let after = reserved(facts, &committed);
    for (at, point) in points.iter().enumerate() {
        // A cap that was lowered below what runs is no fault of this plan, as long as it adds nothing. A class below
        // its floor adds nothing either: it takes what was kept for it.
        if after[at] > before[at] && after[at] > point.cap_watts {
            let power = PowerId(u32::try_from(at).unwrap_or(u32::MAX));
            found.push(Violation::Power { power, reserved_watts: after[at], cap_watts: point.cap_watts });
        }
    }
}

/// Adds watts at a node's point and at all above it.
fn draw(facts: &Facts<'_>, committed: &mut Watts, node: crate::units::NodeId, class: TenantClass, watts: u32) {
    let mut at = facts.nodes.get(&node).map(|node| node.power);
    while let Some(place) = at.and_then(|power| usize::try_from(power.0).ok()) {
        let (Some(point), Some(spec)) = (committed.get_mut(place), facts.before.fleet.power.get(place)) else { return };
        if let Some(of_class) = point.get_mut(usize::from(class.0)) {
            *of_class += i64::from(watts);
        }
        at = spec.parent;
    }
}

/// At each point what is taken, or kept for a class that has not taken it.
fn reserved(facts: &Facts<'_>, committed: &Watts) -> Vec<i64> {
    let at_point = |(point, classes): (&crate::fleet::PowerSpec, &[i64; MAX_TENANT_CLASSES])| {
        let kept = |class: usize| {
            let own = point.floors.iter().filter(|(floor, _)| usize::from(floor.0) == class);
            own.map(|(_, watts)| *watts).sum::<i64>()
        };
        classes.iter().enumerate().map(|(class, watts)| (*watts).max(kept(class))).sum()
    };
    facts.before.fleet.power.iter().zip(committed).map(at_point).collect()
}
