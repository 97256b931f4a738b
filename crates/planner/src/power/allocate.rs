//! Who draws how many watts while it runs: exact hierarchical water-filling under nested caps.
//!
//! Stages, each on top of what the ones before gave: (0) the least each consumer must draw; (1) floors of tenant
//! classes, the deepest point first; (2) one priority after the other, up to what is asked. Within a stage the watts
//! are max-min fair: who has least is raised first, and nobody is raised past a full point. Every vector of watts that
//! cannot be raised anywhere has the same sum (nested caps form a polymatroid), so the order of stages costs nothing:
//! the sum is the optimum of the linear programme. `certificate` proves all of it from the answer.
//!
//! One stage is one walk from the leaves to the root. A point whose consumers want more than its room gets the highest
//! water level that fits, found by bisection over watts on consumers not yet settled; what a whole watt for each no
//! longer reaches goes to the first in tree order. O(stages · (points + consumers · depth)) expected, plus one sort.
//!
//! INVARIANT: watts stay whole, within what is asked and within every cap, after every stage.
//!
//! Deliberately absent: meters, time. A floor's watts are dealt out below its point without looking at floors of other
//! classes on points farther down than both: where those cross, `certificate` names what fell short.

use std::cmp::Reverse;
use std::ops::Range;

use super::PowerTree;
use crate::units::{MAX_TENANT_CLASSES, PowerId, TenantClass};

/// What one consumer wants now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ask {
    pub class: TenantClass,
    /// Higher first.
    pub priority: i16,
    /// What it draws whatever it is told, such as an idle node's watts.
    pub least_watts: i64,
    pub ask_watts: i64,
}

/// The answer, in the consumers' order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    pub watts: Vec<i64>,
    /// The part of `watts` that is its least draw or its class's floor: no higher priority can take it.
    pub kept_watts: Vec<i64>,
}

/// Shares watts among the same consumers again and again; what it needs to count on is kept between calls.
///
/// Points and consumers are renumbered in depth-first order under one root of boundless cap, so that what is below a
/// point is a range, and parents come before children.
#[derive(Debug, Clone)]
pub struct Allocator {
    /// Of each point in tree order: its name; none for the root above all.
    name: Vec<Option<PowerId>>,
    parent: Vec<usize>,
    /// One past the last point below it.
    end: Vec<usize>,
    /// Consumers below it, in tree order.
    below: Vec<Range<usize>>,
    /// Of each consumer in tree order: its place in the caller's order, and its point.
    consumer: Vec<usize>,
    point: Vec<usize>,
    /// Points with floors, the deepest first.
    floored: Vec<usize>,
    counts: Counts,
}

/// What a run counts on, all in tree order.
#[derive(Debug, Clone, Default)]
struct Counts {
    cap: Vec<i64>,
    used: Vec<i64>,
    gain: Vec<i64>,
    ask: Vec<Ask>,
    watts: Vec<i64>,
    want: Vec<i64>,
    ranked: Vec<(Reverse<i16>, usize)>,
    members: Vec<usize>,
    unsettled: Vec<(i64, i64)>,
}

impl Allocator {
    /// For consumers that draw from these points. A point that the tree does not have limits nothing.
    pub fn new(tree: &PowerTree, points: &[PowerId]) -> Self {
        let (name, parent, end) = depth_first(tree);
        let mut place = vec![0; tree.len()];
        for (at, name) in name.iter().enumerate() {
            if let Some(name) = name {
                place[name.0 as usize] = at;
            }
        }
        let mut order: Vec<(usize, usize)> = points
            .iter()
            .enumerate()
            .map(|(at, power)| (place.get(power.0 as usize).copied().unwrap_or(0), at))
            .collect();
        order.sort_unstable();
        let first = |at: usize| order.partition_point(|&(point, _)| point < at);
        let below = (0..name.len()).map(|at| first(at)..first(end[at])).collect();
        let has_floor = |at: &usize| {
            let classes = (0_u8..).take(MAX_TENANT_CLASSES).map(TenantClass);
            name[*at].is_some_and(|power| classes.map(|class| tree.floor(power, class)).any(|watts| watts > 0))
        };
        let floored = (0..name.len()).rev().filter(has_floor).collect();
        let (point, consumer) = order.iter().copied().unzip();
        Self { name, parent, end, below, consumer, point, floored, counts: Counts::default() }
    }

