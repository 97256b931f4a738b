//! A place is found whenever there is one, and it is a place that fits.

use proptest::prelude::*;

use super::*;
use crate::fleet::SliceSpec;
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
