//! The loop that generates: receive, admit, compute one step of all sequences, sample, account. Decisions are in `schedule`,
//! `prefix`, `sample`, `text` and `share`; here they are carried out on the context.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use galerne_api::openai::FinishReason;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use tokio::sync::mpsc;

use super::Settings;
use crate::account::Spent;
use crate::complaint;
use crate::job::{Done, Event, Failure, Generate, Job};
use crate::limits;
use crate::machine;
use crate::metrics::Metrics;
use crate::prefix::{Reuse, Slots};
use crate::refusal::Refusal;
use crate::sample::Sampler;
use crate::schedule::{self, Chunk, Demand};
use crate::share::{self, CpuMeter};
use crate::text::{Emitted, TextStream};

pub(super) struct Generator<'m> {
    context: LlamaContext<'m>,
    vocab: LlamaVocab<'m>,
    batch: LlamaBatch<'static>,
    slots: Slots,
    live: Vec<Live>,
    waiting: VecDeque<Generate>,
    jobs: mpsc::Receiver<Job>,
    metrics: Arc<Metrics>,
    meter: CpuMeter,
    /// CPU clock up to which time has been shared out.
    shared_until: u64,
}

/// A sequence being computed.
struct Live {
    job: Generate,
    slot: usize,
    /// The token sampled last, not computed yet; `None` while the prompt is being computed.
    next: Option<i32>,
    sampler: Sampler,
    text: TextStream,
    completion_tokens: usize,
    cached_tokens: usize,
    cpu_micros: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finished(FinishReason),
    Failed(Failure),
    /// The client has left.
    Cancelled,
}

impl<'m> Generator<'m> {
    pub(super) fn new(
        model: &'m LlamaModel,
        context: LlamaContext<'m>,
        settings: &Settings,
        jobs: mpsc::Receiver<Job>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.cells.set((settings.context * settings.sequences) as u64);
        // State that is not a list of cells cannot be cut at a token.
        let slots = if model.is_recurrent() || model.is_hybrid() {
            Slots::without_reuse(settings.sequences)
        } else {
            Slots::new(settings.sequences)
        };
        Self {
            context,
            vocab: model.vocab(),
            batch: LlamaBatch::new(limits::STEP_TOKENS, 1),
            slots,
            live: vec![],
            waiting: VecDeque::new(),
            jobs,
            metrics,
            meter: CpuMeter::default(),
            shared_until: 0,
        }
    }

    /// Computes one token, so that readiness means that answers can be given.
    pub(super) fn warm_up(&mut self) -> Result<(), Refusal> {
        let refusal = |why: String| {
            Refusal::new(
                "engine_warm_up",
                format!("the first token cannot be computed: {}", complaint::since_last(&why)),
                "try another quantisation of the model; the log has the details",
            )
        };
        complaint::forget();
        self.batch.clear();
        self.batch.add(LlamaToken(0), 0, &[0], true).map_err(|e| refusal(e.to_string()))?;
        self.context.decode(&mut self.batch).map_err(|e| refusal(e.to_string()))?;
        self.context.synchronize();
        self.context.clear_kv_cache();
        Ok(())
    }

    /// Works until it is told to stop or the queue is gone; then gives up what is left.
    pub(super) fn run(&mut self) {
        while self.receive().is_continue() {
            self.drop_hopeless();
            self.admit();
            if !self.live.is_empty() {
                self.step();
            }
        }
        self.give_up();
    }

    /// Takes what is in the queue; waits for it when there is nothing else to do.
    fn receive(&mut self) -> ControlFlow<()> {
        if self.live.is_empty() && self.waiting.is_empty() {
            match self.jobs.blocking_recv() {
                Some(job) => self.take(job)?,
                None => return ControlFlow::Break(()),
            }
            self.shared_until = machine::cpu_nanos();
        }
        while let Ok(job) = self.jobs.try_recv() {
            self.take(job)?;
        }
        ControlFlow::Continue(())
    }