    /// Shares the watts under the tree's caps and floors of now; `asks` in the order of the points given to `new`.
    /// Caps and floors come from `tree`, which must be the same tree.
    pub fn allocate(&mut self, tree: &PowerTree, asks: &[Ask], out: &mut Allocation) {
        self.start(tree, asks);
        for at in 0..self.consumer.len() {
            self.counts.want[at] = self.counts.ask[at].least_watts;
            self.counts.members.push(at);
        }
        self.raise(0, i64::MAX);
        self.raise_floors(tree);
        self.write(&mut out.kept_watts);
        self.raise_priorities();
        self.write(&mut out.watts);
    }

    fn start(&mut self, tree: &PowerTree, asks: &[Ask]) {
        let counts = &mut self.counts;
        counts.cap.clear();
        counts.cap.extend(self.name.iter().map(|name| name.map_or(i64::MAX, |power| tree.cap(power).max(0))));
        for per_point in [&mut counts.used, &mut counts.gain] {
            per_point.clear();
            per_point.resize(self.name.len(), 0);
        }
        counts.ask.clear();
        counts.ask.extend(self.consumer.iter().map(|&at| {
            let ask = asks[at];
            Ask { least_watts: ask.least_watts.clamp(0, ask.ask_watts.max(0)), ask_watts: ask.ask_watts.max(0), ..ask }
        }));
        for per_consumer in [&mut counts.watts, &mut counts.want] {
            per_consumer.clear();
            per_consumer.resize(self.consumer.len(), 0);
        }
        counts.members.clear();
    }

    /// Brings each class below each point with a floor up to it, as far as it asks and caps allow.
    fn raise_floors(&mut self, tree: &PowerTree) {
        for floored in 0..self.floored.len() {
            let top = self.floored[floored];
            let Some(power) = self.name[top] else { continue };
            for class in (0_u8..).take(MAX_TENANT_CLASSES).map(TenantClass) {
                let floor = tree.floor(power, class);
                if floor == 0 {
                    continue;
                }
                let has: i64 = self.of_class(top, class).map(|at| self.counts.watts[at]).sum();
                let mut missing = floor - has;
                let mut next = if missing > 0 { self.highest(top, class, i16::MAX) } else { None };
                while let Some(priority) = next.filter(|_| missing > 0) {
                    let mut members = std::mem::take(&mut self.counts.members);
                    members.clear();
                    members.extend(self.of_class(top, class).filter(|&at| self.counts.ask[at].priority == priority));
                    self.counts.members = members;
                    self.want_all();
                    missing -= self.raise(top, missing);
                    next = priority.checked_sub(1).and_then(|most| self.highest(top, class, most));
                }
            }
        }
    }

    fn raise_priorities(&mut self) {
        let mut ranked = std::mem::take(&mut self.counts.ranked);
        ranked.clear();
        ranked.extend(self.counts.ask.iter().enumerate().map(|(at, ask)| (Reverse(ask.priority), at)));
        ranked.sort_unstable();
        let mut rest = &ranked[..];
        while let Some(&(priority, _)) = rest.first() {
            let (same, lower) = rest.split_at(rest.partition_point(|&(of, _)| of == priority));
            self.counts.members.clear();
            self.counts.members.extend(same.iter().map(|&(_, at)| at));
            self.want_all();
            self.raise(0, i64::MAX);
            rest = lower;
        }
        self.counts.ranked = ranked;
    }

    fn want_all(&mut self) {
        let counts = &mut self.counts;
        for &at in &counts.members {
            counts.want[at] = counts.ask[at].ask_watts;
        }
    }

