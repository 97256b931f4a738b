//! A million random events, and what no sequence of them may break.
//!
//! Small worlds live through a thousand events each: nodes fail and return, leases start from plans and end early or
//! late, requests come, change and go, caps, quotas and forecasts move, and some events cannot be. After them:
//! no plan breaks a rule (the checker shares no code with the planner); `step` decides what `plan` decides; a planner
//! built anew from what is there gives the same hash, so nothing leaks; a refused event changes nothing; a promise
//! goes only for a reason. A failure prints its seed: `World::new(seed).live(...)` shows it again.

use galerne_planner::plan::Plan;

pub(crate) mod chance;
mod world;

use world::World;

const EVENTS_IN_A_WORLD: u32 = 1_000;

fn live(seeds: std::ops::Range<u64>) {
    let mut seen = world::Seen::default();
    for seed in seeds {
        let mut world = World::new(seed);
        world.live(EVENTS_IN_A_WORLD);
        seen.add(&world.seen);
    }
    // A run in which something never happened would prove nothing about it.
    println!("{seen:?}");
    assert!(seen.covers_all(), "some kinds of events or decisions never came up: {seen:?}");
}

// Four tests rather than one, so that they run beside each other.

#[test]
fn nothing_breaks_in_the_first_quarter_of_a_million_events() {
    live(0..250);
}

#[test]
fn nothing_breaks_in_the_second_quarter_of_a_million_events() {
    live(250..500);
}

#[test]
fn nothing_breaks_in_the_third_quarter_of_a_million_events() {
    live(500..750);
}

#[test]
fn nothing_breaks_in_the_fourth_quarter_of_a_million_events() {
    live(750..1000);
}

#[test]
fn the_same_events_give_the_same_hashes() {
    let hashes = |seed| {
        let mut world = World::new(seed);
        world.live(300);
        world.hashes
    };
    for seed in 5_000..5_020 {
        let first = hashes(seed);
        assert!(!first.is_empty(), "seed {seed} made no plan");
        assert_eq!(first, hashes(seed), "seed {seed}");
    }
}

#[test]
fn another_plan_has_another_hash() {
    let mut world = World::new(5_000);
    world.live(200);
    let plan = world.full_plan();
    let spoilt = |spoil: fn(&mut Plan)| {
        let mut other = plan.clone();
        spoil(&mut other);
        other.hash()
    };
    assert!(!plan.waiting.is_empty(), "the world should have somebody who waits");
    assert_ne!(plan.hash(), spoilt(|plan| plan.at.0 += 1));
    assert_ne!(plan.hash(), spoilt(|plan| drop(plan.waiting.pop())));
    assert_ne!(plan.hash(), spoilt(|plan| plan.reasons.truncate(1)));
}
