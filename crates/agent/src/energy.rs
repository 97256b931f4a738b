//! Energy of a node between two looks at its counters.
//!
//! GPUs: NVML's energy counters. Processors: RAPL's package counters where the system lets us read them. What has no
//! counter is computed from CPU time and a stated model, and the sample then says `estimated`.
//! INVARIANT: a sample is never negative, and samples add up: what rounding leaves is carried into the next one, and what
//! a GPU's counter counts while it does not answer is booked when it does.
//! Units: millijoules, microseconds, integers. Durations come from monotonic clocks, dates from the wall clock.
//! Deliberately absent: fans, disks and power supplies, which only a meter outside the host can see.

mod balance;
mod counters;
mod power_model;
pub mod source;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

use galerne_model::ledger::EnergyMethod;
use galerne_model::units::{Millijoules, Milliwatts};

use crate::{Gpus, Host};
use balance::Balance;
use counters::Counters;
pub use power_model::PowerModel;

/// Energy of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnergySample {
    /// Start of the interval.
    pub started_at: Timestamp,
    /// End of the interval.
    pub ended_at: Timestamp,
    /// Energy of the node in it.
    pub millijoules: Millijoules,
    /// How it was obtained: `Measured` only if every part was.
    pub method: EnergyMethod,
    /// CPU time in which the node's processors were busy.
    pub busy_cpu_micros: i64,
    /// Energy of its processors alone, where their counters could be read.
    pub processors: Option<Millijoules>,
    /// Time it was awake, in microseconds.
    pub awake_micros: i64,
    /// Where each part comes from: `nvml`, `rapl`, `estimate`.
    pub sources: Vec<&'static str>,
    /// The parts in words, for people and for the reading.
    pub explanation: String,
    /// How far the wall clock jumped against the monotonic one, in milliseconds; 0 when it did not.
    pub clock_jump_ms: i64,
    /// How long the host slept in the interval, in milliseconds.
    pub suspended_ms: i64,
}

/// Reads a node's counters and turns differences into energy.
#[derive(Debug)]
pub struct EnergyMeter {
    host: Host,
    gpus: Gpus,
    model: PowerModel,
    last: Counters,
    carry: Balance,
    /// How the last sample was obtained, for saying when that changes.
    explained: String,
}

impl EnergyMeter {
    /// A meter that starts now. Without a model the host's processors and memory decide one.
    pub fn new(host: Host, model: Option<PowerModel>) -> Self {
        Self::with_gpus(host, Gpus::none(), model)
    }

    /// A meter that counts GPUs as well.
    pub fn with_gpus(host: Host, gpus: Gpus, model: Option<PowerModel>) -> Self {
        let model = model.unwrap_or_else(|| PowerModel::of(&host));
        let last = Counters::read(&host, &gpus);
        Self { host, gpus, model, last, carry: Balance::default(), explained: String::new() }
    }

    /// Energy since the last call, or since the meter was made.
    pub fn sample(&mut self) -> EnergySample {
        let mut now = Counters::read(&self.host, &self.gpus);
        balance::keep_missed(&self.last, &mut now);
        let (sample, carry) = balance::between(&self.last, &now, &self.model, self.carry);
        self.last = now;
        self.carry = carry;
        self.tell(&sample);
        sample
    }

    /// Says what an operator would otherwise have to guess from odd figures.
    fn tell(&mut self, sample: &EnergySample) {
        if sample.explanation != self.explained {
            tracing::info!(method = ?sample.method, how = sample.explanation, "energy of this host is read");
            self.explained.clone_from(&sample.explanation);
        }
        if sample.clock_jump_ms != 0 {
            tracing::warn!(clock_jump_ms = sample.clock_jump_ms, "the clock of this host was set");
        }
        if sample.suspended_ms > 1_000 {
            tracing::info!(suspended_ms = sample.suspended_ms, "this host slept");
        }
    }

    /// The GPUs it counts, for reading their facts.
    pub fn gpus(&self) -> &Gpus {
        &self.gpus
    }

    /// Where its energy comes from on this host.
    pub fn sources(&self) -> Vec<&'static str> {
        let mut sources = Vec::new();
        if !self.gpus.is_empty() {
            sources.push("nvml");
        }
        sources.push(if self.last.packages.is_empty() { "estimate" } else { "rapl" });
        sources
    }

    /// The model that stands in where there is no counter.
    pub fn model(&self) -> &PowerModel {
        &self.model
    }

    /// Power of one busy CPU above idle, for apportioning to requests by CPU time.
    pub fn active_power(&self) -> Milliwatts {
        self.model.active_per_cpu
    }
}
