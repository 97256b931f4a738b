use proptest::prelude::*;

use super::yard::*;
use super::*;
use crate::fleet::{PowerSpec, SliceSpec};
use crate::reason::Resource;
use crate::request::Gpus;
use crate::units::SliceId;

fn victims(decision: &Decision) -> Vec<u64> {
    decision.victims.iter().map(|victim| victim.lease.0).collect()
}

#[test]
fn a_lower_priority_of_the_same_queue_gives_way() {
    let mut yard = Yard::new(1);
    yard.lease(0, &[0], 2);
    let decision = yard.decide(&urgent(Gpus::Whole(8), 1)).unwrap();
    assert_eq!(victims(&decision), [1]);
    assert_eq!(decision.victims[0].cause, PreemptionCause::Priority);
    assert_eq!(decision.nodes, [0]);
    assert_eq!((decision.lost_gpu_seconds, decision.gained_gpu_seconds), (16 * HOUR, 8 * HORIZON_SECONDS));
    assert_eq!(decision.bound_gpu_seconds, decision.lost_gpu_seconds);
}

#[test]
fn an_equal_priority_another_queue_and_what_may_not_be_stopped_stay() {
    let mut yard = Yard::new(3);
    yard.lease(0, &[0], 0).request.priority = 1;
    yard.lease(1, &[1], 0);
    yard.lease(0, &[2], 0).request.stop = Stop::Never;
    assert_eq!(yard.decide(&urgent(Gpus::Whole(8), 1)), Err(Declined::NoVictims));
}

#[test]
fn a_queue_takes_back_what_it_is_guaranteed() {
    let mut yard = Yard::new(2);
    yard.queues = vec![queue(8, None), queue(8, None)];
    yard.lease(1, &[0], 1);
    yard.lease(1, &[1], 2);
    let decision = yard.decide(&request(0, Gpus::Whole(8), 1)).unwrap();
    assert_eq!(victims(&decision), [1]);
    assert_eq!(decision.victims[0].cause, PreemptionCause::Reclaim);
    assert_eq!(yard.decide(&request(0, Gpus::Whole(8), 2)), Err(Declined::NoVictims), "sixteen are not guaranteed");
}

#[test]
fn a_queue_within_its_guarantee_keeps_what_it_has() {
    let mut yard = Yard::new(2);
    yard.queues = vec![queue(16, None), queue(16, None)];
    yard.lease(1, &[0], 0);
    yard.lease(1, &[1], 0);
    assert_eq!(yard.decide(&request(0, Gpus::Whole(8), 1)), Err(Declined::NoVictims));
}

#[test]
fn a_queue_gives_back_only_what_it_borrowed() {
    let mut yard = Yard::new(3);
    yard.queues = vec![queue(24, None), queue(15, None), queue(0, None)];
    yard.lease(1, &[0], 0);
    yard.lease(1, &[1], 0);
    yard.grant(1, Gpus::Whole(4), &[(2, GpuGrant::Whole(0xF))], 0);
    yard.grant(2, Gpus::Whole(4), &[(2, GpuGrant::Whole(0xF0))], 0);
    assert_eq!(victims(&yard.decide(&request(0, Gpus::Whole(8), 1)).unwrap()), [1], "five of twenty are borrowed");
    let two = yard.decide(&request(0, Gpus::Whole(8), 2)).unwrap();
    assert_eq!(victims(&two), [1, 3, 4], "four of the first queue, then the lease that reaches into its guarantee");
    assert_eq!(yard.decide(&request(0, Gpus::Whole(8), 3)), Err(Declined::NoRoom));
}

#[test]
fn a_queue_between_that_borrows_nothing_protects_those_below() {
    let mut yard = Yard::new(2);
    yard.queues = vec![queue(16, None), queue(16, None), queue(0, None)];
    yard.queues[2].parent = Some(QueueId(1));
    yard.lease(2, &[0, 1], 0);
    assert_eq!(yard.decide(&request(0, Gpus::Whole(8), 1)), Err(Declined::NoVictims));
    yard.queues[1].guaranteed = gpus(8);
    assert_eq!(victims(&yard.decide(&request(0, Gpus::Whole(8), 1)).unwrap()), [1]);
}

