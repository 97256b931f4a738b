//! Power of a host that does not measure it.
//!
//! `P = idle + busy CPUs × active`. The default takes the method and the averages of Cloud Carbon Footprint
//! (cloudcarbonfootprint.org, Methodology, "Compute" and "Memory"): 0.74 W a vCPU at rest and 3.5 W at full load (its
//! averages where the micro-architecture is unknown), and 0.392 W per GB of memory. Its figures per vCPU already hold
//! some memory, so this leans high; it knows neither fans nor disks.

use galerne_model::units::Milliwatts;

use crate::Host;
use crate::facts::parse_meminfo;

/// A logical processor at rest.
const IDLE_MILLIWATTS_PER_CPU: i64 = 740;
/// The same at full load.
const BUSY_MILLIWATTS_PER_CPU: i64 = 3_500;
/// A gigabyte (10⁹ bytes) of memory, always: 0.000392 kWh per GB and hour.
const MICROWATTS_PER_GIGABYTE: i64 = 392_000;

/// Power at rest, and what a busy processor adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerModel {
    /// The whole host at rest.
    pub idle: Milliwatts,
    /// Its processors at rest: the part of `idle` that their own counters would show.
    pub idle_processors: Milliwatts,
    /// One busy logical processor, above idle.
    pub active_per_cpu: Milliwatts,
    /// Logical processors the model was made for; more CPU time than they have is not believed.
    pub cpu_count: i64,
    /// The model in words.
    pub words: String,
}

impl PowerModel {
    /// The default model for the processors and the memory of a host.
    pub fn of(host: &Host) -> Self {
        let cpuinfo = host.text("proc/stat").unwrap_or_default();
        let memory_bytes = host.text("proc/meminfo").and_then(|text| parse_meminfo(&text, "MemTotal")).unwrap_or(0);
        Self::for_size(count_cpus(&cpuinfo), memory_bytes)
    }

    /// The default model for a number of logical processors and an amount of memory.
    pub fn for_size(cpu_count: i64, memory_bytes: i64) -> Self {
        let memory_milliwatts = i128::from(memory_bytes) * i128::from(MICROWATTS_PER_GIGABYTE) / 1_000_000_000_000;
        let memory_milliwatts = i64::try_from(memory_milliwatts).unwrap_or(i64::MAX);
        let idle_processors = cpu_count.saturating_mul(IDLE_MILLIWATTS_PER_CPU);
        Self {
            idle: Milliwatts(idle_processors.saturating_add(memory_milliwatts)),
            idle_processors: Milliwatts(idle_processors),
            active_per_cpu: Milliwatts(BUSY_MILLIWATTS_PER_CPU - IDLE_MILLIWATTS_PER_CPU),
            cpu_count,
            words: format!(
                "{cpu_count} CPUs at 0.74 W idle and 3.5 W busy, memory at 0.392 W/GB (Cloud Carbon Footprint averages)"
            ),
        }
    }

    /// A model the operator states, from a meter at the wall for example. What of its idle power the processors draw is
    /// not stated; all of it is taken, which gives requests rather too little than too much.
    pub fn stated(idle: Milliwatts, active_per_cpu: Milliwatts, cpu_count: i64) -> Self {
        let words = format!("stated by the operator: {} mW idle, {} mW per busy CPU", idle.0, active_per_cpu.0);
        let idle = Milliwatts(idle.0.max(0));
        Self { idle, idle_processors: idle, active_per_cpu: Milliwatts(active_per_cpu.0.max(0)), cpu_count, words }
    }
}

/// Lines `cpu0 …`, `cpu1 …` of `/proc/stat`: the processors that are online.
fn count_cpus(stat: &str) -> i64 {
    let numbered =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    i64::try_from(stat.lines().filter(numbered).count()).unwrap_or(1).max(1)
}
