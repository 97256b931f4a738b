use std::cmp::Ordering;

use proptest::prelude::*;

use super::filling::max_min;
use super::*;

const FLEET: Amount = Amount { gpu_milli: 64_000, cpu_milli: 1_024_000, memory_mib: 8_000_000, watts: 80_000 };

fn gpus(count: i64) -> Amount {
    Amount { gpu_milli: count * 1000, ..Amount::default() }
}

fn queue(parent: Option<u32>, weight: u32, guaranteed: i64, limit: Option<i64>) -> QueueSpec {
    let unlimited = Amount { gpu_milli: 0, cpu_milli: i64::MAX, memory_mib: i64::MAX, watts: i64::MAX };
    QueueSpec {
        parent: parent.map(QueueId),
        weight,
        guaranteed: gpus(guaranteed),
        limit: limit.map(|limit| Amount { gpu_milli: limit * 1000, ..unlimited }),
    }
}

fn awake(queues: &[QueueSpec]) -> Shares {
    let mut shares = Shares::new(FLEET, queues);
    for leaf in leaves(queues) {
        shares.wake(leaf);
    }
    shares
}

fn leaves(queues: &[QueueSpec]) -> Vec<QueueId> {
    (0..u32::try_from(queues.len()).unwrap())
        .map(QueueId)
        .filter(|&queue| queues.iter().all(|other| other.parent != Some(queue)))
        .collect()
}

#[test]
fn a_queue_below_its_guarantee_comes_before_one_that_borrows() {
    let mut shares = awake(&[queue(None, 100, 0, None), queue(None, 1, 4, None)]);
    shares.charge(QueueId(1), &gpus(3));
    assert_eq!(shares.next(), Some(QueueId(1)), "three of four guaranteed, against nothing used");
    shares.charge(QueueId(1), &gpus(1));
    assert_eq!(shares.next(), Some(QueueId(0)));
}

#[test]
fn the_resource_of_which_a_queue_takes_most_decides() {
    let mut shares = awake(&[queue(None, 1, 0, None), queue(None, 1, 0, None)]);
    shares.charge(QueueId(0), &Amount { gpu_milli: 1000, cpu_milli: 512_000, ..Amount::default() });
    shares.charge(QueueId(1), &gpus(16));
    assert_eq!(shares.next(), Some(QueueId(1)), "a quarter of the GPUs is less than half of the CPU");
}

#[test]
fn the_heavier_of_two_gets_as_much_more() {
    let mut shares = awake(&[queue(None, 3, 0, None), queue(None, 1, 0, None)]);
    let mut taken = [0, 0];
    for _ in 0..40 {
        let next = shares.next().unwrap();
        shares.charge(next, &gpus(1));
        taken[next.0 as usize] += 1;
    }
    assert_eq!(taken, [30, 10]);
}

#[test]
fn a_parked_queue_is_passed_over_and_its_parent_with_it() {
    let queues = [queue(None, 1, 0, None), queue(Some(0), 1, 0, None), queue(None, 1, 0, None)];
    let mut shares = awake(&queues);
    assert_eq!(shares.next(), Some(QueueId(1)));
    shares.park(QueueId(1));
    assert_eq!(shares.next(), Some(QueueId(2)));
    shares.park(QueueId(2));
    assert_eq!(shares.next(), None);
    shares.charge(QueueId(2), &gpus(1));
    shares.wake(QueueId(2));
    shares.wake(QueueId(1));
    assert_eq!(shares.next(), Some(QueueId(1)));
}

#[test]
fn without_queues_nothing_comes_next() {
    assert_eq!(Shares::new(FLEET, &[]).next(), None);
}

#[test]
fn a_limit_above_the_queue_is_named() {
    let queues = [queue(None, 1, 0, Some(8)), queue(Some(0), 1, 0, Some(100)), queue(Some(0), 1, 0, None)];
    let mut shares = awake(&queues);
    shares.charge(QueueId(2), &gpus(5));
    assert_eq!(shares.verdict(QueueId(1), &gpus(3)), Ok(()));
    let block = shares.verdict(QueueId(1), &gpus(4)).unwrap_err();
    let said = QuotaBlock { queue: QueueId(0), resource: Resource::Gpu, limit: 8000, used: 5000, asked: 4000 };
    assert_eq!(block, said);
    assert_eq!(shares.verdict_without(QueueId(1), &gpus(4), |queue| gpus(i64::from(queue == QueueId(0)))), Ok(()));
}