#[test]
fn the_work_that_is_saved_is_not_lost() {
    let mut yard = Yard::new(2);
    yard.lease(0, &[0], 3);
    let saved = yard.lease(0, &[1], 50);
    saved.request.stop = Stop::Checkpoint { cost_seconds: 60 };
    saved.saved_at = NOW.plus(-600);
    let decision = yard.decide(&urgent(Gpus::Whole(8), 1)).unwrap();
    assert_eq!(victims(&decision), [2]);
    assert_eq!(decision.lost_gpu_seconds, 8 * 660);
}

#[test]
fn a_gang_is_counted_once() {
    let mut yard = Yard::new(6);
    yard.lease(0, &[0, 1, 2], 2);
    for node in 3..6 {
        yard.lease(0, &[node], 3);
    }
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Whole(8), 3)).unwrap()), [1], "48 hours for three nodes");
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Whole(8), 1)).unwrap()), [2], "24 against 48 for one");
}

#[test]
fn the_cheapest_rack_is_cleared_and_free_nodes_are_used() {
    let mut yard = Yard::new(12);
    for node in 0..12 {
        if node != 9 {
            yard.lease(0, &[node], if node < 8 { 1 } else { 2 });
        }
    }
    let decision = yard.decide_in_racks(&urgent(Gpus::Whole(8), 2)).unwrap();
    assert_eq!((decision.nodes.clone(), decision.lost_gpu_seconds), (vec![0, 1], 16 * HOUR));
    let decision = yard.decide_in_racks(&urgent(Gpus::Whole(8), 4)).unwrap();
    assert_eq!((decision.nodes, decision.lost_gpu_seconds), (vec![0, 1, 2, 3], 32 * HOUR));
    let decision = yard.decide(&urgent(Gpus::Whole(8), 2)).unwrap();
    assert_eq!((decision.nodes, decision.lost_gpu_seconds), (vec![0, 9], 8 * HOUR));
}

#[test]
fn whoever_is_not_needed_beside_a_large_gang_stays() {
    let mut yard = Yard::new(72);
    yard.lease(0, &(0..70).collect::<Vec<_>>(), 2);
    yard.lease(0, &[70], 1);
    yard.lease(0, &[71], 1);
    let decision = yard.decide(&urgent(Gpus::Whole(8), 70)).unwrap();
    assert_eq!(victims(&decision), [1], "with both others only sixty-eight of its nodes are needed, but all are freed");
    assert_eq!(decision.bound_gpu_seconds, (68 * 16 + 2 * 8) * HOUR);
}

#[test]
fn more_is_not_lost_than_the_gain_allows() {
    let mut yard = Yard::new(1);
    yard.lease(0, &[0], 7);
    let seven_of_24 = Declined::Loss { lost_gpu_seconds: 56 * HOUR, gained_gpu_seconds: 8 * 24 * HOUR };
    assert_eq!(yard.decide(&urgent(Gpus::Whole(8), 1)), Err(seven_of_24));
    yard.loss_milli = 292;
    assert!(yard.decide(&urgent(Gpus::Whole(8), 1)).is_ok());
    let short = Request { run_seconds: Some(3600), ..urgent(Gpus::Whole(8), 1) };
    assert!(matches!(yard.decide(&short), Err(Declined::Loss { .. })), "an hour's run gains an hour");
}

#[test]
fn of_equal_losses_fewer_leases_stop() {
    let mut yard = Yard::new(2);
    for gpu in 0..8 {
        yard.grant(0, Gpus::Whole(1), &[(0, GpuGrant::Whole(1 << gpu))], 0);
    }
    yard.lease(0, &[1], 0);
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Whole(8), 1)).unwrap()), [9]);
}

#[test]
fn cpu_is_made_free_beside_the_gpus() {
    let mut yard = Yard::new(1);
    yard.grant(0, Gpus::Whole(2), &[(0, GpuGrant::Whole(0b11))], 1);
    let hungry = yard.grant(0, Gpus::Whole(1), &[(0, GpuGrant::Whole(0b100))], 2);
    hungry.request.shape.cpu_milli = 60_000;
    let mut asked = urgent(Gpus::Whole(5), 1);
    asked.shape.cpu_milli = 32_000;
    assert_eq!(victims(&yard.decide(&asked).unwrap()), [2], "the GPUs are free");
}

