//! Energy and carbon: CPU time → energy → CO₂e, at the power that a node's counters show.
//!
//! All quantities are integers; every division rounds down once, and what it leaves is booked: a request's
//! fraction of a millijoule stays in the reading and becomes idle.
//! Deliberately absent: meters and models of power (the agent's), what the grid emits (drivers'), the rest of a
//! reading after its requests (the store's, in the transaction that books it), GPUs, which nobody holds yet.

use galerne_model::ledger::Quantities;
use galerne_model::snapshot::{EnergyBound, EnergyBoundSource};
use galerne_model::units::{MILLIJOULES_PER_KWH, MicrogramsCo2e, Millijoules, Milliwatts};

use crate::rating::{self, WorkBound};

pub mod account;
pub mod apart;
pub mod meter;
pub mod work;

/// Nanojoules in one millijoule: microseconds × milliwatts are nanojoules.
const NANOJOULES_PER_MILLIJOULE: i128 = 1_000_000;
/// Micrograms in one milligram.
const MICROGRAMS_PER_MILLIGRAM: i128 = 1_000;

/// Microjoules in one millijoule.
const MICROJOULES_PER_MILLIJOULE: i128 = 1_000;
/// What a request may take above what a token took lately: short answers share a step's cost with fewer neighbours.
const MARGIN: i128 = 2;
/// What a generated token is taken to need where nothing is in the ledger: 20 J, about 400 billion weights in small batches.
const ASSUMED_COMPLETION_MICROJOULES: i64 = 20_000_000;
/// The same of a prompt token: a tenth, because a prompt is computed many tokens at a time.
const ASSUMED_PROMPT_MICROJOULES: i64 = 2_000_000;

/// What a token may take on an endpoint that lately used these quantities.
///
/// Each kind of token is taken to have caused all of the energy: of both kinds that is an upper bound of the mean, and at
/// most twice too much for a request of the usual shape. [`MARGIN`] covers that requests are not all the mean.
pub fn token_bound(lately: &Quantities) -> EnergyBound {
    let (prompt, completion) = (lately.prompt_tokens.0, lately.completion_tokens.0);
    let energy = i128::from(lately.millijoules.0.max(0)) * MICROJOULES_PER_MILLIJOULE * MARGIN;
    let per_token = |tokens: i64, assumed: i64| match tokens {
        ..=0 => assumed,
        tokens => held((energy + i128::from(tokens) - 1) / i128::from(tokens)),
    };
    if energy == 0 || (prompt <= 0 && completion <= 0) {
        return EnergyBound {
            prompt_microjoules: ASSUMED_PROMPT_MICROJOULES,
            completion_microjoules: ASSUMED_COMPLETION_MICROJOULES,
            source: EnergyBoundSource::Assumed,
        };
    }
    EnergyBound {
        prompt_microjoules: per_token(prompt, ASSUMED_PROMPT_MICROJOULES),
        completion_microjoules: per_token(completion, ASSUMED_COMPLETION_MICROJOULES),
        source: EnergyBoundSource::Ledger,
    }
}

/// The energy to hold for `work`: the dearest way it is expected to end, rounded up. Never nothing, so that what is
/// exhausted admits no request.
pub fn worst_case(bound: &EnergyBound, work: WorkBound) -> Millijoules {
    let rate = |microjoules: i64| microjoules.max(0);
    let microjoules = rating::dearest_end(rate(bound.prompt_microjoules), rate(bound.completion_microjoules), work);
    let millijoules = (microjoules + MICROJOULES_PER_MILLIJOULE - 1) / MICROJOULES_PER_MILLIJOULE;
    Millijoules(held(millijoules).max(1))
}

/// Carbon to hold for energy: [`carbon`] rounded up, and never nothing.
pub fn carbon_bound(energy: Millijoules, intensity_mg_per_kwh: i64) -> MicrogramsCo2e {
    MicrogramsCo2e(carbon(energy, intensity_mg_per_kwh).0.saturating_add(1))
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
    use galerne_model::units::Tokens;
    use proptest::prelude::*;

    use super::*;

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

    #[test]
    fn a_token_is_bounded_by_what_tokens_took_and_by_an_assumption_before_any_did() {
        let lately = Quantities {
            prompt_tokens: Tokens(1_000),
            completion_tokens: Tokens(100),
            millijoules: Millijoules(5_000),
            ..Quantities::default()
        };
        let bound = token_bound(&lately);
        // 5 J over 1000 and over 100 tokens, twice.
        assert_eq!((bound.prompt_microjoules, bound.completion_microjoules), (10_000, 100_000));
        assert_eq!(bound.source, EnergyBoundSource::Ledger);
        let mean = WorkBound {
            prompt_max: lately.prompt_tokens,
            completion_max: lately.completion_tokens,
            total_max: Tokens(i64::MAX),
        };
        assert_eq!(worst_case(&bound, mean), Millijoules(20_000), "four times what the usual shape took");
        assert_eq!(token_bound(&Quantities::default()).source, EnergyBoundSource::Assumed);
        let nothing = WorkBound { completion_max: Tokens(0), prompt_max: Tokens(0), ..mean };
        assert_eq!(worst_case(&bound, nothing), Millijoules(1));
        assert_eq!(carbon_bound(Millijoules(1), 0), MicrogramsCo2e(1));
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
