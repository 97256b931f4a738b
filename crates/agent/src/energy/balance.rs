//! The difference between two looks: pure arithmetic on integers.

use galerne_model::ledger::EnergyMethod;
use galerne_model::units::Millijoules;
use jiff::Timestamp;

use super::counters::{Counters, PackageCounter};
use super::{EnergySample, PowerModel};
use crate::gpus::GpuCounter;

/// Wall and monotonic clocks differ by less than this unless someone set the time: clock discipline slews at most
/// 0.05 %, 5 ms in a 10 s interval.
const JUMP_NANOS: i128 = 1_000_000_000;
/// No processor package draws more (the largest servers are below 1 kW); a difference above it is not believed.
const PACKAGE_MILLIWATTS_MAX: i128 = 2_000_000;
/// No GPU draws more; likewise.
const GPU_MILLIWATTS_MAX: i128 = 3_000_000;

/// A GPU that has not answered for so long has left the host, and nothing will be counted on from where it was.
const MISSED_NANOS_MAX: i128 = 3_600_000_000_000;

/// Energy that is not yet a whole millijoule, in picojoules (milliwatts × nanoseconds).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Balance {
    picojoules: i128,
}

/// Picojoules in one millijoule.
const PICOJOULES_PER_MILLIJOULE: i128 = 1_000_000_000;
/// Picojoules in one microjoule.
const PICOJOULES_PER_MICROJOULE: i128 = 1_000_000;

/// One part of the node's energy.
struct Share {
    picojoules: i128,
    source: &'static str,
    is_measured: bool,
    words: String,
}

/// Keeps in `after` the energy counters that it could not read, as `before` knew them, so that the next look that can
/// read them counts on from there and no energy of the gap is lost.
pub(super) fn keep_missed(before: &Counters, after: &mut Counters) {
    let interval_nanos = (after.at.awake_nanos - before.at.awake_nanos).max(0);
    for uuid in before.gpus.keys().chain(before.missed.keys()) {
        let is_read = after.gpus.get(uuid).is_some_and(|gpu| gpu.energy_millijoules.is_some());
        let Some(mut missed) = before.last_known(uuid).filter(|_| !is_read) else { continue };
        if after.at.awake_nanos - missed.awake_nanos > MISSED_NANOS_MAX {
            continue;
        }
        missed.booked_picojoules += by_power(after.gpus.get(uuid), interval_nanos);
        after.missed.insert(uuid.clone(), missed);
    }
}

/// Energy between two looks, and what rounding left for the next.
pub(super) fn between(
    before: &Counters,
    after: &Counters,
    model: &PowerModel,
    carry: Balance,
) -> (EnergySample, Balance) {
    let awake_nanos = (after.at.awake_nanos - before.at.awake_nanos).max(0);
    let passed_nanos = (after.at.since_boot_nanos - before.at.since_boot_nanos).max(awake_nanos);
    let busy_cpu_micros = busy(before, after, model, awake_nanos);
    let mut shares = gpu_shares(before, after, awake_nanos);
    let processors = processor_share(before, after, model, awake_nanos, busy_cpu_micros);
    let counted = processors.is_measured.then_some(processors.picojoules / PICOJOULES_PER_MILLIJOULE);
    shares.push(processors);
    let total = shares.iter().map(|share| share.picojoules).sum::<i128>() + carry.picojoules;
    let millijoules = i64::try_from(total / PICOJOULES_PER_MILLIJOULE).unwrap_or(i64::MAX);
    let mut sources: Vec<_> = shares.iter().map(|share| share.source).collect();
    sources.sort_unstable();
    sources.dedup();
    let is_measured = shares.iter().all(|share| share.is_measured);
    let (started_at, ended_at, clock_jump_ms) = interval(before, after, passed_nanos);
    let sample = EnergySample {
        started_at,
        ended_at,
        millijoules: Millijoules(millijoules),
        method: if is_measured { EnergyMethod::Measured } else { EnergyMethod::Estimated },
        busy_cpu_micros,
        processors: counted.map(|millijoules| Millijoules(i64::try_from(millijoules).unwrap_or(i64::MAX))),
        awake_micros: i64::try_from(awake_nanos / 1_000).unwrap_or(i64::MAX),
        sources,
        explanation: shares.into_iter().map(|share| share.words).collect::<Vec<_>>().join("; "),
        clock_jump_ms,
        suspended_ms: i64::try_from((passed_nanos - awake_nanos) / 1_000_000).unwrap_or(i64::MAX),
    };
    (sample, Balance { picojoules: total % PICOJOULES_PER_MILLIJOULE })
}

/// Intervals follow each other without gap or overlap; when the wall clock was set, this one is laid out backwards from
/// the new time, so that its length stays true.
fn interval(before: &Counters, after: &Counters, passed_nanos: i128) -> (Timestamp, Timestamp, i64) {
    let wall_nanos = after.at.wall.as_nanosecond() - before.at.wall.as_nanosecond();
    let jump_nanos = wall_nanos - passed_nanos;
    if jump_nanos.abs() < JUMP_NANOS && wall_nanos >= 0 {
        return (before.at.wall, after.at.wall, 0);
    }
    let started_at = Timestamp::from_nanosecond(after.at.wall.as_nanosecond() - passed_nanos).unwrap_or(after.at.wall);
    (started_at, after.at.wall, i64::try_from(jump_nanos / 1_000_000).unwrap_or(i64::MAX))
}

