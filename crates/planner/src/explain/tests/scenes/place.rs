//! Too few nodes, too far apart, too little on them.

use crate::event::Event;
use crate::explain::tests::scene::{BOXES, GIB, HOUR, MINUTE, NOW, Rack, Scene, WHOLE, nodes, request};
use crate::fleet::{Health, Level};
use crate::request::{Gpus, Nodes, Shape};
use crate::units::{NodeId, SliceId};

const GPU: Shape = Shape { gpus: Gpus::Whole(1), ..WHOLE };
const TRAYS: Rack =
    Rack { nodes: 18, gpus: 4, model: 1, cpu_milli: 72_000, memory_mib: 960 * GIB, residency: 0, unit: 0 };

fn gpus(count: u8) -> Shape {
    Shape { gpus: Gpus::Whole(count), ..WHOLE }
}

fn gang(number: u16, within: Option<Level>) -> Shape {
    Shape { nodes: nodes(number), within, ..WHOLE }
}

pub(super) fn scenes() -> Vec<(&'static str, Scene)> {
    let mut all = single();
    all.extend(gangs());
    all.extend(service());
    all.extend(kinds());
    all
}

fn single() -> Vec<(&'static str, Scene)> {
    let four = |about| Scene::new(about, &[BOXES]);
    let mut all = vec![
        (
            "all-in-use",
            four("one GPU is asked, and every one is in use")
                .busy(11, &[1, 2], Some(3 * HOUR + 20 * MINUTE))
                .busy(12, &[3], Some(5 * HOUR))
                .busy(13, &[4], Some(26 * HOUR))
                .asks(request(1, GPU)),
        ),
        (
            "about-to-end",
            four("one GPU is asked, and a lease ends in ten minutes")
                .busy(11, &[1, 2, 3], Some(9 * HOUR))
                .busy(12, &[4], Some(10 * MINUTE))
                .asks(request(1, GPU)),
        ),
        (
            "scattered",
            four("eight GPUs on one node are asked; many are free, but nowhere eight")
                .runs(11, gpus(2), 0, &[1], Some(2 * HOUR))
                .runs(12, gpus(3), 0, &[2], Some(4 * HOUR))
                .runs(13, gpus(4), 0, &[3], None)
                .busy(14, &[4], Some(8 * HOUR))
                .asks(request(1, Shape { cpu_milli: 64_000, memory_mib: 512 * GIB, ..WHOLE })),
        ),
        (
            "cpu-short",
            four("GPUs are free, but the CPU beside them went to others")
                .runs(11, Shape { cpu_milli: 80_000, ..gpus(2) }, 0, &[1, 2, 3], Some(6 * HOUR))
                .runs(12, Shape { cpu_milli: 60_000, ..gpus(2) }, 0, &[4], Some(7 * HOUR))
                .asks(request(1, Shape { cpu_milli: 48_000, ..gpus(4) })),
        ),
        (
            "memory-short",
            four("GPUs are free, but the memory beside them went to others")
                .runs(11, Shape { memory_mib: 900 * GIB, ..gpus(2) }, 0, &[1, 2], Some(6 * HOUR))
                .runs(12, Shape { memory_mib: 800 * GIB + 512, ..gpus(2) }, 0, &[3, 4], None)
                .asks(request(1, Shape { memory_mib: 512 * GIB, ..gpus(4) })),
        ),
    ];
    all.push((
        "cpu-and-memory-short",
        four("neither CPU nor memory is enough beside the free GPUs")
            .runs(11, Shape { cpu_milli: 80_000, memory_mib: 900 * GIB, ..gpus(2) }, 0, &[1, 2, 3, 4], None)
            .asks(request(1, Shape { cpu_milli: 48_000, memory_mib: 512 * GIB, ..gpus(4) })),
    ));
    all.push((
        "ends-unknown",
        four("nobody said when the leases in the way end")
            .busy(11, &[1, 2], None)
            .busy(12, &[3, 4], None)
            .asks(request(1, gpus(2))),
    ));
    all
}

