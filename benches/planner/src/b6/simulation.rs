//! One gang, its spares and its failures, event by event.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "drawn instants become whole days and places"
)]

use std::collections::BTreeSet;

use galerne_planner::reliability::{self, Place};
use galerne_planner::units::{DomainId, NodeId};

use crate::random::SplitMix64;
use crate::timing;

const DAY: f64 = 86_400.0;
/// Enough that chance moves the ratio by less than a tenth of the allowed two percent.
const FAILURES: u32 = 5_000;
const SEED: u64 = 6;
/// A lemon fails so many times as often as another node.
const LEMON_FACTOR: f64 = 10.0;
const LEMON_SHARE: f64 = 0.05;
const NODES_IN_UNIT: u64 = 32;
const NODES_IN_RACK: u64 = 4;

/// Who fails how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fleet {
    Even,
    /// The same mean over the fleet.
    WithLemons,
}

/// Who takes a lost node's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    ById,
    /// As the planner ranks them.
    Ranked,
}

/// One run. Times in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) nodes: u32,
    pub(super) spares: u32,
    pub(super) fleet: Fleet,
    pub(super) replace: Replace,
    pub(super) failures_per_day: f64,
    /// Of the failures, those that take the node away.
    pub(super) hardware_share: f64,
    pub(super) repair: f64,
    pub(super) write: f64,
    pub(super) restart: f64,
    pub(super) interval: f64,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) ettr: f64,
    pub(super) failures: u32,
    pub(super) days: f64,
    /// Failures per node-day of the nodes in the gang, over the time they were in it.
    pub(super) mean_rate: f64,
    pub(super) spare_hit_percent: f64,
    pub(super) wait_p99: f64,
}

/// A node as it is, and as the planner sees it.
#[derive(Debug, Clone, Copy)]
struct Node {
    is_lemon: bool,
    failures: u32,
    /// Seconds in the gang, until it joined last; and when that was.
    observed: f64,
    joined_at: f64,
}

/// The state of a run.
struct Site {
    scenario: Scenario,
    random: SplitMix64,
    nodes: Vec<Node>,
    gang: BTreeSet<u64>,
    /// Lemons in the gang.
    lemons: u32,
    free: BTreeSet<u64>,
    /// Nodes away, with the instant at which each is back; in order of it, for all repairs take as long.
    away: std::collections::VecDeque<(f64, u64)>,
    now: f64,
    /// Failures per day, summed over the gang, times the seconds at that rate.
    rate_seconds: f64,
    waits: Vec<f64>,
}

impl Scenario {
    pub(super) fn run(self) -> Outcome {
        let mut site = Site::new(self);
        let mut worked = 0.0;
        for _ in 0..FAILURES {
            let gap = site.random.exponential() * DAY / site.rate();
            let working = (gap - self.restart).max(0.0);
            // Only whole intervals whose checkpoint was written last.
            worked += (working / (self.interval + self.write)).floor() * self.interval;
            site.pass(gap);
            site.fail();
        }
        let hits = site.waits.iter().filter(|wait| **wait == 0.0).count();
        Outcome {
            ettr: worked / site.now,
            failures: FAILURES,
            days: site.now / DAY,
            mean_rate: site.rate_seconds / (site.now - site.waits.iter().sum::<f64>()) / f64::from(self.nodes),
            spare_hit_percent: 100.0 * hits as f64 / site.waits.len().max(1) as f64,
            wait_p99: timing::quantile(&site.waits, 0.99),
        }
    }

    /// The ratio as renewal theory gives it without approximation (Daly 2006), for comparison: an interval and its
    /// checkpoint succeed with probability e^(−λ(Δ+w)), and a restart with e^(−λu₀).
    pub(super) fn renewal(&self, rate: f64) -> f64 {
        let per_second = rate * f64::from(self.nodes) / DAY;
        let attempt = (per_second * (self.interval + self.write)).exp_m1();
        self.interval * per_second / (attempt * (per_second * self.restart).exp())
    }

    /// Failures per day of one node.
    fn node_rate(&self, is_lemon: bool) -> f64 {
        let good = match self.fleet {
            Fleet::Even => self.failures_per_day,
            Fleet::WithLemons => self.failures_per_day / (1.0 + LEMON_SHARE * (LEMON_FACTOR - 1.0)),
        };
        if is_lemon { good * LEMON_FACTOR } else { good }
    }
}

impl Site {
    fn new(scenario: Scenario) -> Self {
        let mut random = SplitMix64::new(SEED);
        let all = u64::from(scenario.nodes + scenario.spares);
        let nodes: Vec<Node> = (0..all)
            .map(|_| Node {
                is_lemon: scenario.fleet == Fleet::WithLemons && random.unit() < LEMON_SHARE,
                failures: 0,
                observed: 0.0,
                joined_at: 0.0,
            })
            .collect();
        let gang = (0..u64::from(scenario.nodes)).collect();
        let lemons = (0_u32..).zip(&nodes).filter(|(at, node)| *at < scenario.nodes && node.is_lemon).count() as u32;
        let free = (u64::from(scenario.nodes)..all).collect();
        let away = std::collections::VecDeque::new();
        Self { scenario, random, nodes, gang, lemons, free, away, now: 0.0, rate_seconds: 0.0, waits: Vec::new() }
    }

    /// Failures per day of the whole gang.
    fn rate(&self) -> f64 {
        let lemons = f64::from(self.lemons);
        let good = self.gang.len() as f64 - lemons;
        lemons * self.scenario.node_rate(true) + good * self.scenario.node_rate(false)
    }

