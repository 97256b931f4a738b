//! Sites, leases and requests drawn at random.

use super::scene::{BOXES, GIB, HOUR, LAB, NOW, RESEARCH, ROW, Rack, SITE, Scene, VOICE, nodes, request};
use crate::event::Event;
use crate::fleet::{Amount, Health, Level};
use crate::plan::Plan;
use crate::planner::Planner;
use crate::request::{Gpus, Nodes, Request, Shape};
use crate::units::{NodeId, RequestId};

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }
}

pub(super) fn scene(seed: u64) -> Scene {
    let mut draw = Draw(seed);
    let rack = |draw: &mut Draw| Rack {
        nodes: 3 + draw.below(3),
        gpus: draw.pick(&[4, 8, 8]),
        model: u8::try_from(draw.below(2)).unwrap(),
        residency: u8::try_from(draw.below(2)).unwrap(),
        unit: u32::try_from(draw.below(2)).unwrap(),
        ..BOXES
    };
    let racks: Vec<Rack> = (0..2 + draw.below(3)).map(|_| rack(&mut draw)).collect();
    let count: u64 = racks.iter().map(|rack| rack.nodes).sum();
    let mut scene = Scene::new("drawn", &racks).reservations(u16::try_from(draw.below(3)).unwrap());
    if draw.one_in(3) {
        let limit = |draw: &mut Draw| Amount {
            gpu_milli: 1000 * i64::try_from(10 + draw.below(60)).unwrap(),
            ..super::scene::FREE
        };
        scene = scene.limit(RESEARCH, limit(&mut draw)).limit(LAB, limit(&mut draw));
    }
    if draw.one_in(2) {
        scene = scene.cap(ROW, i64::try_from(20_000 + draw.below(80_000)).unwrap());
        let site = i64::try_from(20_000 + draw.below(90_000)).unwrap();
        scene = scene.cap(SITE, site).floor(SITE, 1, site / 5);
    }
    // What runs: as much as a first planner starts of it.
    for id in 101..=112 {
        let request = Request { run_seconds: ends(&mut draw), ..ask(&mut draw, id, false) };
        scene = with_possible(scene, request);
    }
    let (_, plan) = scene.planned();
    let running: Vec<Request> = plan.placements.iter().map(|placed| scene.request_of(placed.request)).collect();
    scene.events.clear();
    for (placement, request) in plan.placements.iter().zip(running) {
        scene = scene.then(Event::LeaseStarted(crate::fleet::Lease {
            id: crate::units::LeaseId(request.id.0),
            ends_at: request.run_seconds.map(|seconds| NOW.plus(i64::from(seconds))),
            grants: placement.grants.clone(),
            request,
            started_at: NOW,
            saved_at: NOW,
        }));
    }
    for node in 1..=count {
        if draw.one_in(10) {
            let health = draw.pick(&[Health::Cordoned, Health::Cordoned, Health::Down]);
            scene = scene.then(Event::NodeHealth { node: NodeId(node), health });
        } else if draw.one_in(12) {
            let until = Some(NOW.plus(i64::try_from(600 + draw.below(7200)).unwrap()));
            scene = scene.then(Event::NodeHeld { node: NodeId(node), until });
        }
    }
    for id in 1..=10 {
        let request = ask(&mut draw, id, true);
        scene = with_possible(scene, request);
    }
    scene
}

