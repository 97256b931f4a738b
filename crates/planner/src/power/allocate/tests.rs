use proptest::prelude::*;

use super::*;
use crate::fleet::PowerSpec;
use crate::power::certificate;

const A: TenantClass = TenantClass(0);
const B: TenantClass = TenantClass(1);

fn point(parent: Option<u32>, cap_watts: i64) -> PowerSpec {
    PowerSpec { parent: parent.map(PowerId), cap_watts, floors: vec![] }
}

fn ask(class: TenantClass, priority: i16, least_watts: i64, ask_watts: i64) -> Ask {
    Ask { class, priority, least_watts, ask_watts }
}

fn allocate(specs: &[PowerSpec], points: &[u32], asks: &[Ask]) -> Allocation {
    let tree = PowerTree::new(specs);
    let points: Vec<PowerId> = points.iter().copied().map(PowerId).collect();
    let mut answer = Allocation::default();
    Allocator::new(&tree, &points).allocate(&tree, asks, &mut answer);
    certificate::check(&tree, &points, asks, &answer).unwrap();
    answer
}

#[test]
fn watts_are_shared_evenly_up_to_what_each_asks() {
    let specs = [point(None, 100), point(Some(0), 45), point(Some(0), 80)];
    let asks = [ask(A, 0, 0, 10), ask(A, 0, 0, 90), ask(A, 0, 0, 90), ask(A, 0, 0, 90)];
    // The first row is full at 10 + 35; the site at 27 each, one more for the first two that still want it.
    assert_eq!(allocate(&specs, &[1, 1, 2, 2], &asks).watts, [10, 30, 30, 30]);
    assert_eq!(allocate(&[point(None, 11)], &[0, 0, 0], &[ask(A, 0, 0, 9); 3]).watts, [4, 4, 3]);
}

#[test]
fn least_draws_come_before_priorities_and_priorities_before_shares() {
    let asks = [ask(A, 1, 5, 60), ask(A, 9, 5, 60), ask(A, 1, 20, 60)];
    assert_eq!(allocate(&[point(None, 100)], &[0, 0, 0], &asks).watts, [20, 60, 20]);
    assert_eq!(allocate(&[point(None, 90)], &[0, 0, 0], &asks).watts, [10, 60, 20]);
    // Not even the least draws fit: they are shared, and the answer says how far they are from it.
    assert_eq!(allocate(&[point(None, 21)], &[0, 0, 0], &asks).watts, [5, 5, 11]);
}

#[test]
fn a_floor_holds_against_any_priority_and_no_further() {
    let mut specs = [point(None, 100), point(Some(0), 60)];
    specs[1].floors = vec![(B, 40)];
    let asks = [ask(A, 9, 0, 90), ask(B, 0, 0, 90), ask(B, 1, 0, 15), ask(A, 9, 0, 90)];
    let answer = allocate(&specs, &[1, 1, 1, 0], &asks);
    assert_eq!(answer.kept_watts, [0, 25, 15, 0]);
    assert_eq!(answer.watts, [20, 25, 15, 40]);
}

#[test]
fn a_floor_within_a_floor_is_kept_once() {
    let mut specs = [point(None, 100), point(Some(0), 60), point(Some(0), 60)];
    specs[0].floors = vec![(B, 20)];
    specs[1].floors = vec![(B, 20)];
    let asks = [ask(B, 0, 0, 90), ask(B, 0, 0, 90), ask(A, 5, 0, 90), ask(A, 5, 0, 90)];
    let answer = allocate(&specs, &[1, 2, 1, 2], &asks);
    assert_eq!(answer.kept_watts, [20, 0, 0, 0]);
    assert_eq!(answer.watts, [20, 0, 40, 40]);
}

#[test]
fn a_second_allocation_does_not_remember_the_first() {
    let tree = PowerTree::new(&[point(None, 50)]);
    let mut allocator = Allocator::new(&tree, &[PowerId(0), PowerId(0)]);
    let mut answer = Allocation::default();
    for asks in [[ask(A, 0, 9, 90), ask(A, 3, 0, 90)], [ask(A, 0, 0, 10), ask(B, 0, 0, 10)]] {
        let mut fresh = Allocation::default();
        Allocator::new(&tree, &[PowerId(0), PowerId(0)]).allocate(&tree, &asks, &mut fresh);
        allocator.allocate(&tree, &asks, &mut answer);
        assert_eq!(answer, fresh);
    }
    assert_eq!(answer.watts, [10, 10]);
}

#[test]
fn consumers_without_a_tree_get_what_they_ask() {
    assert_eq!(allocate(&[], &[3, 0], &[ask(A, 0, 1, 70), ask(B, 2, 0, 5)]).watts, [70, 5]);
}

/// Up to five points and five consumers, small enough to try every answer.
fn small() -> impl Strategy<Value = (Vec<PowerSpec>, Vec<u32>, Vec<Ask>)> {
    let points = prop::collection::vec((any::<u32>(), 0_i64..9), 1..5);
    let consumers = prop::collection::vec((any::<u32>(), 0_u8..2, 0_i16..2, 0_i64..3, 0_i64..6), 1..5);
    (points, consumers, 0_i64..6, any::<u32>()).prop_map(|(points, consumers, floor, floored)| {
        let count = u32::try_from(points.len()).unwrap();
        let mut specs: Vec<PowerSpec> = (0_u32..)
            .zip(&points)
            .map(|(at, &(parent, cap))| point((at > 0).then(|| parent % at.max(1)), cap + i64::from(at == 0) * 3))
            .collect();
        let floored = &mut specs[(floored % count) as usize];
        floored.floors = vec![(B, floor.min(floored.cap_watts))];
        let places = consumers.iter().map(|&(power, ..)| power % count).collect();
        let asks = consumers
            .iter()
            .map(|&(_, class, priority, least, more)| ask(TenantClass(class), priority, least, least + more));
        (specs, places, asks.collect())
    })
}

