//! Energy and carbon: CPU time → energy → CO₂e, at the power that a node's counters show.
//!
//! All quantities are integers; every division rounds down once, and what it leaves is booked: a request's
//! fraction of a millijoule stays in the reading and becomes idle.
//! Deliberately absent: meters and models of power (the agent's), what the grid emits (drivers'), the rest of a
//! reading after its requests (the store's, in the transaction that books it), GPUs, which nobody holds yet.

use galerne_model::units::{MILLIJOULES_PER_KWH, MicrogramsCo2e, Millijoules, Milliwatts};

/// Nanojoules in one millijoule: microseconds × milliwatts are nanojoules.
const NANOJOULES_PER_MILLIJOULE: i128 = 1_000_000;
/// Micrograms in one milligram.
const MICROGRAMS_PER_MILLIGRAM: i128 = 1_000;

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

/// What the counters of a node's processors said over an interval, and how its model divides that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Energy by the counters.
    pub processors: Millijoules,
    /// Time the node was awake in it.
    pub awake_micros: i64,
    /// CPU time in which its processors were busy.
    pub busy_cpu_micros: i64,
    /// Power of its processors at rest, by the model.
    pub idle: Milliwatts,
    /// Power of one busy CPU above rest, by the model.
    pub active: Milliwatts,
}

/// Power of one busy CPU above rest, by the counters: they say how much energy there was, the model only how it divides
/// between resting and working. Nothing when the model gives the interval no energy to divide.
/// INVARIANT: requests that used at most the busy time of the interval are given at most what was counted.
pub fn measured_rate(counted: &Counted) -> Option<Milliwatts> {
    let product = |micros: i64, power: Milliwatts| i128::from(micros.max(0)) * i128::from(power.0.max(0));
    let modelled = product(counted.awake_micros, counted.idle) + product(counted.busy_cpu_micros, counted.active);
    let nanojoules = i128::from(counted.processors.0.max(0)) * NANOJOULES_PER_MILLIJOULE;
    let rate = i128::from(counted.active.0.max(0)).checked_mul(nanojoules)?.checked_div(modelled)?;
    Some(Milliwatts(held(rate)))
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
    fn the_counters_say_how_much_and_the_model_how_it_divides() {
        // Ten seconds, two CPUs at 0.74 W at rest, five CPU-seconds at 2.76 W above: 14.8 J + 13.8 J modelled.
        let counted = |millijoules: i64| Counted {
            processors: Millijoules(millijoules),
            awake_micros: 10_000_000,
            busy_cpu_micros: 5_000_000,
            idle: Milliwatts(1_480),
            active: Milliwatts(2_760),
        };
        assert_eq!(measured_rate(&counted(28_600)), Some(Milliwatts(2_760)), "as modelled");
        assert_eq!(measured_rate(&counted(286_000)), Some(Milliwatts(27_600)), "ten times as much");
        assert_eq!(measured_rate(&counted(0)), Some(Milliwatts(0)));
        let nothing = Counted { awake_micros: 0, busy_cpu_micros: 0, ..counted(5) };
        assert_eq!(measured_rate(&nothing), None);
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
        fn requests_are_given_at_most_what_was_counted(
            processors in 0i64..1 << 45, awake in 0i64..1 << 40, shares in proptest::collection::vec(0i64..1 << 34, 0..20),
            other in 0i64..1 << 34, idle in 0i64..1_000_000, active in 0i64..1_000_000,
        ) {
            let counted = Counted {
                processors: Millijoules(processors),
                awake_micros: awake,
                busy_cpu_micros: shares.iter().sum::<i64>() + other,
                idle: Milliwatts(idle),
                active: Milliwatts(active),
            };
            if let Some(rate) = measured_rate(&counted) {
                let given: Millijoules = shares.iter().map(|micros| from_cpu(*micros, rate)).sum();
                prop_assert!(given <= Millijoules(processors), "{given:?} of {processors} mJ");
            }
        }

        #[test]
        fn parts_of_a_time_never_cost_more_than_the_whole(parts in proptest::collection::vec(0i64..1 << 30, 0..20), power in 0i64..1_000_000) {
            let sum: Millijoules = parts.iter().map(|micros| from_cpu(*micros, Milliwatts(power))).sum();
            prop_assert!(sum <= from_cpu(parts.iter().sum(), Milliwatts(power)));
        }
    }
}
