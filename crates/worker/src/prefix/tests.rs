use super::*;
use proptest::prelude::*;

fn tokens(range: std::ops::Range<i32>) -> Vec<i32> {
    range.collect()
}

fn run(slots: &mut Slots, prompt: &[i32], reserve: usize) -> Placement {
    let placement = slots.place(prompt, reserve).expect("there is room");
    slots.push(placement.slot, &prompt[placement.reuse.tokens()..]);
    placement
}

#[test]
fn a_conversation_continues_in_its_own_slot() {
    let mut slots = Slots::new(2, 1000);
    let first = run(&mut slots, &tokens(0..50), 100);
    slots.push(first.slot, &tokens(50..60));
    slots.finish(first.slot);
    let second = run(&mut slots, &tokens(0..80), 200);
    assert_eq!(second, Placement { slot: first.slot, evict: vec![], reuse: Reuse::InPlace { keep: 60 } });
}

#[test]
fn a_shared_beginning_is_lent_even_by_a_running_sequence() {
    let mut slots = Slots::new(2, 1000);
    let first = run(&mut slots, &tokens(0..50), 100);
    let mut prompt = tokens(0..30);
    prompt.extend(500..520);
    let second = run(&mut slots, &prompt, 100);
    assert_eq!(second.reuse, Reuse::Share { from: first.slot, keep: 30 });
    assert_ne!(second.slot, first.slot);
}

#[test]
fn the_last_prompt_token_is_always_computed() {
    let mut slots = Slots::new(2, 1000);
    let first = run(&mut slots, &tokens(0..50), 100);
    slots.finish(first.slot);
    assert_eq!(run(&mut slots, &tokens(0..50), 100).reuse.tokens(), 49);
}

#[test]
fn the_oldest_cached_sequence_makes_room() {
    let mut slots = Slots::new(1, 100);
    for start in [0, 1000] {
        let placement = run(&mut slots, &tokens(start..start + 40), 50);
        slots.finish(placement.slot);
    }
    let third = run(&mut slots, &tokens(2000..2010), 50);
    assert_eq!(third.evict, [0]);
}

#[test]
fn one_beyond_the_limit_waits() {
    let mut slots = Slots::new(1, 100);
    let first = run(&mut slots, &tokens(0..10), 50);
    assert_eq!(slots.place(&tokens(0..10), 50), None);
    slots.finish(first.slot);
    assert!(slots.place(&tokens(0..10), 50).is_some());
}

#[test]
fn a_prefix_in_a_full_pool_is_taken_over() {
    let mut slots = Slots::new(1, 100);
    let first = run(&mut slots, &tokens(0..60), 100);
    slots.finish(first.slot);
    let mut prompt = tokens(0..30);
    prompt.push(-1);
    let second = run(&mut slots, &prompt, 100);
    assert_eq!(second, Placement { slot: first.slot, evict: vec![], reuse: Reuse::InPlace { keep: 30 } });
}

#[derive(Debug, Clone)]
enum Act {
    Start { family: i32, length: usize, extra: usize },
    Grow,
    Finish,
    Drop,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_i32, 1_usize..60, 1_usize..40).prop_map(|(family, length, extra)| Act::Start { family, length, extra }),
        3 => Just(Act::Grow),
        2 => Just(Act::Finish),
        1 => Just(Act::Drop),
    ]
}

proptest! {
    /// Mirrors what the engine's cache would hold, and checks that every reuse is of tokens that are really there.
    #[test]
    fn reuse_is_always_of_tokens_that_are_there(acts in prop::collection::vec(act(), 1..80), live_max in 1_usize..4) {
        let cells = live_max * 100;
        let mut slots = Slots::new(live_max, cells);
        let mut mirror: Vec<Vec<i32>> = vec![vec![]; Slots::count(live_max)];
        let mut live: Vec<(usize, usize)> = vec![];
        for act in acts {
            match act {
                Act::Start { family, length, extra } => {
                    let prompt: Vec<i32> = (0..i32::try_from(length).expect("small")).map(|i| family * 1000 + i).collect();
                    let reserve = length + extra;
                    let Some(placement) = slots.place(&prompt, reserve) else {
                        prop_assert_eq!(live.len(), live_max);
                        continue;
                    };
                    for &slot in &placement.evict {
                        prop_assert!(live.iter().all(|&(l, _)| l != slot));
                        mirror[slot].clear();
                    }
                    match placement.reuse {
                        Reuse::Nothing => {}
                        Reuse::InPlace { keep } => mirror[placement.slot].truncate(keep),
                        Reuse::Share { from, keep } => {
                            prop_assert!(mirror[placement.slot].is_empty());
                            mirror[placement.slot] = mirror[from][..keep].to_vec();
                        }
                    }
                    let keep = placement.reuse.tokens();
                    prop_assert!(keep < prompt.len());
                    prop_assert_eq!(&mirror[placement.slot], &prompt[..keep]);
                    slots.push(placement.slot, &prompt[keep..]);
                    mirror[placement.slot].extend(&prompt[keep..]);
                    live.push((placement.slot, extra));
                }
                Act::Grow => for (slot, extra) in &mut live {
                    if *extra > 0 {
                        *extra -= 1;
                        slots.push(*slot, &[7]);
                        mirror[*slot].push(7);
                    }
                },
                Act::Finish => if let Some((slot, _)) = live.pop() { slots.finish(slot) },
                Act::Drop => if let Some((slot, _)) = live.pop() {
                    slots.clear(slot);
                    mirror[slot].clear();
                },
            }
            prop_assert!(mirror.iter().map(Vec::len).sum::<usize>() <= cells);
        }
    }
}
