//! What a power source shows becomes slices: energy between two looks.
//!
//! A source shows a counter of energy, which may wrap or begin again, or power at a moment. Looks may come twice or late,
//! the wall clock may be set between two of them, a source may be silent for a while.
//! INVARIANT: the energy of a counter's slices is what the counter rose by; nothing is counted twice or lost in rounding.
//! Units: microjoules, microseconds; milliwatts × microseconds are nanojoules.

use galerne_model::power::Shows;

/// Wall and monotonic clock differ by less than this between two looks unless somebody set the time.
const JUMP_MICROS: i64 = 1_000_000;
/// Power between two looks is taken as their mean; looks further apart than this say nothing of the time between.
pub const POWER_GAP_MICROS: i64 = 10_000_000;
/// No replica draws more: sixteen racks of the densest kind have two megawatts. A difference above it is not believed.
const WATTS_MAX: i128 = 2_000_000;
/// Nanojoules in a microjoule, twice: a mean of two powers is half their sum.
const HALF_NANOS_PER_MICRO: i128 = 2_000;

/// One look at a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// By the wall clock, microseconds since 1970.
    pub wall_micros: i64,
    /// By a clock that nobody sets.
    pub steady_micros: i64,
    /// What was seen.
    pub shows: Shows,
}

/// Energy between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Start by the wall clock.
    pub from_micros: i64,
    /// End; later than the start.
    pub to_micros: i64,
    /// Energy in it.
    pub microjoules: i64,
    /// Whether all of it was seen; not so where a counter had begun again between the looks.
    pub is_measured: bool,
}

/// The counters of one source, such as the GPUs of a replica, looked at together.
#[derive(Debug, Clone, Default)]
pub struct Meters {
    parts: Vec<Meter>,
}

impl Meters {
    /// Takes a look at all of them: the sum of what they rose by, not measured as a whole where one of them was not. A source
    /// with other counters than before begins anew.
    pub fn take(&mut self, wall_micros: i64, steady_micros: i64, shown: &[Shows]) -> Taken {
        if shown.len() != self.parts.len() {
            self.parts = vec![Meter::default(); shown.len()];
        }
        let mut sum: Option<Slice> = None;
        let mut other = None;
        for (meter, shows) in self.parts.iter_mut().zip(shown) {
            match meter.take(Sample { wall_micros, steady_micros, shows: *shows }) {
                Taken::Slice(slice) => {
                    let before = sum.map_or(0, |sum| sum.microjoules);
                    let is_measured = slice.is_measured && sum.is_none_or(|sum| sum.is_measured);
                    sum = Some(Slice { microjoules: before.saturating_add(slice.microjoules), is_measured, ..slice });
                }
                taken @ (Taken::Begins(_) | Taken::Late) => other = Some(taken),
            }
        }
        match (sum, other) {
            (Some(slice), None) => Taken::Slice(slice),
            (Some(slice), Some(_)) => Taken::Slice(Slice { is_measured: false, ..slice }),
            (None, other) => other.unwrap_or(Taken::Late),
        }
    }
}

/// What became of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The next one counts from here: the first look, or the first after a gap or something that cannot be.
    Begins(Begins),
    /// Energy since the look before.
    Slice(Slice),
    /// Not later than the look before: what it says, later looks say too.
    Late,
}

/// Why nothing is known of the time before a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// It is the first.
    First,
    /// The source was silent, or shows something else than before.
    Gap,
    /// More energy than anything can draw.
    Unbelievable,
}

/// A source as it was last seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    last: Option<Sample>,
    /// Of power: below a microjoule, in half nanojoules.
    carry: i128,
}

impl Meter {
    /// Takes a look.
    pub fn take(&mut self, sample: Sample) -> Taken {
        let Some(last) = self.last else {
            self.last = Some(sample);
            return Taken::Begins(Begins::First);
        };
        let passed = sample.steady_micros - last.steady_micros;
        if passed <= 0 {
            return Taken::Late;
        }
        self.last = Some(sample);
        let energy = match (last.shows, sample.shows) {
            (Shows::Counter { microjoules: old, range }, Shows::Counter { microjoules: new, range: now })
                if range == now =>
            {
                risen(old, new, range, passed).ok_or(Begins::Unbelievable)
            }
            (Shows::Power(old), Shows::Power(new)) if passed <= POWER_GAP_MICROS => {
                let sum = i128::from(old.0.max(0)) + i128::from(new.0.max(0));
                self.carry += sum * i128::from(passed);
                let micros = self.carry / HALF_NANOS_PER_MICRO;
                self.carry %= HALF_NANOS_PER_MICRO;
                believed(micros, passed).map(|energy| (energy, true)).ok_or(Begins::Unbelievable)
            }
            (Shows::Counter { .. } | Shows::Power(_), _) => Err(Begins::Gap),
        };
        match energy {
            Ok((microjoules, is_measured)) => {
                let (from_micros, to_micros) = interval(&last, &sample, passed);
                Taken::Slice(Slice { from_micros, to_micros, microjoules, is_measured })
            }
            Err(begins) => Taken::Begins(begins),
        }
    }
}

/// What a counter rose by, and whether all of it was seen. A fall is the start of the next round where that leads to a power
/// that can be, else a new beginning, which shows only what came after it.
fn risen(old: u64, new: u64, range: Option<u64>, passed: i64) -> Option<(i64, bool)> {
    if let Some(difference) = new.checked_sub(old) {
        return believed(difference.into(), passed).map(|energy| (energy, true));
    }
    let round = range.and_then(|range| Some(i128::from(range.checked_sub(old)?) + i128::from(new)));
    let wrapped = round.and_then(|energy| believed(energy, passed)).map(|energy| (energy, true));
    wrapped.or_else(|| believed(new.into(), passed).map(|energy| (energy, false)))
}

fn believed(microjoules: i128, passed: i64) -> Option<i64> {
    let can_be = microjoules <= WATTS_MAX * i128::from(passed);
    can_be.then(|| i64::try_from(microjoules).ok()).flatten()
}

/// When the wall clock was set, the interval is laid out backwards from the new time, so that its length stays true.
fn interval(last: &Sample, now: &Sample, passed: i64) -> (i64, i64) {
    let wall = now.wall_micros.saturating_sub(last.wall_micros);
    if wall > 0 && wall.abs_diff(passed) < JUMP_MICROS.unsigned_abs() {
        return (last.wall_micros, now.wall_micros);
    }
    (now.wall_micros.saturating_sub(passed), now.wall_micros)
}

#[cfg(test)]
mod tests;
