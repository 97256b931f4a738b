//! Reliability: what failures cost a gang, how often to checkpoint, how many spares to keep, which nodes to trust last,
//! and who takes a lost node's place.
//!
//! Rates are per million node-days, times in milliseconds, fractions in millionths; all whole numbers.
//!
//! Deliberately absent: what counts as a failure (the caller tells), the clock, causes of failures.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::units::{DomainId, NodeId};

const DAY_SECONDS: i128 = 86_400;
const DAY_MS: i128 = 1000 * DAY_SECONDS;
const MILLION: i128 = 1_000_000;

/// How often nodes fail: failures in a million node-days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailureRate(pub u32);

impl FailureRate {
    /// 6.50 in 1,000 node-days of eight A100 (RSC-1; Kokolis et al., HPCA 2025).
    pub const RSC_1: Self = Self(6_500);
    /// 419 in 54 days of 2,048 nodes of eight H100 (Llama 3 report, 2024).
    pub const LLAMA_3: Self = Self(3_790);
}

/// What a checkpoint and a restart cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointing {
    /// Work stands still while one is written.
    pub write_ms: u32,
    /// From a failure until work goes on from the last checkpoint.
    pub restart_ms: u32,
}

/// Expected share of its time, in millionths, in which a gang does work that lasts (effective training time ratio).
///
/// (1 − N·r·(u₀ + Δ/2)) / (1 + w/Δ), rounded down; zero where restarts eat all (Kokolis et al., HPCA 2025).
/// Assumes exponential failures at the mean rate of its nodes, at most one between two checkpoints, half an interval
/// lost by each, and a spare that is there at once.
pub fn expected_ettr_ppm(nodes: u32, rate: FailureRate, checkpointing: Checkpointing, interval_ms: u32) -> u32 {
    // Over 2 · day · million, so that all stays whole.
    let whole = 2 * DAY_MS * MILLION;
    let lost_ms = 2 * i128::from(checkpointing.restart_ms) + i128::from(interval_ms);
    let lost = i128::from(nodes) * i128::from(rate.0) * lost_ms;
    let cycle = i128::from(interval_ms) + i128::from(checkpointing.write_ms);
    if lost >= whole || cycle == 0 {
        return 0;
    }
    u32::try_from((whole - lost) * i128::from(interval_ms) * MILLION / (whole * cycle)).unwrap_or(0)
}

/// The interval between checkpoints that makes `expected_ettr_ppm` greatest, in milliseconds, rounded down; `None`
/// where failures leave no time to work whatever the interval.
///
/// Δ = √(w² + 2·w·(1 − λ·u₀)/λ) − w, the zero of the derivative of the closed form.
pub fn best_interval_ms(nodes: u32, rate: FailureRate, checkpointing: Checkpointing) -> Option<u32> {
    let failures = i128::from(nodes) * i128::from(rate.0);
    let write = i128::from(checkpointing.write_ms);
    let working = DAY_MS * MILLION - failures * i128::from(checkpointing.restart_ms);
    if working <= 0 {
        return None;
    }
    if failures == 0 {
        return Some(u32::MAX);
    }
    let square = u128::try_from(write * write + 2 * write * working / failures).unwrap_or(0);
    let interval = i128::try_from(square.isqrt()).unwrap_or(i128::MAX) - write;
    Some(u32::try_from(interval.max(1)).unwrap_or(u32::MAX))
}

/// Mean time between failures among so many nodes, in seconds, rounded down; `None` when none is ever expected.
pub fn mean_time_to_failure_seconds(nodes: u32, rate: FailureRate) -> Option<i64> {
    let failures = i128::from(nodes) * i128::from(rate.0);
    (failures > 0).then(|| i64::try_from(DAY_SECONDS * MILLION / failures).unwrap_or(i64::MAX))
}

/// Spares for so many nodes: the least number that failures within a repair time exceed no more often than
/// `1 − quantile_ppm` millionths of the time (a quantile of the Poisson distribution).
pub fn spares(nodes: u32, rate: FailureRate, repair_seconds: u32, quantile_ppm: u32) -> u32 {
    let mean = u128::from(nodes) * u128::from(rate.0) * u128::from(repair_seconds);
    poisson_quantile(mean, u128::try_from(DAY_SECONDS * MILLION).unwrap_or(1), quantile_ppm.min(999_999))
}

