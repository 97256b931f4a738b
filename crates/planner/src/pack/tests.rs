//! A place is found whenever there is one, and it is a place that fits.

use proptest::prelude::*;

use super::*;
use crate::fleet::SliceSpec;
use crate::plan::GpuGrant;
use crate::units::SliceId;

/// Profiles of a GPU with eight memory slots, as A100 and H100 have them (MIG user guide, "supported profiles").
fn mig() -> Vec<ModelSpec> {
    let slice = |positions: &[u8], compute| SliceSpec { positions: positions.to_vec(), compute };
    let slices = vec![
        slice(&[1, 2, 4, 8, 16, 32, 64], 1),
        slice(&[0b11, 0b1100, 0b11_0000], 2),
        slice(&[0x0F, 0xF0], 3),
        slice(&[0x0F], 4),
        slice(&[0xFF], 7),
    ];
    vec![ModelSpec { slices }, ModelSpec::default()]
}

fn gpu_free() -> impl Strategy<Value = GpuFree> {
    prop_oneof![
        3 => Just(GpuFree::WHOLE),
        1 => Just(GpuFree::NONE),
        2 => (1_u16..1000).prop_map(GpuFree::milli),
        2 => any::<u8>().prop_map(GpuFree::sliced),
    ]
}

fn node() -> impl Strategy<Value = (NodeKind, NodeFree)> {
    (0_u8..2, 0_u8..=16, prop::collection::vec(gpu_free(), 16), 0_u32..4, 0_u32..4, 0_u8..2).prop_map(
        |(model, gpus, free, cpu, memory, residency)| {
            let kind = NodeKind {
                model: ModelId(model),
                gpus,
                cpu_milli: 3000,
                memory_mib: 3000,
                residency: ResidencyId(residency),
            };
            let mut all = NodeFree { cpu_milli: cpu * 1000, memory_mib: memory * 1000, ..NodeFree::default() };
            for (place, free) in all.gpus.iter_mut().zip(free).take(usize::from(gpus)) {
                *place = free;
            }
            (kind, all)
        },
    )
}

fn ask() -> impl Strategy<Value = SingleAsk> {
    let gpus = prop_oneof![
        (0_u8..=16).prop_map(Gpus::Whole),
        (1_u16..1000).prop_map(Gpus::Milli),
        (0_u8..5).prop_map(|slice| Gpus::Slice(SliceId(slice))),
    ];
    (gpus, 0_u64..4, 0_u64..4, 0_u32..4, 0_u32..4).prop_map(|(gpus, models, residencies, cpu, memory)| SingleAsk {
        gpus,
        models: if matches!(gpus, Gpus::Slice(_)) { 1 } else { models },
        residencies,
        cpu_milli: cpu * 1000,
        memory_mib: memory * 1000,
    })
}

/// What is free after a grant; `None` when the grant is of something that is not free.
fn after(free: &NodeFree, ask: &SingleAsk, grant: GpuGrant) -> Option<NodeFree> {
    let mut rest = *free;
    match (grant, ask.gpus) {
        (GpuGrant::Whole(mask), Gpus::Whole(count)) => {
            if mask.count_ones() != u32::from(count) {
                return None;
            }
            for (gpu, place) in rest.gpus.iter_mut().enumerate().filter(|(gpu, _)| mask >> gpu & 1 == 1) {
                assert!(place.is_whole(), "GPU {gpu} is not whole");
                *place = GpuFree::NONE;
            }
        }
        (GpuGrant::Milli { gpu, milli }, Gpus::Milli(asked)) => {
            let place = &mut rest.gpus[usize::from(gpu)];
            if milli != asked || place.free_milli() < asked {
                return None;
            }
            *place = GpuFree::milli(place.free_milli() - milli);
        }
        (GpuGrant::Slice { gpu, slots }, Gpus::Slice(slice)) => {
            let place = &mut rest.gpus[usize::from(gpu)];
            if !mig()[0].slices[usize::from(slice.0)].positions.contains(&slots) || slots & !place.free_slots() != 0 {
                return None;
            }
            *place = GpuFree::sliced(place.free_slots() & !slots);
        }
        _ => return None,
    }
    rest.cpu_milli = rest.cpu_milli.checked_sub(ask.cpu_milli)?;
    rest.memory_mib = rest.memory_mib.checked_sub(ask.memory_mib)?;
    Some(rest)
}

