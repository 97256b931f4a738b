//! The loop that generates: receive, admit, compute one step of all sequences, sample, account. Decisions are in `schedule`,
//! `prefix`, `sample`, `text` and `share`; here they are carried out on the context.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use tokio::sync::mpsc;

use super::Settings;
use super::live::{End, Ends, Live, Request, Shared, close, hopeless};
use super::wardrobe::Wardrobe;
use crate::adapter::AdapterId;
use crate::complaint;
use crate::job::{Event, Failure, Generate, Job};
use crate::limits;
use crate::machine;
use crate::metrics::Metrics;
use crate::prefix::{Placement, Reuse, Slots};
use crate::refusal::Refusal;
use crate::schedule::{self, Chunk, Demand, Waits};
use crate::score::score;
use crate::share::{self, CpuMeter};
use crate::turn::Turns;

pub(super) struct Generator<'m> {
    context: LlamaContext<'m>,
    ends: Ends<'m>,
    batch: LlamaBatch<'static>,
    slots: Slots,
    wardrobe: Wardrobe,
    turns: Turns,
    live: Vec<Live>,
    waiting: VecDeque<Waiting>,
    jobs: mpsc::Receiver<Job>,
    metrics: Arc<Metrics>,
    meter: CpuMeter,
    /// CPU clock up to which time has been shared out.
    shared_until: u64,
}

/// A request that was not begun, or a choice of one that was.
enum Waiting {
    Request(Box<Generate>),
    Choice { request: Shared, choice: usize },
}

/// Where a row of logits belongs.
struct Row {
    sequence: usize,
    /// In the batch.
    at: i32,
    /// The token of the prompt that it scores; `None`: it chooses the answer's next token.
    scores: Option<usize>,
}

