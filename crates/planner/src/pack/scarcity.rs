//! Which GPU models will run out first: demand against supply, for every set of models that some requests insist on.
//!
//! The densest set comes first (most demand that can go nowhere else, for what there is), then the densest of the rest
//! once that demand is gone: the principal partition of a transport problem. A request that may use several models
//! takes the least scarce, so that those who have no choice find theirs.

use super::demand::{Census, Supply};

/// Sets of models that are told apart; demand for rarer sets counts as free to go anywhere. Bounds the 2ⁿ unions.
const MAX_SETS: usize = 12;

/// By model: zero for the least scarce.
pub(super) fn by_model(census: &Census, supply: &Supply) -> Vec<u8> {
    let present =
        (0..).zip(&supply.gpus).filter(|(_, gpus)| **gpus > 0).fold(0_u64, |set, (model, _)| set | 1 << model);
    let mut demand = demand_by_set(census, present);
    let mut levels: Vec<u64> = Vec::new();
    let mut rest = present;
    while rest != 0 {
        let densest = densest(&demand, supply, rest);
        levels.push(densest);
        rest &= !densest;
        demand.iter_mut().for_each(|(set, _)| *set &= rest);
        demand.retain(|(set, _)| *set != 0);
    }
    let level_of = |model: usize| levels.iter().rev().position(|set| set >> model & 1 == 1).unwrap_or(0);
    (0..supply.gpus.len()).map(|model| u8::try_from(level_of(model)).unwrap_or(u8::MAX)).collect()
}

/// Demand (in thousandths of a GPU) by the models it may use; the largest first.
fn demand_by_set(census: &Census, present: u64) -> Vec<(u64, i64)> {
    let mut by_set = std::collections::BTreeMap::new();
    for (class, count) in census.classes() {
        let set = if class.models == 0 { present } else { class.models & present };
        let milli = count.requests * count.milli;
        if set != 0 && milli > 0 {
            *by_set.entry(set).or_insert(0) += milli;
        }
    }
    let anywhere = by_set.remove(&present).unwrap_or(0);
    let mut sets: Vec<(u64, i64)> = by_set.into_iter().collect();
    sets.sort_by_key(|(set, milli)| (std::cmp::Reverse(*milli), *set));
    let rare: i64 = sets.iter().skip(MAX_SETS - 1).map(|(_, milli)| milli).sum();
    sets.truncate(MAX_SETS - 1);
    sets.push((present, anywhere + rare));
    sets
}

/// The union of sets with most demand inside it for its supply; of equals the largest.
fn densest(demand: &[(u64, i64)], supply: &Supply, rest: u64) -> u64 {
    let mut best = (0_i64, 1_i64, 0_u64);
    for chosen in 1_u32..1 << demand.len() {
        let union =
            (0..).zip(demand).filter(|(place, _)| chosen >> place & 1 == 1).fold(0, |union, (_, (set, _))| union | set);
        let inside: i64 = demand.iter().filter(|(set, _)| set & !union == 0).map(|(_, milli)| milli).sum();
        let gpus: i64 =
            (0..).zip(&supply.gpus).filter(|(model, _)| union >> model & 1 == 1).map(|(_, gpus)| gpus).sum();
        let (left, right) = (i128::from(inside) * i128::from(best.1), i128::from(best.0) * i128::from(gpus.max(1)));
        if left > right || left == right && union.count_ones() > best.2.count_ones() {
            best = (inside, gpus.max(1), union);
        }
    }
    if best.0 == 0 { rest } else { best.2 & rest }
}

#[cfg(test)]
mod tests;