/// The rule in its plainest words.
fn fits(kind: &NodeKind, free: &NodeFree, ask: &SingleAsk) -> bool {
    let allowed = |mask: u64, bit: u8| mask == 0 || mask >> bit & 1 == 1;
    let gpus = match ask.gpus {
        Gpus::Whole(count) => free.gpus.iter().filter(|gpu| gpu.is_whole()).count() >= usize::from(count),
        Gpus::Milli(milli) => free.gpus.iter().any(|gpu| gpu.free_milli() >= milli),
        Gpus::Slice(slice) => mig()[usize::from(kind.model.0)].slices.get(usize::from(slice.0)).is_some_and(|slice| {
            free.gpus.iter().any(|gpu| slice.positions.iter().any(|p| p & !gpu.free_slots() == 0))
        }),
    };
    gpus && allowed(ask.models, kind.model.0)
        && allowed(ask.residencies, kind.residency.0)
        && free.cpu_milli >= ask.cpu_milli
        && free.memory_mib >= ask.memory_mib
}

proptest! {
    #[test]
    fn a_place_is_found_whenever_one_fits(
        nodes in prop::collection::vec(node(), 0..12),
        asks in prop::collection::vec(ask(), 1..30),
        barred in any::<u16>(),
    ) {
        let mut packer = Packer::new(&mig());
        let mut now = nodes.clone();
        for (number, (kind, free)) in (0..).zip(&nodes) {
            packer.insert(number, *kind, free);
        }
        for ask in asks {
            packer.expect(&ask, 1);
            let usable = |node: u32| barred >> node & 1 == 0;
            let possible = (0..).zip(&now).any(|(number, (kind, free))| usable(number) && fits(kind, free, &ask));
            let found = packer.best(&ask, usable);
            prop_assert_eq!(found.is_some(), possible, "{:?}", ask);
            if let Some((number, grant)) = found {
                prop_assert!(usable(number));
                let (kind, free) = now[number as usize];
                prop_assert!(fits(&kind, &free, &ask));
                let rest = after(&free, &ask, grant);
                prop_assert!(rest.is_some(), "{:?} is not free in {:?}", grant, free);
                now[number as usize].1 = rest.unwrap();
                packer.changed(number, &rest.unwrap());
            }
        }
    }
}

/// A site as asks are placed on it one after another, and the asks.
fn filled(nodes: &[(NodeKind, NodeFree)], asks: &[SingleAsk]) -> (Packer, Vec<NodeFree>) {
    let mut packer = Packer::new(&mig());
    let mut now: Vec<NodeFree> = nodes.iter().map(|(_, free)| *free).collect();
    for (number, (kind, free)) in (0..).zip(nodes) {
        packer.insert(number, *kind, free);
    }
    for ask in asks {
        packer.expect(ask, 1);
        packer.refresh();
        if let Some((node, grant)) = packer.best(ask, |_| true) {
            let rest = after(&now[node as usize], ask, grant).unwrap();
            now[node as usize] = rest;
            packer.changed(node, &rest);
        }
    }
    (packer, now)
}