/// Busy time, at most what the processors had. The kernel's sum can fall back a little when a processor goes offline.
fn busy(before: &Counters, after: &Counters, model: &PowerModel, awake_nanos: i128) -> i64 {
    let (Some(old), Some(new)) = (before.busy_cpu_micros, after.busy_cpu_micros) else { return 0 };
    // One tick per processor may belong to the time before.
    let most = (awake_nanos / 1_000 + 10_000) * i128::from(model.cpu_count.max(1));
    (new - old).clamp(0, i64::try_from(most).unwrap_or(i64::MAX))
}

fn processor_share(
    before: &Counters,
    after: &Counters,
    model: &PowerModel,
    awake_nanos: i128,
    busy_cpu_micros: i64,
) -> Share {
    let most = (PACKAGE_MILLIWATTS_MAX * awake_nanos).max(PICOJOULES_PER_MILLIJOULE);
    let counted: Option<Vec<i128>> = after
        .packages
        .iter()
        .map(|(zone, new)| {
            let microjoules = package_difference(before.packages.get(zone)?, new)?;
            let picojoules = i128::from(microjoules) * PICOJOULES_PER_MICROJOULE;
            (picojoules <= most).then_some(picojoules)
        })
        .collect();
    match counted {
        Some(parts) if !parts.is_empty() && before.packages.len() == after.packages.len() => Share {
            picojoules: parts.iter().sum(),
            source: "rapl",
            is_measured: true,
            words: format!("processors: {} RAPL package counter(s)", parts.len()),
        },
        _ => Share {
            picojoules: i128::from(model.idle.0) * awake_nanos
                + i128::from(model.active_per_cpu.0) * i128::from(busy_cpu_micros) * 1_000,
            source: "estimate",
            is_measured: false,
            words: format!("processors and memory: {}", model.words),
        },
    }
}

/// Microjoules between two values of a counter that starts again from 0. Nothing when the counter is another one.
fn package_difference(old: &PackageCounter, new: &PackageCounter) -> Option<u64> {
    if old.max_microjoules != new.max_microjoules || old.microjoules > old.max_microjoules {
        return None;
    }
    match new.microjoules.checked_sub(old.microjoules) {
        Some(difference) => Some(difference),
        None => (old.max_microjoules - old.microjoules).checked_add(new.microjoules),
    }
}

fn gpu_shares(before: &Counters, after: &Counters, awake_nanos: i128) -> Vec<Share> {
    let read = after.gpus.values().filter(|gpu| !after.missed.contains_key(&gpu.uuid));
    let read = read.map(|new| match gpu_difference(before, new, after.at.awake_nanos) {
        Some((picojoules, since)) => Share {
            picojoules,
            source: "nvml",
            is_measured: matches!(since, Since::LastLook),
            words: match since {
                Since::LastLook => "GPU: NVML energy counter".to_owned(),
                Since::LastAnswer => "GPU: NVML energy counter since it last answered".to_owned(),
                Since::Reset => "GPU: NVML energy counter since it was reset, a lower bound".to_owned(),
            },
        },
        None => Share {
            picojoules: by_power(Some(new), awake_nanos),
            source: "nvml",
            is_measured: false,
            words: "GPU: its power now, times the interval".to_owned(),
        },
    });
    let missed = after.missed.keys().map(|uuid| Share {
        picojoules: by_power(after.gpus.get(uuid), awake_nanos),
        source: "nvml",
        is_measured: false,
        words: "GPU: its energy counter does not answer, what it counts is booked when it does".to_owned(),
    });
    read.chain(missed).collect()
}

/// Energy of a GPU whose counter is of no help.
fn by_power(gpu: Option<&GpuCounter>, awake_nanos: i128) -> i128 {
    i128::from(gpu.and_then(|gpu| gpu.power_milliwatts).unwrap_or(0)) * awake_nanos
}

/// What the difference of an energy counter reaches back to.
enum Since {
    LastLook,
    /// Earlier looks did not get an answer: some of it is of their intervals.
    LastAnswer,
    Reset,
}

/// Picojoules of one GPU since its counter was last read, without what has been booked for it meanwhile.
/// A counter that fell was reset with its driver: what it shows has been used since, at least.
fn gpu_difference(before: &Counters, new: &GpuCounter, awake_nanos: i128) -> Option<(i128, Since)> {
    let (old, energy_millijoules) = (before.last_known(&new.uuid)?, new.energy_millijoules?);
    let (millijoules, since) = match energy_millijoules.checked_sub(old.energy_millijoules) {
        Some(difference) if before.missed.contains_key(&new.uuid) => (difference, Since::LastAnswer),
        Some(difference) => (difference, Since::LastLook),
        None => (energy_millijoules, Since::Reset),
    };
    let picojoules = i128::from(millijoules) * PICOJOULES_PER_MILLIJOULE;
    let most = (GPU_MILLIWATTS_MAX * (awake_nanos - old.awake_nanos)).max(PICOJOULES_PER_MILLIJOULE);
    let rest = (picojoules - old.booked_picojoules).max(0);
    (picojoules <= most).then_some((rest, since))
}
