//! The demand by which places are judged: what requests ask for, how often, and what that makes of free GPUs.
//!
//! Fragmentation is the measure of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023): the GPU capacity of a
//! node that a request drawn from the demand could not use. Nothing here is known beforehand: every number comes from
//! the requests seen, or from frequencies that the caller knows.
//! Deliberately absent: memory and residency of the classes; nodes differ little in the one and rarely in the other.

use std::collections::BTreeMap;

use super::state::{SLOT_MILLI, State};
use super::{SingleAsk, scarcity};
use crate::fleet::ModelSpec;
use crate::request::Gpus;
use crate::units::GPU_MILLI;

/// Weights are parts of this; a power of two, so that dividing is cheap.
const WHOLE_WEIGHT: i64 = 1 << 20;

/// Most classes that are weighed: the rarest are left out first.
const MAX_CLASSES: usize = 256;

/// Percent of the requests that the weighed classes cover, as in Weng et al. §6.1: the rest is too rare to plan for.
const COVERED_PERCENT: i64 = 95;

/// Counts of what was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Census {
    counts: BTreeMap<Class, Count>,
}

/// How many requests of a class there are, never none, and how much of a GPU each asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    exact: i64,
    /// The exact count, rounded: what the outlook is made of. It changes rarely, so that judgements can be kept, and
    /// yet depends on nothing but what there is now.
    pub(super) requests: i64,
    pub(super) milli: i64,
}

/// A count rounded down to its first two binary digits (1, 2, 3, 4, 6, 8, 12, 16 ...).
const fn rounded(count: i64) -> i64 {
    if count < 4 {
        return count;
    }
    let shift = count.ilog2() - 1;
    count >> shift << shift
}

/// Requests that harm and are harmed alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) gpus: Gpus,
    pub(super) models: u64,
    cpu_milli: u32,
}

/// What there is, in sum: nodes that take work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Supply {
    pub(super) cpu_milli: i64,
    /// GPUs by model; as many as there are models.
    pub(super) gpus: Vec<i64>,
}

impl Census {
    /// So many more requests, or fewer, of this class; whether that changes the rounded counts.
    pub(super) fn add(&mut self, ask: &SingleAsk, requests: i64, models: &[ModelSpec]) -> bool {
        let class = Class { gpus: ask.gpus, models: ask.models, cpu_milli: ask.cpu_milli };
        let new = || Count { exact: 0, requests: 0, milli: milli(ask, models) };
        let count = self.counts.entry(class).or_insert_with(new);
        count.exact = (count.exact + requests).max(0);
        let before = std::mem::replace(&mut count.requests, rounded(count.exact));
        let is_changed = before != count.requests;
        if count.exact == 0 {
            self.counts.remove(&class);
        }
        is_changed
    }

    /// Frequencies that are exact.
    pub(super) fn told(frequencies: &[(SingleAsk, u32)], models: &[ModelSpec]) -> Self {
        let mut census = Self::default();
        for (ask, requests) in frequencies {
            census.add(ask, i64::from(*requests), models);
        }
        census.counts.values_mut().for_each(|count| count.requests = count.exact);
        census
    }

    /// Every class with its count, in order.
    pub(super) fn classes(&self) -> impl Iterator<Item = (&Class, Count)> {
        self.counts.iter().map(|(class, count)| (class, *count))
    }

    /// The classes that cover most of the demand.
    fn typical(&self) -> Vec<(Class, i64)> {
        let mut classes: Vec<(Class, i64)> = self.classes().map(|(class, count)| (*class, count.requests)).collect();
        classes.sort_by_key(|(class, count)| (std::cmp::Reverse(*count), *class));
        let total: i64 = classes.iter().map(|(_, count)| count).sum();
        let mut covered = 0;
        let rare = classes.iter().position(|(_, count)| {
            let is_rare = covered * 100 >= total * COVERED_PERCENT;
            covered += count;
            is_rare
        });
        classes.truncate(rare.unwrap_or(classes.len()).min(MAX_CLASSES));
        classes
    }
}

/// What the demand makes of places; changes only when told to, so that judgements can be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    groups: Vec<Group>,
    /// Sum of all weights; those that ask for no GPU are in no group.
    weight: i64,
    /// CPU that should remain beside each free GPU, in thousandths.
    pub(super) cpu_per_gpu: i64,
    /// By model: the greater, the more of it will be asked for compared with what there is.
    pub(super) scarcity: Vec<u8>,
}

/// Classes that ask for the same GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    gpus: Gpus,
    models: u64,
    /// CPU asked for and the weight of all classes that ask for no more; ascending.
    cpu: Vec<(u32, i64)>,
}

impl Outlook {
    /// What these requests make of nodes such as these.
    pub(super) fn new(census: &Census, supply: &Supply) -> Self {
        let typical = census.typical();
        let total: i64 = typical.iter().map(|(_, count)| count).sum();
        let mut groups: BTreeMap<(Gpus, u64), BTreeMap<u32, i64>> = BTreeMap::new();
        let mut weight = 0;
        for (class, count) in &typical {
            let share = count * WHOLE_WEIGHT / total.max(1);
            weight += share;
            if class.gpus != Gpus::Whole(0) {
                *groups.entry((class.gpus, class.models)).or_default().entry(class.cpu_milli).or_insert(0) += share;
            }
        }
        let group = |((gpus, models), shares): ((Gpus, u64), BTreeMap<u32, i64>)| {
            let summed = shares.into_iter().scan(0, |sum, (cpu, share)| {
                *sum += share;
                Some((cpu, *sum))
            });
            Group { gpus, models, cpu: summed.collect() }
        };
        Self {
            groups: groups.into_iter().map(group).collect(),
            weight,
            cpu_per_gpu: cpu_per_gpu(census, supply),
            scarcity: scarcity::by_model(census, supply),
        }
    }

