use proptest::prelude::*;

use super::*;
use crate::fleet::PowerSpec;
use crate::preempt::yard::Yard;

/// Nodes with one lease of so many GPUs each, all of which can move.
fn used(gpus: &[u8]) -> Yard {
    let mut yard = Yard::new(u32::try_from(gpus.len()).unwrap());
    for (node, &gpus) in (0..).zip(gpus) {
        put(&mut yard, node, gpus);
    }
    yard
}

fn put(yard: &mut Yard, node: u32, gpus: u8) {
    let taken: u16 = yard
        .leases
        .iter()
        .flat_map(|lease| &lease.grants)
        .filter(|grant| grant.node.0 == u64::from(node))
        .map(|grant| if let GpuGrant::Whole(mask) = grant.gpus { mask } else { 0 })
        .sum();
    let mask = ((1_u32 << gpus) - 1) << taken.count_ones();
    if gpus > 0 && mask <= 0xFF {
        let grant = GpuGrant::Whole(u16::try_from(mask).unwrap());
        yard.grant(0, Gpus::Whole(gpus), &[(node, grant)], 1).request.stop = Stop::Checkpoint { cost_seconds: 60 };
    }
}

fn moved(yard: &Yard, most: usize) -> Vec<(u64, u64, u64)> {
    let mut power = yard.tree();
    let before = power.clone();
    let domain_of = yard.racks();
    let scope = Scope { models: &yard.models, domain_of: &domain_of, power: &mut power, most };
    let moves = moves(&yard.ground(), scope, |_, _| true);
    assert_eq!(power, before, "the power tree was only counted on");
    moves.iter().map(|step| (step.lease.0, step.from.node.0, step.to.node.0)).collect()
}

#[test]
fn the_smaller_of_two_halves_moves_to_the_other() {
    assert_eq!(moved(&used(&[4, 2]), 8), [(2, 1, 0)]);
    assert_eq!(moved(&used(&[8, 6, 1]), 8), [(3, 2, 1)], "into the fullest node with room");
    assert_eq!(moved(&used(&[4, 5]), 8), [], "nine do not fit on one");
}

#[test]
fn only_what_can_be_checkpointed_and_lies_on_one_node_moves() {
    let mut yard = used(&[4, 2]);
    yard.leases[1].request.stop = Stop::Restart;
    assert_eq!(moved(&yard, 8), [(1, 0, 1)]);
    yard.leases[0].request.stop = Stop::Never;
    assert_eq!(moved(&yard, 8), []);
    let mut gang = Yard::new(3);
    let grants = [(0, GpuGrant::Whole(1)), (1, GpuGrant::Whole(1))];
    gang.grant(0, Gpus::Whole(1), &grants, 1).request.stop = Stop::Checkpoint { cost_seconds: 60 };
    gang.lease(0, &[2], 1);
    assert_eq!(moved(&gang, 8), []);
}

#[test]
fn a_node_is_emptied_whole_or_not_at_all() {
    let mut yard = used(&[1, 4]);
    put(&mut yard, 0, 2);
    assert_eq!(moved(&yard, 1), [(2, 1, 0)], "two moves would cost fewer GPUs, but one is the most");
    assert_eq!(moved(&yard, 2), [(3, 0, 1), (1, 0, 1)]);
    assert_eq!(moved(&yard, 0), []);
}

#[test]
fn moves_that_leave_fewer_places_for_pairs_are_not_made() {
    let mut yard = used(&[3, 4, 4]);
    put(&mut yard, 0, 3);
    yard.leases[1].request.stop = Stop::Never;
    yard.leases[2].request.stop = Stop::Never;
    assert_eq!(moved(&yard, 8), [], "one and twice two pairs; four when three each lie with four");
    put(&mut yard, 1, 1);
    put(&mut yard, 2, 1);
    assert_eq!(moved(&yard, 8), [(1, 0, 1), (4, 0, 2)], "one and twice one; four");
}

#[test]
fn what_frees_its_rack_comes_first() {
    let yard = used(&[8, 8, 4, 2, 3, 0, 0, 0, 8, 8, 8, 6]);
    assert_eq!(moved(&yard, 1), [(5, 4, 2)], "three GPUs for a rack, before two for a node");
    assert_eq!(moved(&yard, 8), [(5, 4, 2), (4, 3, 11)]);
}

#[test]
fn a_destination_has_cpu_and_watts_to_spare() {
    let mut yard = used(&[4, 2]);
    yard.leases[0].request.shape.cpu_milli = 60_000;
    yard.leases[1].request.shape.cpu_milli = 5_000;
    assert_eq!(moved(&yard, 8), []);
    let mut yard = used(&[4, 2]);
    yard.power = vec![PowerSpec { parent: None, cap_watts: 2500, floors: Vec::new() }];
    assert_eq!(moved(&yard, 8), [], "both places draw while it moves");
}

#[test]
fn parts_of_gpus_move_into_a_broken_one() {
    let mut yard = Yard::new(2);
    for (node, milli) in [(0, 700), (1, 300)] {
        let lease = yard.grant(0, Gpus::Milli(milli), &[(node, GpuGrant::Milli { gpu: 0, milli })], 1);
        lease.request.stop = Stop::Checkpoint { cost_seconds: 60 };
    }
    assert_eq!(moved(&yard, 8), [(2, 1, 0)]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn after_all_moves_room_is_better_for_some_and_worse_for_none(
        leases in proptest::collection::vec((0_u32..12, 1_u8..8), 1..40),
        most in 0_usize..12,
    ) {
        let mut yard = Yard::new(12);
        for (node, gpus) in leases {
            put(&mut yard, node, gpus);
        }
        let moves = moved(&yard, most);
        prop_assert!(moves.len() <= most);
        let places = |yard: &Yard, gpus: usize| -> usize {
            yard.ground().sites().iter().map(|site| whole(&site.free) / gpus).sum()
        };
        let mut after = Yard::new(12);
        let mut power = yard.tree();
        let domain_of = yard.racks();
        let scope = Scope { models: &yard.models, domain_of: &domain_of, power: &mut power, most };
        after.leases.clone_from(&yard.leases);
        let planned = super::moves(&yard.ground(), scope, |_, _| true);
        for step in &planned {
            let lease = after.leases.iter_mut().find(|lease| lease.id == step.lease).unwrap();
            prop_assert_eq!(lease.grants.clone(), vec![step.from]);
            lease.grants = vec![step.to];
        }
        // The ground is laid with `take`, which asserts that no GPU goes twice.
        let emptied: std::collections::BTreeSet<u64> = moves.iter().map(|(_, from, _)| *from).collect();
        prop_assert_eq!(places(&after, 8), places(&yard, 8) + emptied.len());
        for gpus in [1, 2, 4] {
            prop_assert!(places(&after, gpus) >= places(&yard, gpus), "places for {} GPUs", gpus);
        }
    }
}
