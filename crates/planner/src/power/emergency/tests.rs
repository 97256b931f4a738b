use proptest::prelude::*;

use super::*;

const THRESHOLDS: Thresholds =
    Thresholds { first_milli: 800, second_milli: 890, lift_milli: 750, protected_priority: 5 };

fn work(lease: u64, priority: i16, watts: i64, value: i64, stop: Stop) -> Running {
    Running { lease: LeaseId(lease), priority, watts, least_watts: watts * 6 / 10, uncapped_watts: None, value, stop }
}

const SAVED: Stop = Stop::Checkpoint { cost_seconds: 10 };

/// A thousand watts of cap: four leases, the fourth protected.
fn site() -> [Running; 4] {
    [
        work(1, 0, 200, 50, SAVED),
        work(2, 0, 100, 20, Stop::Restart),
        work(3, 1, 300, 10, SAVED),
        work(4, 9, 300, 900, Stop::Never),
    ]
}

fn cap(lease: u64, to_watts: i64) -> Relief {
    Relief::Cap { lease: LeaseId(lease), to_watts }
}

#[test]
fn nothing_happens_between_the_lift_and_the_first_threshold() {
    assert_eq!(
        respond(THRESHOLDS, 1000, 800, &site()),
        Response { reliefs: vec![], expected_watts: 800, short_watts: 0 }
    );
}

#[test]
fn over_the_first_low_priorities_are_capped_as_far_as_needed() {
    let response = respond(THRESHOLDS, 1000, 890, &site());
    // Lease 2 is worth less for each watt than lease 1; lease 3 has the higher priority.
    assert_eq!(response.reliefs, [cap(2, 60), cap(1, 150)]);
    assert_eq!(response.expected_watts, 800);
    // The latest lease comes first only among those worth the same for each watt.
    let cheap_first = [work(1, 0, 200, 10, SAVED), work(2, 0, 200, 50, SAVED)];
    assert_eq!(respond(THRESHOLDS, 1000, 890, &cheap_first).reliefs, [cap(1, 120), cap(2, 190)]);
    // What the low priorities cannot free is left: the protected are not touched yet.
    let draws_more = work(4, 9, 700, 900, Stop::Never);
    let response = respond(THRESHOLDS, 1000, 890, &[work(1, 0, 100, 5, SAVED), draws_more]);
    assert_eq!((response.reliefs, response.expected_watts), (vec![cap(1, 60)], 850));
}

#[test]
fn over_the_second_all_are_capped_and_then_the_cheapest_stop() {
    let response = respond(THRESHOLDS, 1000, 1000, &site());
    assert_eq!(response.reliefs, [cap(2, 60), cap(1, 120), cap(3, 220)]);
    // A cap that falls by half: caps bring 900 W to 540 W, stops to below 445 W. Who stops is not capped as well.
    let response = respond(THRESHOLDS, 500, 900, &site());
    let stopped = [Relief::Stop { lease: LeaseId(2) }, Relief::CheckpointThenStop { lease: LeaseId(1) }];
    assert_eq!(response.reliefs, [&[cap(3, 180), cap(4, 180)], &stopped[..]].concat());
    assert_eq!((response.expected_watts, response.short_watts), (360, 0));
}

#[test]
fn what_cannot_be_shed_is_said() {
    let response = respond(THRESHOLDS, 100, 900, &site());
    assert_eq!((response.expected_watts, response.short_watts), (180, 80));
    assert!(response.reliefs.contains(&cap(4, 180)));
}

#[test]
fn caps_are_lifted_from_the_top_as_far_as_they_stay_low() {
    let mut site = site();
    for (work, uncapped) in site.iter_mut().zip([210, 150, 340, 330]) {
        work.uncapped_watts = Some(uncapped);
    }
    let lift = |lease| Relief::Lift { lease: LeaseId(lease) };
    let response = respond(THRESHOLDS, 1000, 670, &site);
    assert_eq!((response.reliefs, response.expected_watts), (vec![lift(4), lift(3), lift(1)], 750));
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let mut reversed = site();
    reversed.reverse();
    for draw in [700, 850, 950, 2000] {
        assert_eq!(respond(THRESHOLDS, 1000, draw, &site()), respond(THRESHOLDS, 1000, draw, &reversed));
    }
}

fn any_work() -> impl Strategy<Value = Vec<Running>> {
    let one = (0_i16..4, 1_i64..200, 0_i64..100, 0_i64..50, 0_u8..3, prop::option::of(0_i64..300));
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let stops = [Stop::Never, Stop::Restart, SAVED];
        let running = |(lease, (priority, watts, least, value, stop, uncapped)): (u64, (i16, i64, i64, i64, u8, _))| {
            let (least_watts, stop) = (watts * least / 100, stops[usize::from(stop)]);
            Running { lease: LeaseId(lease), priority, watts, least_watts, uncapped_watts: uncapped, value, stop }
        };
        (0..).zip(all).map(running).collect()
    })
}

proptest! {
    /// What is expected adds up from the list; nobody stops while caps are enough, nobody of a higher priority before
    /// all stoppable of a lower one; whatever can be shed is, before anything is said to be short.
    #[test]
    fn responses_add_up_and_stop_last(work in any_work(), cap_watts in 1_i64..1500, other in 0_i64..300) {
        let thresholds = Thresholds { protected_priority: 2, ..THRESHOLDS };
        let draw: i64 = other + work.iter().map(|work| work.watts).sum::<i64>();
        let response = respond(thresholds, cap_watts, draw, &work);
        let of = |lease: LeaseId| work.iter().find(|work| work.lease == lease).unwrap();
        let mut expected = draw;
        let mut stopped = vec![];
        for relief in &response.reliefs {
            match *relief {
                Relief::Cap { lease, to_watts } => {
                    prop_assert!((of(lease).least_watts..of(lease).watts).contains(&to_watts));
                    expected -= of(lease).watts - to_watts;
                }
                Relief::Stop { lease } | Relief::CheckpointThenStop { lease } => {
                    expected -= of(lease).watts;
                    stopped.push(of(lease));
                }
                Relief::Lift { lease } => expected += (of(lease).uncapped_watts.unwrap() - of(lease).watts).max(0),
            }
        }
        prop_assert_eq!(response.expected_watts, expected);
        let (lift, second) = (cap_watts * 750 / 1000, cap_watts * 890 / 1000);
        let all_capped = other + work.iter().map(|work| work.least_watts).sum::<i64>();
        prop_assert!(stopped.is_empty() || (draw > second && all_capped > second));
        prop_assert!(stopped.iter().all(|work| work.stop != Stop::Never));
        if let Some(highest) = stopped.iter().map(|work| work.priority).max() {
            let lower = work.iter().filter(|work| work.priority < highest && work.stop != Stop::Never);
            prop_assert!(lower.into_iter().all(|lower| stopped.contains(&lower)));
        }
        if response.short_watts > 0 {
            prop_assert!(work.iter().all(|work| work.stop == Stop::Never || stopped.contains(&work)));
        }
        prop_assert!(draw > lift || expected <= lift);
    }
}
