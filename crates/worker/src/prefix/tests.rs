use super::*;
use proptest::prelude::*;

fn tokens(range: std::ops::Range<i32>) -> Vec<i32> {
    range.collect()
}

fn run(slots: &mut Slots, prompt: &[i32]) -> Placement {
    let placement = slots.place(prompt, None, None).expect("there is room");
    slots.push(placement.slot, &prompt[placement.reuse.tokens()..]);
    placement
}

#[test]
fn a_conversation_continues_in_its_own_slot() {
    let mut slots = Slots::new(2);
    let first = run(&mut slots, &tokens(0..50));
    slots.push(first.slot, &tokens(50..60));
    slots.finish(first.slot);
    assert_eq!(run(&mut slots, &tokens(0..80)), Placement { slot: first.slot, reuse: Reuse::InPlace { keep: 60 } });
}

#[test]
fn a_shared_beginning_is_copied_even_from_a_running_sequence() {
    let mut slots = Slots::new(2);
    let first = run(&mut slots, &tokens(0..50));
    let mut prompt = tokens(0..30);
    prompt.extend(500..520);
    let second = run(&mut slots, &prompt);
    assert_eq!(second.reuse, Reuse::Copy { from: first.slot, keep: 30 });
    assert_ne!(second.slot, first.slot);
}

#[test]
fn a_few_common_tokens_are_not_worth_a_copy() {
    let mut slots = Slots::new(2);
    run(&mut slots, &tokens(0..50));
    let mut prompt = tokens(0..3);
    prompt.extend(500..520);
    assert_eq!(run(&mut slots, &prompt).reuse, Reuse::Nothing);
}

#[test]
fn the_last_prompt_token_is_always_computed() {
    let mut slots = Slots::new(2);
    let first = run(&mut slots, &tokens(0..50));
    slots.finish(first.slot);
    assert_eq!(run(&mut slots, &tokens(0..50)).reuse, Reuse::InPlace { keep: 49 });
}

#[test]
fn the_slot_used_longest_ago_is_overwritten() {
    let mut slots = Slots::new(2);
    for start in [0, 1000] {
        run(&mut slots, &tokens(start..start + 40));
    }
    slots.finish(1);
    slots.finish(0);
    assert_eq!(run(&mut slots, &tokens(2000..2010)), Placement { slot: 1, reuse: Reuse::Nothing });
}

#[test]
fn live_slots_stay_together() {
    let mut slots = Slots::new(5);
    for start in 0..4 {
        run(&mut slots, &tokens(start * 100..start * 100 + 10));
    }
    slots.finish(1);
    slots.finish(3);
    // 0 and 2 are live: slot 1 joins them, although slot 4 is empty.
    assert_eq!(run(&mut slots, &tokens(900..910)).slot, 1);
    // The conversation of slot 3 would continue beside them too.
    assert_eq!(run(&mut slots, &tokens(300..320)).slot, 3);
}

#[test]
fn no_scope_profits_from_the_prompts_of_another() {
    let mut slots = Slots::new(3);
    let mut reuse = |scope: Option<&str>| {
        let placement = slots.place(&tokens(0..50), scope, None).expect("there is room");
        slots.push(placement.slot, &tokens(0..50)[placement.reuse.tokens()..]);
        slots.finish(placement.slot);
        placement.reuse.tokens()
    };
    assert_eq!([reuse(Some("a")), reuse(Some("b")), reuse(None)], [0, 0, 0]);
    assert_eq!([reuse(Some("a")), reuse(Some("b")), reuse(None)], [49, 49, 49]);
}

#[test]
fn what_one_adapter_computed_is_no_beginning_for_another_nor_for_the_bare_model() {
    let mut slots = Slots::new(4);
    let mut reuse = |adapter: Option<u64>| {
        let placement = slots.place(&tokens(0..50), None, adapter.map(AdapterId)).expect("there is room");
        slots.push(placement.slot, &tokens(0..50)[placement.reuse.tokens()..]);
        let fork = slots.fork(placement.slot).expect("there is room");
        slots.finish(placement.slot);
        slots.finish(fork);
        placement.reuse.tokens()
    };
    assert_eq!([reuse(Some(1)), reuse(None), reuse(Some(2))], [0, 0, 0]);
    assert_eq!([reuse(Some(2)), reuse(None)], [49, 49]);
    let left = slots.of_adapter(AdapterId(2));
    assert!(!left.is_empty());
    left.into_iter().for_each(|slot| slots.empty(slot));
    assert_eq!(slots.place(&tokens(0..50), None, Some(AdapterId(2))).expect("room").reuse, Reuse::Nothing);
}