proptest! {
    /// Judgements kept from before are those that would be made now: a packer that lived decides as one built anew.
    #[test]
    fn a_packer_that_lived_decides_as_one_built_anew(
        nodes in prop::collection::vec(node(), 10),
        asks in prop::collection::vec(ask(), 1..30),
        gone in 0_u32..10,
        next in prop::collection::vec(ask(), 1..10),
    ) {
        let (mut lived, now) = filled(&nodes, &asks);
        lived.remove(gone);
        if let Some((kind, _)) = nodes.get(gone as usize) {
            lived.insert(gone, *kind, &now[gone as usize]);
        }
        let mut anew = Packer::new(&mig());
        for (number, ((kind, _), free)) in (0_u32..10).zip(nodes.iter().zip(&now)).rev() {
            anew.insert(number, *kind, free);
        }
        asks.iter().rev().for_each(|ask| anew.expect(ask, 1));
        lived.refresh();
        anew.refresh();
        for ask in next {
            prop_assert_eq!(lived.best(&ask, |_| true), anew.best(&ask, |_| true), "{:?}", ask);
        }
    }

    /// What is expected and no longer expected leaves nothing.
    #[test]
    fn demand_that_has_gone_is_forgotten(
        nodes in prop::collection::vec(node(), 1..8),
        asks in prop::collection::vec(ask(), 1..20),
        gone in prop::collection::vec(ask(), 1..20),
    ) {
        let (mut plain, mut packer) = (Packer::new(&mig()), Packer::new(&mig()));
        for (number, (kind, free)) in (0..).zip(&nodes) {
            plain.insert(number, *kind, free);
            packer.insert(number, *kind, free);
        }
        asks.iter().for_each(|ask| plain.expect(ask, 1));
        gone.iter().for_each(|ask| packer.expect(ask, 1));
        asks.iter().for_each(|ask| packer.expect(ask, 1));
        packer.refresh();
        gone.iter().for_each(|ask| packer.expect(ask, -1));
        plain.refresh();
        packer.refresh();
        for ask in &asks {
            prop_assert_eq!(packer.best(ask, |_| true), plain.best(ask, |_| true));
        }
    }
}

fn box_of(gpus: u8, model: u8, cpu_milli: u32) -> (NodeKind, NodeFree) {
    let kind = NodeKind { model: ModelId(model), gpus, cpu_milli, memory_mib: 1000, residency: ResidencyId(0) };
    let mut free = NodeFree { cpu_milli, memory_mib: 1000, ..NodeFree::default() };
    free.gpus.iter_mut().take(usize::from(gpus)).for_each(|gpu| *gpu = GpuFree::WHOLE);
    (kind, free)
}

fn wants(gpus: Gpus, models: u64, cpu_milli: u32) -> SingleAsk {
    SingleAsk { gpus, models, residencies: 0, cpu_milli, memory_mib: 0 }
}

fn site(nodes: &[(NodeKind, NodeFree)], demand: &[(SingleAsk, u32)]) -> Packer {
    let mut packer = Packer::new(&mig());
    for (number, (kind, free)) in (0..).zip(nodes) {
        packer.insert(number, *kind, free);
    }
    packer.tell(demand);
    packer.refresh();
    packer
}

#[test]
fn who_may_use_any_model_leaves_the_one_that_others_insist_on() {
    let nodes = [box_of(8, 0, 8000), box_of(8, 1, 8000)];
    let (any, first) = (wants(Gpus::Whole(1), 0, 0), wants(Gpus::Whole(1), 0b01, 0));
    let mut packer = site(&nodes, &[(any, 50), (first, 50)]);
    assert_eq!(packer.best(&any, |_| true).map(|(node, _)| node), Some(1));
    // Without anyone who insists, the lower number.
    let mut packer = site(&nodes, &[(any, 100)]);
    assert_eq!(packer.best(&any, |_| true).map(|(node, _)| node), Some(0));
}

#[test]
fn of_two_models_that_some_insist_on_the_one_there_is_less_of_is_left() {
    let nodes: Vec<_> = (0..11).map(|number| box_of(8, u8::from(number > 0), 8000)).collect();
    let (any, first, second) =
        (wants(Gpus::Whole(1), 0, 0), wants(Gpus::Whole(1), 0b01, 0), wants(Gpus::Whole(1), 0b10, 0));
    let mut packer = site(&nodes, &[(any, 50), (first, 50), (second, 50)]);
    assert_eq!(packer.best(&any, |_| true).map(|(node, _)| node), Some(1));
}

