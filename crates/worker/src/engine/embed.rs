//! The loop that embeds: inputs are packed into batches, each input a sequence; nothing is kept between batches.

use std::sync::Arc;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tokio::sync::mpsc;

use super::Settings;
use crate::account::Spent;
use crate::complaint;
use crate::job::{Embed, Embedded, Failure, Job};
use crate::machine;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::share::CpuMeter;

pub(super) struct Embedder<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    tokens_max: usize,
    sequences: usize,
    jobs: mpsc::Receiver<Job>,
    metrics: Arc<Metrics>,
    meter: CpuMeter,
}

impl<'m> Embedder<'m> {
    pub(super) fn new(
        context: LlamaContext<'m>,
        settings: &Settings,
        jobs: mpsc::Receiver<Job>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.cells.set(settings.context as u64);
        Self {
            context,
            batch: LlamaBatch::new(settings.context, 1),
            tokens_max: settings.context,
            sequences: settings.sequences,
            jobs,
            metrics,
            meter: CpuMeter::default(),
        }
    }

    pub(super) fn warm_up(&mut self) -> Result<(), Refusal> {
        complaint::forget();
        self.embed(&[&[0]]).map(drop).ok_or_else(|| {
            let why = complaint::since_last(&"the model does not give any");
            let hint = "serve a model that was made for embeddings; the log has the details";
            Refusal::new("engine_warm_up", format!("the first embedding cannot be computed: {why}"), hint)
        })
    }

    pub(super) fn run(&mut self) {
        while let Some(job) = self.jobs.blocking_recv() {
            let mut job = match job {
                Job::Stop => return,
                Job::Embed(job) => job,
                // The HTTP side does not send these to an embedder; the dropped sender tells the caller.
                Job::Generate(_) => {
                    self.metrics.waiting.lower();
                    continue;
                }
                Job::Attach(_) | Job::Detach(_) => continue,
            };
            self.metrics.waiting.lower();
            self.metrics.running.add(1);
            let embedded = self.work(&mut job);
            self.metrics.running.lower();
            match embedded {
                Ok(_) => self.metrics.finished.add(1),
                Err(_) => self.metrics.failed.add(1),
            }
            answer(job, embedded);
        }
    }

    /// All inputs of one request; what it took is noted however it ends.
    fn work(&mut self, job: &mut Embed) -> Result<Embedded, Failure> {
        let started = machine::cpu_nanos();
        let mut prompt_tokens = 0;
        let vectors = self.batches(job, &mut prompt_tokens);
        let cpu_micros = self.meter.micros(machine::cpu_nanos().saturating_sub(started));
        self.metrics.cpu_micros.add(cpu_micros);
        job.account.set(Spent { prompt_tokens, cpu_micros, ..Spent::default() });
        vectors.map(|vectors| Embedded { vectors, cpu_micros })
    }

    /// Batch by batch; stops between batches when the client has left.
    fn batches(&mut self, job: &Embed, tokens_done: &mut usize) -> Result<Vec<Vec<f32>>, Failure> {
        let mut vectors = Vec::with_capacity(job.inputs.len());
        let mut rest: Vec<&[i32]> = job.inputs.iter().map(Vec::as_slice).collect();
        while !rest.is_empty() {
            if job.reply.is_closed() {
                return Err(Failure::Stopping);
            }
            let count = fitting(&rest, self.tokens_max, self.sequences);
            let later = rest.split_off(count);
            vectors.extend(self.embed(&rest).ok_or(Failure::Engine)?);
            self.metrics.steps.add(1);
            let tokens: usize = rest.iter().map(|input| input.len()).sum();
            *tokens_done += tokens;
            self.metrics.step_tokens.add(tokens as u64);
            self.metrics.prompt_tokens.add(tokens as u64);
            rest = later;
        }
        Ok(vectors)
    }

    fn embed(&mut self, inputs: &[&[i32]]) -> Option<Vec<Vec<f32>>> {
        self.batch.clear();
        for (sequence, input) in (0_i32..).zip(inputs) {
            for (position, token) in (0_i32..).zip(*input) {
                self.batch.add(LlamaToken(*token), position, &[sequence], true).ok()?;
            }
        }
        self.context.clear_kv_cache();
        if let Err(e) = self.context.decode(&mut self.batch) {
            tracing::error!(error = %e, "llama.cpp could not compute a batch of embeddings");
            return None;
        }
        (0_i32..)
            .zip(inputs)
            .map(|(sequence, _)| self.context.embeddings_seq_ith(sequence).ok().map(normalized))
            .collect()
    }
}

/// How many of the first inputs make up the next batch; at least one (the HTTP side refuses inputs beyond the context).
fn fitting(inputs: &[&[i32]], tokens_max: usize, sequences: usize) -> usize {
    let mut tokens = 0;
    let fit = inputs.iter().take(sequences).take_while(|input| {
        tokens += input.len();
        tokens <= tokens_max
    });
    fit.count().max(1)
}

fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|x| x * scale).collect()
}

fn answer(job: Embed, embedded: Result<Embedded, Failure>) {
    let Embed { account, reply, .. } = job;
    // Closed before the answer: who reads the answer may ask for it.
    drop(account);
    if reply.send(embedded).is_err() {
        tracing::debug!("the client of an embeddings request has left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_packed_by_tokens_and_sequences() {
        let (a, b): (&[i32], &[i32]) = (&[1; 40], &[1; 70]);
        assert_eq!(fitting(&[a, a, b], 100, 8), 2);
        assert_eq!(fitting(&[a, a, b], 1000, 2), 2);
        assert_eq!(fitting(&[b, a], 70, 8), 1);
    }

    #[test]
    fn vectors_have_length_one() {
        assert_eq!(normalized(&[3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(normalized(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