    /// GPU capacity free on a node that the demand could not use, weighted: in thousandths times `WHOLE_WEIGHT`.
    pub(super) fn fragmented(&self, state: &State, models: &[ModelSpec]) -> i64 {
        let mut unusable = self.weight * state.free_milli();
        if unusable == 0 {
            return 0;
        }
        for group in &self.groups {
            if group.models == 0 || group.models >> state.kind.model.0 & 1 == 1 {
                let fitting = group.cpu.partition_point(|(cpu, _)| *cpu <= state.cpu_milli);
                if let Some((_, weight)) = fitting.checked_sub(1).and_then(|last| group.cpu.get(last)) {
                    unusable -= weight * state.usable_milli(group.gpus, models);
                }
            }
        }
        unusable
    }

    /// GPUs (in tenths) that would be left without CPU on this node if requests came as they did: a tenth, because
    /// finer differences than the smallest common share of a GPU are chance, not harm.
    pub(super) fn starved(&self, state: &State) -> i64 {
        (self.cpu_per_gpu * state.free_milli() / i64::from(GPU_MILLI) - i64::from(state.cpu_milli)).max(0)
    }

    /// A difference of `starved`, in tenths of a GPU, rounded.
    pub(super) fn starved_tenths(&self, difference: i64) -> i64 {
        if self.cpu_per_gpu == 0 {
            return 0;
        }
        let half = self.cpu_per_gpu / 2 * difference.signum();
        (difference * 10 + half) / self.cpu_per_gpu
    }
}

/// CPU to keep beside each free GPU: what the demand brings with each GPU, CPU-only requests included, times how
/// scarce CPU is (demand's CPU per GPU over the nodes') to the power of 3/2. Where CPU is ample nothing need be kept,
/// and keeping it would break up nodes for nothing; where it is scarce GPUs are lost without it.
fn cpu_per_gpu(census: &Census, supply: &Supply) -> i64 {
    const ONE: i64 = 1 << 10;
    let asked = census.classes().fold((0_i64, 0_i64), |(cpu, gpu), (class, count)| {
        (cpu + count.requests * i64::from(class.cpu_milli), gpu + count.requests * count.milli)
    });
    let gpus: i64 = supply.gpus.iter().sum();
    if asked.1 == 0 || gpus == 0 || supply.cpu_milli == 0 {
        return 0;
    }
    let demanded = i64::try_from(i128::from(asked.0) * i128::from(GPU_MILLI) / i128::from(asked.1)).unwrap_or(i64::MAX);
    let provided = (supply.cpu_milli / gpus).max(1);
    let scarcity = (demanded.saturating_mul(ONE) / provided).min(4 * ONE);
    demanded.saturating_mul(scarcity).saturating_mul((scarcity * ONE).isqrt()) / (ONE * ONE)
}

/// The capacity asked for on one node, in thousandths of a GPU; a slice counts by its memory slots.
fn milli(ask: &SingleAsk, models: &[ModelSpec]) -> i64 {
    match ask.gpus {
        Gpus::Whole(count) => i64::from(count) * i64::from(GPU_MILLI),
        Gpus::Milli(milli) => i64::from(milli),
        Gpus::Slice(slice) => {
            let model = models.get(ask.models.trailing_zeros() as usize);
            let position = model.and_then(|model| model.slices.get(usize::from(slice.0))?.positions.first());
            position.map_or(0, |slots| i64::from(slots.count_ones()) * SLOT_MILLI)
        }
    }
}

/// Hundredths of the logistic function of a difference of `fragmented` in GPUs, rounded down: equal harm for all that
/// differs less than chance does. The score of Weng et al., in integers.
pub(super) fn hundredths(gain: i64) -> u8 {
    let millionths = i128::from(gain) * 1000 / i128::from(WHOLE_WEIGHT);
    let size = i64::try_from(millionths.unsigned_abs()).unwrap_or(i64::MAX);
    let exact = i128::from(gain) * 1000 % i128::from(WHOLE_WEIGHT) == 0;
    if gain >= 0 {
        let steps = LOGISTIC.partition_point(|threshold| *threshold <= size);
        49 + u8::try_from(steps).unwrap_or(50)
    } else {
        // Below the middle the thresholds lie mirrored, and a difference on a threshold still counts as above it.
        let steps = LOGISTIC.partition_point(|threshold| if exact { *threshold < size } else { *threshold <= size });
        50 - u8::try_from(steps).unwrap_or(50)
    }
}

/// Where the logistic function reaches 50, 51, ... 99 hundredths: ln(p / (1 - p)), in millionths.
const LOGISTIC: [i64; 50] = [
    0_000, 40_005, 80_043, 120_144, 160_343, 200_671, 241_162, 281_851, 322_773, 363_965, 405_465, 447_312, 489_548,
    532_217, 575_364, 619_039, 663_294, 708_185, 753_772, 800_119, 847_298, 895_384, 944_462, 994_623, 1_045_969,
    1_098_612, 1_152_680, 1_208_311, 1_265_666, 1_324_925, 1_386_294, 1_450_010, 1_516_347, 1_585_627, 1_658_228,
    1_734_601, 1_815_290, 1_900_959, 1_992_430, 2_090_741, 2_197_225, 2_313_635, 2_442_347, 2_586_689, 2_751_535,
    2_944_439, 3_178_054, 3_476_099, 3_891_820, 4_595_120,
];

#[cfg(test)]
mod tests;
