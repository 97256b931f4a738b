//! Measuring: the bare llama.cpp loop, and a server of the same model under the same work, in turn within one run. Absolute
//! numbers on a shared machine differ by a factor between minutes; ratios of neighbouring rounds hold.
//! Both do the same work under the same clock: from the first prompt to the last token, prompts included. To begin at a
//! server's first token would charge it for the prompts of the requests that came a moment later, and the bare loop for none.

#[cfg(feature = "llama")]
mod bare;
mod through;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::machine;
use crate::refusal::Refusal;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    pub model: PathBuf,
    pub mode: Mode,
    pub threads: Option<usize>,
    pub sequences: usize,
    pub tokens: usize,
    pub reps: usize,
    pub through: Option<Server>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Prompt tokens per second.
    Pp,
    /// Generated tokens per second.
    Tg,
}

/// A server that speaks OpenAI's dialect.
#[derive(Debug, Clone)]
pub struct Server {
    /// `http://HOST:PORT`
    pub url: String,
    pub name: String,
    pub key: Option<String>,
}

/// The work of one round, the same for the bare loop and for a server.
#[derive(Debug, Clone, Copy)]
struct Work {
    mode: Mode,
    sequences: usize,
    tokens: usize,
    /// Makes prompts differ between rounds, so that no prefix is reused.
    round: usize,
}

/// Prompt tokens of a generation.
const PROMPT: usize = 32;

impl Work {
    /// The prompt of one sequence.
    fn prompt(&self, sequence: usize) -> Vec<i32> {
        let length = if self.mode == Mode::Pp { self.tokens } else { PROMPT };
        // Also what was measured before on the same server begins otherwise, or a prompt would be partly there already.
        let other = self.tokens * 13 + usize::from(self.mode == Mode::Pp) * 4999;
        (0..length).map(|i| token(i * 37 + sequence * 101 + self.round * 7919 + other)).collect()
    }
}

/// An ordinary token: past the special ones, below any vocabulary's end.
fn token(n: usize) -> i32 {
    i32::try_from(1000 + n % 30_000).expect("small")
}

/// What one round showed.
#[derive(Debug, Clone, Copy)]
struct Round {
    tokens_per_second: f64,
    /// CPU time of the engine's process; a server that does not tell has none.
    cpu_micros_per_token: Option<f64>,
}

/// Runs all rounds and reports rates in tokens per second. Where others use the same cores, the ratio of CPU times is the
/// steadier one.
pub fn run(options: &Options) -> Result<Value, Refusal> {
    let threads = machine::threads(options.threads, machine::cores());
    let mut bare = Bare::open(options, threads)?;
    let (mut bare_rounds, mut through_rounds) = (vec![], vec![]);
    // Round 0 warms caches up and does not count.
    for round in 0..=options.reps {
        let work = Work { mode: options.mode, sequences: options.sequences, tokens: options.tokens, round };
        // Who goes first alternates: what the machine does to the second of a pair, it does to both in turn.
        let served_first = match &options.through {
            Some(server) if round % 2 == 1 => Some(through::round(server, &work)?),
            Some(_) | None => None,
        };
        let measured = bare.round(&work)?;
        let served = match (&options.through, served_first) {
            (Some(server), None) => Some(through::round(server, &work)?),
            (_, served) => served,
        };
        if round > 0 {
            bare_rounds.push(measured);
            through_rounds.extend(served);
        }
    }
    Ok(report(options, threads, &bare_rounds, &through_rounds))
}

fn report(options: &Options, threads: usize, bare: &[Round], through: &[Round]) -> Value {
    let rates = |rounds: &[Round]| rounds.iter().map(|round| round.tokens_per_second).collect::<Vec<_>>();
    let cpu = |rounds: &[Round]| rounds.iter().map(|round| round.cpu_micros_per_token).collect::<Option<Vec<_>>>();
    let pairs = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>();
    let mode = match options.mode {
        Mode::Pp => "pp",
        Mode::Tg => "tg",
    };
    let mut out = json!({
        "mode": mode,
        "threads": threads,
        "sequences": options.sequences,
        "tokens": options.tokens,
        "reps": options.reps,
        "bare_tokens_per_second": median(&rates(bare)),
        "bare_cpu_micros_per_token": cpu(bare).map(|cpu| median(&cpu)),
        "bare": rates(bare),
    });
    if !through.is_empty() {
        let ratios = pairs(&rates(through), &rates(bare));
        out["through_tokens_per_second"] = json!(median(&rates(through)));
        out["through"] = json!(rates(through));
        out["ratio"] = json!(median(&ratios));
        out["ratios"] = json!(ratios);
        if let (Some(through), Some(bare)) = (cpu(through), cpu(bare)) {
            out["through_cpu_micros_per_token"] = json!(median(&through));
            // Above 1: the server needs less CPU per token than the bare loop.
            out["cpu_ratio"] = json!(median(&pairs(&bare, &through)));
        }
    }
    out
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(feature = "llama")]
use bare::Bare;

#[cfg(not(feature = "llama"))]
struct Bare;

#[cfg(not(feature = "llama"))]
impl Bare {
    fn open(options: &Options, threads: usize) -> Result<Self, Refusal> {
        tracing::debug!(?options, threads, "nothing to measure this with");
        Err(Refusal::engine_absent())
    }

    #[expect(clippy::needless_pass_by_ref_mut, clippy::unused_self, reason = "the real one's signature")]
    fn round(&mut self, work: &Work) -> Result<Round, Refusal> {
        tracing::debug!(?work, "nothing to measure this with");
        Err(Refusal::engine_absent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_outliers() {
        assert!((median(&[1.0, 100.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn rounds_share_no_prefix() {
        let work = |round| Work { mode: Mode::Pp, sequences: 1, tokens: 64, round };
        assert_ne!(work(1).prompt(0)[0], work(2).prompt(0)[0]);
        assert_ne!(work(1).prompt(0)[0], work(1).prompt(1)[0]);
        assert_eq!(work(1).prompt(0).len(), 64);
        let generation = |tokens| Work { mode: Mode::Tg, sequences: 8, tokens, round: 1 }.prompt(0)[0];
        assert!(generation(64) != generation(128) && generation(64) != work(1).prompt(0)[0]);
    }
}