#[test]
fn a_node_that_is_in_use_is_filled_before_an_empty_one() {
    let mut nodes = [box_of(8, 1, 80_000), box_of(8, 1, 80_000)];
    nodes[1].1.gpus[..4].fill(GpuFree::NONE);
    let mut packer = site(&nodes, &[]);
    assert_eq!(packer.best(&wants(Gpus::Whole(1), 0, 1000), |_| true).map(|(node, _)| node), Some(1));
}

#[test]
fn a_slice_goes_where_the_fewest_others_lose_their_place() {
    // The upper half is broken already: the lower one stays whole.
    let (kind, mut free) = box_of(1, 0, 10_000);
    free.gpus[0] = GpuFree::sliced(0b1110_1111);
    let mut packer = site(&[(kind, free)], &[]);
    let place = packer.best(&wants(Gpus::Slice(SliceId(0)), 1, 100), |_| true);
    assert!(matches!(place, Some((0, GpuGrant::Slice { gpu: 0, slots: 0b10_0000..=0b1000_0000 }))), "{place:?}");
}

#[test]
fn work_that_needs_only_cpu_goes_where_no_gpu_loses_it() {
    // The first has just the CPU that its GPUs need, the second twice that.
    let nodes = [box_of(8, 1, 80_000), box_of(8, 1, 160_000)];
    let (gpu, cpu) = (wants(Gpus::Whole(1), 0, 10_000), wants(Gpus::Whole(0), 0, 40_000));
    let mut packer = site(&nodes, &[(gpu, 90), (cpu, 5)]);
    assert_eq!(packer.best(&cpu, |_| true).map(|(node, _)| node), Some(1));
}

#[test]
fn a_part_of_a_gpu_goes_where_others_still_find_whole_ones() {
    let mut nodes = [box_of(4, 1, 40_000), box_of(4, 1, 40_000)];
    nodes[1].1.gpus[2] = GpuFree::milli(500);
    let (part, whole) = (wants(Gpus::Milli(500), 0, 1000), wants(Gpus::Whole(4), 0, 1000));
    let mut packer = site(&nodes, &[(part, 50), (whole, 50)]);
    assert_eq!(packer.best(&part, |_| true), Some((1, GpuGrant::Milli { gpu: 2, milli: 500 })));
    assert_eq!(packer.best(&whole, |_| true), Some((0, GpuGrant::Whole(0b1111))));
}

#[test]
fn slices_never_overlap_and_leave_room_for_the_large_ones() {
    let (kind, mut free) = box_of(1, 0, 10_000);
    let mut packer = site(&[(kind, free)], &[]);
    let mut taken = 0_u8;
    // Three of one slot each must leave a half free for a profile of four slots.
    for _ in 0..3 {
        let ask = wants(Gpus::Slice(SliceId(0)), 1, 100);
        let Some((0, GpuGrant::Slice { gpu: 0, slots })) = packer.best(&ask, |_| true) else { panic!("no place") };
        assert_eq!(taken & slots, 0);
        taken |= slots;
        free = after(&free, &ask, GpuGrant::Slice { gpu: 0, slots }).unwrap();
        packer.changed(0, &free);
    }
    let half = packer.best(&wants(Gpus::Slice(SliceId(2)), 1, 100), |_| true);
    assert!(matches!(half, Some((0, GpuGrant::Slice { slots: 0x0F | 0xF0, .. }))), "{half:?} after {taken:08b}");
}

#[test]
fn of_equal_nodes_the_lowest_that_may_be_used_is_taken() {
    let nodes = vec![box_of(8, 1, 80_000); 50];
    let mut packer = site(&nodes, &[]);
    let ask = wants(Gpus::Whole(1), 0, 1000);
    assert_eq!(packer.best(&ask, |_| true).map(|(node, _)| node), Some(0));
    assert_eq!(packer.best(&ask, |node| node >= 17).map(|(node, _)| node), Some(17));
    assert_eq!(packer.best(&ask, |_| false), None);
}
