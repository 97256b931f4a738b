//! Of the starts until some instant, the one at which a gang lies in the fewest domains of the level it prefers.
//!
//! Deliberately absent: how long a gang may wait for that, and when it is asked.

use std::cmp::Reverse;

use crate::gang::parts_needed;
use crate::request::Shape;
use crate::state::State;
use crate::state::topology::{LevelTable, NodeIx, narrow};
use crate::units::At;

use super::{OVERRUN_SECONDS, Scratch, in_time, kept_free_at, seen};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Near<'a> {
    /// Nothing that starts later.
    pub(crate) latest: At,
    /// Only what spans fewer domains than so many.
    pub(crate) below: u32,
    /// Nodes promised to who asks.
    pub(crate) own: &'a [NodeIx],
}

/// A domain of the preferred level: when each of its nodes is free, the earliest first.
struct Part {
    domain: u32,
    times: Vec<(At, u8, Reverse<NodeIx>)>,
}

impl Part {
    fn count(&self, at: At) -> u32 {
        narrow(self.times.partition_point(|(time, _, _)| *time <= at))
    }
}

/// The start of a shape's least gang over the fewest domains of its preferred level, of those the earliest, and its
/// nodes; `None` where nobody prefers a level, or nothing is found.
pub(crate) fn nearest(
    state: &mut State,
    shape: &Shape,
    classes: u64,
    now: At,
    near: &Near<'_>,
    scratch: &mut Scratch,
) -> Option<(At, Vec<NodeIx>)> {
    let needed = u32::from(shape.nodes.min);
    let preferred = state.topology.table_of(shape.prefer?)?;
    let outer = state.topology.table_within(shape.within)?;
    let kind = scratch.kind(state, shape, classes, now);
    let after_overrun = now.plus(OVERRUN_SECONDS);
    let own_time = |node: NodeIx| seen(kept_free_at(state, shape, classes, node, now), after_overrun);
    let mut own: Vec<(NodeIx, At)> = near.own.iter().map(|node| (*node, own_time(*node))).collect();
    own.sort_unstable();
    let times = Times { of_all: &scratch.kinds[kind].at, own: &own, after_overrun };
    let inner = &state.topology.tables()[preferred];
    let mut best: Option<(u32, At, Vec<NodeIx>)> = None;
    for domain in 0..narrow(state.topology.tables()[outer].len()) {
        let below =
            if outer == preferred { Some(domain..domain + 1) } else { state.topology.within(outer, domain, preferred) };
        let Some(below) = below else { continue };
        // Few are free in time: they are counted before they are looked at one by one.
        let mut counts: Vec<(u32, u32)> = below
            .map(|domain| (times.count(inner.members(domain), near.latest), domain))
            .filter(|(count, _)| *count > 0)
            .collect();
        let fewest = spanned(counts.iter().map(|(count, _)| *count), needed).filter(|fewest| *fewest < near.below);
        let Some(fewest) = fewest else { continue };
        keep_useful(&mut counts, fewest, needed);
        if fewest == 1 {
            counts = soonest(&times, inner, &counts, near.latest, needed);
        }
        let part = |(_, domain): (u32, u32)| times.part(inner, domain, near.latest, &state.nodes.rank);
        let parts: Vec<Part> = counts.into_iter().map(part).collect();
        let mut instants: Vec<At> = parts.iter().flat_map(|part| part.times.iter().map(|(time, _, _)| *time)).collect();
        instants.sort_unstable();
        instants.dedup();
        let place = instants.partition_point(|at| {
            spanned(parts.iter().map(|part| part.count(*at)), needed).is_none_or(|spanned| spanned > fewest)
        });
        let at = instants[place];
        if best.as_ref().is_none_or(|(least, earliest, _)| (fewest, at) < (*least, *earliest)) {
            best = Some((fewest, at, choose(&parts, at, needed)));
        }
    }
    let (_, at, mut nodes) = best?;
    nodes.sort_unstable();
    Some((at.max(now), nodes))
}