/// Racks that end in parts, and gangs that prefer a level and have patience: no quota, no watts.
pub(super) fn near(seed: u64) -> Scene {
    let mut draw = Draw(seed);
    let unit = |rack: usize| u32::try_from(rack / 2).unwrap();
    let racks: Vec<Rack> = (0..draw.pick(&[3, 4, 6])).map(|rack| Rack { unit: unit(rack), ..BOXES }).collect();
    let mut scene = Scene::new("drawn", &racks).reservations(draw.pick(&[1, 2, 4]));
    (scene.spec.policy.nearness_milli, scene.spec.policy.nearness_seconds) = (draw.pick(&[100, 1_000]), 7_200);
    for first in (1..=racks.len() as u64 * 4).step_by(2) {
        let on = if draw.one_in(3) { vec![first] } else { vec![first, first + 1] };
        let ends_in = draw.pick(&[None, Some(300), Some(600), Some(1_800), Some(40_000)]);
        if !draw.one_in(3) {
            scene = scene.busy(100 + first, &on, ends_in);
        }
    }
    for id in 1..=2 + draw.below(3) {
        let shape = Shape { nodes: nodes(draw.pick(&[1, 2, 4, 4, 6, 8])), ..super::scene::WHOLE };
        let prefer = draw.pick(&[None, Some(Level::Unit), Some(Level::Rack), Some(Level::Rack), Some(Level::NvLink)]);
        let run_seconds = draw.pick(&[None, Some(600), Some(20_000), Some(20_000)]);
        scene = with_possible(scene, Request { run_seconds, ..request(id, Shape { prefer, ..shape }) });
    }
    scene
}

/// A request that the fleet could never hold is refused; what waits could run.
fn with_possible(scene: Scene, request: Request) -> Scene {
    let mut alone = Planner::new(scene.spec.clone()).unwrap();
    if alone.apply(Event::RequestAdded(request.clone())).is_ok() { scene.also(request) } else { scene }
}

fn ends(draw: &mut Draw) -> Option<u32> {
    if draw.one_in(3) { None } else { Some(u32::try_from(600 + draw.below(20_000)).unwrap()) }
}

fn ask(draw: &mut Draw, id: u64, is_near: bool) -> Request {
    let count = draw.pick(&[1, 1, 1, 2, 3, 4, 6]);
    let gpus = match draw.below(6) {
        0 => Gpus::Milli(draw.pick(&[250, 500, 750])),
        _ => Gpus::Whole(draw.pick(&[1, 2, 4, 4, 8, 8])),
    };
    let count = if matches!(gpus, Gpus::Milli(_)) { 1 } else { count };
    let watts = draw.pick(&[0, 2_000, 6_000, 10_200]);
    let shape = Shape {
        gpus,
        nodes: if draw.one_in(4) { Nodes { min: count, max: count + 2 } } else { nodes(count) },
        models: draw.pick(&[0, 0, 1, 2, 3]),
        cpu_milli: draw.pick(&[0, 8_000, 40_000, 60_000]),
        memory_mib: draw.pick(&[0, 64 * GIB, 512 * GIB, 700 * GIB]),
        within: if is_near && count > 1 {
            draw.pick(&[None, Some(Level::Rack), Some(Level::Unit), Some(Level::NvLink)])
        } else {
            None
        },
        prefer: None,
        residencies: draw.pick(&[0, 0, 1, 2]),
        expected_watts: watts / 2,
        peak_watts: watts,
    };
    let mut request = request(id, Shape { ..shape });
    request.queue = draw.pick(&[RESEARCH, RESEARCH, VOICE]);
    request.class = crate::units::TenantClass(u8::from(draw.one_in(5)));
    request.run_seconds = ends(draw);
    if is_near && draw.one_in(8) {
        request.not_before = Some(NOW.plus(2 * HOUR));
    }
    request
}

/// Who waits first for each reason.
pub(super) fn first_in_line(plan: &Plan) -> Vec<(RequestId, u32)> {
    let mut seen = std::collections::BTreeSet::new();
    plan.waiting.iter().copied().filter(|(_, reason)| seen.insert(*reason)).collect()
}

/// Takes all others that wait away, and their promises: what is said is said to the first in line.
pub(super) fn withdraw_others(planner: &mut Planner, plan: &mut Plan, keep: RequestId) {
    for (request, _) in &plan.waiting {
        let is_promised = plan.reservations.iter().any(|reservation| reservation.request == *request);
        if *request != keep && !is_promised {
            planner.apply(Event::RequestWithdrawn(*request)).unwrap();
        }
    }
}