#[test]
fn a_part_of_a_gpu_takes_the_place_of_the_cheapest_parts() {
    let mut yard = Yard::new(1);
    yard.lease(0, &[0], 5);
    yard.leases[0].grants[0].gpus = GpuGrant::Whole(0xFC);
    yard.leases[0].request.shape.gpus = Gpus::Whole(6);
    for (gpu, milli, hours) in [(0, 600, 3), (0, 400, 1), (1, 500, 1), (1, 500, 2)] {
        yard.grant(0, Gpus::Milli(milli), &[(0, GpuGrant::Milli { gpu, milli })], hours);
    }
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Milli(400), 1)).unwrap()), [3]);
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Milli(500), 1)).unwrap()), [4]);
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Milli(900), 1)).unwrap()), [4, 5]);
}

#[test]
fn a_slice_takes_the_place_of_those_in_one_position() {
    let mut yard = Yard::new(1);
    let small = SliceSpec { positions: (0..8).map(|at| 1 << at).collect(), compute: 1 };
    let half = SliceSpec { positions: vec![0x0F, 0xF0], compute: 3 };
    yard.models = vec![ModelSpec { slices: vec![small, half] }];
    yard.lease(0, &[0], 5);
    yard.leases[0].grants[0].gpus = GpuGrant::Whole(0xFE);
    yard.leases[0].request.shape.gpus = Gpus::Whole(7);
    for (slots, hours) in [(0x01, 1), (0x02, 1), (0x10, 1)] {
        yard.grant(0, Gpus::Slice(SliceId(0)), &[(0, GpuGrant::Slice { gpu: 0, slots })], hours);
    }
    assert_eq!(victims(&yard.decide(&urgent(Gpus::Slice(SliceId(1)), 1)).unwrap()), [4]);
}

#[test]
fn at_its_limit_a_queue_makes_room_in_itself() {
    let mut yard = Yard::new(3);
    yard.queues = vec![queue(0, Some(16)), queue(0, None)];
    yard.lease(0, &[0], 2);
    yard.lease(0, &[1], 1);
    let decision = yard.decide(&urgent(Gpus::Whole(8), 1)).unwrap();
    assert_eq!(victims(&decision), [2], "the third node is free, but sixteen are the limit");
    let block = QuotaBlock { queue: QueueId(0), resource: Resource::Gpu, limit: 16_000, used: 0, asked: 24_000 };
    assert_eq!(yard.decide(&urgent(Gpus::Whole(8), 3)), Err(Declined::Quota(block)));
}

#[test]
fn under_a_full_cap_power_is_made_free() {
    let mut yard = Yard::new(3);
    yard.power.push(PowerSpec { parent: Some(PowerId(0)), cap_watts: 2000, floors: Vec::new() });
    yard.lease(0, &[0], 2);
    yard.lease(0, &[1], 1);
    let decision = yard.decide(&urgent(Gpus::Whole(8), 1)).unwrap();
    assert_eq!(victims(&decision), [2], "the third node is free, but the watts are not");
    yard.lease(0, &[2], 0).request.stop = Stop::Never;
    let mut thirsty = urgent(Gpus::Whole(8), 1);
    thirsty.shape.peak_watts = 1500;
    assert!(matches!(yard.decide(&thirsty), Err(Declined::Power(_))));
}

/// Up to eight nodes in racks of four with up to twelve leases, some of them gangs, of three queues.
fn yards() -> impl Strategy<Value = Yard> {
    let lease = (0_u32..3, 0_u32..8, 1_u32..4, 1_u8..9, 0_i64..5, -1_i16..2, 0_u8..8);
    let yard = (4_u32..9, proptest::collection::vec(lease, 1..=12), proptest::collection::vec(0_i64..40, 3));
    yard.prop_map(|(nodes, leases, guaranteed)| {
        let mut yard = Yard::new(nodes);
        yard.queues = guaranteed.into_iter().map(|guaranteed| queue(guaranteed, None)).collect();
        yard.loss_milli = u32::MAX;
        let mut used = vec![0_u8; nodes as usize];
        for (queue, first, span, count, hours, priority, stop) in leases {
            let mut grants = Vec::new();
            for node in (0..span).map(|step| (first + step) % nodes) {
                let used = &mut used[node as usize];
                if *used + count <= 8 && grants.iter().all(|(other, _)| *other != node) {
                    let mask = ((1_u16 << count) - 1) << *used;
                    grants.push((node, GpuGrant::Whole(mask)));
                    *used += count;
                }
            }
            if !grants.is_empty() {
                let lease = yard.grant(queue, Gpus::Whole(count), &grants, hours);
                lease.request.priority = priority;
                if stop == 0 {
                    lease.request.stop = Stop::Never;
                }
            }
        }
        yard
    })
}

