use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { places: 4, of_tier: [2, 3, 4], patience_micros: [i64::MAX; 3] };

fn waits(arrival: &Arrival) -> (WaiterId, Option<WaiterId>) {
    let Arrival::Waits { id, displaced } = arrival else { panic!("expected a place in the line, got {arrival:?}") };
    (*id, *displaced)
}

fn is_shed(arrival: &Arrival) -> bool {
    matches!(arrival, Arrival::Shed { .. })
}

#[test]
fn the_highest_tier_is_called_first_and_inside_a_tier_the_earliest() {
    let mut line = Line::default();
    assert_eq!(line.arrive(1, ServiceTier::Flex, &BOUNDS), Arrival::Seated);
    let (flex, _) = waits(&line.arrive(1, ServiceTier::Flex, &BOUNDS));
    let (first, _) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    let (second, _) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    let (high, _) = waits(&line.arrive(1, ServiceTier::Priority, &BOUNDS));
    let order: Vec<_> = (0..5).map(|_| line.leave(1, 1_000)).collect();
    assert_eq!(order, [Some(high), Some(first), Some(second), Some(flex), None]);
    assert!(line.is_idle());
}

#[test]
fn a_full_line_sends_the_last_of_the_lowest_tier_away_and_nobody_who_runs() {
    let mut line = Line::default();
    assert_eq!(line.arrive(1, ServiceTier::Flex, &BOUNDS), Arrival::Seated);
    let (early, _) = waits(&line.arrive(1, ServiceTier::Flex, &BOUNDS));
    let (late, _) = waits(&line.arrive(1, ServiceTier::Flex, &BOUNDS));
    assert!(is_shed(&line.arrive(1, ServiceTier::Flex, &BOUNDS)), "two flex requests may wait");
    let (_, none) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    let (_, still_none) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    assert_eq!((none, still_none), (None, None));
    assert_eq!(waits(&line.arrive(1, ServiceTier::Priority, &BOUNDS)).1, Some(late));
    assert_eq!(waits(&line.arrive(1, ServiceTier::Default, &BOUNDS)).1, Some(early));
    assert!(is_shed(&line.arrive(1, ServiceTier::Default, &BOUNDS)), "three of its own tier wait");
    // The line is full of the same and higher tiers.
    let mut full = Line::default();
    for _ in 0..5 {
        assert!(!is_shed(&full.arrive(1, ServiceTier::Priority, &BOUNDS)));
    }
    assert!(is_shed(&full.arrive(1, ServiceTier::Priority, &BOUNDS)));
    assert!(is_shed(&full.arrive(1, ServiceTier::Default, &BOUNDS)));
}

#[test]
fn a_wait_that_is_expected_to_be_too_long_is_not_begun_and_told() {
    let bounds = Bounds { patience_micros: [0, 3_000_000, i64::MAX], ..BOUNDS };
    let mut line = Line::default();
    assert_eq!(line.arrive(1, ServiceTier::Default, &bounds), Arrival::Seated);
    assert_eq!(line.leave(1, 2_000_000), None);
    assert_eq!(line.arrive(1, ServiceTier::Default, &bounds), Arrival::Seated);
    waits(&line.arrive(1, ServiceTier::Default, &bounds));
    let second = line.arrive(1, ServiceTier::Default, &bounds);
    assert_eq!(second, Arrival::Shed { retry_after_micros: 4_000_000 }, "two turns of two seconds");
    assert!(is_shed(&line.arrive(1, ServiceTier::Flex, &bounds)), "flex has no patience here");
    waits(&line.arrive(1, ServiceTier::Priority, &bounds));
}

#[test]
fn who_gives_up_is_not_called_and_who_was_called_must_leave() {
    let mut line = Line::default();
    assert_eq!(line.arrive(1, ServiceTier::Default, &BOUNDS), Arrival::Seated);
    let (gone, _) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    let (next, _) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    assert!(line.give_up(gone));
    assert_eq!(line.leave(1, 0), Some(next));
    assert!(!line.give_up(next), "it has the seat by now");
    assert_eq!(line.leave(1, 0), None);
    assert!(line.is_idle());
}

