//! Energy and carbon: CPU time → energy → CO₂e, and the split of a node's energy among those who held its GPUs.
//!
//! All quantities are integers; every division rounds down once, and what it leaves is booked: a request's
//! fraction of a millijoule stays in the reading and becomes idle, an allocation's remainder goes to the provider.
//! INVARIANT: Σ of an allocation = the node's energy.
//! Deliberately absent: meters and models of power (the agent's), what the grid emits (drivers'), the rest of a
//! reading after its requests (the store's, in the transaction that books it).

use galerne_model::units::{MILLIJOULES_PER_KWH, MicrogramsCo2e, Millijoules, Milliwatts};

/// Nanojoules in one millijoule: microseconds × milliwatts are nanojoules.
const NANOJOULES_PER_MILLIJOULE: i128 = 1_000_000;
/// Micrograms in one milligram.
const MICROGRAMS_PER_MILLIGRAM: i128 = 1_000;

/// Energy of one GPU over an interval, and who held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuEnergy<H> {
    /// The GPU's own energy.
    pub energy: Millijoules,
    /// Who held it; absent when it was free.
    pub holder: Option<H>,
}

/// A node's energy, given to those who held its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation<H> {
    /// Per GPU in the order given: its holder and its energy with its share of the rest of the node.
    pub shares: Vec<(H, Millijoules)>,
    /// Free GPUs with their shares, and what division left over.
    pub provider: Millijoules,
    /// Whether the GPUs claimed more than the node's meter; their claims were then scaled down to it.
    pub scaled: bool,
}

/// Energy of CPU time at the power of one busy CPU.
pub fn from_cpu(cpu_micros: i64, active: Milliwatts) -> Millijoules {
    at_power(cpu_micros, active)
}

/// Energy of wall time at a stated power.
pub fn from_wall(wall_micros: i64, power: Milliwatts) -> Millijoules {
    at_power(wall_micros, power)
}

/// Carbon of energy at a grid intensity.
pub fn carbon(energy: Millijoules, intensity_mg_per_kwh: i64) -> MicrogramsCo2e {
    let micrograms = i128::from(energy.0.max(0)) * i128::from(intensity_mg_per_kwh.max(0)) * MICROGRAMS_PER_MILLIGRAM;
    MicrogramsCo2e(held(micrograms / i128::from(MILLIJOULES_PER_KWH)))
}

/// Gives a node's energy to the holders of its GPUs: each GPU's own energy, and an equal share of the rest of the
/// node (fans, CPU, NICs) per GPU. Free GPUs and remainders go to the provider.
pub fn allocate<H: Copy>(node: Millijoules, gpus: &[GpuEnergy<H>]) -> Allocation<H> {
    let node = i128::from(node.0.max(0));
    let claimed: i128 = gpus.iter().map(|gpu| i128::from(gpu.energy.0.max(0))).sum();
    let scaled = claimed > node;
    let count = i128::try_from(gpus.len()).unwrap_or(i128::MAX).max(1);
    let share_of_rest = if scaled { 0 } else { (node - claimed) / count };
    let mut given = 0;
    let mut shares = Vec::with_capacity(gpus.len());
    for gpu in gpus {
        let own = i128::from(gpu.energy.0.max(0));
        let own = if scaled { own * node / claimed } else { own };
        if let Some(holder) = gpu.holder {
            given += own + share_of_rest;
            shares.push((holder, Millijoules(held(own + share_of_rest))));
        }
    }
    Allocation { shares, provider: Millijoules(held(node - given)), scaled }
}

fn at_power(micros: i64, power: Milliwatts) -> Millijoules {
    let nanojoules = i128::from(micros.max(0)) * i128::from(power.0.max(0));
    Millijoules(held(nanojoules / NANOJOULES_PER_MILLIJOULE))
}

/// Held inside `i64`: the bound is 2.5 TWh or 9 million tonnes for one request or reading.
fn held(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KWH: i64 = MILLIJOULES_PER_KWH;

    #[test]
    fn the_published_vector_of_an_eight_gpu_node_is_reproduced() {
        // sovereignty notes, formula 10: node 8 kWh, GPUs 4×0.7 (A), 2×0.5 (B), 2×0.1 (free) → A 4.8, B 2.0, provider 1.2.
        let gpu = |tenths: i64, holder| GpuEnergy { energy: Millijoules(KWH / 10 * tenths), holder };
        let (a, b, free) = (gpu(7, Some('A')), gpu(5, Some('B')), gpu(1, None));
        let allocation = allocate(Millijoules(8 * KWH), &[a, a, a, a, b, b, free, free]);
        let of =
            |who| allocation.shares.iter().filter(|(holder, _)| *holder == who).map(|(_, e)| *e).sum::<Millijoules>();
        assert_eq!(of('A'), Millijoules(KWH / 10 * 48));
        assert_eq!(of('B'), Millijoules(KWH / 10 * 20));
        assert_eq!(allocation.provider, Millijoules(KWH / 10 * 12));
        assert!(!allocation.scaled);
    }

    #[test]
    fn a_chat_answer_of_one_joule_emits_micrograms() {
        // 0.1 s of one CPU at 10 W is 1 J; at 30 g/kWh that is 8.33 µg.
        let energy = from_cpu(100_000, Milliwatts(10_000));
        assert_eq!(energy, Millijoules(1_000));
        assert_eq!(carbon(energy, 30_000), MicrogramsCo2e(8));
        assert_eq!(carbon(Millijoules(KWH), 30_000).grams(), "30.000000");
        assert_eq!(from_wall(2_000_000, Milliwatts(350_000)), Millijoules(700_000));
    }

    proptest! {
        #[test]
        fn an_allocation_conserves_the_nodes_energy(node in 0i64..1 << 45, gpus in proptest::collection::vec((0i64..1 << 42, proptest::option::of(0u8..4)), 0..12)) {
            let gpus: Vec<_> = gpus.into_iter().map(|(energy, holder)| GpuEnergy { energy: Millijoules(energy), holder }).collect();
            let allocation = allocate(Millijoules(node), &gpus);
            let given: Millijoules = allocation.shares.iter().map(|(_, energy)| *energy).sum();
            prop_assert_eq!(given + allocation.provider, Millijoules(node));
            prop_assert!(allocation.provider.0 >= 0);
            prop_assert_eq!(allocation.shares.len(), gpus.iter().filter(|gpu| gpu.holder.is_some()).count());
        }

        #[test]
        fn parts_of_a_time_never_cost_more_than_the_whole(parts in proptest::collection::vec(0i64..1 << 30, 0..20), power in 0i64..1_000_000) {
            let sum: Millijoules = parts.iter().map(|micros| from_cpu(*micros, Milliwatts(power))).sum();
            prop_assert!(sum <= from_cpu(parts.iter().sum(), Milliwatts(power)));
        }
    }
}