impl<'m> Generator<'m> {
    pub(super) fn new(
        model: &'m Arc<LlamaModel>,
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
        let vocab = model.vocab();
        let index = |token: LlamaToken| usize::try_from(token.0).expect("tokens of a vocabulary are not negative");
        Self {
            context,
            ends: Ends { tokens: vocab.tokens().filter(|&token| vocab.is_eog(token)).map(index).collect(), vocab },
            batch: LlamaBatch::new(limits::STEP_TOKENS, 1),
            slots,
            wardrobe: Wardrobe::new(Arc::clone(model)),
            turns: Turns::default(),
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
            self.let_go();
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
            if self.wardrobe.is_any_leaving() {
                // A request that names it is being prepared: it comes in a moment, or never.
                std::thread::sleep(limits::ADAPTER_LOOK);
            } else {
                match self.jobs.blocking_recv() {
                    Some(job) => self.take(job)?,
                    None => return ControlFlow::Break(()),
                }
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
            Job::Generate(generate) => self.waiting.push_back(Waiting::Request(generate)),
            // The HTTP side does not send these to a generator; the dropped reply tells the caller.
            Job::Embed(_) => self.metrics.waiting.lower(),
            Job::Attach(attach) => {
                let began = machine::cpu_nanos();
                self.wardrobe.attach(attach);
                // No part of any request's work.
                self.shared_until += machine::cpu_nanos().saturating_sub(began);
            }
            Job::Detach(detach) => self.wardrobe.detach(detach),
            Job::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Frees the adapters that nobody holds any more, and what was computed with them.
    fn let_go(&mut self) {
        for adapter in self.wardrobe.let_go(&mut self.context) {
            for slot in self.slots.of_adapter(adapter) {
                self.slots.empty(slot);
                self.free_cells(slot, None);
            }
        }
    }

    /// Drops requests whose client has left or whose deadline has passed.
    fn drop_hopeless(&mut self) {
        let now = Instant::now();
        let metrics = &self.metrics;
        self.waiting.retain(|waiting| match waiting {
            Waiting::Request(job) => {
                let end = hopeless(job, now);
                if let Some(end) = end {
                    metrics.waiting.lower();
                    close(job, end, metrics);
                }
                end.is_none()
            }
            Waiting::Choice { request, .. } => {
                let end = hopeless(&request.borrow().job, now);
                if let Some(end) = end {
                    request.borrow_mut().end_choice(end, metrics);
                }
                end.is_none()
            }
        });
        for live in &mut self.live {
            live.end = live.end.or_else(|| hopeless(&live.request.borrow().job, now));
        }
        self.retire();
    }

    /// Moves what waits into free slots.
    fn admit(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            let placement = match &waiting {
                Waiting::Request(job) => place(&mut self.slots, job, job.scores.prompt.is_none()),
                Waiting::Choice { request, .. } => place(&mut self.slots, &request.borrow().job, true),
            };
            let Some(placement) = placement else {
                self.waiting.push_front(waiting);
                return;
            };
            let cached_tokens = self.reuse(placement.slot, placement.reuse);
            let (request, choice) = match waiting {
                Waiting::Request(job) => (self.begin(*job, cached_tokens), 0),
                // Its prompt is counted with the first choice.
                Waiting::Choice { request, choice } => (request, choice),
            };
            self.live.push(Live::new(&request, choice, placement.slot));
        }
    }

    fn begin(&self, job: Generate, cached_tokens: usize) -> Shared {
        self.metrics.waiting.lower();
        self.metrics.running.add(1);
        self.metrics.prompt_tokens.add(job.prompt.len() as u64);
        self.metrics.cached_tokens.add(cached_tokens as u64);
        let request = Request::new(job);
        request.borrow_mut().spent.cached_tokens = cached_tokens;
        request
    }

    /// The other choices of a request begin where the first one has computed the prompt: they share its logits, and its cells
    /// by copy. Those that find no slot wait, before everybody else.
    fn fork(&mut self, sequence: usize, logits: &[f32]) {
        let (request, from) = (Rc::clone(&self.live[sequence].request), self.live[sequence].slot);
        let choices = request.borrow().job.choices;
        request.borrow_mut().open_others();
        for choice in 1..choices {
            let Some(slot) = self.copy(from) else {
                for choice in (choice..choices).rev() {
                    self.waiting.push_front(Waiting::Choice { request: Rc::clone(&request), choice });
                }
                return;
            };
            let mut live = Live::new(&request, choice, slot);
            live.advance(logits, &self.ends);
            self.metrics.completion_tokens.add(1);
            self.live.push(live);
        }
    }

    /// A live copy of a slot, if there is room and the cache can be copied.
    fn copy(&mut self, from: usize) -> Option<usize> {
        let slot = self.slots.fork(from)?;
        self.free_cells(slot, None);
        let copied = self.context.copy_kv_cache_seq(id(from), id(slot), None, None);
        copied.expect("the whole range has no positions to convert");
        if self.context.kv_cache_seq_pos_max(id(slot)) + 1 == id(self.slots.len(slot)) {
            return Some(slot);
        }
        self.free_cells(slot, None);
        self.slots.empty(slot);
        self.slots.finish(slot);
        None
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
        let turn = self.turns.next(self.live.iter().map(Live::adapter));
        let demands = self.demands(turn);
        let mut chunks = schedule::next_step(&demands);
        // llama.cpp joins slots into one pass only when they come in the order of their numbers.
        chunks.sort_by_key(|chunk| self.live[chunk.sequence].slot);
        let rows = self.fill(&chunks);
        self.wardrobe.wear(&mut self.context, turn);
        if !self.compute() {
            return self.fail_all();
        }
        for chunk in &chunks {
            let live = &self.live[chunk.sequence];
            match live.next {
                Some(token) => self.slots.push(live.slot, &[token]),
                None => {
                    let at = self.slots.len(live.slot);
                    self.slots.push(live.slot, &live.request.borrow().job.prompt[at..at + chunk.tokens]);
                }
            }
        }
        rows.into_iter().for_each(|row| self.take_row(&row));
        self.account(&chunks);
        self.metrics.cells_used.set(self.slots.used_cells() as u64);
        self.retire();
    }

    /// What each sequence wants of the next step, which is one adapter's turn. Of the prompts that are scored only the first one goes on: rows of logits
    /// are large.
    fn demands(&self, turn: Option<AdapterId>) -> Vec<Demand> {
        let mut scored_room = limits::SCORED_TOKENS_AT_ONCE;
        let demand = |live: &Live| {
            if live.adapter() != turn {
                return Demand::Later(if live.next.is_some() { Waits::ForToken } else { Waits::ForPrompt });
            }
            if live.next.is_some() {
                return Demand::Answer;
            }
            let request = live.request.borrow();
            let left = request.job.prompt.len() - self.slots.len(live.slot);
            if request.job.scores.prompt.is_none() || live.choice > 0 {
                return Demand::Prompt(left);
            }
            let now = left.min(scored_room);
            scored_room -= now;
            Demand::Prompt(now)
        };
        self.live.iter().map(demand).collect()
    }

    /// Writes the batch; returns which rows of logits it will have.
    fn fill(&mut self, chunks: &[Chunk]) -> Vec<Row> {
        self.batch.clear();
        let mut rows = vec![];
        for chunk in chunks {
            let live = &self.live[chunk.sequence];
            let request = live.request.borrow();
            let prompt = &request.job.prompt;
            let at = self.slots.len(live.slot);
            let single;
            let tokens: &[i32] = match live.next {
                Some(token) => {
                    single = [token];
                    &single
                }
                None => &prompt[at..at + chunk.tokens],
            };
            let scores_prompt = live.next.is_none() && live.choice == 0 && request.job.scores.prompt.is_some();
            for (i, token) in tokens.iter().enumerate() {
                let is_last = live.next.is_some() || at + i + 1 == prompt.len();
                let wants_logits = is_last || scores_prompt;
                if wants_logits {
                    let scores = (!is_last).then_some(at + i + 1);
                    rows.push(Row { sequence: chunk.sequence, at: self.batch.n_tokens(), scores });
                }
                let added = self.batch.add(LlamaToken(*token), id(at + i), &[id(live.slot)], wants_logits);
                added.expect("a step fits the batch");
            }
        }
        rows
    }

    /// Reads a row of logits: the score of a prompt's token, or a choice's next token.
    fn take_row(&mut self, row: &Row) {
        let logits = self.context.get_logits_ith(row.at);
        let live = &mut self.live[row.sequence];
        if let Some(position) = row.scores {
            let mut request = live.request.borrow_mut();
            let top = request.job.scores.prompt.unwrap_or(0);
            let scored = score(logits, request.job.prompt[position], top);
            request.prompt_scores.push(scored);
            return;
        }
        let begins_all = live.next.is_none() && live.choice == 0;
        if begins_all {
            let mut request = live.request.borrow_mut();
            request.spent.prompt_tokens = request.job.prompt.len();
            let scores = std::mem::take(&mut request.prompt_scores);
            if request.job.scores.prompt.is_some() {
                request.send(Event::Prompt(scores));
            }
        }
        live.advance(logits, &self.ends);
        self.metrics.completion_tokens.add(u64::from(live.next.is_some()));
        if begins_all && live.request.borrow().job.choices > 1 {
            let logits = logits.to_vec();
            self.fork(row.sequence, &logits);
        }
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
            self.live[chunk.sequence].request.borrow_mut().spent.cpu_micros += share;
        }
        self.metrics.cpu_micros.add(micros);
        self.metrics.steps.add(1);
        self.metrics.step_tokens.add(tokens.iter().sum());
    }

    /// Lets go of sequences that have ended and keeps their cells for those who begin alike.
    fn retire(&mut self) {
        let mut i = 0;
        while i < self.live.len() {
            let Some(end) = self.live[i].end else {
                i += 1;
                continue;
            };
            let live = self.live.remove(i);
            let mut request = live.request.borrow_mut();
            // Of a prompt cut off half-way, what was computed.
            let computed = self.slots.len(live.slot).min(request.job.prompt.len());
            request.spent.prompt_tokens = request.spent.prompt_tokens.max(computed);
            request.spent.cached_tokens = request.spent.cached_tokens.min(request.spent.prompt_tokens);
            self.slots.finish(live.slot);
            request.end_choice(end, &self.metrics);
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
        for waiting in self.waiting.drain(..) {
            let end = End::Failed(Failure::Stopping);
            match waiting {
                Waiting::Request(job) => {
                    self.metrics.waiting.lower();
                    close(&job, end, &self.metrics);
                }
                Waiting::Choice { request, .. } => request.borrow_mut().end_choice(end, &self.metrics),
            }
        }
    }
}

/// A place for a request's prompt. One that is to be scored does not reuse what was computed: its scores were not kept.
fn place(slots: &mut Slots, job: &Generate, reuses: bool) -> Option<Placement> {
    let adapter = job.adapter.as_ref().map(|adapter| adapter.id);
    slots.place(if reuses { &job.prompt } else { &[] }, job.cache_scope.as_deref(), adapter)
}

fn id(n: usize) -> i32 {
    i32::try_from(n).expect("slots and positions are far below 2^31")
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("slots and positions are far below 2^31")
}