/// Every vector of watts within asks and caps.
fn all_answers(tree: &PowerTree, points: &[u32], asks: &[Ask]) -> Vec<Vec<i64>> {
    let mut answers = vec![vec![]];
    for ask in asks {
        answers = answers
            .iter()
            .flat_map(|answer: &Vec<i64>| (0..=ask.ask_watts).map(move |watts| [&answer[..], &[watts]].concat()))
            .collect();
    }
    answers.retain(|answer| {
        let mut loads = vec![0; tree.len()];
        for (&watts, &point) in answer.iter().zip(points) {
            let mut at = Some(PowerId(point));
            while let Some(power) = at {
                loads[power.0 as usize] += watts;
                at = tree.parent(power);
            }
        }
        (0_u32..).zip(&loads).all(|(at, &load)| load <= tree.cap(PowerId(at)))
    });
    answers
}

/// Augmenting paths (Edmonds and Karp 1972) over a matrix of capacities: source, points, consumers, sink.
fn maximal_flow(specs: &[PowerSpec], points: &[u32], asks: &[Ask]) -> i64 {
    let (source, sink, size) = (0, 1 + specs.len() + asks.len(), 2 + specs.len() + asks.len());
    let mut room = vec![vec![0; size]; size];
    for (at, spec) in specs.iter().enumerate() {
        room[spec.parent.map_or(source, |parent| 1 + parent.0 as usize)][1 + at] = spec.cap_watts;
    }
    for (at, (ask, &point)) in asks.iter().zip(points).enumerate() {
        room[1 + point as usize][1 + specs.len() + at] = ask.ask_watts;
        room[1 + specs.len() + at][sink] = ask.ask_watts;
    }
    let mut flow = 0;
    loop {
        let mut from = vec![None; size];
        let mut queue = std::collections::VecDeque::from([source]);
        while let Some(at) = queue.pop_front() {
            for next in 0..size {
                if next != source && from[next].is_none() && room[at][next] > 0 {
                    from[next] = Some(at);
                    queue.push_back(next);
                }
            }
        }
        let path: Vec<(usize, usize)> =
            std::iter::successors(from[sink].map(|at| (at, sink)), |&(at, _)| from[at].map(|before| (before, at)))
                .collect();
        let Some(push) = path.iter().map(|&(a, b)| room[a][b]).min() else { return flow };
        for (a, b) in path {
            room[a][b] -= push;
            room[b][a] += push;
        }
        flow += push;
    }
}

/// What each consumer of one priority has, least first.
fn sorted(answer: &[i64], asks: &[Ask], priority: i16) -> Vec<i64> {
    let mut watts: Vec<i64> =
        answer.iter().zip(asks).filter(|(_, ask)| ask.priority == priority).map(|(&watts, _)| watts).collect();
    watts.sort_unstable();
    watts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_sum_is_the_maximal_flow((specs, points, asks) in small()) {
        let answer = allocate(&specs, &points, &asks);
        prop_assert_eq!(answer.watts.iter().sum::<i64>(), maximal_flow(&specs, &points, &asks));
    }

    /// No answer that grants the same kept watts gives the highest priority a better vector, nor, with that one's
    /// watts as they are, the next.
    #[test]
    fn no_answer_at_all_is_fairer((specs, points, asks) in small()) {
        let answer = allocate(&specs, &points, &asks);
        let tree = PowerTree::new(&specs);
        let mut others = all_answers(&tree, &points, &asks);
        others.retain(|other| other.iter().zip(&answer.kept_watts).all(|(watts, kept)| watts >= kept));
        for priority in [1, 0] {
            let ours = sorted(&answer.watts, &asks, priority);
            let best = others.iter().map(|other| sorted(other, &asks, priority)).max().unwrap();
            prop_assert_eq!(ours, best);
            others.retain(|other| {
                (0..asks.len()).all(|at| asks[at].priority != priority || other[at] == answer.watts[at])
            });
        }
    }

    /// Where some answer grants every least draw and the floor, ours does.
    #[test]
    fn what_can_be_kept_is_kept((specs, points, asks) in small()) {
        let answer = allocate(&specs, &points, &asks);
        let tree = PowerTree::new(&specs);
        let (at, floor) = specs.iter().enumerate().find_map(|(at, spec)| Some((at, spec.floors.first()?.1))).unwrap();
        let held = |watts: &[i64]| {
            let below = |point: u32| {
                std::iter::successors(Some(PowerId(point)), |&power| tree.parent(power)).any(|power| power.0 as usize == at)
            };
            let of_class = |&consumer: &usize| asks[consumer].class == B && below(points[consumer]);
            let asked: i64 = (0..asks.len()).filter(of_class).map(|consumer| asks[consumer].ask_watts).sum();
            let has: i64 = (0..asks.len()).filter(of_class).map(|consumer| watts[consumer]).sum();
            has >= floor.min(asked) && watts.iter().zip(&asks).all(|(&watts, ask)| watts >= ask.least_watts)
        };
        if all_answers(&tree, &points, &asks).iter().any(|other| held(other)) {
            prop_assert!(held(&answer.watts), "{:?}", answer);
        }
    }
}