#[test]
fn queues_part_below_what_is_above_both() {
    let queues = [
        queue(None, 1, 0, None),
        queue(Some(0), 1, 0, None),
        queue(Some(1), 1, 0, None),
        queue(Some(0), 1, 0, None),
        queue(None, 1, 0, None),
    ];
    let shares = awake(&queues);
    assert_eq!(shares.fork(QueueId(2), QueueId(3)), Some((QueueId(1), QueueId(3))));
    assert_eq!(shares.fork(QueueId(4), QueueId(2)), Some((QueueId(4), QueueId(0))));
    assert_eq!(shares.fork(QueueId(2), QueueId(2)), None);
    assert_eq!(shares.fork(QueueId(2), QueueId(0)), None);
}

#[test]
fn products_of_large_numbers_are_exact() {
    let share = |used, of, weight| Share { below_guarantee: false, used, of, weight };
    let large = share(u64::MAX, u64::MAX - 1, u32::MAX);
    let larger = share(u64::MAX, u64::MAX - 2, u32::MAX);
    assert_eq!(large.order(&larger), Ordering::Less);
    assert_eq!(larger.order(&large), Ordering::Greater);
    assert_eq!(large.order(&large), Ordering::Equal);
}

#[test]
fn an_inner_queue_that_says_nothing_has_what_its_children_were_promised() {
    // Two departments; only a team of the second is guaranteed something. The first uses nothing yet.
    let queues =
        [queue(None, 1, 0, None), queue(None, 1, 0, None), queue(Some(0), 1, 0, None), queue(Some(1), 1, 4, None)];
    let mut shares = awake(&queues);
    for _ in 0..4 {
        assert_eq!(shares.next(), Some(QueueId(3)), "its guarantee comes before anybody's share");
        shares.charge(QueueId(3), &gpus(1));
    }
    assert_eq!(shares.next(), Some(QueueId(2)));
    assert_eq!(max_min(5000, &queues, &[0, 0, 9000, 9000], Resource::Gpu), [1000, 4000, 1000, 4000]);
    // It follows when the promise goes.
    shares.set_quota(QueueId(3), 1, Amount::default(), None);
    assert!(!shares.share(QueueId(1)).below_guarantee && !shares.is_guaranteed(QueueId(1), &Amount::default()));
}

/// Four inner queues over up to twelve leaves, two of the inner ones below another.
fn trees() -> impl Strategy<Value = Vec<QueueSpec>> {
    let leaf = (0_u32..4, 1_u32..5, 0_i64..6, proptest::option::of(0_i64..30));
    let inner = (1_u32..5, 0_i64..20, proptest::option::of(10_i64..60));
    (proptest::collection::vec(inner, 4), proptest::collection::vec(leaf, 1..12)).prop_map(|(inner, leaves)| {
        let above = [None, None, Some(0), Some(1)];
        let inner = inner
            .iter()
            .zip(above)
            .map(|(&(weight, guaranteed, limit), parent)| queue(parent, weight, guaranteed, limit));
        let leaves =
            leaves.iter().map(|&(parent, weight, guaranteed, limit)| queue(Some(parent), weight, guaranteed, limit));
        inner.chain(leaves).collect()
    })
}

fn amounts() -> impl Strategy<Value = Amount> {
    (0_i64..9, 0_i64..200, 0_i64..300, 0_i64..9).prop_map(|(gpus, cpus, gibs, kilowatts)| Amount {
        gpu_milli: gpus * 1000,
        cpu_milli: cpus * 1000,
        memory_mib: gibs * 1024,
        watts: kilowatts * 1000,
    })
}