    fn pass(&mut self, seconds: f64) {
        self.rate_seconds += self.rate() * seconds;
        self.now += seconds;
        while let Some(&(back_at, node)) = self.away.front().filter(|(back_at, _)| *back_at <= self.now) {
            debug_assert!(back_at <= self.now, "repairs end in order");
            self.away.pop_front();
            self.free.insert(node);
        }
    }

    /// One node of the gang fails, drawn by its rate; the gang is whole again when this returns.
    fn fail(&mut self) {
        let mut drawn = self.random.unit() * self.rate();
        let hit = |node: &&u64| {
            drawn -= self.scenario.node_rate(self.nodes[**node as usize].is_lemon);
            drawn <= 0.0
        };
        let Some(failed) = self.gang.iter().find(hit).or_else(|| self.gang.last()).copied() else { return };
        self.nodes[failed as usize].failures += 1;
        if self.random.unit() < self.scenario.hardware_share {
            self.leave(failed);
            self.away.push_back((self.now + self.scenario.repair, failed));
            let mut wait = 0.0;
            if self.free.is_empty() {
                // No work and no failures until the first repaired node is back.
                let (back_at, node) = self.away.pop_front().unwrap_or((self.now, failed));
                wait = back_at - self.now;
                self.now = back_at;
                self.free.insert(node);
            }
            self.waits.push(wait);
        }
        self.refill();
    }

    fn leave(&mut self, node: u64) {
        let now = self.now;
        let entry = &mut self.nodes[node as usize];
        entry.observed += now - entry.joined_at;
        self.lemons -= u32::from(entry.is_lemon);
        self.gang.remove(&node);
    }

    fn join(&mut self, node: u64) {
        let entry = &mut self.nodes[node as usize];
        entry.joined_at = self.now;
        self.lemons += u32::from(entry.is_lemon);
        self.free.remove(&node);
        self.gang.insert(node);
    }

    /// Fills the gang up for its restart.
    fn refill(&mut self) {
        let needed = self.scenario.nodes as usize;
        let chosen: Vec<u64> = match self.scenario.replace {
            Replace::ById => self.free.iter().take(needed - self.gang.len()).copied().collect(),
            Replace::Ranked => {
                let ranked_out = self.leave_out();
                let survivors: Vec<Place> = self.gang.iter().map(|node| self.place(*node)).collect();
                let spares: Vec<Place> =
                    self.free.iter().filter(|node| !ranked_out.contains(*node)).map(|node| self.place(*node)).collect();
                let places = reliability::replacements(&survivors, &spares, needed - self.gang.len());
                places.unwrap_or_default().iter().map(|node| node.0).collect()
            }
        };
        for node in chosen {
            self.join(node);
        }
    }

    /// Takes nodes ranked above zero out of the gang, the worst first, as far as free ones ranked zero can replace
    /// them.
    fn leave_out(&mut self) -> BTreeSet<u64> {
        let missing = self.scenario.nodes as usize - self.gang.len();
        let better = self.free.iter().filter(|node| self.rank(**node) == 0).count().saturating_sub(missing);
        let mut ranked: Vec<(u8, u64)> = self.gang.iter().map(|node| (self.rank(*node), *node)).collect();
        ranked.retain(|(rank, _)| *rank > 0);
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.truncate(better);
        for &(_, node) in &ranked {
            self.leave(node);
            self.free.insert(node);
        }
        ranked.into_iter().map(|(_, node)| node).collect()
    }

    fn rank(&self, node: u64) -> u8 {
        let entry = &self.nodes[node as usize];
        let running = if self.gang.contains(&node) { self.now - entry.joined_at } else { 0.0 };
        reliability::lemon_rank(entry.failures, ((entry.observed + running) / DAY) as u32)
    }

    fn place(&self, node: u64) -> Place {
        let domain = |size: u64| DomainId((node / size) as u32);
        let domains = vec![domain(NODES_IN_UNIT), domain(NODES_IN_RACK)];
        Place { node: NodeId(node), domains, lemon_rank: self.rank(node) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Scenario = Scenario {
        nodes: 512,
        spares: 20,
        fleet: Fleet::Even,
        replace: Replace::ById,
        failures_per_day: 6.5e-3,
        hardware_share: 1.0,
        repair: DAY,
        write: 10.0,
        restart: 300.0,
        interval: 300.0,
    };

    #[test]
    fn an_even_gang_with_spares_works_as_renewal_theory_says() {
        let outcome = EVEN.run();
        assert!((outcome.ettr / EVEN.renewal(6.5e-3) - 1.0).abs() < 0.002, "{outcome:?}");
        assert!((outcome.mean_rate - 6.5e-3).abs() < 1e-9, "{outcome:?}");
        assert!(outcome.spare_hit_percent > 99.9, "{outcome:?}");
    }

    #[test]
    fn without_spares_every_failure_waits_for_a_repair() {
        let outcome = Scenario { spares: 0, ..EVEN }.run();
        assert!(outcome.spare_hit_percent == 0.0 && (outcome.wait_p99 - DAY).abs() < 1.0, "{outcome:?}");
        assert!(outcome.ettr < 0.3, "{outcome:?}");
    }

    #[test]
    fn ranking_takes_lemons_out_of_the_gang() {
        let lemons = Scenario { fleet: Fleet::WithLemons, nodes: 128, spares: 22, ..EVEN };
        let by_id = lemons.run();
        let ranked = Scenario { replace: Replace::Ranked, ..lemons }.run();
        assert!(ranked.mean_rate < 0.8 * by_id.mean_rate, "{ranked:?} {by_id:?}");
    }
}
