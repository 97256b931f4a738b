//! Random requests and events of a world, some of which cannot be.

use galerne_planner::event::{Event, Forecast};
use galerne_planner::fleet::{Amount, Health, Level};
use galerne_planner::request::{Gpus, Nodes, Request, Shape, Stop};
use galerne_planner::units::{At, LeaseId, NodeId, PowerId, QueueId, RequestId, SliceId, TenantClass};

use super::world::World;
use crate::fixture::{self, Dice};

const LEVELS: [Option<Level>; 6] = [None, None, None, Some(Level::Rack), Some(Level::Unit), Some(Level::NvLink)];

pub(crate) fn shape(dice: &mut Dice) -> Shape {
    let (gpus, models) = match dice.below(12) {
        0..4 => (Gpus::Whole(dice.pick(&[1, 1, 2, 3, 4, 8])), dice.pick(&[0, 0, 1, 2])),
        4..6 => (Gpus::Milli(dice.pick(&[100, 250, 500, 700])), dice.pick(&[0, 1])),
        6 => (Gpus::Slice(SliceId(u8::try_from(dice.below(5)).unwrap())), 1),
        7 => (Gpus::Whole(0), 0),
        _ => (Gpus::Whole(dice.pick(&[4, 8, 8, 8])), dice.pick(&[0, 0, 0, 1])),
    };
    let nodes = match (gpus, dice.below(10)) {
        (Gpus::Whole(4..), 0..4) => {
            let count = dice.pick(&[2, 2, 3, 4, 6]);
            Nodes { min: count, max: count }
        }
        (Gpus::Whole(4..), 4..6) => Nodes { min: dice.pick(&[1, 2]), max: dice.pick(&[3, 4]) },
        _ => Nodes { min: 1, max: 1 },
    };
    // Few kinds, so that requests of one shape meet.
    let watts = match gpus {
        Gpus::Whole(count) => u32::from(count) * 1_000,
        Gpus::Milli(_) | Gpus::Slice(_) => 500,
    };
    Shape {
        gpus,
        nodes,
        models,
        cpu_milli: dice.pick(&[1_000, 4_000, 40_000]),
        memory_mib: dice.pick(&[10_000, 400_000]),
        within: if nodes.max > 1 { dice.pick(&LEVELS) } else { None },
        prefer: if nodes.max > 1 { dice.pick(&LEVELS) } else { None },
        residencies: dice.pick(&[0, 0, 0, 0b1, 0b10]),
        expected_watts: watts / 2,
        peak_watts: watts,
    }
}

pub(crate) fn request(world: &mut World, id: u64) -> Request {
    let now = world.now;
    let lease = world.leases.keys().next().copied();
    let dice = &mut world.dice;
    let run_seconds = dice.pick(&[None, Some(600), Some(3_600), Some(20_000)]);
    let not_before = dice.hits(8).then(|| now.plus(900));
    let begin = not_before.unwrap_or(now);
    let deferrable = dice.hits(20);
    Request {
        queue: QueueId(dice.pick(&[1, 1, 2, 3])),
        class: TenantClass(dice.pick(&[0, 0, 1])),
        priority: dice.pick(&[0, 0, 0, 1, 5, -1]),
        submitted_at: now,
        order: dice.below(3),
        shape: shape(dice),
        run_seconds,
        deadline: dice
            .hits(if deferrable { 70 } else { 20 })
            .then(|| begin.plus(i64::from(run_seconds.unwrap_or(1_000)) + dice.pick(&[1, 5_000, 40_000]))),
        not_before,
        deferrable,
        stop: dice.pick(&[Stop::Never, Stop::Restart, Stop::Checkpoint { cost_seconds: 60 }]),
        near: if dice.hits(10) { lease } else { None },
        ..fixture::request(id)
    }
}

/// An event that may be, of a kind that the planner hears from outside.
pub(crate) fn event(world: &mut World) -> Event {
    let now = world.now;
    match world.dice.below(100) {
        0..30 => {
            world.next_id += 1;
            let id = world.next_id;
            Event::RequestAdded(request(world, id))
        }
        30..36 => match any_request(world) {
            Some(id) => Event::RequestWithdrawn(id),
            None => added(world),
        },
        36..40 => match any_request(world) {
            Some(id) => Event::RequestChanged(request(world, id.0)),
            None => added(world),
        },
        40..70 => ended(world),
        70..76 => match any_lease(world) {
            Some(lease) => {
                let ends_at = world.dice.pick(&[None, Some(now.plus(300)), Some(now.plus(9_000))]);
                Event::LeaseExtended { lease, ends_at }
            }
            None => added(world),
        },
        76..79 => match any_lease(world) {
            Some(lease) => Event::LeaseSaved { lease, saved_at: now },
            None => added(world),
        },
        79..87 => {
            let health =
                world.dice.pick(&[Health::Ready, Health::Ready, Health::Ready, Health::Cordoned, Health::Down]);
            Event::NodeHealth { node: any_node(world), health }
        }
        87..90 => {
            let until = world.dice.pick(&[None, None, Some(now.plus(1_200))]);
            Event::NodeHeld { node: any_node(world), until }
        }
        90..91 => Event::NodeFailed { node: any_node(world) },
        91..94 => {
            let cap_watts = world.dice.pick(&[21_000, 24_000, 30_000, 36_000]);
            let power = PowerId(u32::try_from(world.dice.below(5)).unwrap());
            Event::CapChanged { power, cap_watts: if power.0 == 0 { cap_watts * 4 } else { cap_watts } }
        }
        94..97 => quota(world),
        97 => {
            let shapes = world.dice.below(3);
            Event::DemandTold((0..shapes).map(|count| (shape(&mut world.dice), 1 + count as u32)).collect())
        }
        _ => forecast(world),
    }
}

