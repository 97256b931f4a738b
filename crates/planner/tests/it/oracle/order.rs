//! The order of requests, counted anew, and the most nodes for each in turn.
//!
//! Shares are compared as the planner's rule says: below its guarantee first, by the part of it used; then by dominant
//! share over weight; ties by number. All are counted from the leaves each time.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use galerne_planner::fleet::{Amount, FleetSpec};
use galerne_planner::request::{Request, Shape};
use galerne_planner::units::{QueueId, RequestId};

use super::case::{Case, milli};
use super::search::Search;

/// The most nodes for each request, in the planner's order; zero for one that has to wait.
pub(crate) fn best(case: &Case) -> Vec<(RequestId, u16)> {
    let search = Search::new(case);
    let ageing = i64::from(case.fleet.policy.ageing_seconds);
    let mut pending: Vec<&Request> = case.requests.iter().collect();
    pending.sort_by_key(|request| {
        (request.submitted_at.0 - i64::from(request.priority) * ageing, request.order, request.id)
    });
    let mut used = Used::new(case);
    let mut given: Vec<(&Request, u16)> = Vec::new();
    let mut answers = Vec::new();
    while !pending.is_empty() {
        let queue = used.next(&pending.iter().map(|request| request.queue).collect());
        let at = pending.iter().position(|request| request.queue == queue).unwrap();
        let request = pending.remove(at);
        let (min, max) = (request.shape.nodes.min, request.shape.nodes.max);
        let most = (min..=max).rev().find(|nodes| {
            let with: Vec<_> = given.iter().copied().chain([(request, *nodes)]).collect();
            used.allows(request, *nodes) && search.can_hold(&with)
        });
        answers.push((request.id, most.unwrap_or(0)));
        if let Some(nodes) = most {
            used.charge(request, nodes);
            given.push((request, nodes));
        }
    }
    answers
}

struct Used<'a> {
    fleet: &'a FleetSpec,
    capacity: Amount,
    of: Vec<Amount>,
}

fn numbers(amount: &Amount) -> [i128; 4] {
    [amount.gpu_milli, amount.cpu_milli, amount.memory_mib, amount.watts].map(i128::from)
}

impl<'a> Used<'a> {
    fn new(case: &'a Case) -> Self {
        let fleet = &case.fleet;
        let sum = |of: fn(&galerne_planner::fleet::NodeSpec) -> i64| fleet.nodes.iter().map(of).sum();
        let capacity = Amount {
            gpu_milli: sum(|node| i64::from(node.gpus) * 1000),
            cpu_milli: sum(|node| i64::from(node.cpu_milli)),
            memory_mib: sum(|node| i64::from(node.memory_mib)),
            watts: fleet.power.iter().filter(|point| point.parent.is_none()).map(|point| point.cap_watts).sum(),
        };
        let mut used = Self { fleet, capacity, of: vec![Amount::default(); fleet.queues.len()] };
        for lease in &case.leases {
            used.charge(&lease.request, u16::try_from(lease.grants.len()).unwrap());
        }
        used
    }

    fn path(&self, queue: QueueId) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(queue), |queue| self.fleet.queues[queue.0 as usize].parent)
            .map(|queue| queue.0 as usize)
    }

    fn charge(&mut self, request: &Request, nodes: u16) {
        let more = amount(&request.shape, nodes);
        for queue in self.path(request.queue).collect::<Vec<_>>() {
            let used = &mut self.of[queue];
            used.gpu_milli += more.gpu_milli;
            used.cpu_milli += more.cpu_milli;
            used.memory_mib += more.memory_mib;
            used.watts += more.watts;
        }
    }

    fn allows(&self, request: &Request, nodes: u16) -> bool {
        let more = numbers(&amount(&request.shape, nodes));
        self.path(request.queue).all(|queue| {
            self.fleet.queues[queue].limit.is_none_or(|limit| {
                let (used, limit) = (numbers(&self.of[queue]), numbers(&limit));
                (0..4).all(|at| more[at] == 0 || used[at] + more[at] <= limit[at])
            })
        })
    }

    /// The leaf that comes first of those in which requests wait.
    fn next(&self, waiting: &BTreeSet<QueueId>) -> QueueId {
        let mut at: Option<QueueId> = None;
        loop {
            let live = |queue: &QueueId| {
                let spec = &self.fleet.queues[queue.0 as usize];
                spec.parent == at && waiting.iter().any(|leaf| self.path(*leaf).any(|above| above == queue.0 as usize))
            };
            let children = (0..u32::try_from(self.of.len()).unwrap()).map(QueueId).filter(live);
            match children.min_by(|left, right| self.compare(*left, *right).then(left.cmp(right))) {
                Some(child) => at = Some(child),
                None => return at.expect("somebody waits"),
            }
        }
    }

    /// By shares: `used / of / weight`, after those below their guarantee.
    fn compare(&self, left: QueueId, right: QueueId) -> Ordering {
        let share = |queue: QueueId| {
            let spec = &self.fleet.queues[queue.0 as usize];
            let used = numbers(&self.of[queue.0 as usize]);
            let largest = |of: [i128; 4]| {
                let parts = (0..4).filter(|at| of[*at] > 0).map(|at| (used[at], of[at]));
                parts.max_by(|left, right| (left.0 * right.1).cmp(&(right.0 * left.1)))
            };
            match largest(numbers(&self.guaranteed(queue))) {
                Some((used, of)) if used < of => (0, used, of, 1),
                _ => {
                    let (used, of) = largest(numbers(&self.capacity)).unwrap_or((0, 1));
                    (1, used, of, i128::from(spec.weight))
                }
            }
        };
        let (left, right) = (share(left), share(right));
        left.0.cmp(&right.0).then_with(|| (left.1 * right.2 * right.3).cmp(&(right.1 * left.2 * left.3)))
    }

    /// What it is guaranteed, or its children together.
    fn guaranteed(&self, queue: QueueId) -> Amount {
        let mut all = self.fleet.queues[queue.0 as usize].guaranteed;
        let mut below = Amount::default();
        for (at, spec) in (0..).zip(&self.fleet.queues) {
            if spec.parent == Some(queue) {
                below.gpu_milli += self.guaranteed(QueueId(at)).gpu_milli;
            }
        }
        all.gpu_milli = all.gpu_milli.max(below.gpu_milli);
        all
    }
}

fn amount(shape: &Shape, nodes: u16) -> Amount {
    let nodes = i64::from(nodes);
    Amount {
        gpu_milli: milli(shape) * nodes,
        cpu_milli: i64::from(shape.cpu_milli) * nodes,
        memory_mib: i64::from(shape.memory_mib) * nodes,
        watts: i64::from(shape.peak_watts) * nodes,
    }
}