#[test]
fn one_beyond_the_slots_waits() {
    let mut slots = Slots::new(1);
    let first = run(&mut slots, &tokens(0..10));
    assert_eq!(slots.place(&tokens(0..10), None, None), None);
    slots.finish(first.slot);
    assert!(slots.place(&tokens(0..10), None, None).is_some());
}

#[test]
fn a_fork_holds_all_that_its_origin_holds_and_stays_in_its_scope() {
    let mut slots = Slots::new(3);
    let first = slots.place(&tokens(0..50), Some("a"), None).expect("there is room").slot;
    slots.push(first, &tokens(0..50));
    let second = slots.fork(first).expect("there is room");
    assert_ne!(first, second);
    assert_eq!(slots.len(second), 50);
    slots.finish(first);
    slots.finish(second);
    assert_eq!(slots.place(&tokens(0..50), Some("b"), None).expect("room").reuse, Reuse::Nothing);
    assert_eq!(slots.place(&tokens(0..50), Some("a"), None).expect("room").reuse.tokens(), 49);
    assert_eq!(Slots::without_reuse(2).fork(0), None);
}

#[derive(Debug, Clone)]
enum Act {
    Start { family: i32, length: usize, scope: bool, adapter: Option<u64> },
    Grow,
    Finish(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_i32, 1_usize..60, any::<bool>(), prop::option::of(1_u64..3)).prop_map(|(family, length, scope, adapter)| {
            Act::Start { family, length, scope, adapter }
        }),
        3 => Just(Act::Grow),
        3 => any::<usize>().prop_map(Act::Finish),
    ]
}

proptest! {
    /// Mirrors what the engine's cache would hold, and checks that every reuse is of tokens that are really there.
    #[test]
    fn reuse_is_always_of_tokens_that_are_there(acts in prop::collection::vec(act(), 1..80), count in 1_usize..5) {
        let mut slots = Slots::new(count);
        let mut mirror: Vec<Vec<i32>> = vec![vec![]; count];
        // By whom, and with what, each slot was filled.
        let mut whose = vec![(false, None); count];
        let mut live: Vec<usize> = vec![];
        for act in acts {
            match act {
                Act::Start { family, length, scope, adapter } => {
                    let prompt: Vec<i32> = (0..i32::try_from(length).expect("small")).map(|i| family * 1000 + i).collect();
                    let Some(Placement { slot, reuse }) = slots.place(&prompt, scope.then_some("s"), adapter.map(AdapterId)) else {
                        prop_assert_eq!(live.len(), count);
                        continue;
                    };
                    prop_assert!(!live.contains(&slot));
                    let from = match reuse {
                        Reuse::Nothing => None,
                        Reuse::InPlace { .. } => Some(slot),
                        Reuse::Copy { from, .. } => Some(from),
                    };
                    prop_assert!(from.is_none_or(|from| whose[from] == (scope, adapter)));
                    whose[slot] = (scope, adapter);
                    match reuse {
                        Reuse::Nothing => mirror[slot].clear(),
                        Reuse::InPlace { keep } => mirror[slot].truncate(keep),
                        Reuse::Copy { from, keep } => {
                            prop_assert_ne!(from, slot);
                            mirror[slot] = mirror[from][..keep].to_vec();
                        }
                    }
                    let keep = reuse.tokens();
                    prop_assert!(keep < prompt.len());
                    prop_assert_eq!(&mirror[slot], &prompt[..keep]);
                    slots.push(slot, &prompt[keep..]);
                    mirror[slot].extend(&prompt[keep..]);
                    live.push(slot);
                }
                Act::Grow => for &slot in &live {
                    slots.push(slot, &[7]);
                    mirror[slot].push(7);
                },
                Act::Finish(n) => if !live.is_empty() {
                    slots.finish(live.remove(n % live.len()));
                },
            }
            prop_assert_eq!(slots.used_cells(), mirror.iter().map(Vec::len).sum::<usize>());
        }
    }
}