/// Least k with P(X ≤ k) ≥ `quantile_ppm`, X Poisson of mean `mean / per`.
///
/// Weights are taken relative to the most likely value, 2⁶², and summed: no exponential is needed, and none can
/// vanish for a great mean. Each step rounds down by less than one, so T terms err by less than T² · 2⁻⁶² of the whole:
/// below 10⁻¹¹ for means to 10,000.
fn poisson_quantile(mean: u128, per: u128, quantile_ppm: u32) -> u32 {
    if mean == 0 {
        return 0;
    }
    let mode = mean / per;
    let top: u128 = 1 << 62;
    let above = std::iter::successors(Some((mode, top)), |&(k, weight)| Some((k + 1, weight * mean / (per * (k + 1)))))
        .take_while(|&(_, weight)| weight > 0);
    let below =
        std::iter::successors(Some((mode, top)), |&(k, weight)| Some((k.checked_sub(1)?, weight * k * per / mean)))
            .skip(1)
            .take_while(|&(_, weight)| weight > 0);
    let mut terms: Vec<(u128, u128)> = below.chain(above).collect();
    terms.sort_unstable();
    let whole: u128 = terms.iter().map(|&(_, weight)| weight).sum();
    let mut sum = 0;
    for (k, weight) in terms {
        sum += weight;
        if sum * 1_000_000 >= whole * u128::from(quantile_ppm) {
            return u32::try_from(k).unwrap_or(u32::MAX);
        }
    }
    u32::MAX
}

/// Days of a typical node's life that an estimate starts from, as if they had been seen with one failure in them:
/// what one failure takes at the rate of RSC-1.
const PRIOR_DAYS: u64 = 154;

/// How much more often than a typical node this one fails, in thousandths, as far as so few failures can tell.
///
/// The mean of a Gamma distribution updated with what was seen: (1 + failures) / (154 + days), relative to 1 / 154.
/// One failure on the first day (a day begun counts) says 1.99, not 154. The caller chooses how far back
/// `observed_days` reaches.
pub fn lemon_score_milli(failures: u32, observed_days: u32) -> u32 {
    let score = 1000 * (1 + u64::from(failures)) * PRIOR_DAYS / (PRIOR_DAYS + u64::from(observed_days.max(1)));
    u32::try_from(score).unwrap_or(u32::MAX)
}

/// Rank of a node by its failures: zero for what may be chance, then one more for each doubling of the score from
/// two. Lower ranks take work first; equal nodes stay equal, so that single failures do not scatter gangs.
pub fn lemon_rank(failures: u32, observed_days: u32) -> u8 {
    let doublings = (lemon_score_milli(failures, observed_days) / 1000).max(1).ilog2();
    u8::try_from(doublings).unwrap_or(u8::MAX)
}

/// A node and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    /// Its domains, coarse to fine; all of one fleet have as many.
    pub domains: Vec<DomainId>,
    pub lemon_rank: u8,
}

/// Nodes that take the places of `lost` ones of a gang, so that it restarts where its survivors are.
///
/// Chosen one after another: the lowest lemon rank, so that the next failure is not bought with nearness; then the
/// spare that shares the finest domain with a survivor, then the domain with the most survivors, then the lowest id. A
/// chosen spare counts as a survivor, so that a gang that must enter a new domain enters one. `None` when there are not
/// enough.
pub fn replacements(survivors: &[Place], spares: &[Place], lost: usize) -> Option<Vec<NodeId>> {
    if spares.len() < lost {
        return None;
    }
    let mut members: BTreeMap<(usize, DomainId), u32> = BTreeMap::new();
    let join = |members: &mut BTreeMap<(usize, DomainId), u32>, place: &Place| {
        for (depth, &domain) in place.domains.iter().enumerate() {
            *members.entry((depth, domain)).or_default() += 1;
        }
    };
    for survivor in survivors {
        join(&mut members, survivor);
    }
    let mut left: Vec<&Place> = spares.iter().collect();
    let mut chosen = Vec::with_capacity(lost);
    for _ in 0..lost {
        let nearest = (0..left.len()).min_by_key(|&at| {
            let spare = left[at];
            let shared = spare
                .domains
                .iter()
                .enumerate()
                .rev()
                .find_map(|(depth, &domain)| members.get(&(depth, domain)).map(|&count| (depth + 1, count)));
            let (depth, count) = shared.unwrap_or_default();
            (spare.lemon_rank, Reverse(depth), Reverse(count), spare.node)
        })?;
        let spare = left.swap_remove(nearest);
        join(&mut members, spare);
        chosen.push(spare.node);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests;