/// Leaves only parts that can be one of so few: with the fullest others they must be enough.
fn keep_useful(counts: &mut Vec<(u32, u32)>, fewest: u32, needed: u32) {
    let mut fullest: Vec<u32> = counts.iter().map(|(count, _)| *count).collect();
    fullest.sort_unstable_by_key(|count| Reverse(*count));
    let others: u32 = fullest.iter().take(fewest.saturating_sub(1) as usize).sum();
    counts.retain(|(count, _)| others.saturating_add(*count) >= needed);
}

/// Of parts that each hold the whole gang in time, the one that does first; of several the tightest then, and of those
/// the first.
fn soonest(times: &Times<'_>, table: &LevelTable, counts: &[(u32, u32)], latest: At, needed: u32) -> Vec<(u32, u32)> {
    let mut best: Option<(At, u32, u32)> = None;
    let mut ends: Vec<At> = Vec::new();
    for (_, domain) in counts {
        let members = table.members(*domain);
        // Only one that holds it by the best instant so far can be as good.
        let latest = best.map_or(latest, |(at, _, _)| at);
        if best.is_some() && times.count(members, latest) < needed {
            continue;
        }
        ends.clear();
        ends.extend(members.iter().map(|node| times.at(*node)).filter(|at| *at <= latest));
        let (_, at, _) = ends.select_nth_unstable(needed as usize - 1);
        let at = *at;
        let key = (at, narrow(ends.iter().filter(|end| **end <= at).count()), *domain);
        if best.is_none_or(|best| key < best) {
            best = Some(key);
        }
    }
    best.into_iter().map(|(_, count, domain)| (count, domain)).collect()
}

/// When each node is free: those of a promise of its own count for who asks.
struct Times<'a> {
    of_all: &'a [At],
    /// By node.
    own: &'a [(NodeIx, At)],
    after_overrun: At,
}

impl Times<'_> {
    fn at(&self, node: NodeIx) -> At {
        match self.own.binary_search_by_key(&node, |(own, _)| *own) {
            Ok(place) => self.own[place].1,
            Err(_) => seen(self.of_all[node.at()], self.after_overrun),
        }
    }

    /// A domain's nodes that are free by an instant.
    fn part(&self, table: &LevelTable, domain: u32, latest: At, ranks: &[u8]) -> Part {
        let members = table.members(domain).iter().map(|node| (self.at(*node), *node));
        let in_time = members.filter(|(time, _)| *time <= latest);
        let mut times: Vec<_> = in_time.map(|(time, node)| (time, ranks[node.at()], Reverse(node))).collect();
        times.sort_unstable();
        Part { domain, times }
    }

    /// Nodes that are free by an instant. What is promised is free for nobody else, so that none counts twice.
    fn count(&self, nodes: &[NodeIx], latest: At) -> u32 {
        let own = self.own.iter().filter(|(node, at)| *at <= latest && nodes.binary_search(node).is_ok());
        narrow(in_time(self.of_all, nodes, latest, self.after_overrun) + own.count())
    }
}

/// Parts that a gang needs, the fullest first; `None` where all are not enough.
fn spanned(counts: impl Iterator<Item = u32>, needed: u32) -> Option<u32> {
    let mut counts: Vec<u32> = counts.collect();
    counts.sort_unstable_by_key(|count| Reverse(*count));
    parts_needed(counts.into_iter(), needed)
}

/// The fullest parts, and for the rest the one it fits best; of each the nodes that are free first.
fn choose(parts: &[Part], at: At, needed: u32) -> Vec<NodeIx> {
    let mut counts: Vec<(u32, u32, &Part)> = parts.iter().map(|part| (part.count(at), part.domain, part)).collect();
    counts.sort_unstable_by_key(|(count, domain, _)| Reverse((*count, *domain)));
    let mut nodes = Vec::with_capacity(needed as usize);
    let mut left = needed;
    for (place, (count, _, part)) in counts.iter().enumerate() {
        let is_last = *count >= left;
        // The last that is enough is the tightest.
        let tightest = counts[place..].iter().rev().find(|(count, _, _)| *count >= left).filter(|_| is_last);
        let part = tightest.map_or(*part, |(_, _, part)| part);
        nodes.extend(part.times[..left.min(*count) as usize].iter().map(|(_, _, node)| node.0));
        left -= left.min(*count);
        if left == 0 {
            break;
        }
    }
    nodes
}
