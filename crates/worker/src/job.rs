//! What passes between the HTTP side and the engine thread, and how much may wait in between.
//! INVARIANT: the engine thread never waits for a client: a request's events fit into its channel, whose closing is the only
//! way a request is cancelled.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use galerne_api::openai::FinishReason;
use tokio::sync::{mpsc, oneshot};

use crate::account::{Account, Spent};
use crate::adapter::{Adapter, AdapterId};
use crate::constraint::Constraint;
use crate::metrics::Metrics;
use crate::sample::Sampling;
use crate::score::Scored;

/// A request to the engine thread.
#[derive(Debug)]
pub(crate) enum Job {
    Generate(Box<Generate>),
    Embed(Embed),
    Attach(Attach),
    Detach(Detach),
    /// Give up what is left and end.
    Stop,
}

/// An adapter to load; its file was checked.
#[derive(Debug)]
pub(crate) struct Attach {
    pub adapter: Arc<Adapter>,
    pub path: PathBuf,
    /// Told when it is there, or why llama.cpp does not take it.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// An adapter whose last holder is about to let go of it.
#[derive(Debug)]
pub(crate) struct Detach {
    pub id: AdapterId,
    /// Told when it is gone.
    pub reply: oneshot::Sender<()>,
}

/// One request to answer, with one text or several.
#[derive(Debug)]
pub(crate) struct Generate {
    /// As in the reply; for the log.
    pub id: String,
    /// At least one token, and with `max_tokens` at most the context.
    pub prompt: Vec<i32>,
    /// Answers to it, each sampled for itself; at least one.
    pub choices: usize,
    /// Of each choice. 0: the prompt is computed and nothing else.
    pub max_tokens: usize,
    /// Tokens before which a choice neither ends nor is stopped.
    pub min_tokens: usize,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// Goes on after the model has ended its turn, for measurements.
    pub ignore_end: bool,
    pub scores: Scores,
    /// The grammar that every choice keeps to.
    pub constraint: Option<Constraint>,
    /// Control tokens whose text is part of the answer.
    pub shown: Arc<[i32]>,
    /// What is added to the model.
    pub adapter: Option<Arc<Adapter>>,
    pub deadline: Option<Instant>,
    pub account: Account,
    /// Whose cached prompts it may profit from.
    pub cache_scope: Option<String>,
    pub events: mpsc::Sender<Event>,
}

/// Which log-probabilities are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scores {
    /// Of the answer's tokens, with this many of the likeliest ones.
    pub answer: Option<usize>,
    /// Of the prompt's tokens, likewise.
    pub prompt: Option<usize>,
}

/// Texts to embed, tokenised.
#[derive(Debug)]
pub(crate) struct Embed {
    pub inputs: Vec<Vec<i32>>,
    pub account: Account,
    pub reply: oneshot::Sender<Result<Embedded, Failure>>,
}

/// Vectors in the order of the inputs, each of length 1.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    pub cpu_micros: u64,
}

/// What happens to an answer.
#[derive(Debug)]
pub(crate) enum Event {
    /// The prompt's tokens with their scores, if they were wanted; the first token has none.
    Prompt(Vec<Scored>),
    Text(Piece),
    /// A choice has ended.
    Ended {
        choice: usize,
        reason: FinishReason,
        logprob: f64,
    },
    /// The last event: every choice has ended.
    Done(Spent),
    /// The last event of an answer that could not be finished.
    Failed(Failure),
}

/// A part of a choice's text.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub choice: usize,
    pub text: String,
    /// Tokens it is made of.
    pub tokens: usize,
    /// Their scores, if they were wanted.
    pub scored: Vec<Scored>,
}

/// Why the engine gave up on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The caller's own deadline has passed.
    Deadline,
    /// llama.cpp could not compute the step; the code is its own.
    Engine,
    /// The worker is stopping.
    Stopping,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    Full { waiting: usize },
    Stopped,
}

/// Events of one answer never wait: for each choice one per token, its end, and what finishing hands out; the prompt's scores
/// and the account.
#[must_use]
pub(crate) fn events_of(max_tokens: usize, choices: usize) -> usize {
    choices * (max_tokens + 3) + 3
}

/// The way to the engine thread.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    metrics: Arc<Metrics>,
    /// Requests that may wait beyond those being answered.
    limit: usize,
}

impl Queue {
    /// A queue and its end at the engine. `limit` requests may wait.
    #[must_use]
    pub(crate) fn new(limit: usize, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Job>) {
        // One more for `Job::Stop`, which always fits, and one for what is attached or detached.
        let (jobs, receiver) = mpsc::channel(limit.max(1) + 2);
        (Self { jobs, metrics, limit: limit.max(1) }, receiver)
    }

    /// Hands a job to the engine, at once or not at all.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Busy> {
        // Counted here, counted down by the engine when the job is taken up or dropped.
        if !self.metrics.waiting.raise_below(self.limit as u64) {
            self.metrics.refused.add(1);
            return Err(Busy::Full { waiting: self.limit });
        }
        self.jobs.try_send(job).map_err(|e| {
            self.metrics.waiting.lower();
            match e {
                mpsc::error::TrySendError::Full(_) => Busy::Full { waiting: self.limit },
                mpsc::error::TrySendError::Closed(_) => Busy::Stopped,
            }
        })
    }

    /// Hands over what is no request, or says that there is no room now.
    pub(crate) fn manage(&self, job: Job) -> Result<(), Busy> {
        self.jobs.try_send(job).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Busy::Full { waiting: self.limit },
            mpsc::error::TrySendError::Closed(_) => Busy::Stopped,
        })
    }

    /// Tells the engine to end at its next step.
    pub(crate) fn stop(&self) {
        if self.jobs.try_send(Job::Stop).is_err() {
            tracing::debug!("the engine has ended already");
        }
    }

    /// Resolves when the engine is gone.
    pub(crate) async fn closed(&self) {
        self.jobs.closed().await;
    }
}