/// An event that cannot be, or that would be the second of its kind.
pub(crate) fn bad_event(world: &mut World) -> Event {
    let gone = 1 << 40;
    let lease = any_lease(world);
    let waiting = any_request(world);
    match world.dice.below(12) {
        0 => Event::RequestWithdrawn(RequestId(gone)),
        1 => Event::LeaseEnded(LeaseId(gone)),
        2 => Event::NodeHealth { node: NodeId(gone), health: Health::Ready },
        3 => Event::CapChanged { power: PowerId(1), cap_watts: 9_999 },
        4 => Event::QuotaChanged { queue: QueueId(0), weight: 0, guaranteed: Amount::default(), limit: None },
        5 => {
            let bad = Request {
                shape: Shape { nodes: Nodes { min: 13, max: 13 }, ..fixture::shape() },
                ..fixture::request(gone)
            };
            Event::RequestAdded(bad)
        }
        6 if waiting.is_some() => {
            let id = waiting.unwrap().0;
            Event::RequestAdded(request(world, id))
        }
        7 if waiting.is_some() => {
            let id = waiting.unwrap().0;
            Event::RequestChanged(Request { queue: QueueId(0), ..request(world, id) })
        }
        8 if lease.is_some() => Event::LeaseStarted(world.leases[&lease.unwrap()].clone()),
        9 if lease.is_some() => {
            // Another lease of the same GPUs, for another request.
            let mut other = world.leases[&lease.unwrap()].clone();
            other.id = LeaseId(gone);
            other.request.id = RequestId(gone);
            other.request.shape.cpu_milli = 96_000;
            Event::LeaseStarted(other)
        }
        10 if lease.is_some() => Event::LeaseExtended { lease: lease.unwrap(), ends_at: Some(At(-1)) },
        _ => {
            Event::ForecastChanged(Forecast { from: world.now, step_seconds: 0, cost: vec![1], gpu_milli: Vec::new() })
        }
    }
}

fn added(world: &mut World) -> Event {
    world.next_id += 1;
    let id = world.next_id;
    Event::RequestAdded(request(world, id))
}

/// Mostly a lease that is due; sometimes one that ends early.
fn ended(world: &mut World) -> Event {
    let due =
        world.leases.values().find(|lease| lease.ends_at.is_some_and(|end| end <= world.now)).map(|lease| lease.id);
    let early = world.dice.hits(40);
    match due.or_else(|| if early { any_lease(world) } else { None }) {
        Some(lease) => Event::LeaseEnded(lease),
        None => added(world),
    }
}

fn quota(world: &mut World) -> Event {
    let dice = &mut world.dice;
    let queue = QueueId(u32::try_from(dice.below(4)).unwrap());
    let rest = 1 << 50;
    let limit = |gpu_milli| Some(Amount { gpu_milli, cpu_milli: rest, memory_mib: rest, watts: rest });
    let guaranteed = if queue.0 == 0 { 0 } else { dice.pick(&[0, 0, 16_000, 24_000]) };
    Event::QuotaChanged {
        queue,
        weight: dice.pick(&[1, 2, 3]),
        guaranteed: Amount { gpu_milli: guaranteed, ..Amount::default() },
        limit: if queue.0 == 0 {
            dice.pick(&[None, limit(64_000)])
        } else {
            dice.pick(&[None, None, limit(24_000), limit(40_000)])
        },
    }
}

/// Begins now, or a while ago, or soon; now and then there is none any more.
fn forecast(world: &mut World) -> Event {
    let dice = &mut world.dice;
    let from = world.now.plus(dice.pick(&[0, 0, -700, 500]));
    let steps = dice.pick(&[24, 24, 4, 0]);
    let cost = (0..steps).map(|_| u32::try_from(dice.below(500)).unwrap()).collect();
    let gpu_milli = dice.pick(&[96_000, 20_000]);
    Event::ForecastChanged(Forecast { from, step_seconds: 1_800, cost, gpu_milli: vec![gpu_milli; 24] })
}

fn any_node(world: &mut World) -> NodeId {
    NodeId(1 + world.dice.below(12))
}

fn any_lease(world: &mut World) -> Option<LeaseId> {
    let at = usize::try_from(world.dice.next() % 64).unwrap();
    let count = world.leases.len();
    if count == 0 { None } else { world.leases.keys().nth(at % count).copied() }
}

fn any_request(world: &mut World) -> Option<RequestId> {
    let at = usize::try_from(world.dice.next() % 64).unwrap();
    let count = world.requests.len();
    if count == 0 { None } else { world.requests.keys().nth(at % count).copied() }
}
