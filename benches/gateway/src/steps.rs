//! Loads that are put on every gateway in every round, and what one round of one of them says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::figure::Figure;
use crate::load::{Load, Report, run};
use crate::peers::{Mocks, Peer, Running};
use crate::stats::{P50, P99};
use crate::table::Results;

/// Tokens of a stream in a burst, of one that is measured alone, and of one with a pace.
const BURST_TOKENS: usize = 128;
const STREAM_TOKENS: usize = 64;
const PACED_TOKENS: usize = 50;
const PACED_STREAMS: usize = 200;
const PACE: Duration = Duration::from_millis(20);
const LONG_PROMPT: usize = 32 * 1024;
/// Prompts that one load may number: more than any sends.
const NUMBERS_EACH: u64 = 10_000_000_000;

/// Where the next load's unique prompts begin.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// So that no two loads share a prompt.
pub(crate) fn first_number() -> u64 {
    NEXT_NUMBER.fetch_add(NUMBERS_EACH, Ordering::Relaxed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// One connection, plain answers.
    Latency,
    /// Sixty-four of them.
    Plain,
    /// Streams without a pace.
    Burst,
    /// One stream after the other, without a pace.
    Stream,
    /// Streams with a pace, the realistic load.
    Paced,
    /// Prompts of 32 KiB, none like another.
    Prompts,
}

impl Step {
    pub(crate) fn load(self, seconds: f64) -> Load {
        match self {
            Self::Latency => Load::plain(1, seconds * 0.7),
            Self::Plain => Load::plain(64, seconds),
            Self::Burst => Load::streams(32, seconds, BURST_TOKENS, Duration::ZERO),
            Self::Stream => Load::streams(1, seconds * 0.5, STREAM_TOKENS, Duration::ZERO),
            Self::Paced => Load::streams(PACED_STREAMS, seconds, PACED_TOKENS, PACE),
            Self::Prompts => Load {
                unique: true,
                prompt_bytes: LONG_PROMPT,
                first_number: first_number(),
                ..Load::plain(64, seconds)
            },
        }
    }
}

/// One round of one load on one gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) report: Report,
    /// Answers, or events of streams.
    pub(crate) count: u64,
    /// Microseconds of processor time for each, while the load was on.
    pub(crate) cpu_us: f64,
    /// The same until the ledger had every record.
    pub(crate) cpu_settled_us: f64,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.report.seconds.max(1e-9)
    }
}

/// Puts a load on a gateway and reads what it cost.
pub(crate) fn round(one: &Running, mocks: &Mocks, load: Load) -> Result<Round> {
    let before = one.cpu_seconds(mocks);
    let report = run(one.target(), load)?;
    let after = one.cpu_seconds(mocks);
    if let Some(site) = one.site() {
        site.settle()?;
    }
    let settled = one.cpu_seconds(mocks);
    let count = if load.stream { report.events() } else { report.answered };
    // Of nothing there is no cost of each.
    let each = |cpu: f64| if count == 0 { f64::NAN } else { (cpu - before) * 1e6 / count as f64 };
    Ok(Round { count, cpu_us: each(after), cpu_settled_us: each(settled), report })
}

/// Writes a round's figures down. `direct` is the mock's own round of the same step, for what is added to it.
pub(crate) fn record(results: &mut Results, step: Step, peer: Peer, round: &Round, direct: Option<&Round>) {
    let added = |of: fn(&Report) -> f64| direct.map(|direct| of(&round.report) - of(&direct.report));
    let all: Vec<(Figure, Option<f64>)> = match step {
        Step::Latency => vec![
            (Figure::AddedP50, added(|report| report.latency_us(P50))),
            (Figure::AddedP99, added(|report| report.latency_us(P99))),
        ],
        Step::Plain => vec![
            (Figure::PlainRate, Some(round.per_second())),
            (Figure::PlainCpu, Some(round.cpu_us)),
            (Figure::PlainCpuLedger, Some(round.cpu_settled_us)),
        ],
        Step::Burst => {
            vec![(Figure::BurstRate, Some(round.per_second())), (Figure::BurstCpu, Some(round.cpu_settled_us))]
        }
        Step::Stream => vec![(Figure::StreamAdded, added(|report| report.latency_us(P50)))],
        Step::Paced => vec![
            (Figure::PacedRate, Some(round.per_second())),
            (Figure::PacedCpu, Some(round.cpu_settled_us)),
            (Figure::PacedFirst, added(|report| report.first_us(P50) / 1e3)),
        ],
        Step::Prompts => {
            vec![(Figure::PromptRate, Some(round.per_second())), (Figure::PromptCpu, Some(round.cpu_settled_us))]
        }
    };
    let is_direct = peer == Peer::Direct;
    for (figure, value) in all {
        // What the mock adds to itself is nothing.
        let is_added = matches!(figure, Figure::AddedP50 | Figure::AddedP99 | Figure::StreamAdded | Figure::PacedFirst);
        if let Some(value) = value.filter(|value| !value.is_nan() && round.count > 0 && !(is_direct && is_added)) {
            results.push(figure, peer, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(micros: u64) -> Round {
        let report = Report { latency: vec![micros * 1_000], answered: 1, seconds: 0.5, ..Report::default() };
        Round { report, count: 10, cpu_us: 4.0, cpu_settled_us: 6.0 }
    }

    #[test]
    fn what_is_added_is_told_against_the_mock_and_never_of_it() {
        let mut results = Results::default();
        let (ours, direct) = (answered(150), answered(40));
        record(&mut results, Step::Latency, Peer::Galerne, &ours, Some(&direct));
        record(&mut results, Step::Latency, Peer::Direct, &direct, Some(&direct));
        assert_eq!(results.value(Figure::AddedP50, Peer::Galerne), Some(110.0));
        assert_eq!(results.value(Figure::AddedP50, Peer::Direct), None);
    }

    #[test]
    fn the_ledger_is_part_of_what_a_request_costs() {
        let mut results = Results::default();
        record(&mut results, Step::Plain, Peer::Galerne, &answered(1), None);
        assert_eq!(results.value(Figure::PlainCpu, Peer::Galerne), Some(4.0));
        assert_eq!(results.value(Figure::PlainCpuLedger, Peer::Galerne), Some(6.0));
        assert_eq!(results.value(Figure::PlainRate, Peer::Galerne), Some(20.0));
    }

    #[test]
    fn a_round_without_an_answer_has_no_figures() {
        let mut results = Results::default();
        let nothing = Round { cpu_us: f64::NAN, cpu_settled_us: f64::NAN, ..Round::default() };
        for step in [Step::Plain, Step::Latency, Step::Burst] {
            record(&mut results, step, Peer::LiteLlm, &nothing, Some(&answered(1)));
        }
        assert_eq!(results.csv().lines().count(), 1);
    }

    #[test]
    fn two_loads_share_no_prompt() {
        let (first, second) = (Step::Prompts.load(1.0), Step::Prompts.load(1.0));
        assert!(second.first_number.abs_diff(first.first_number) >= NUMBERS_EACH);
    }
}
