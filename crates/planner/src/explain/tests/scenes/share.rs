//! Quotas and power.

use crate::explain::tests::scene::{
    BOXES, FREE, GIB, HOUR, LAB, RESEARCH, ROW, Rack, SITE, Scene, VOICE, WHOLE, nodes, request,
};
use crate::fleet::{Amount, Level};
use crate::request::{Gpus, Request, Shape};
use crate::units::{PowerId, TenantClass};

/// A node at full load: a DGX H100, as rated.
const HOT: Shape = Shape { expected_watts: 7_800, peak_watts: 10_200, ..WHOLE };

fn of(queue: crate::units::QueueId, mut request: Request) -> Request {
    request.queue = queue;
    request
}

fn class(class: u8, mut request: Request) -> Request {
    request.class = TenantClass(class);
    request
}

pub(super) fn scenes() -> Vec<(&'static str, Scene)> {
    let mut all = quotas();
    all.extend(power());
    all.extend(together());
    all
}

fn quotas() -> Vec<(&'static str, Scene)> {
    let two = |about| Scene::new(about, &[BOXES, BOXES]);
    let gpus = |gpus: i64| Amount { gpu_milli: gpus * 1000, ..FREE };
    vec![
        (
            "quota",
            two("the queue is at its limit of GPUs, though nodes are free")
                .limit(RESEARCH, gpus(20))
                .busy(11, &[1], Some(4 * HOUR))
                .busy(12, &[2], None)
                .asks(request(1, WHOLE)),
        ),
        (
            "quota-of-the-parent",
            two("the queue is within its limit, but what is above it is not")
                .limit(RESEARCH, gpus(32))
                .limit(LAB, gpus(40))
                .busy(11, &[1, 2], None)
                .runs_for(of(VOICE, request(12, WHOLE)), 0, &[5, 6, 7], Some(6 * HOUR))
                .asks(request(1, WHOLE)),
        ),
        (
            "quota-of-both",
            two("both the queue and what is above it are at their limits")
                .limit(RESEARCH, gpus(24))
                .limit(LAB, gpus(24))
                .busy(11, &[1, 2, 3], Some(2 * HOUR))
                .asks(request(1, Shape { gpus: Gpus::Whole(4), ..WHOLE })),
        ),
        (
            "quota-too-small-for-the-gang",
            two("what is asked is more than the queue may ever have")
                .limit(RESEARCH, gpus(24))
                .asks(request(1, Shape { nodes: nodes(4), ..WHOLE })),
        ),
        (
            "quota-of-memory-and-watts",
            two("the queue is at its limits of memory and of power")
                .limit(RESEARCH, Amount { memory_mib: i64::from(1024 * GIB), watts: 15_000, ..FREE })
                .runs(11, Shape { memory_mib: 768 * GIB, ..HOT }, 0, &[1], Some(HOUR))
                .asks(request(1, Shape { memory_mib: 512 * GIB, ..HOT })),
        ),
    ]
}

fn power() -> Vec<(&'static str, Scene)> {
    let two = |about| Scene::new(about, &[BOXES, BOXES]);
    vec![
        (
            "cap-of-the-row",
            two("nodes are free, but their row is at its cap")
                .cap(ROW, 48_000)
                .runs(11, HOT, 0, &[1, 2, 3, 4], Some(5 * HOUR))
                .asks(request(1, HOT)),
        ),
        (
            "cap-of-the-site",
            two("nodes are free and the row has watts left, but the site is at its cap")
                .cap(SITE, 25_000)
                .runs(11, HOT, 0, &[1], Some(5 * HOUR))
                .runs(12, HOT, 0, &[2], None)
                .asks(request(1, HOT)),
        ),
        (
            "cap-of-one-rack",
            two("four nodes in one rack are asked, and each rack has power for three")
                .cap(PowerId(2), 32_000)
                .cap(PowerId(3), 31_000)
                .asks(request(1, Shape { nodes: nodes(4), within: Some(Level::Rack), ..HOT })),
        ),
        (
            "cap-at-two-points",
            Scene::new("both the row and the site are at their caps", &[BOXES])
                .cap(SITE, 21_000)
                .cap(ROW, 20_500)
                .runs(11, HOT, 0, &[1, 2], Some(3 * HOUR))
                .asks(request(1, HOT)),
        ),
        (
            "floor-of-another-class",
            two("watts are free, but kept for another class of tenants")
                .cap(SITE, 60_000)
                .floor(SITE, 1, 24_000)
                .runs(11, HOT, 0, &[1, 2, 3], Some(6 * HOUR))
                .asks(request(1, HOT)),
        ),
        (
            "floor-used-by-its-class",
            two("the class with the floor draws on it, and even so too little is left for another of its own")
                .cap(SITE, 50_000)
                .floor(SITE, 1, 20_000)
                .runs_for(class(1, request(11, HOT)), 0, &[1, 2], Some(6 * HOUR))
                .runs(12, HOT, 0, &[3, 4], Some(2 * HOUR))
                .asks(class(1, request(1, HOT))),
        ),
        (
            "cap-below-what-is-asked",
            Scene::new("the site's cap is too low for the gang, whatever ends; and nodes are missing too", &[BOXES])
                .cap(SITE, 30_000)
                .runs(11, HOT, 0, &[1, 2], Some(3 * HOUR))
                .asks(request(1, Shape { nodes: nodes(3), ..HOT })),
        ),
    ]
}

fn together() -> Vec<(&'static str, Scene)> {
    let gpus = |gpus: i64| Amount { gpu_milli: gpus * 1000, ..FREE };
    vec![
        (
            "quota-and-nodes",
            Scene::new("the queue is at its limit, and no node is free either", &[BOXES])
                .limit(RESEARCH, gpus(16))
                .busy(11, &[1, 2], Some(2 * HOUR))
                .runs_for(of(VOICE, request(12, WHOLE)), 0, &[3, 4], Some(HOUR))
                .asks(request(1, WHOLE)),
        ),
        (
            "quota-and-power",
            Scene::new("the queue is at its limit, and the site at its cap", &[BOXES])
                .limit(RESEARCH, gpus(8))
                .cap(SITE, 20_000)
                .runs(11, HOT, 0, &[1], Some(90))
                .asks(request(1, HOT)),
        ),
        (
            "power-and-cpu",
            Scene::new("CPU is short on one node, and power on all", &[Rack { nodes: 2, ..BOXES }])
                .cap(ROW, 1_000_000)
                .cap(SITE, 12_345)
                .runs(11, Shape { cpu_milli: 60_000, peak_watts: 6_000, ..WHOLE }, 0, &[1], Some(36 * HOUR))
                .asks(request(1, Shape { cpu_milli: 48_000, ..HOT })),
        ),
    ]
}
