use super::super::tests::{add, request, site};
use super::*;
use crate::event::Event;
use crate::fleet::Lease;
use crate::plan::{Grant, Plan};
use crate::request::{Gpus, Request};
use crate::units::{At, LeaseId, PowerId};

/// Of each node named so many GPUs and thousandths of a CPU are free, of all others none.
fn with_free(cap_watts: i64, free: &[(usize, u8, u32)]) -> Planner {
    let mut planner = Planner::new(site(cap_watts)).unwrap();
    for at in 0..32 {
        let (gpus, cpu_milli) =
            free.iter().find(|(node, ..)| *node == at).map_or((0, 0), |(_, gpus, cpu)| (*gpus, *cpu));
        let taken = 8 - gpus;
        let mut asked = request(1_000 + at as u64, Gpus::Whole(taken), 1);
        asked.run_seconds = None;
        asked.shape.cpu_milli = 64_000 - cpu_milli;
        asked.shape.peak_watts = 0;
        asked.shape.expected_watts = 0;
        let node = planner.state.topology.id(NodeIx::new(at));
        let mask = ((1_u16 << taken) - 1) << gpus;
        planner
            .apply(Event::LeaseStarted(Lease {
                id: LeaseId(1_000 + at as u64),
                request: asked,
                grants: vec![Grant { node, gpus: GpuGrant::Whole(mask) }],
                started_at: At(0),
                ends_at: None,
                saved_at: At(0),
            }))
            .unwrap();
    }
    planner
}

/// Where requests lie that start, by request.
fn starts(planner: &Planner, plan: &Plan) -> Vec<(u64, Vec<usize>)> {
    let place = |grant: &Grant| planner.state.topology.find(grant.node).unwrap().at();
    let start = |start: &crate::plan::Placement| (start.request.0, start.grants.iter().map(place).collect());
    let mut starts: Vec<_> = plan.placements.iter().map(start).collect();
    starts.sort();
    starts
}

fn asks(id: u64, gpus: u8, nodes: u16) -> Request {
    Request { run_seconds: None, ..request(id, Gpus::Whole(gpus), nodes) }
}

#[test]
fn what_is_laid_anew_stays_together_as_it_preferred() {
    let free = [(0, 4, 9_000), (2, 4, 9_000), (4, 4, 9_000), (5, 4, 9_000), (8, 8, 9_000), (9, 8, 9_000)];
    let mut planner = with_free(1_000_000, &free);
    let mut pair = asks(1, 4, 2);
    pair.shape.prefer = Some(Level::NvLink);
    add(&mut planner, pair);
    let alone = planner.clone().plan(At(0));
    assert_eq!(starts(&planner, &alone), [(1, vec![8, 9])]);
    add(&mut planner, asks(2, 8, 2));
    let plan = planner.plan(At(0));
    assert_eq!(starts(&planner, &plan), [(1, vec![4, 5]), (2, vec![8, 9])]);
}

#[test]
fn what_is_laid_anew_stays_near_its_lease() {
    let free = [(0, 4, 5_000), (10, 4, 40_000), (11, 8, 5_000)];
    let mut planner = with_free(1_000_000, &free);
    add(&mut planner, Request { near: Some(LeaseId(1_008)), ..asks(1, 4, 1) });
    let alone = planner.clone().plan(At(0));
    assert_eq!(starts(&planner, &alone), [(1, vec![10])]);
    let mut thirsty = asks(2, 4, 1);
    thirsty.shape.cpu_milli = 40_000;
    add(&mut planner, thirsty);
    let plan = planner.plan(At(0));
    assert_eq!(starts(&planner, &plan), [(1, vec![11]), (2, vec![10])]);
}

#[test]
fn whoever_is_made_room_for_gets_what_it_prefers_where_that_can_be_had() {
    // The first lies on both nodes of a pair; with one of its nodes elsewhere the second fits, with both it has a pair.
    let free = [(0, 4, 9_000), (12, 8, 2_000), (13, 8, 2_000), (24, 4, 9_000), (25, 4, 9_000)];
    for near in [None, Some(LeaseId(1_024))] {
        let mut planner = with_free(1_000_000, &free);
        add(&mut planner, asks(1, 4, 2));
        let alone = planner.clone().plan(At(0));
        assert_eq!(starts(&planner, &alone), [(1, vec![24, 25])]);
        let mut gang = Request { near, ..asks(2, 4, 2) };
        gang.shape.cpu_milli = 3_000;
        gang.shape.prefer = Some(Level::NvLink).filter(|_| near.is_none());
        add(&mut planner, gang);
        let plan = planner.plan(At(0));
        assert_eq!(starts(&planner, &plan)[1..], [(2, vec![24, 25])], "{near:?}");
    }
}

#[test]
fn room_is_made_only_where_all_has_its_watts() {
    // The second fits once the first has moved below another point. A watt less there or at the point that feeds all,
    // beside what is kept for another class, and it does not start.
    let free = [(12, 8, 2_000), (13, 8, 2_000), (24, 4, 9_000), (25, 4, 9_000)];
    for (feeder, other, starting) in [(4_000 + 2_800, 2_000 + 1_400, 2), (6_799, 3_400, 1), (6_800, 3_399, 1)] {
        let mut planner = with_free(1_000_000, &free);
        for (power, cap_watts) in [(0, feeder), (2, other)] {
            planner.apply(Event::CapChanged { power: PowerId(power), cap_watts }).unwrap();
        }
        add(&mut planner, asks(1, 4, 2));
        let alone = planner.clone().plan(At(0));
        assert_eq!(starts(&planner, &alone), [(1, vec![24, 25])]);
        let mut thirsty = asks(2, 4, 2);
        thirsty.shape.cpu_milli = 3_000;
        add(&mut planner, thirsty);
        let plan = planner.plan(At(0));
        assert_eq!(starts(&planner, &plan).len(), starting, "{feeder} W and {other} W");
    }
}