    /// Consumers of a class below a point.
    fn of_class(&self, top: usize, class: TenantClass) -> impl Iterator<Item = usize> + '_ {
        self.below[top].clone().filter(move |&at| self.counts.ask[at].class == class)
    }

    /// Highest priority up to `most` among consumers of a class below a point.
    fn highest(&self, top: usize, class: TenantClass, most: i16) -> Option<i16> {
        self.of_class(top, class).map(|at| self.counts.ask[at].priority).filter(|&priority| priority <= most).max()
    }

    /// Raises `members` (below `top`, in tree order) towards what they want, by at most `limit` watts together.
    /// Returns the watts they gained.
    fn raise(&mut self, top: usize, limit: i64) -> i64 {
        let above = std::iter::successors(Some(top), |&at| (at != 0).then(|| self.parent[at]));
        let counts = &mut self.counts;
        let limit = above.map(|at| counts.cap[at] - counts.used[at]).fold(limit, i64::min);
        let points = top..self.end[top];
        counts.gain[points.clone()].fill(0);
        for &at in &counts.members {
            counts.gain[self.point[at]] += counts.want[at] - counts.watts[at];
        }
        for at in points.rev() {
            let room = if at == top { limit } else { counts.cap[at] - counts.used[at] };
            if counts.gain[at] > room {
                counts.lower(&self.below[at], room);
                counts.gain[at] = room;
            }
            if at != top {
                counts.gain[self.parent[at]] += counts.gain[at];
            }
        }
        self.take(top)
    }

    /// Gives the members what they still want.
    fn take(&mut self, top: usize) -> i64 {
        let counts = &mut self.counts;
        let points = top..self.end[top];
        counts.gain[points.clone()].fill(0);
        for &at in &counts.members {
            counts.gain[self.point[at]] += counts.want[at] - counts.watts[at];
            counts.watts[at] = counts.want[at];
        }
        for at in points.rev() {
            counts.used[at] += counts.gain[at];
            if at != top {
                counts.gain[self.parent[at]] += counts.gain[at];
            }
        }
        let gained = counts.gain[top];
        let mut at = top;
        while at != 0 {
            at = self.parent[at];
            counts.used[at] += gained;
        }
        gained
    }

    fn write(&self, out: &mut Vec<i64>) {
        out.clear();
        out.resize(self.consumer.len(), 0);
        for (&consumer, &watts) in self.consumer.iter().zip(&self.counts.watts) {
            out[consumer] = watts;
        }
    }
}

impl Counts {
    /// Lowers what members within a range want to one water level, the highest at which they gain `room` or less, and
    /// gives the rest to the first of those above it.
    fn lower(&mut self, below: &Range<usize>, room: i64) {
        let from = self.members.partition_point(|&at| at < below.start);
        let to = self.members.partition_point(|&at| at < below.end);
        let members = &self.members[from..to];
        self.unsettled.clear();
        self.unsettled.extend(members.iter().map(|&at| (self.watts[at], self.want[at])));
        let level = water_level(&mut self.unsettled, room);
        let mut rest = room;
        for &at in members {
            rest -= self.want[at].min(level).max(self.watts[at]) - self.watts[at];
        }
        for &at in members {
            let above = i64::from(rest > 0 && self.watts[at] <= level && level < self.want[at]);
            self.want[at] = self.want[at].min(level + above).max(self.watts[at]);
            rest -= above;
        }
    }
}

/// Highest level at which ranges from `low` to `high`, filled up to it, gain at most `room`; they gain more when full.
fn water_level(ranges: &mut Vec<(i64, i64)>, room: i64) -> i64 {
    let mut under = 0;
    let mut over = ranges.iter().map(|&(_, high)| high).max().unwrap_or(0);
    // Gained by ranges that end below every level still possible.
    let mut settled = 0;
    while over - under > 1 {
        let level = under + (over - under) / 2;
        let gain: i64 = ranges.iter().map(|&(low, high)| high.min(level).max(low) - low).sum();
        if settled + gain <= room {
            under = level;
        } else {
            over = level;
        }
        ranges.retain(|&(low, high)| {
            if high <= under {
                settled += high - low;
            }
            high > under && low < over
        });
    }
    under
}

/// Names, parents and ends of the points in depth-first order, below one root of no name.
fn depth_first(tree: &PowerTree) -> (Vec<Option<PowerId>>, Vec<usize>, Vec<usize>) {
    let powers = || (0_u32..).take(tree.len()).map(PowerId);
    let mut children: Vec<Vec<PowerId>> = vec![Vec::new(); tree.len() + 1];
    for power in powers() {
        children[tree.parent(power).map_or(tree.len(), |parent| parent.0 as usize)].push(power);
    }
    let (mut name, mut parent, mut end) = (vec![None], vec![0], vec![1]);
    let mut next: Vec<(PowerId, usize)> = children[tree.len()].iter().rev().map(|&power| (power, 0)).collect();
    while let Some((power, above)) = next.pop() {
        let at = name.len();
        name.push(Some(power));
        parent.push(above);
        end.push(at + 1);
        next.extend(children[power.0 as usize].iter().rev().map(|&child| (child, at)));
    }
    for at in (1..name.len()).rev() {
        end[parent[at]] = end[parent[at]].max(end[at]);
    }
    (name, parent, end)
}

#[cfg(test)]
mod tests;