    fn take(&mut self, job: Job) -> ControlFlow<()> {
        match job {
            Job::Generate(generate) => self.waiting.push_back(generate),
            // The HTTP side does not send these to a generator; the dropped reply tells the caller.
            Job::Embed(_) => self.metrics.waiting.lower(),
            Job::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Drops requests whose client has left or whose deadline has passed.
    fn drop_hopeless(&mut self) {
        let now = Instant::now();
        let metrics = &self.metrics;
        self.waiting.retain(|job| {
            let end = hopeless(job, now);
            if let Some(end) = end {
                metrics.waiting.lower();
                close(job, end, metrics);
            }
            end.is_none()
        });
        for live in &mut self.live {
            live.end = live.end.or_else(|| hopeless(&live.job, now));
        }
        self.retire();
    }

    /// Moves waiting requests into free slots.
    fn admit(&mut self) {
        while let Some(job) = self.waiting.front() {
            let Some(placement) = self.slots.place(&job.prompt, job.cache_scope.as_deref()) else { return };
            let job = self.waiting.pop_front().expect("looked at above");
            self.metrics.waiting.lower();
            self.metrics.running.add(1);
            let cached_tokens = self.reuse(placement.slot, placement.reuse);
            self.metrics.prompt_tokens.add(job.prompt.len() as u64);
            self.metrics.cached_tokens.add(cached_tokens as u64);
            self.live.push(Live {
                slot: placement.slot,
                next: None,
                sampler: Sampler::new(job.sampling.clone(), &job.prompt),
                text: TextStream::new(job.stops.clone()),
                completion_tokens: 0,
                cached_tokens,
                cpu_micros: 0,
                end: None,
                job,
            });
        }
    }

    /// Carries out a reuse; says how many tokens are really there. Some caches (sliding windows) cannot give back a beginning.
    fn reuse(&mut self, slot: usize, reuse: Reuse) -> usize {
        let keep = reuse.tokens();
        match reuse {
            Reuse::Nothing => {}
            Reuse::InPlace { .. } => self.free_cells(slot, Some(keep)),
            Reuse::Copy { from, .. } => {
                // Only whole slots can be copied; the rest is cut off afterwards.
                let copied = self.context.copy_kv_cache_seq(id(from), id(slot), None, None);
                copied.expect("the whole range has no positions to convert");
                self.free_cells(slot, Some(keep));
            }
        }
        let first = self.context.kv_cache_seq_pos_min(id(slot));
        let last = self.context.kv_cache_seq_pos_max(id(slot));
        if keep > 0 && first == 0 && last + 1 == id(keep) {
            return keep;
        }
        self.free_cells(slot, None);
        self.slots.empty(slot);
        0
    }

    fn free_cells(&mut self, slot: usize, keep: Option<usize>) {
        // A part that cannot be removed leaves the sequence as it was: `reuse` notices, and a whole one always can.
        let removed = self.context.clear_kv_cache_seq(Some(number(slot)), keep.map(number), None);
        removed.expect("positions fit 31 bits");
    }

    /// Computes one batch and hands out what it brought.
    fn step(&mut self) {
        let demands: Vec<Demand> = self.live.iter().map(|live| self.demand(live)).collect();
        let mut chunks = schedule::next_step(&demands);
        // llama.cpp joins slots into one pass only when they come in the order of their numbers.
        chunks.sort_by_key(|chunk| self.live[chunk.sequence].slot);
        let outputs = self.fill(&chunks);
        if !self.compute() {
            return self.fail_all();
        }
        for chunk in &chunks {
            let live = &self.live[chunk.sequence];
            match live.next {
                Some(token) => self.slots.push(live.slot, &[token]),
                None => {
                    let at = self.slots.len(live.slot);
                    self.slots.push(live.slot, &live.job.prompt[at..at + chunk.tokens]);
                }
            }
        }
        for (sequence, output) in outputs {
            let logits = self.context.get_logits_ith(output);
            let live = &mut self.live[sequence];
            let token = live.sampler.next(logits);
            live.advance(token, &self.vocab);
            self.metrics.completion_tokens.add(1);
        }
        self.account(&chunks);
        self.metrics.cells_used.set(self.slots.used_cells() as u64);
        self.retire();
    }

    fn demand(&self, live: &Live) -> Demand {
        match live.next {
            Some(_) => Demand::Answer,
            None => Demand::Prompt(live.job.prompt.len() - self.slots.len(live.slot)),
        }
    }

    /// Writes the batch; returns which sequences get logits, and where.
    fn fill(&mut self, chunks: &[Chunk]) -> Vec<(usize, i32)> {
        self.batch.clear();
        let mut outputs = vec![];
        for chunk in chunks {
            let live = &self.live[chunk.sequence];
            let at = self.slots.len(live.slot);
            let single;
            let (tokens, is_last): (&[i32], bool) = match live.next {
                Some(token) => {
                    single = [token];
                    (&single, true)
                }
                None => (&live.job.prompt[at..at + chunk.tokens], at + chunk.tokens == live.job.prompt.len()),
            };
            for (i, token) in tokens.iter().enumerate() {
                let wants_logits = is_last && i + 1 == tokens.len();
                if wants_logits {
                    outputs.push((chunk.sequence, self.batch.n_tokens()));
                }
                let added = self.batch.add(LlamaToken(*token), id(at + i), &[id(live.slot)], wants_logits);
                added.expect("a step fits the batch");
            }
        }
        outputs
    }

    fn compute(&mut self) -> bool {
        match self.context.decode(&mut self.batch) {
            Ok(()) => {
                self.context.synchronize();
                true
            }
            Err(e) => {
                tracing::error!(error = %e, "llama.cpp could not compute a step");
                false
            }
        }
    }

    /// Shares the CPU time since the last step among the sequences of this one, by tokens.
    fn account(&mut self, chunks: &[Chunk]) {
        let now = machine::cpu_nanos();
        let micros = self.meter.micros(now.saturating_sub(self.shared_until));
        self.shared_until = now;
        let tokens: Vec<u64> = chunks.iter().map(|chunk| chunk.tokens as u64).collect();
        for (chunk, share) in chunks.iter().zip(share::apportion(micros, &tokens)) {
            self.live[chunk.sequence].cpu_micros += share;
        }
        self.metrics.cpu_micros.add(micros);
        self.metrics.steps.add(1);
        self.metrics.step_tokens.add(tokens.iter().sum());
    }

    /// Closes the accounts of sequences that have ended and keeps their cells for those who begin alike.
    fn retire(&mut self) {
        let mut i = 0;
        while i < self.live.len() {
            let Some(end) = self.live[i].end else {
                i += 1;
                continue;
            };
            let mut live = self.live.remove(i);
            self.metrics.running.lower();
            live.close_account(self.slots.len(live.slot));
            self.slots.finish(live.slot);
            match end {
                End::Finished(reason) => {
                    self.metrics.finished.add(1);
                    live.send(Event::Done(Done {
                        reason,
                        prompt_tokens: live.job.prompt.len(),
                        completion_tokens: live.completion_tokens,
                        cached_tokens: live.cached_tokens,
                        cpu_micros: live.cpu_micros,
                    }));
                }
                End::Failed(_) | End::Cancelled => {
                    tracing::info!(
                        id = %live.job.id, prompt_tokens = live.job.prompt.len(),
                        completion_tokens = live.completion_tokens, cpu_micros = live.cpu_micros, "request ended early"
                    );
                    close(&live.job, end, &self.metrics);
                }
            }
        }
    }

    fn fail_all(&mut self) {
        for live in &mut self.live {
            live.end = Some(End::Failed(Failure::Engine));
        }
        for slot in self.live.iter().map(|live| live.slot).collect::<Vec<_>>() {
            // What a failed step left behind is unknown.
            self.slots.empty(slot);
            self.free_cells(slot, None);
        }
        self.retire();
    }

    fn give_up(&mut self) {
        for live in &mut self.live {
            live.end = Some(End::Failed(Failure::Stopping));
        }
        self.retire();
        for job in self.waiting.drain(..) {
            self.metrics.waiting.lower();
            close(&job, End::Failed(Failure::Stopping), &self.metrics);
        }
    }
}

impl Live {
    /// Notes what was spent; `computed` tokens are in its slot.
    fn close_account(&mut self, computed: usize) {
        let prompt_tokens = if self.next.is_some() { self.job.prompt.len() } else { computed };
        self.job.account.set(Spent {
            prompt_tokens,
            completion_tokens: self.completion_tokens,
            cached_tokens: self.cached_tokens.min(prompt_tokens),
            cpu_micros: self.cpu_micros,
        });
    }

    /// Takes a sampled token: hands out its text, notices the end.
    fn advance(&mut self, token: i32, vocab: &LlamaVocab<'_>) {
        self.completion_tokens += 1;
        self.next = Some(token);
        let token = LlamaToken(token);
        let is_end = vocab.is_eog(token);
        if is_end && !self.job.ignore_end {
            self.end = Some(End::Finished(FinishReason::Stop));
        } else {
            let piece = if is_end { vec![] } else { vocab.token_to_piece(token, false, None) };
            let emitted = self.text.push(&piece);
            self.hand_out(emitted);
            if self.end.is_none() && self.completion_tokens == self.job.max_tokens {
                self.end = Some(End::Finished(FinishReason::Length));
            }
        }
        if matches!(self.end, Some(End::Finished(_))) {
            let rest = self.text.finish();
            self.hand_out(rest);
        }
    }

    fn hand_out(&mut self, emitted: Emitted) {
        let text = match emitted {
            Emitted::Text(text) => text,
            Emitted::Stopped(text) => {
                self.end = Some(End::Finished(FinishReason::Stop));
                text
            }
        };
        if !text.is_empty() {
            self.send(Event::Text(text));
        }
    }

    fn send(&self, event: Event) {
        // A closed channel is noticed before the next step; a full one cannot be (`job::events_of`).
        if let Err(mpsc::error::TrySendError::Full(_)) = self.job.events.try_send(event) {
            tracing::error!(id = %self.job.id, "an event was lost: its channel is full");
        }
    }
}

fn hopeless(job: &Generate, now: Instant) -> Option<End> {
    if job.events.is_closed() {
        return Some(End::Cancelled);
    }
    job.deadline.is_some_and(|deadline| deadline <= now).then_some(End::Failed(Failure::Deadline))
}

fn close(job: &Generate, end: End, metrics: &Metrics) {
    match end {
        End::Failed(failure) => {
            metrics.failed.add(1);
            if job.events.try_send(Event::Failed(failure)).is_err() {
                tracing::debug!(id = %job.id, "the client left before it could be told");
            }
        }
        End::Cancelled => metrics.cancelled.add(1),
        End::Finished(_) => {}
    }
}

fn id(n: usize) -> i32 {
    i32::try_from(n).expect("slots and positions are far below 2^31")
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("slots and positions are far below 2^31")
}