/// The least that any allowed set of victims loses, in thousandths of GPU-seconds, by trying all.
fn by_trying_all(yard: &Yard, request: &Request, racks: &[u32]) -> Option<u64> {
    let shares = yard.shares();
    let needed = usize::from(request.shape.nodes.min);
    let asks = amount(request, needed);
    let mut least = None;
    'sets: for set in 0..1_u32 << yard.leases.len() {
        let chosen: Vec<&Lease> =
            (0..yard.leases.len()).filter(|at| set >> at & 1 == 1).map(|at| &yard.leases[at]).collect();
        let mut loses = 0;
        let mut reclaimed: Vec<&Lease> = Vec::new();
        for lease in &chosen {
            if lease.request.stop == Stop::Never {
                continue 'sets;
            }
            if lease.request.queue == request.queue {
                if lease.request.priority >= request.priority {
                    continue 'sets;
                }
            } else if shares.is_guaranteed(request.queue, &asks) {
                reclaimed.push(lease);
            } else {
                continue 'sets;
            }
            let gpus: u32 = places(lease).map(|(_, gpus)| bits(gpus)).sum();
            loses += (NOW.since(lease.started_at).unsigned_abs() * u64::from(gpus) * 1000).max(1);
        }
        // All but the largest of each queue must leave it above its guarantee.
        for queue in (0..3).map(QueueId) {
            let sizes = reclaimed.iter().filter(|lease| lease.request.queue == queue);
            let sizes: Vec<i64> = sizes.map(|lease| amount(&lease.request, lease.grants.len()).gpu_milli).collect();
            let rest = sizes.iter().sum::<i64>() - sizes.iter().max().copied().unwrap_or(0);
            let guaranteed = yard.queues[queue.0 as usize].guaranteed.gpu_milli;
            if !sizes.is_empty() && shares.used(queue).gpu_milli - rest <= guaranteed {
                continue 'sets;
            }
        }
        let mut free = vec![8_u32; yard.nodes as usize];
        for lease in yard.leases.iter().filter(|lease| chosen.iter().all(|other| other.id != lease.id)) {
            places(lease).for_each(|(node, gpus)| free[node as usize] -= bits(gpus));
        }
        let Gpus::Whole(count) = request.shape.gpus else { unreachable!() };
        let has_room = racks.iter().any(|rack| {
            let clear = |node: &usize| racks[*node] == *rack && free[*node] >= u32::from(count);
            (0..free.len()).filter(clear).count() >= needed
        });
        if has_room && least.is_none_or(|least| loses < least) {
            least = Some(loses);
        }
    }
    least
}

fn bits(gpus: GpuGrant) -> u32 {
    let GpuGrant::Whole(mask) = gpus else { unreachable!() };
    mask.count_ones()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn among_a_dozen_leases_no_set_loses_less(
        yard in yards(),
        count in 1_u8..9,
        nodes in 1_usize..5,
        in_racks in proptest::bool::ANY,
    ) {
        let asked = urgent(Gpus::Whole(count), nodes);
        let domain_of = if in_racks { yard.racks() } else { vec![0; yard.nodes as usize] };
        let least = by_trying_all(&yard, &asked, &domain_of);
        match yard.decide_on(&yard.ground(), &asked, &domain_of) {
            Ok(decision) => {
                let least = least.expect("what was found was found by trying all");
                prop_assert_eq!(decision.lost_gpu_seconds, seconds_up(least));
                prop_assert!(decision.bound_gpu_seconds <= decision.lost_gpu_seconds);
                prop_assert_eq!(decision.nodes.len(), nodes);
                prop_assert!(decision.nodes.windows(2).all(|pair| pair[0] < pair[1]));
            }
            Err(Declined::NoVictims) => prop_assert!(least.is_none_or(|least| least == 0)),
            Err(_) => prop_assert_eq!(least, None),
        }
    }
}