#[test]
fn seats_that_are_taken_away_empty_by_themselves_and_new_ones_call() {
    let mut line = Line::default();
    assert_eq!(line.arrive(2, ServiceTier::Default, &BOUNDS), Arrival::Seated);
    assert_eq!(line.arrive(2, ServiceTier::Default, &BOUNDS), Arrival::Seated);
    let (next, _) = waits(&line.arrive(1, ServiceTier::Default, &BOUNDS));
    assert_eq!(line.leave(1, 0), None, "one still sits on the only seat");
    assert_eq!(line.call(2), Some(next));
    assert!(is_shed(&line.arrive(0, ServiceTier::Priority, &BOUNDS)), "no seat will ever be free");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Arrive(ServiceTier),
    Leave,
    GiveUp(usize),
    Seats(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let tier = prop_oneof![Just(ServiceTier::Flex), Just(ServiceTier::Default), Just(ServiceTier::Priority)];
    prop_oneof![
        6 => tier.prop_map(Step::Arrive),
        4 => Just(Step::Leave),
        1 => (0usize..8).prop_map(Step::GiveUp),
        1 => (1u32..4).prop_map(Step::Seats),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// No lower tier is seated while a higher waits; inside a tier the order is that of arrival, so that whoever waits is
    /// passed by nobody of its tier; seats and places keep their bounds.
    #[test]
    fn nobody_is_seated_before_a_higher_tier_or_an_earlier_one_of_its_own(steps in proptest::collection::vec(step(), 1..300)) {
        let mut line = Line::default();
        let (mut seats, mut sitting) = (2u32, 0u32);
        // By id: ids grow with arrival.
        let mut waiting: BTreeMap<WaiterId, ServiceTier> = BTreeMap::new();
        let called = |waiting: &mut BTreeMap<WaiterId, ServiceTier>, id: WaiterId| {
            let tier = waiting.remove(&id).expect("only who waits is called");
            let passed = waiting.iter().find(|(other, its)| **its > tier || (**its == tier && **other < id));
            prop_assert!(passed.is_none(), "{id:?} of {tier:?} was called before {passed:?}");
            Ok(())
        };
        for step in steps {
            match step {
                Step::Arrive(tier) => match line.arrive(seats, tier, &BOUNDS) {
                    Arrival::Seated => {
                        prop_assert!(!waiting.values().any(|other| *other >= tier), "seated past the line");
                        sitting += 1;
                        prop_assert!(sitting <= seats, "a seat too many");
                    }
                    Arrival::Waits { id, displaced } => {
                        if let Some(displaced) = displaced {
                            let lost = waiting.remove(&displaced).expect("who is displaced waited");
                            prop_assert!(lost < tier, "a place was taken from the same tier or a higher one");
                            prop_assert!(!waiting.values().any(|other| *other < lost), "a lower tier kept its place");
                        }
                        waiting.insert(id, tier);
                    }
                    Arrival::Shed { retry_after_micros } => prop_assert!(retry_after_micros > 0),
                },
                Step::Leave if sitting > 0 => {
                    sitting -= 1;
                    if let Some(id) = line.leave(seats, 1_000) {
                        called(&mut waiting, id)?;
                        sitting += 1;
                        prop_assert!(sitting <= seats, "a seat too many");
                    }
                }
                Step::Leave => {}
                Step::GiveUp(nth) => {
                    if let Some(id) = waiting.keys().nth(nth).copied() {
                        prop_assert!(line.give_up(id));
                        waiting.remove(&id);
                    }
                }
                Step::Seats(now) => {
                    seats = now;
                    while let Some(id) = line.call(seats) {
                        called(&mut waiting, id)?;
                        sitting += 1;
                    }
                }
            }
            prop_assert_eq!(line.in_line(), waiting.len());
            prop_assert!(line.in_line() <= BOUNDS.places);
            // A free seat and somebody who waits never stand beside each other.
            prop_assert!(sitting >= seats || waiting.is_empty());
        }
    }
}
