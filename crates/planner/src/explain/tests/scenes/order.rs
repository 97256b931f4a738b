//! Time and order: promises, gaps before them, others that come first, hours that suit better.

use crate::event::Event;
use crate::explain::tests::scene::{BOXES, HOUR, MINUTE, NOW, Rack, Scene, WHOLE, nodes, request};
use crate::fleet::{Health, Level};
use crate::request::{Gpus, Request, Shape};
use crate::units::{At, NodeId};
use crate::words::Language;

fn gang(number: u16) -> Shape {
    Shape { nodes: nodes(number), ..WHOLE }
}

fn runs(seconds: i64, mut request: Request) -> Request {
    request.run_seconds = u32::try_from(seconds).ok();
    request
}

/// A clock on the wall, for a test.
fn wall(language: Language, at: At) -> String {
    let minutes = at.since(NOW) / MINUTE + 11 * 60 + 5;
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    match language {
        Language::English => format!("at {hour}:{minute:02}"),
        Language::French => format!("à {hour}\u{a0}h\u{a0}{minute:02}"),
    }
}

pub(super) fn scenes() -> Vec<(&'static str, Scene)> {
    let mut all = promises();
    all.extend(hours());
    all
}

fn promises() -> Vec<(&'static str, Scene)> {
    let four = |about| Scene::new(about, &[BOXES]);
    let promised = |about| four(about).reservations(1).busy(11, &[1, 2, 3], Some(2 * HOUR));
    vec![
        ("promised", promised("a gang at the head of its queue has a promise").asks(runs(HOUR, request(1, gang(4))))),
        (
            "gap-run-time-not-said",
            promised("a node is free until a promised start, and nobody knows how long the request runs")
                .also(runs(HOUR, request(1, gang(4))))
                .asks(request(2, WHOLE)),
        ),
        (
            "gap-run-too-long",
            promised("a node is free until a promised start, and the request runs longer")
                .also(runs(HOUR, request(1, gang(4))))
                .asks(runs(3 * HOUR, request(2, WHOLE))),
        ),
        (
            "gap-too-far-apart",
            Scene::new("a gang could use free and promised nodes together, were its run short", &[BOXES, BOXES])
                .reservations(1)
                .busy(11, &[1, 2], Some(90 * MINUTE))
                .busy(12, &[5, 6, 7], Some(10 * HOUR))
                .also(runs(HOUR, request(1, Shape { within: Some(Level::Rack), ..gang(4) })))
                .asks(runs(5 * HOUR, request(2, gang(3)))),
        ),
        (
            "others-first",
            four("the last free node goes to a request that comes first")
                .busy(11, &[1, 2, 3], Some(6 * HOUR))
                .also(runs(2 * HOUR, request(1, WHOLE)))
                .asks(request(2, WHOLE)),
        ),
        (
            "others-first-without-an-end",
            four("the last free node goes to a request that never said how long it runs")
                .busy(11, &[1, 2, 3], None)
                .also(request(1, WHOLE))
                .asks(request(2, WHOLE)),
        ),
        (
            "told-by-a-clock",
            four("the caller tells instants its own way")
                .busy(11, &[1, 2, 3, 4], Some(200 * MINUTE))
                .told_by(wall)
                .asks(request(1, WHOLE)),
        ),
        (
            "without-names",
            Scene::new("the caller has no names", &[BOXES, Rack { residency: 1, model: 1, ..BOXES }])
                .busy(11, &[1, 2], Some(HOUR))
                .busy(12, &[5, 6], Some(2 * HOUR))
                .unnamed()
                .asks(request(1, Shape { within: Some(Level::Rack), models: 0b1, residencies: 0b1, ..gang(3) })),
        ),
    ]
}

fn hours() -> Vec<(&'static str, Scene)> {
    let four = |about| Scene::new(about, &[BOXES]);
    let not_before = |seconds: i64, request: Request| Request { not_before: Some(NOW.plus(seconds)), ..request };
    vec![
        ("not-before", four("it is to begin tonight").asks(not_before(9 * HOUR + 30 * MINUTE, request(1, gang(2))))),
        (
            "not-before-and-no-room",
            four("it is to begin later, and there is no room now either")
                .busy(11, &[1, 2, 3, 4], Some(8 * HOUR))
                .asks(not_before(2 * HOUR, request(1, gang(2)))),
        ),
        (
            "better-hour",
            four("deferrable work waits for an hour with less carbon, and keeps its deadline")
                .forecast(&[300, 300, 300, 80, 80, 300, 300, 300, 300, 300, 300, 300])
                .asks(Request {
                    deferrable: true,
                    run_seconds: Some(7200),
                    deadline: Some(NOW.plus(10 * HOUR)),
                    ..request(1, Shape { gpus: Gpus::Whole(4), ..WHOLE })
                }),
        ),
        (
            "better-hour-and-no-room",
            four("deferrable work waits for a better hour, and there is no room before it anyway")
                .busy(11, &[1, 2, 3, 4], Some(2 * HOUR))
                .forecast(&[300, 300, 300, 80, 80, 300, 300, 300, 300, 300, 300, 300])
                .asks(Request {
                    deferrable: true,
                    run_seconds: Some(7200),
                    deadline: Some(NOW.plus(10 * HOUR)),
                    ..request(1, Shape { gpus: Gpus::Whole(4), ..WHOLE })
                }),
        ),
        (
            "kept-for-several",
            Scene::new("nodes are promised to two gangs, and one is cordoned", &[BOXES, BOXES])
                .reservations(2)
                .busy(11, &[1, 2], Some(HOUR))
                .busy(12, &[5, 6], Some(3 * HOUR))
                .then(Event::NodeHealth { node: NodeId(8), health: Health::Cordoned })
                .also(runs(HOUR, request(1, Shape { within: Some(Level::Rack), ..gang(4) })))
                .also(runs(HOUR, request(2, Shape { within: Some(Level::Rack), ..gang(3) })))
                .asks(request(3, Shape { gpus: Gpus::Whole(6), ..WHOLE })),
        ),
        (
            "overdue-lease",
            four("a lease has not ended when it said")
                .busy(11, &[1, 2, 3, 4], Some(-5 * MINUTE))
                .asks(request(1, WHOLE)),
        ),
        (
            "end-of-an-endless-lease",
            four("nothing helps but that somebody ends what has no end")
                .busy(11, &[1], None)
                .busy(12, &[2], None)
                .busy(13, &[3, 4], None)
                .asks(request(1, gang(2))),
        ),
    ]
}
