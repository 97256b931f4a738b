//! One node more takes nothing away.
//!
//! In general it may: first come, first served is no packing, and with one node more an earlier gang may be let in that
//! takes what two later requests had. What does hold, and is tested: of requests that are all alike and need one node
//! each, as many start as before or more, the same ones among them; and in one queue, whatever is asked, nobody gets
//! less than before unless somebody before him gets more (where the fleet is small enough for the planner to search).

use std::collections::{BTreeMap, BTreeSet};

use galerne_planner::event::Event;
use galerne_planner::fleet::{FleetSpec, Lease, NodeSpec};
use galerne_planner::planner::Planner;
use galerne_planner::request::{Nodes, Request};
use galerne_planner::units::{At, NodeId, QueueId, RequestId};

use crate::events::chance;
use crate::fixture::{self, Dice};
use crate::oracle::case::Case;

const NOW: At = At(10_000);

/// What each request gets, in nodes.
fn given(fleet: &FleetSpec, leases: &[Lease], requests: &[Request]) -> BTreeMap<RequestId, usize> {
    let mut planner = Planner::new(fleet.clone()).unwrap();
    for lease in leases {
        planner.apply(Event::LeaseStarted(lease.clone())).unwrap();
    }
    for request in requests {
        planner.apply(Event::RequestAdded(request.clone())).unwrap();
    }
    let plan = planner.plan(NOW);
    plan.placements.iter().map(|placement| (placement.request, placement.grants.len())).collect()
}

/// A free node like one that is there, beside it.
fn with_one_more(fleet: &FleetSpec, dice: &mut Dice) -> FleetSpec {
    let mut larger = fleet.clone();
    let like = usize::try_from(dice.below(fleet.nodes.len() as u64)).unwrap();
    let most = fleet.nodes.iter().map(|node| node.id.0).max().unwrap();
    larger.nodes.push(NodeSpec { id: NodeId(most + 1), ..fleet.nodes[like].clone() });
    larger
}

#[test]
fn one_more_node_leaves_no_request_of_a_kind_unplaced_that_was_placed() {
    let (mut same, mut more) = (0, 0);
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut fleet = fixture::fleet();
        fleet.policy.reservations = 0;
        let shape = chance::shape(&mut dice);
        let shape =
            galerne_planner::request::Shape { nodes: Nodes { min: 1, max: 1 }, within: None, prefer: None, ..shape };
        let requests: Vec<Request> = (1..=120).map(|id| Request { shape, ..fixture::request(id) }).collect();
        let leases: Vec<Lease> = (1..=dice.below(10)).map(|node| fixture::lease(node, node, 2)).collect();
        let before = given(&fleet, &leases, &requests);
        let after = given(&with_one_more(&fleet, &mut dice), &leases, &requests);
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.keys().collect(), after.keys().collect());
        assert!(
            before.is_subset(&after),
            "seed {seed}: {} started, and {} with one node more",
            before.len(),
            after.len()
        );
        if before == after { same += 1 } else { more += 1 }
    }
    assert!(same > 10 && more > 100, "{same} as before, {more} with more: the cases say too little");
}

#[test]
fn in_one_queue_one_more_node_takes_from_nobody_but_for_those_before_him() {
    let mut more = 0;
    for seed in 0..300 {
        let Case { mut fleet, mut leases, mut requests } = Case::new(seed);
        fleet.queues = vec![fixture::queue(None, 1)];
        requests.iter_mut().chain(leases.iter_mut().map(|lease| &mut lease.request)).for_each(|request| {
            request.queue = QueueId(0);
        });
        let ageing = i64::from(fleet.policy.ageing_seconds);
        requests.sort_by_key(|request| {
            (request.submitted_at.0 - i64::from(request.priority) * ageing, request.order, request.id)
        });
        let in_order = |given: &BTreeMap<RequestId, usize>| -> Vec<usize> {
            requests.iter().map(|request| given.get(&request.id).copied().unwrap_or(0)).collect()
        };
        let larger = with_one_more(&fleet, &mut Dice(seed));
        let before = in_order(&given(&fleet, &leases, &requests));
        let after = in_order(&given(&larger, &leases, &requests));
        assert!(before <= after, "seed {seed}: {before:?} nodes in order, and with one more {after:?}");
        more += usize::from(before < after);
    }
    assert!(more > 30, "only in {more} cases the node was of use");
}