fn gangs() -> Vec<(&'static str, Scene)> {
    let three = |about| Scene::new(about, &[BOXES, BOXES, Rack { unit: 1, ..BOXES }]);
    vec![
        (
            "apart-over-racks",
            three("four nodes in one rack are asked; four are free, but in three racks")
                .busy(11, &[1, 2], Some(2 * HOUR))
                .busy(12, &[5, 6, 7], Some(4 * HOUR))
                .busy(13, &[9, 10, 11], None)
                .asks(request(1, gang(4, Some(Level::Rack)))),
        ),
        (
            "apart-over-units",
            three("five nodes in one scalable unit are asked; wherever they are free, they are not in one unit")
                .busy(11, &[1, 2, 5, 6], Some(30 * HOUR))
                .busy(12, &[9], Some(6 * HOUR))
                .asks(request(1, gang(5, Some(Level::Unit)))),
        ),
        (
            "too-few-nodes",
            three("ten nodes are asked, and nine are free")
                .busy(11, &[1], Some(HOUR))
                .busy(12, &[2, 3], Some(2 * HOUR))
                .asks(request(1, gang(10, None))),
        ),
        (
            "several-leases-must-end",
            three("six nodes are asked, and more than one lease is in the way")
                .busy(11, &[1, 2, 3, 4], Some(HOUR))
                .busy(12, &[5, 6, 7], Some(2 * HOUR))
                .busy(13, &[8], Some(3 * HOUR))
                .busy(14, &[9, 10, 11, 12], None)
                .asks(request(1, gang(6, Some(Level::Unit)))),
        ),
        (
            "nvlink-domain",
            Scene::new("a whole NVLink domain of 18 trays is asked, and each has a tray in use", &[TRAYS, TRAYS])
                .runs(11, gpus(4), 0, &[3], Some(50 * MINUTE))
                .runs(12, gpus(4), 0, &[20, 21], Some(12 * HOUR))
                .asks(request(1, Shape { nodes: nodes(18), within: Some(Level::NvLink), ..gpus(4) })),
        ),
        (
            "nvlink-trays-partly-free",
            Scene::new("trays with one GPU in use are not whole", &[TRAYS])
                .runs(11, gpus(1), 0, &[1, 2, 3, 4, 5, 6], Some(90 * MINUTE))
                .asks(request(1, Shape { nodes: nodes(16), within: Some(Level::NvLink), ..gpus(4) })),
        ),
        (
            "elastic-gang",
            three("an elastic gang of eight to twelve nodes is asked, and five are free")
                .busy(11, &[1, 2, 3, 4], Some(3 * HOUR))
                .busy(12, &[5, 6, 7], Some(9 * HOUR))
                .asks(request(1, Shape { nodes: Nodes { min: 8, max: 12 }, ..WHOLE })),
        ),
        (
            "gang-beside-shared-cpu",
            three("a gang finds the GPUs it needs, but on some nodes not the CPU")
                .runs(11, Shape { cpu_milli: 50_000, ..gpus(1) }, 0, &[1, 2, 3, 4, 5, 6], Some(5 * HOUR))
                .asks(request(1, Shape { cpu_milli: 48_000, nodes: nodes(8), ..gpus(4) })),
        ),
    ]
}

