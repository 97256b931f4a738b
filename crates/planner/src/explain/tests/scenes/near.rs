//! Nearness: gangs that could start apart, and wait a while for nodes that lie together.

use crate::explain::tests::scene::{BOXES, HOUR, MINUTE, NOW, Rack, Scene, WHOLE, nodes, request};
use crate::fleet::Level;
use crate::request::{Request, Shape};

/// A gang that may wait a tenth of its run time for one domain of a level.
fn gang(id: u64, number: u16, prefer: Level, run_seconds: i64) -> Request {
    let shape = Shape { nodes: nodes(number), prefer: Some(prefer), ..WHOLE };
    Request { run_seconds: u32::try_from(run_seconds).ok(), ..request(id, shape) }
}

pub(super) fn scenes() -> Vec<(&'static str, Scene)> {
    let second = Rack { unit: 1, ..BOXES };
    let racks = |about, number: usize| Scene::new(about, &vec![BOXES; number]).reservations(2);
    vec![
        (
            "nearness-of-one-unit",
            Scene::new("a gang could start over two units, and waits for one", &[BOXES, BOXES, second, second])
                .reservations(1)
                .busy(11, &[3, 4, 5, 6, 7, 8], Some(9 * HOUR))
                .busy(12, &[9, 10], Some(20 * MINUTE))
                .busy(13, &[11, 12, 13, 14], Some(9 * HOUR))
                .asks(gang(1, 4, Level::Unit, 10 * HOUR)),
        ),
        (
            "nearness-of-one-rack",
            racks("a gang could start over two racks, and waits for two leases to leave one", 3)
                .busy(11, &[3, 4], Some(9 * HOUR))
                .busy(12, &[7], Some(8 * MINUTE))
                .busy(13, &[8], Some(12 * MINUTE))
                .busy(14, &[9, 10, 11, 12], None)
                .asks(gang(1, 4, Level::Rack, 10 * HOUR)),
        ),
        (
            "nearness-of-fewer-racks",
            racks("a gang could start over four racks, and waits for two", 4)
                .busy(11, &[3, 4], Some(9 * HOUR))
                .busy(12, &[7, 8], Some(30 * MINUTE))
                .busy(13, &[11, 12], Some(9 * HOUR))
                .busy(14, &[15, 16], Some(40 * MINUTE))
                .asks(gang(1, 8, Level::Rack, 10 * HOUR)),
        ),
        (
            "nearness-before-a-promised-start",
            Scene::new(
                "a short gang would fit before a promised start, and waits a little for one rack",
                &[BOXES, BOXES, second],
            )
            .reservations(2)
            .busy(11, &[1, 2], Some(3 * HOUR))
            .busy(12, &[5, 6], Some(3 * HOUR))
            .busy(13, &[9, 10, 11, 12], Some(4 * MINUTE))
            .also(request(2, Shape { nodes: nodes(8), within: Some(Level::Unit), ..WHOLE }))
            .asks(Request { submitted_at: NOW, ..gang(1, 4, Level::Rack, HOUR) }),
        ),
        (
            "nearness-and-others-took-the-room",
            racks("a gang waits for one rack, and who comes behind it takes the room that it left", 3)
                .busy(11, &[3, 4], Some(9 * HOUR))
                .busy(12, &[7, 8], Some(20 * MINUTE))
                .busy(13, &[9, 10, 11, 12], None)
                .also(request(2, Shape { nodes: nodes(2), ..WHOLE }))
                .asks(gang(1, 4, Level::Rack, 10 * HOUR)),
        ),
    ]
}
