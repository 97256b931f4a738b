//! The bare loop: llama.cpp in this process with nothing around it, as an application would write it. The bar to reach.

use std::num::NonZeroU32;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use super::{Mode, Options, PROMPT, Round, Work, token};
use crate::engine;
use crate::gguf;
use crate::machine;
use crate::refusal::Refusal;

/// A loaded model; a context is made for each round.
pub(super) struct Bare {
    model: LlamaModel,
    backend: LlamaBackend,
    threads: i32,
}

impl Bare {
    pub(super) fn open(options: &Options, threads: usize) -> Result<Self, Refusal> {
        gguf::inspect(&options.model).map_err(|problem| problem.refusal(&options.model))?;
        llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
        engine::backends(engine::Baseline::Accept)?;
        let backend = LlamaBackend::init().map_err(|e| failed(&e))?;
        let model = LlamaModel::load_from_file(&backend, &options.model, &LlamaModelParams::default())
            .map_err(|e| failed(&e))?;
        Ok(Self { model, backend, threads: number(threads) })
    }

    /// Tokens per second of one round.
    pub(super) fn round(&mut self, work: &Work) -> Result<Round, Refusal> {
        let sequences = if work.mode == Mode::Pp { 1 } else { work.sequences };
        let cells = sequences * (work.tokens + PROMPT + 8);
        let unsigned = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(unsigned(cells.max(512))))
            .with_n_batch(2048)
            .with_n_ubatch(512)
            .with_n_seq_max(unsigned(sequences))
            .with_kv_unified(true)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads);
        let mut context = self.model.new_context(&self.backend, parameters).map_err(|e| failed(&e))?;
        // The first step of a context allocates; it is not what is measured.
        let mut batch = LlamaBatch::new(2048, number(sequences));
        batch.add(LlamaToken(token(0)), 0, &[0], true).map_err(|e| failed(&e))?;
        context.decode(&mut batch).map_err(|e| failed(&e))?;
        context.clear_kv_cache();
        match work.mode {
            Mode::Pp => prompt(&mut context, &mut batch, work),
            Mode::Tg => generate(&mut context, &mut batch, work),
        }
    }
}

/// Wall and CPU clock.
struct Watch {
    started: Instant,
    cpu_nanos: u64,
}

impl Watch {
    fn start() -> Self {
        Self { started: Instant::now(), cpu_nanos: machine::cpu_nanos() }
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
    fn stop(&self, tokens: usize) -> Round {
        Round {
            tokens_per_second: tokens as f64 / self.started.elapsed().as_secs_f64(),
            cpu_micros_per_token: Some((machine::cpu_nanos() - self.cpu_nanos) as f64 / 1000.0 / tokens as f64),
        }
    }
}

fn prompt(context: &mut LlamaContext<'_>, batch: &mut LlamaBatch<'_>, work: &Work) -> Result<Round, Refusal> {
    let tokens = work.prompt(0);
    let watch = Watch::start();
    let mut last = 0;
    // One prompt beyond the batch's size is computed in parts, as a server would.
    for (part, chunk) in tokens.chunks(2048).enumerate() {
        batch.clear();
        for (i, token) in chunk.iter().enumerate() {
            let position = part * 2048 + i;
            batch
                .add(LlamaToken(*token), number(position), &[0], position + 1 == tokens.len())
                .map_err(|e| failed(&e))?;
        }
        last = batch.n_tokens() - 1;
        context.decode(batch).map_err(|e| failed(&e))?;
    }
    let chosen = LlamaSampler::greedy().sample(context, last);
    std::hint::black_box(chosen);
    Ok(watch.stop(tokens.len()))
}

fn generate(context: &mut LlamaContext<'_>, batch: &mut LlamaBatch<'_>, work: &Work) -> Result<Round, Refusal> {
    let watch = Watch::start();
    let mut sampler = LlamaSampler::greedy();
    batch.clear();
    for sequence in 0..work.sequences {
        for (i, token) in work.prompt(sequence).iter().enumerate() {
            batch.add(LlamaToken(*token), number(i), &[number(sequence)], i + 1 == PROMPT).map_err(|e| failed(&e))?;
        }
    }
    // All prompts in one pass, which is the fastest way there is.
    context.decode(batch).map_err(|e| failed(&e))?;
    let ends = (1..=work.sequences).map(|sequence| number(sequence * PROMPT - 1));
    let mut next: Vec<LlamaToken> = ends.map(|end| sampler.sample(context, end)).collect();
    for step in 0..work.tokens - 1 {
        batch.clear();
        for (sequence, token) in next.iter().enumerate() {
            batch.add(*token, number(PROMPT + step), &[number(sequence)], true).map_err(|e| failed(&e))?;
        }
        context.decode(batch).map_err(|e| failed(&e))?;
        for (sequence, token) in next.iter_mut().enumerate() {
            *token = sampler.sample(context, number(sequence));
        }
    }
    Ok(watch.stop(work.sequences * work.tokens))
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn failed(why: &dyn std::error::Error) -> Refusal {
    Refusal::new("bench_failed", format!("the bare engine failed: {why}"), "the log on stderr has the details")
}
