//! How good anybody could be at best: bounds that a plan is held against.
//!
//! Each is proved by weak duality or by counting, in time linear in what it looks at, and holds whatever made the plan.

use crate::fleet::{FleetSpec, Level};
use crate::plan::Placement;
use crate::units::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Domains of a level that gangs lie in, and the fewest they could.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spanned {
    pub domains: u64,
    /// Σ ceil(nodes / nodes of the largest domain), over the same gangs.
    pub least: u64,
}

/// How compactly gangs of two nodes or more lie, at one level. Nodes outside any domain of it count as one each.
pub fn spanned(fleet: &FleetSpec, placements: &[Placement], level: Level) -> Spanned {
    let domains: BTreeMap<NodeId, Option<u32>> =
        fleet.nodes.iter().map(|node| (node.id, domain(fleet, node, level))).collect();
    let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
    for domain in domains.values().flatten() {
        *sizes.entry(*domain).or_default() += 1;
    }
    let largest = sizes.values().copied().max().unwrap_or(1);
    let mut sum = Spanned::default();
    for placement in placements.iter().filter(|placement| placement.grants.len() > 1) {
        let mut touched = BTreeSet::new();
        let mut outside = 0;
        for grant in &placement.grants {
            match domains.get(&grant.node).copied().flatten() {
                Some(domain) => drop(touched.insert(domain)),
                None => outside += 1,
            }
        }
        sum.domains += u64::try_from(touched.len()).unwrap_or(u64::MAX) + outside;
        sum.least += u64::try_from(placement.grants.len()).unwrap_or(u64::MAX).div_ceil(largest);
    }
    sum
}

fn domain(fleet: &FleetSpec, node: &crate::fleet::NodeSpec, level: Level) -> Option<u32> {
    let mut at = if level.is_fabric() { node.fabric } else { Some(node.domain) };
    while let Some(domain) = at {
        let spec = fleet.domains.get(usize::try_from(domain.0).ok()?)?;
        if spec.level == level {
            return Some(domain.0);
        }
        at = spec.parent;
    }
    None
}

/// One victim: what stopping it frees, and what is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    pub frees: i64,
    pub costs: i64,
}

/// The least loss at which any set of victims frees `need`, if they could be stopped in parts: the linear covering
/// bound, rounded up, which no set of whole victims is below. `None` when all together free too little.
pub fn covering(need: i64, victims: &[Victim]) -> Option<i64> {
    let mut cheapest: Vec<Victim> = victims.iter().copied().filter(|victim| victim.frees > 0).collect();
    // By cost for each unit freed: a / b < c / d when a × d < c × b.
    cheapest.sort_by(|left, right| {
        let (left, right) =
            (i128::from(left.costs) * i128::from(right.frees), i128::from(right.costs) * i128::from(left.frees));
        left.cmp(&right)
    });
    let mut left = i128::from(need.max(0));
    let mut cost = 0_i128;
    for victim in cheapest {
        if left == 0 {
            break;
        }
        let (frees, costs) = (i128::from(victim.frees), i128::from(victim.costs.max(0)));
        let part = frees.min(left);
        left -= part;
        // The last one in part: rounded up, for whole victims lose whole GPU-seconds.
        cost += (costs * part + frees - 1) / frees;
    }
    (left == 0).then(|| i64::try_from(cost).unwrap_or(i64::MAX))
}

/// Something to pack: what it is worth, and what it takes of each resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub worth: i64,
    /// By place in `Prices::capacity`; what is not named takes nothing. Alternatives: it takes one of these.
    pub takes: Vec<Vec<(usize, i64)>>,
}

/// What each resource has in all, and a price for a unit of it, in thousandths of worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    pub capacity: Vec<i64>,
    pub milli: Vec<i64>,
}

/// The most worth that any packing could reach, by weak duality: with any prices of zero or more, all capacity at its
/// price, and for each item what its worth exceeds its cheapest alternative by. Rounded down, for worth is whole.
pub fn packing(items: &[Item], prices: &Prices) -> i64 {
    let price = |resource: usize| prices.milli.get(resource).copied().unwrap_or(0).max(0);
    let all: i128 =
        (0..).zip(&prices.capacity).map(|(at, capacity)| i128::from(*capacity) * i128::from(price(at))).sum();
    let gains = items.iter().map(|item| {
        let cost = |takes: &Vec<(usize, i64)>| {
            takes.iter().map(|(at, amount)| i128::from(*amount) * i128::from(price(*at))).sum()
        };
        let cheapest: Option<i128> = item.takes.iter().map(cost).min();
        cheapest.map_or(0, |cost| (i128::from(item.worth) * 1000 - cost).max(0))
    });
    i64::try_from((all + gains.sum::<i128>()) / 1000).unwrap_or(i64::MAX)
}
