//! The planner against exhaustive search, on cases small enough for that.
//!
//! What is best: the planner's order (fair share among queues, then priority and age) is a rule, not a means. So the
//! weight of an answer is lexicographic: the nodes that the first request gets count above all that come after it,
//! and so on. The search goes through the same order, counted here anew, and gives each request in turn the most nodes
//! for which any arrangement of it *and all before it* keeps every rule. The planner matches a case when every request
//! gets as many nodes as the search gave it; it would miss where an earlier request lay where a later one needed to be
//! and was not laid elsewhere.
//! GPUs admitted in any order, an upper bound that no fair order need reach, are counted beside it.

use std::collections::BTreeMap;

use galerne_planner::check::{Before, bounds, check_plan};
use galerne_planner::event::Event;
use galerne_planner::plan::Plan;
use galerne_planner::planner::Planner;
use galerne_planner::units::{At, RequestId};

pub(crate) mod case;
mod order;
mod search;

use case::Case;

const NOW: At = At(10_000);
const CASES: u64 = 500;
/// Reached: 500 of 500; the aim is 495. Without making room (`planner/repair.rs`) it is 454.
const MATCHED: u64 = 500;
const SEED: u64 = 0x6A1E_0001;

/// What the planner gives each request, in nodes.
fn planned(case: &Case) -> (Plan, BTreeMap<RequestId, u16>) {
    let mut planner = Planner::new(case.fleet.clone()).unwrap();
    for lease in &case.leases {
        planner.apply(Event::LeaseStarted(lease.clone())).unwrap();
    }
    for request in &case.requests {
        planner.apply(Event::RequestAdded(request.clone())).unwrap();
    }
    let plan = planner.plan(NOW);
    let nodes = |grants: usize| u16::try_from(grants).unwrap();
    let given = plan.placements.iter().map(|placement| (placement.request, nodes(placement.grants.len()))).collect();
    (plan, given)
}

#[test]
fn the_planner_breaks_no_rule_and_matches_exhaustive_search() {
    let mut missed = Vec::new();
    let (mut gpus_planned, mut gpus_best, mut gpus_bound) = (0, 0, 0);
    for at in 0..CASES {
        let seed = SEED + at;
        let case = Case::new(seed);
        let (plan, given) = planned(&case);
        let before = Before { fleet: &case.fleet, leases: &case.leases, requests: &case.requests, reservations: &[] };
        assert_eq!(check_plan(&before, &plan), [], "seed {seed:#x} breaks a rule");
        let best = order::best(&case);
        let bound = bounds::packing(&case.items(), &case.prices());
        let all: BTreeMap<RequestId, u16> = best.iter().copied().collect();
        let total = case.gpu_milli(&all);
        assert!(total <= bound, "seed {seed:#x}: the search gives {total} and the bound is {bound}");
        gpus_planned += case.gpu_milli(&given);
        gpus_best += total;
        gpus_bound += bound;
        let of = |request: &RequestId| given.get(request).copied().unwrap_or(0);
        let first = best.iter().find(|(request, nodes)| of(request) != *nodes);
        if let Some((request, nodes)) = first {
            // More than the most would mean that the two do not go by the same rules.
            assert!(
                of(request) < *nodes,
                "seed {seed:#x}: {request} has {} nodes, and {nodes} are the most",
                of(request)
            );
            missed.push(format!("seed {seed:#x}: {request} has {} nodes of {nodes}; in order {best:?}", of(request)));
        }
    }
    let matched = CASES - missed.len() as u64;
    println!(
        "matched {matched} of {CASES}; GPU thousandths: planned {gpus_planned}, best in order {gpus_best}, \
         bound in any order {gpus_bound}"
    );
    assert!(matched >= MATCHED, "matched only {matched} of {CASES}:\n{}", missed.join("\n"));
}