fn service() -> Vec<(&'static str, Scene)> {
    let four = |about| Scene::new(about, &[BOXES]);
    let health = |node: u64, health| Event::NodeHealth { node: NodeId(node), health };
    let held = |node: u64, until: i64| Event::NodeHeld { node: NodeId(node), until: Some(NOW.plus(until)) };
    vec![
        (
            "cordoned",
            four("the only nodes left are cordoned")
                .busy(11, &[1, 2], None)
                .then(health(3, Health::Cordoned))
                .then(health(4, Health::Cordoned))
                .asks(request(1, WHOLE)),
        ),
        (
            "in-maintenance",
            four("the only nodes left are in maintenance")
                .busy(11, &[1, 2, 3], Some(20 * HOUR))
                .then(held(4, 2 * HOUR))
                .asks(request(1, WHOLE)),
        ),
        (
            "after-a-failure",
            four("a node failed; its lease ended, and a gang that had enough has too few")
                .busy(11, &[1], Some(4 * HOUR))
                .then(Event::NodeFailed { node: NodeId(3) })
                .then(health(3, Health::Down))
                .asks(request(1, gang(3, Some(Level::Rack)))),
        ),
        (
            "everything-out-of-service",
            four("one node is cordoned, one held, one down, one in use")
                .busy(11, &[1], Some(7 * HOUR))
                .then(health(2, Health::Cordoned))
                .then(held(3, HOUR))
                .then(health(4, Health::Down))
                .asks(request(1, gang(2, None))),
        ),
    ]
}

fn kinds() -> Vec<(&'static str, Scene)> {
    let mixed = |about| {
        let other = Rack { model: 1, ..BOXES };
        let cut = Rack { model: 2, nodes: 2, ..BOXES };
        Scene::new(about, &[BOXES, other, cut])
    };
    let abroad = Rack { residency: 1, ..BOXES };
    vec![
        (
            "another-model-is-free",
            mixed("only `h100` is allowed, and `b200` is free")
                .busy(11, &[1, 2, 3, 4], Some(8 * HOUR))
                .asks(request(1, Shape { models: 0b1, nodes: nodes(2), ..WHOLE })),
        ),
        (
            "several-models",
            mixed("two models are allowed, and of neither enough is free")
                .busy(11, &[1, 2, 3], Some(8 * HOUR))
                .busy(12, &[5, 6, 7], Some(3 * HOUR))
                .asks(request(1, Shape { models: 0b11, nodes: nodes(3), within: Some(Level::Rack), ..WHOLE })),
        ),
        (
            "residency",
            Scene::new("the data may not leave `fr`, and only nodes of `de` are free", &[BOXES, abroad])
                .busy(11, &[1, 2, 3, 4], Some(11 * HOUR))
                .asks(request(1, Shape { residencies: 0b1, ..gpus(2) })),
        ),
        (
            "part-of-a-gpu",
            Scene::new(
                "three quarters of a GPU are asked, and halves are free",
                &[Rack { nodes: 1, gpus: 2, ..BOXES }],
            )
            .runs(11, Shape { gpus: Gpus::Milli(500), ..WHOLE }, 0, &[1], Some(HOUR))
            .runs(12, Shape { gpus: Gpus::Milli(600), ..WHOLE }, 1, &[1], Some(2 * HOUR))
            .asks(request(1, Shape { gpus: Gpus::Milli(750), ..WHOLE })),
        ),
        (
            "slice",
            Scene::new(
                "a slice is asked, and no GPU has a place for it",
                &[Rack { nodes: 1, gpus: 1, model: 2, ..BOXES }],
            )
            .runs(11, Shape { gpus: Gpus::Milli(300), ..WHOLE }, 0, &[1], Some(2 * HOUR + 5))
            .asks(request(1, Shape { gpus: Gpus::Slice(SliceId(0)), models: 0b100, ..WHOLE })),
        ),
        (
            "cpu-only",
            Scene::new("only CPU and memory are asked", &[Rack { gpus: 0, nodes: 2, ..BOXES }])
                .runs(11, Shape { cpu_milli: 90_000, ..gpus(0) }, 0, &[1, 2], Some(45 * MINUTE))
                .asks(request(1, Shape { cpu_milli: 16_500, memory_mib: 64 * GIB, ..gpus(0) })),
        ),
        (
            "near-a-lease",
            Scene::new("nearness to a lease is a wish and never in the way: nodes are", &[BOXES])
                .busy(11, &[1, 2, 3], Some(2 * HOUR))
                .busy(12, &[4], Some(3 * HOUR))
                .asks(crate::request::Request { near: Some(crate::units::LeaseId(11)), ..request(1, gpus(4)) }),
        ),
    ]
}
