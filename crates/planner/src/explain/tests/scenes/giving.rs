//! Leases that give way: to a higher priority of their queue, and to a queue that takes back what it is guaranteed.

use crate::explain::tests::scene::{BOXES, HOUR, RESEARCH, Rack, Scene, VOICE, WHOLE, nodes, request};
use crate::fleet::Amount;
use crate::request::{Gpus, Request, Shape, Stop};

/// It may be stopped: its work since it began is lost.
fn restarts(id: u64) -> Request {
    Request { stop: Stop::Restart, ..request(id, WHOLE) }
}

/// It may be stopped: two minutes and the work since its last checkpoint are lost.
fn saves(id: u64) -> Request {
    Request { stop: Stop::Checkpoint { cost_seconds: 120 }, ..request(id, WHOLE) }
}

/// Ten hours of work that come before others.
fn urgent(id: u64, shape: Shape) -> Request {
    Request { priority: 3, run_seconds: Some(36_000), ..request(id, shape) }
}

pub(super) fn scenes() -> Vec<(&'static str, Scene)> {
    let mut all = priority();
    all.extend(reclaim());
    all
}

fn priority() -> Vec<(&'static str, Scene)> {
    let gang = Shape { nodes: nodes(2), ..WHOLE };
    let four = |about| Scene::new(about, &[BOXES]);
    let full = |about| {
        four(about)
            .runs_for(restarts(11), 0, &[1], Some(20 * HOUR))
            .runs_for(saves(12), 0, &[2], Some(20 * HOUR))
            .runs_for(restarts(13), 0, &[3], Some(20 * HOUR))
            .busy(14, &[4], Some(20 * HOUR))
    };
    vec![
        ("a-lease-gives-way", full("a lease of the same queue with a lower priority gives way").asks(urgent(1, WHOLE))),
        ("two-leases-give-way", full("two leases give way to a gang").asks(urgent(1, gang))),
        (
            "behind-one-that-others-give-way-to",
            full("a node is about to be free, but for another request").also(urgent(1, WHOLE)).asks(request(2, WHOLE)),
        ),
        (
            "nobody-may-be-stopped",
            four("all that runs may not be stopped, whatever the priority")
                .busy(11, &[1, 2, 3, 4], Some(20 * HOUR))
                .asks(urgent(1, WHOLE)),
        ),
        (
            "a-part-gives-way",
            Scene::new("a part of a GPU gives way to another", &[Rack { nodes: 1, gpus: 1, ..BOXES }])
                .runs_for(
                    Request { stop: Stop::Restart, ..request(11, Shape { gpus: Gpus::Milli(600), ..WHOLE }) },
                    0,
                    &[1],
                    Some(20 * HOUR),
                )
                .asks(urgent(1, Shape { gpus: Gpus::Milli(500), ..WHOLE })),
        ),
    ]
}

fn reclaim() -> Vec<(&'static str, Scene)> {
    let voice = |request: Request| Request { queue: VOICE, run_seconds: Some(36_000), ..request };
    let lent = |about| {
        Scene::new(about, &[BOXES])
            .guaranteed(VOICE, Amount { gpu_milli: 16_000, ..Amount::default() })
            .runs_for(saves(11), 0, &[1, 2], Some(20 * HOUR))
            .runs_for(saves(12), 0, &[3], Some(20 * HOUR))
            .runs_for(saves(13), 0, &[4], Some(20 * HOUR))
    };
    vec![
        (
            "a-queue-takes-back-its-guarantee",
            lent("a queue below its guarantee takes back what another has borrowed").asks(voice(request(1, WHOLE))),
        ),
        (
            "a-queue-takes-back-for-a-gang",
            lent("all of a guarantee is taken back at once")
                .asks(voice(request(1, Shape { nodes: nodes(2), ..WHOLE }))),
        ),
        (
            "beyond-the-guarantee",
            lent("a queue that asks for more than its guarantee waits like any other")
                .asks(voice(request(1, Shape { nodes: nodes(3), ..WHOLE }))),
        ),
        (
            "the-other-queue-waits",
            lent("who borrows does not take back")
                .also(voice(request(1, WHOLE)))
                .asks(Request { queue: RESEARCH, ..request(2, WHOLE) }),
        ),
    ]
}
