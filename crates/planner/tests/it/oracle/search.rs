//! Whether requests can lie beside each other at all: every arrangement is tried, alike ones once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};

use galerne_planner::fleet::{FleetSpec, Health, Level};
use galerne_planner::request::{Gpus, Request};

use super::case::Case;

/// Arrangements looked at in one question; more than any case of the fixed seeds needs.
const MOST: u64 = 20_000_000;

pub(crate) struct Search<'a> {
    fleet: &'a FleetSpec,
    nodes: Vec<Node>,
    start: State,
}

/// What of a node does not change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    model: u8,
    residency: u8,
    /// Its domain at each level.
    domains: Vec<Option<u32>>,
    power: usize,
    is_ready: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    free: Vec<Free>,
    /// By power point and class.
    watts: Vec<[i64; 2]>,
}

/// Free thousandths of each GPU, in order, and CPU. Memory is never short in these cases.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Free {
    gpus: Vec<u16>,
    cpu: u32,
}

impl<'a> Search<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        let fleet = &case.fleet;
        let nodes = fleet.nodes.iter().map(|node| {
            let domain = |level: Level| {
                let mut at = if level.is_fabric() { node.fabric } else { Some(node.domain) };
                while at.is_some_and(|domain| fleet.domains[domain.0 as usize].level != level) {
                    at = at.and_then(|domain| fleet.domains[domain.0 as usize].parent);
                }
                at.map(|domain| domain.0)
            };
            Node {
                model: node.model.0,
                residency: node.residency.0,
                domains: Level::ALL.map(domain).to_vec(),
                power: node.power.0 as usize,
                is_ready: node.health == Health::Ready,
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let free =
            fleet.nodes.iter().map(|node| Free { gpus: vec![1000; usize::from(node.gpus)], cpu: node.cpu_milli });
        let mut search =
            Self { fleet, nodes, start: State { free: free.collect(), watts: vec![[0; 2]; fleet.power.len()] } };
        for lease in &case.leases {
            for grant in &lease.grants {
                let node = fleet.nodes.iter().position(|node| node.id == grant.node).unwrap();
                let mut state = search.start.clone();
                let found = search.members(&state, &lease.request, node).into_iter().next().expect("leases fit");
                state.free[node] = found;
                search.draw(&mut state, &lease.request, node);
                search.start = state;
            }
        }
        search
    }

    /// Whether all these fit at once, each on so many nodes.
    pub(crate) fn can_hold(&self, requests: &[(&Request, u16)]) -> bool {
        let mut hardest: Vec<(&Request, u16)> = requests.to_vec();
        hardest.sort_by_key(|(request, nodes)| {
            let gpus = match request.shape.gpus {
                Gpus::Whole(count) => u64::from(count) * 1000,
                Gpus::Milli(milli) => u64::from(milli),
                Gpus::Slice(_) => 0,
            };
            std::cmp::Reverse((*nodes > 1 && request.shape.within.is_some(), gpus, *nodes))
        });
        let run = Run { search: self, requests: hardest, dead: RefCell::default(), looked: Cell::new(0) };
        run.place(0, &self.start)
    }

    /// Ways to put one member on a node: what is free there afterwards.
    fn members(&self, state: &State, request: &Request, node: usize) -> Vec<Free> {
        let free = &state.free[node];
        if free.cpu < request.shape.cpu_milli {
            return Vec::new();
        }
        let cpu = free.cpu - request.shape.cpu_milli;
        let with = |mut gpus: Vec<u16>| {
            gpus.sort_unstable();
            Free { gpus, cpu }
        };
        match request.shape.gpus {
            Gpus::Whole(count) => {
                let mut gpus = free.gpus.clone();
                let whole: Vec<usize> =
                    (0..gpus.len()).filter(|gpu| gpus[*gpu] == 1000).take(usize::from(count)).collect();
                if whole.len() < usize::from(count) {
                    return Vec::new();
                }
                whole.into_iter().for_each(|gpu| gpus[gpu] = 0);
                vec![with(gpus)]
            }
            Gpus::Milli(milli) => {
                let distinct: BTreeSet<u16> = free.gpus.iter().copied().filter(|gpu| *gpu >= milli).collect();
                let ways = distinct.into_iter().map(|from| {
                    let mut gpus = free.gpus.clone();
                    let gpu = gpus.iter().position(|gpu| *gpu == from).unwrap();
                    gpus[gpu] -= milli;
                    with(gpus)
                });
                ways.collect()
            }
            Gpus::Slice(_) => unreachable!("the search knows no slices"),
        }
    }

    fn draw(&self, state: &mut State, request: &Request, node: usize) {
        let mut at = Some(self.nodes[node].power);
        while let Some(point) = at {
            state.watts[point][usize::from(request.class.0)] += i64::from(request.shape.peak_watts);
            at = self.fleet.power[point].parent.map(|parent| parent.0 as usize);
        }
    }

    /// Whether a start left every point within its cap; points where it only took what was kept for it pass.
    fn is_powered(&self, before: &State, after: &State) -> bool {
        self.fleet.power.iter().enumerate().all(|(at, point)| {
            let reserved = |state: &State| -> i64 {
                let kept = |class: usize| {
                    point
                        .floors
                        .iter()
                        .filter(|(floor, _)| usize::from(floor.0) == class)
                        .map(|(_, watts)| *watts)
                        .sum()
                };
                (0..2).map(|class| state.watts[at][class].max(kept(class))).sum()
            };
            let after = reserved(after);
            after <= point.cap_watts || after == reserved(before)
        })
    }
}

struct Run<'a> {
    search: &'a Search<'a>,
    requests: Vec<(&'a Request, u16)>,
    /// States from which the rest cannot be placed.
    dead: RefCell<HashSet<(usize, Vec<Free>, Vec<[i64; 2]>)>>,
    looked: Cell<u64>,
}

impl Run<'_> {
    fn place(&self, at: usize, state: &State) -> bool {
        let Some(&(request, nodes)) = self.requests.get(at) else { return true };
        let key = (at, state.free.clone(), state.watts.clone());
        if self.dead.borrow().contains(&key) {
            return false;
        }
        let shape = &request.shape;
        let allowed: Vec<usize> = (0..self.search.nodes.len())
            .filter(|node| {
                let spec = &self.search.nodes[*node];
                spec.is_ready
                    && (shape.models == 0 || shape.models >> spec.model & 1 == 1)
                    && (shape.residencies == 0 || shape.residencies >> spec.residency & 1 == 1)
            })
            .collect();
        let found = match shape.within {
            None => self.choose(at, state, state, &allowed, nodes),
            Some(level) => {
                let mut domains: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
                for &node in &allowed {
                    if let Some(domain) = self.search.nodes[node].domains[level as usize] {
                        domains.entry(domain).or_default().push(node);
                    }
                }
                domains.values().any(|inside| self.choose(at, state, state, inside, nodes))
            }
        };
        if !found {
            self.dead.borrow_mut().insert(key);
        }
        found
    }

    /// Tries all sets of `left` nodes out of `from`; of nodes that are alike the first are taken.
    fn choose(&self, at: usize, before: &State, state: &State, from: &[usize], left: u16) -> bool {
        self.looked.set(self.looked.get() + 1);
        assert!(self.looked.get() < MOST, "a case too large to search");
        if left == 0 {
            return self.search.is_powered(before, state) && self.place(at + 1, state);
        }
        if from.len() < usize::from(left) {
            return false;
        }
        let (node, rest) = (from[0], &from[1..]);
        let request = self.requests[at].0;
        for free in self.search.members(state, request, node) {
            let mut with = state.clone();
            with.free[node] = free;
            self.search.draw(&mut with, request, node);
            if self.choose(at, before, &with, rest, left - 1) {
                return true;
            }
        }
        // Without this one: then without all that are like it too.
        let is_like = |other: &usize| {
            self.search.nodes[*other] == self.search.nodes[node] && before.free[*other] == before.free[node]
        };
        let others: Vec<usize> = rest.iter().copied().filter(|other| !is_like(other)).collect();
        self.choose(at, before, state, &others, left)
    }
}