/// The same choice by the definition: at each inner queue look at every child.
fn plain_choice(queues: &[QueueSpec], used: &[Amount], awake: &[bool]) -> Option<QueueId> {
    fn has_work(queues: &[QueueSpec], awake: &[bool], queue: usize) -> bool {
        awake[queue] || (0..queues.len()).any(|q| child_of(queues, q, Some(queue)) && has_work(queues, awake, q))
    }
    fn child_of(queues: &[QueueSpec], queue: usize, parent: Option<usize>) -> bool {
        queues[queue].parent.map(|parent| parent.0 as usize) == parent
    }
    // What it says, or what its children have together.
    fn guaranteed(queues: &[QueueSpec], queue: usize) -> Amount {
        let children = (0..queues.len()).filter(|&child| child_of(queues, child, Some(queue)));
        let below = children.fold(Amount::default(), |sum, child| sum.plus(&guaranteed(queues, child)));
        let own = &queues[queue].guaranteed;
        Amount {
            gpu_milli: own.gpu_milli.max(below.gpu_milli),
            cpu_milli: own.cpu_milli.max(below.cpu_milli),
            memory_mib: own.memory_mib.max(below.memory_mib),
            watts: own.watts.max(below.watts),
        }
    }
    // (borrows, numerator, denominator), all below 2^63.
    let key = |queue: usize| -> (bool, i128, i128) {
        let spec = &queues[queue];
        let part = |of: &Amount| -> Option<(i128, i128)> {
            let parts = Resource::ALL.iter().filter(|&&r| of.of(r) > 0);
            parts
                .map(|&r| (i128::from(used[queue].of(r)), i128::from(of.of(r))))
                .reduce(|a, b| if b.0 * a.1 > a.0 * b.1 { b } else { a })
        };
        match part(&guaranteed(queues, queue)) {
            Some((a, b)) if a < b => (false, a, b),
            _ => part(&FLEET).map_or((true, 0, 1), |(a, b)| (true, a, b * i128::from(spec.weight))),
        }
    };
    let mut at: Option<usize> = None;
    loop {
        let mut best: Option<usize> = None;
        for queue in 0..queues.len() {
            if !child_of(queues, queue, at) || !has_work(queues, awake, queue) {
                continue;
            }
            let better = best.is_none_or(|best| {
                let ((late, a, b), (best_late, c, d)) = (key(queue), key(best));
                late.cmp(&best_late).then((a * d).cmp(&(c * b))) == Ordering::Less
            });
            if better {
                best = Some(queue);
            }
        }
        let best = best?;
        if awake[best] {
            return Some(QueueId(u32::try_from(best).unwrap()));
        }
        at = Some(best);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn picks_are_those_of_the_definition(
        queues in trees(),
        acts in proptest::collection::vec((0_u8..8, 0_usize..12, amounts()), 1..80),
    ) {
        let leaves = leaves(&queues);
        let mut shares = Shares::new(FLEET, &queues);
        let mut queues = queues;
        let mut used = vec![Amount::default(); queues.len()];
        let mut awake = vec![false; queues.len()];
        let mut charged: Vec<(QueueId, Amount)> = Vec::new();
        for (act, at, amount) in acts {
            let leaf = leaves[at % leaves.len()];
            match act {
                0 | 1 => {
                    shares.wake(leaf);
                    awake[leaf.0 as usize] = true;
                }
                2 => {
                    shares.park(leaf);
                    awake[leaf.0 as usize] = false;
                }
                3 => if let Some((leaf, amount)) = charged.pop() {
                    shares.refund(leaf, &amount);
                    let mut place = Some(leaf);
                    while let Some(queue) = place {
                        used[queue.0 as usize] = used[queue.0 as usize].minus(&amount);
                        place = queues[queue.0 as usize].parent;
                    }
                },
                4 => {
                    let place = at % queues.len();
                    queues[place].guaranteed = amount;
                    queues[place].weight += 1;
                    let spec = &queues[place];
                    shares.set_quota(QueueId(u32::try_from(place).unwrap()), spec.weight, amount, spec.limit);
                }
                _ => {
                    let leaf = shares.next().unwrap_or(leaf);
                    shares.charge(leaf, &amount);
                    charged.push((leaf, amount));
                    let mut place = Some(leaf);
                    while let Some(queue) = place {
                        used[queue.0 as usize] = used[queue.0 as usize].plus(&amount);
                        place = queues[queue.0 as usize].parent;
                    }
                }
            }
            prop_assert_eq!(shares.next(), plain_choice(&queues, &used, &awake));
            prop_assert_eq!(&shares.used[..queues.len()], &used[..]);
        }
    }

    #[test]
    fn what_is_charged_and_refunded_leaves_no_trace(
        queues in trees(),
        charges in proptest::collection::vec((0_usize..12, amounts()), 1..40),
    ) {
        let leaves = leaves(&queues);
        let mut shares = awake(&queues);
        let mut before = Shares::new(Amount::default(), &[]);
        before.clone_from(&shares);
        for (leaf, amount) in &charges {
            shares.charge(leaves[leaf % leaves.len()], amount);
        }
        for (leaf, amount) in charges.iter().rev() {
            shares.refund(leaves[leaf % leaves.len()], amount);
        }
        prop_assert_eq!(&shares.used, &before.used);
        prop_assert_eq!(&shares.shares, &before.shares);
        prop_assert_eq!(&shares.winners, &before.winners);
    }

    #[test]
    fn no_limit_is_exceeded_at_any_level(
        queues in trees(),
        sizes in proptest::collection::vec((1_i64..9, 0_i64..12), 12),
    ) {
        let shares = place_all(&queues, &sizes).shares;
        for (queue, spec) in queues.iter().enumerate() {
            if let Some(limit) = spec.limit {
                prop_assert!(shares.used[queue].gpu_milli <= limit.gpu_milli, "limit of queue {}", queue);
            }
        }
    }

    /// Above what is fair by at most one own request; below by at most one request of each sibling, by weight.
    #[test]
    fn whole_requests_come_within_one_of_what_is_fair(
        queues in trees(),
        sizes in proptest::collection::vec((1_i64..9, 0_i64..12), 12),
    ) {
        let mut queues = queues;
        for queue in &mut queues {
            (queue.limit, queue.guaranteed) = (None, Amount::default());
        }
        let placed = place_all(&queues, &sizes);
        for parent in std::iter::once(None).chain((0..4).map(|queue| Some(QueueId(queue)))) {
            let children: Vec<usize> = (0..queues.len()).filter(|&queue| queues[queue].parent == parent).collect();
            let used = |queue: usize| placed.shares.used[queue].gpu_milli;
            let siblings: Vec<QueueSpec> =
                children.iter().map(|&queue| QueueSpec { parent: None, ..queues[queue].clone() }).collect();
            let demand: Vec<i64> = children.iter().map(|&queue| placed.demand[queue]).collect();
            let all = children.iter().map(|&queue| used(queue)).sum();
            let fair = max_min(all, &siblings, &demand, Resource::Gpu);
            for (&queue, fair) in children.iter().zip(fair) {
                let weight = i64::from(queues[queue].weight);
                let behind = children.iter().map(|&other| {
                    weight * placed.largest[other] / i64::from(queues[other].weight) + 1
                });
                prop_assert!(used(queue) <= fair + placed.largest[queue], "queue {} has too much", queue);
                prop_assert!(used(queue) + 1 + behind.max().unwrap_or(0) >= fair, "queue {} has too little", queue);
            }
        }
    }

    #[test]
    fn filling_gives_all_there_is_and_to_nobody_more_than_asked(
        queues in trees(),
        demand in proptest::collection::vec(0_i64..40_000, 16),
        total in 0_i64..80_000,
    ) {
        let demand = &demand[..queues.len()];
        let given = max_min(total, &queues, demand, Resource::Gpu);
        let leaves = leaves(&queues);
        let parents: Vec<usize> =
            (0..queues.len()).filter(|&q| queues.iter().any(|other| other.parent == Some(QueueId(u32::try_from(q).unwrap())))).collect();
        for leaf in &leaves {
            prop_assert!(given[leaf.0 as usize] <= demand[leaf.0 as usize]);
        }
        for &parent in &parents {
            let below: i64 = (0..queues.len())
                .filter(|&q| queues[q].parent.is_some_and(|above| above.0 as usize == parent))
                .map(|q| given[q])
                .sum();
            prop_assert_eq!(below, given[parent], "queue {}", parent);
        }
    }
}

struct Placed {
    shares: Shares,
    /// Thousandths of GPUs, summed upwards.
    demand: Vec<i64>,
    /// Likewise, of the largest request.
    largest: Vec<i64>,
}

/// Each leaf asks `count` times for `size` GPUs; in order, until the first that does not fit.
fn place_all(queues: &[QueueSpec], sizes: &[(i64, i64)]) -> Placed {
    let mut shares = Shares::new(FLEET, queues);
    let (mut demand, mut largest) = (vec![0; queues.len()], vec![0; queues.len()]);
    let mut left = vec![(0, 0); queues.len()];
    for (leaf, &(size, count)) in leaves(queues).into_iter().zip(sizes) {
        left[leaf.0 as usize] = (size, count);
        for place in shares.path(leaf) {
            demand[place] += size * count * 1000;
            largest[place] = largest[place].max(size * 1000);
        }
        if count > 0 {
            shares.wake(leaf);
        }
    }
    let mut free = FLEET.gpu_milli;
    while let Some(leaf) = shares.next() {
        let (size, count) = &mut left[leaf.0 as usize];
        let asked = gpus(*size);
        if shares.verdict(leaf, &asked).is_err() {
            shares.park(leaf);
            continue;
        }
        if asked.gpu_milli > free {
            break;
        }
        shares.charge(leaf, &asked);
        free -= asked.gpu_milli;
        *count -= 1;
        if *count == 0 {
            shares.park(leaf);
        }
    }
    Placed { shares, demand, largest }
}
