//! A request being answered and its sequences: one for each choice, all sharing the request's account and channel.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use galerne_api::openai::FinishReason;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;
use tokio::sync::mpsc;

use crate::account::Spent;
use crate::adapter::AdapterId;
use crate::constraint::Constraint;
use crate::job::{Event, Failure, Generate};
use crate::metrics::Metrics;
use crate::output::{Brought, Output};
use crate::sample::{Sampler, Strike};
use crate::score::{Scored, score};

/// A request of which something is computed. Only the engine's thread knows it.
pub(super) type Shared = Rc<RefCell<Request>>;

pub(super) struct Request {
    pub(super) job: Generate,
    /// Choices that have begun and not ended, those that wait for a slot included. The first one computes the prompt alone.
    open: usize,
    pub(super) spent: Spent,
    /// The prompt's scores so far, if they are wanted.
    pub(super) prompt_scores: Vec<Scored>,
    failed: Option<End>,
}

/// A sequence being computed: one choice of a request.
pub(super) struct Live {
    pub(super) request: Shared,
    pub(super) choice: usize,
    pub(super) slot: usize,
    adapter: Option<AdapterId>,
    /// The token sampled last, not computed yet; `None` while the prompt is being computed.
    pub(super) next: Option<i32>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    output: Output,
    completion_tokens: usize,
    logprob: f64,
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished(FinishReason),
    Failed(Failure),
    /// The client has left.
    Cancelled,
}

/// What a model's vocabulary says of the end of an answer.
pub(super) struct Ends<'m> {
    pub(super) vocab: LlamaVocab<'m>,
    /// Tokens that end an answer.
    pub(super) tokens: Vec<usize>,
}

impl Request {
    pub(super) fn new(job: Generate) -> Shared {
        Rc::new(RefCell::new(Self { job, open: 1, spent: Spent::default(), prompt_scores: vec![], failed: None }))
    }

    pub(super) fn send(&self, event: Event) {
        // A closed channel is noticed before the next step; a full one cannot be (`job::events_of`).
        if let Err(mpsc::error::TrySendError::Full(_)) = self.job.events.try_send(event) {
            tracing::error!(id = %self.job.id, "an event was lost: its channel is full");
        }
    }

    /// The prompt is computed: the other choices begin.
    pub(super) fn open_others(&mut self) {
        self.open += self.job.choices - 1;
    }

    /// A choice has ended; the last one ends the request.
    pub(super) fn end_choice(&mut self, end: End, metrics: &Metrics) {
        self.open -= 1;
        if !matches!(end, End::Finished(_)) {
            self.failed = self.failed.or(Some(end));
        }
        if self.open > 0 {
            return;
        }
        metrics.running.lower();
        let spent = self.spent;
        self.job.account.set(spent);
        match self.failed {
            None => {
                metrics.finished.add(1);
                self.send(Event::Done(spent));
            }
            Some(end) => {
                tracing::info!(
                    id = %self.job.id, prompt_tokens = spent.prompt_tokens,
                    completion_tokens = spent.completion_tokens, cpu_micros = spent.cpu_micros, "request ended early"
                );
                close(&self.job, end, metrics);
            }
        }
    }
}

impl Live {
    /// The first choice of a request, or one that has to compute the prompt for itself.
    pub(super) fn new(request: &Shared, choice: usize, slot: usize) -> Self {
        let job = &request.borrow().job;
        Self {
            request: Rc::clone(request),
            choice,
            slot,
            adapter: job.adapter.as_ref().map(|adapter| adapter.id),
            next: None,
            sampler: Sampler::new(job.sampling.of_choice(choice), &job.prompt),
            constraint: job.constraint.as_ref().map(Constraint::fork),
            output: Output::new(choice, job.stops.clone()),
            completion_tokens: 0,
            logprob: 0.0,
            end: None,
        }
    }

    pub(super) fn adapter(&self) -> Option<AdapterId> {
        self.adapter
    }

    /// Chooses the next token, hands out its text, notices the end.
    pub(super) fn advance(&mut self, logits: &[f32], ends: &Ends<'_>) {
        let shared = Rc::clone(&self.request);
        let mut request = shared.borrow_mut();
        let job = &request.job;
        if job.max_tokens == 0 {
            self.end = Some(End::Finished(FinishReason::Length));
            request.send(self.ended(FinishReason::Length));
            return;
        }
        let may_end = self.completion_tokens >= job.min_tokens;
        let strike = |logits: &mut [f32]| ends.tokens.iter().for_each(|&token| logits[token] = f32::NEG_INFINITY);
        let strike: Option<Strike<'_>> = if may_end { None } else { Some(&strike) };
        let token = match self.constraint.as_mut() {
            None => self.sampler.choose(logits, strike),
            Some(constraint) => match constraint.choose(&mut self.sampler, logits, strike) {
                Ok(token) => token,
                Err(stuck) => {
                    tracing::error!(id = %job.id, error = %stuck, "an answer cannot keep to its grammar");
                    self.end = Some(End::Failed(Failure::Engine));
                    return;
                }
            },
        };
        self.sampler.remember(token);
        let scored = job.scores.answer.map(|top| score(logits, token, top));
        self.logprob += scored.as_ref().map_or(0.0, |scored| f64::from(scored.logprob));
        self.completion_tokens += 1;
        self.next = Some(token);
        let is_end = ends.vocab.is_eog(LlamaToken(token));
        // What a grammar has ended cannot go on.
        if is_end && (!job.ignore_end || self.constraint.is_some()) {
            self.end = Some(End::Finished(FinishReason::Stop));
        } else {
            let is_shown = job.shown.contains(&token);
            let bytes = if is_end { vec![] } else { ends.vocab.token_to_piece(LlamaToken(token), is_shown, None) };
            let is_watching = self.completion_tokens >= job.min_tokens;
            let brought = self.output.push(&bytes, scored, is_watching);
            self.hand_out(&request, brought);
            if self.end.is_none() && self.constraint.as_ref().is_some_and(Constraint::is_done) {
                self.end = Some(End::Finished(FinishReason::Stop));
            }
            if self.end.is_none() && self.completion_tokens == job.max_tokens {
                self.end = Some(End::Finished(FinishReason::Length));
            }
        }
        request.spent.completion_tokens += 1;
        if let Some(End::Finished(_)) = self.end {
            let rest = self.output.finish();
            self.hand_out(&request, rest);
        }
        // A stop string may have come with the rest.
        if let Some(End::Finished(reason)) = self.end {
            request.send(self.ended(reason));
        }
    }

    fn ended(&self, reason: FinishReason) -> Event {
        Event::Ended { choice: self.choice, reason, logprob: self.logprob }
    }

    fn hand_out(&mut self, request: &Request, brought: Brought) {
        if brought.is_stopped {
            self.end = Some(End::Finished(FinishReason::Stop));
        }
        if !brought.piece.is_empty() {
            request.send(Event::Text(brought.piece));
        }
    }
}

pub(super) fn hopeless(job: &Generate, now: Instant) -> Option<End> {
    if job.events.is_closed() {
        return Some(End::Cancelled);
    }
    job.deadline.is_some_and(|deadline| deadline <= now).then_some(End::Failed(Failure::Deadline))
}

/// Tells whoever waits that there will be no answer.
pub(super) fn close(job: &Generate, end: End, metrics: &Metrics) {
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
