//! Batches: what happens to one, how many of their requests may run, and what becomes of a request that was not answered.
//!
//! Live traffic comes first. A batch's request uses a seat that nobody waits for: as long as live requests are there, or
//! were a moment ago, batches leave most seats alone; when somebody waits for one, they take none.
//! INVARIANT: with live requests waiting, no request of a batch is started.

use galerne_model::batch::{Batch, BatchEnd, BatchState};
use galerne_model::reason::Reason;
use jiff::Timestamp;

/// What an endpoint is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Replicas that take requests.
    pub replicas: u32,
    /// Sequences that one replica computes together; absent when its engine does not say.
    pub seats_each: Option<u32>,
    /// Requests that the endpoint may have in flight; absent when it has no such limit.
    pub limit: Option<u32>,
    /// Live requests in flight.
    pub live: u32,
    /// Live requests that wait for a replica or a seat.
    pub waiting: u32,
    /// Microseconds since the last live request began or ended; absent when there was none.
    pub quiet_micros: Option<i64>,
    /// Whether an endpoint without a replica may be woken.
    pub wakes: bool,
}

/// How many requests of batches may be in flight on an endpoint now, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In flight together, those that are already among them.
    pub most: u32,
    /// Why not more.
    pub why: RoomReason,
}

/// Why batches may not run more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoomReason {
    /// Live requests wait.
    #[error("live requests wait for this endpoint, and go first")]
    LiveWaits,
    /// Live requests are there, or were a moment ago.
    #[error("live requests are being answered, and batches keep out of their way")]
    LiveRuns,
    /// No replica, and none can be woken.
    #[error("the endpoint has no ready replica")]
    NoReplica,
    /// One request wakes an endpoint.
    #[error("the endpoint is being woken")]
    Waking,
    /// All seats that batches may have are taken.
    #[error("the endpoint is idle, and batches have all its seats but one")]
    Seats,
}

/// Seats of an engine that does not say how many it has: few enough not to make live requests queue behind batches.
pub const SEATS_UNKNOWN: u32 = 8;
/// After the last live request this long, an endpoint counts as idle. People who chat come back within seconds.
pub const QUIET_MICROS: i64 = 3_000_000;
/// While live requests run, batches and they together use at most half of the seats, and batches at most an eighth: decoding
/// more sequences together slows each of them, on small engines at once.
const LIVE_SHARE: u32 = 8;

/// How many requests of batches may run on an endpoint.
pub fn room(load: &Load) -> Room {
    if load.waiting > 0 {
        return Room { most: 0, why: RoomReason::LiveWaits };
    }
    if load.replicas == 0 {
        let most = u32::from(load.wakes);
        return Room { most, why: if load.wakes { RoomReason::Waking } else { RoomReason::NoReplica } };
    }
    let seats = load.replicas.saturating_mul(load.seats_each.unwrap_or(SEATS_UNKNOWN).max(1));
    let seats = seats.min(load.limit.unwrap_or(u32::MAX));
    let is_idle = load.live == 0 && load.quiet_micros.is_none_or(|quiet| quiet >= QUIET_MICROS);
    if is_idle {
        // One seat stays free, so that the next live request need not wait for one; an engine with a single seat has none.
        return Room { most: seats.saturating_sub(1).max(1), why: RoomReason::Seats };
    }
    let most = (seats / LIVE_SHARE).min((seats / 2).saturating_sub(load.live));
    Room { most, why: RoomReason::LiveRuns }
}

/// Somebody who has a request to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<B, T> {
    /// The batch.
    pub batch: B,
    /// Whose it is.
    pub tenant: T,
    /// Its requests in flight.
    pub in_flight: u32,
}

/// Who goes next: of the tenant with the fewest in flight, the batch with the fewest, the oldest.
pub fn next_turn<B: Copy + Ord, T: Copy + Ord>(turns: &[Turn<B, T>]) -> Option<B> {
    let of_tenant = |tenant: T| -> u64 {
        turns.iter().filter(|turn| turn.tenant == tenant).map(|turn| u64::from(turn.in_flight)).sum()
    };
    turns.iter().min_by_key(|turn| (of_tenant(turn.tenant), turn.in_flight, turn.batch)).map(|turn| turn.batch)
}

/// What is known of a batch beside its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Why its key may not be used now; absent when it may.
    pub key_refused: Option<&'a str>,
    /// Requests that are neither done nor in flight.
    pub left: u64,
    /// Its requests in flight.
    pub in_flight: u32,
}

/// What is to be done with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read and judge its lines.
    Validate,
    /// Run its requests when there is room.
    Run,
    /// Start no more of them, for this reason.
    End(BatchEnd, String),
    /// Wait for those in flight.
    Wait,
    /// Write its files.
    Finish,
    /// Nothing, ever.
    Rest,
}

/// What is to be done with `batch` at `now`.
pub fn step(batch: &Batch, facts: &Facts<'_>, now: Timestamp) -> Step {
    let status = &batch.status;
    let ending = || {
        if let Some(at) = status.cancel_at {
            return Some((BatchEnd::Cancelled, format!("cancelled at {at}")));
        }
        if batch.expires_at <= now {
            return Some((BatchEnd::Expired, format!("its time was over at {}", batch.expires_at)));
        }
        facts.key_refused.map(|why| (BatchEnd::Stopped, why.to_owned()))
    };
    match status.state {
        BatchState::Validating => ending().map_or(Step::Validate, |(end, why)| Step::End(end, why)),
        BatchState::Running => match ending() {
            // What is answered already was not stopped by anything.
            _ if facts.left == 0 && facts.in_flight == 0 => {
                Step::End(BatchEnd::Completed, "every request is done".to_owned())
            }
            Some((end, why)) => Step::End(end, why),
            None if facts.left == 0 => Step::Wait,
            None => Step::Run,
        },
        BatchState::Ending if facts.in_flight > 0 => Step::Wait,
        BatchState::Ending => Step::Finish,
        BatchState::Ended => Step::Rest,
    }
}

/// Why a batch is where it is.
pub fn why(batch: &Batch) -> Reason {
    let (id, status) = (batch.id, &batch.status);
    let counts = status.counts;
    let done = format!("{} of {} requests are answered and {} refused", counts.completed, counts.total, counts.failed);
    let counted = Reason::holds("batch_counts", done);
    let faults = |mut reason: Reason| {
        for fault in status.faults.iter().take(FAULTS_TOLD) {
            let line = fault.line.map_or_else(String::new, |line| format!("line {line}: "));
            reason = reason.because(Reason::blocks(&fault.code, format!("{line}{}", fault.message)));
        }
        reason
    };
    let answers = |reason: Reason| match status.output {
        Some(_) => reason.next("read what was answered", format!("galerne batch download {id}")),
        None => reason,
    };
    match (status.state, status.end) {
        (BatchState::Validating, _) => Reason::blocks("batch_validating", "its lines are being read"),
        (BatchState::Running, _) => Reason::blocks("batch_running", status.reason.clone())
            .because(counted)
            .because(Reason::holds("batch_window", format!("it has until {}", batch.expires_at)))
            .next("stop it and keep what is answered", format!("galerne batch cancel {id}")),
        (BatchState::Ending, _) => {
            Reason::blocks("batch_ending", format!("its files are being written: {}", status.reason)).because(counted)
        }
        (BatchState::Ended, Some(BatchEnd::Completed) | None) => {
            answers(Reason::holds("batch_completed", "every request is done").because(counted))
        }
        (BatchState::Ended, Some(BatchEnd::Failed)) => {
            let begun = if status.begun_at.is_some() { "it broke off" } else { "no request was made" };
            let failed = Reason::blocks("batch_failed", format!("{begun}: {}", status.reason));
            answers(faults(if status.begun_at.is_some() { failed.because(counted) } else { failed }))
        }
        (BatchState::Ended, Some(BatchEnd::Expired | BatchEnd::Cancelled | BatchEnd::Stopped)) => {
            let ended = Reason::blocks("batch_stopped", format!("it ended early: {}", status.reason)).because(counted);
            let reason = answers(faults(ended));
            reason.next("read what was not answered, and why", format!("galerne batch download {id} --errors"))
        }
    }
}

/// Faults that an explanation repeats.
const FAULTS_TOLD: usize = 5;

/// What came back for a request of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Milliseconds after which to come back, if it was said.
    pub retry_after_ms: Option<u64>,
    /// Tries that reached a replica and failed, this one not counted.
    pub failures: u32,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered.
    Answered,
    /// It is refused, for good.
    Refused,
    /// Not now: the site, a limit or a budget is in the way. It costs no try.
    Later {
        /// Milliseconds to wait.
        wait_ms: u64,
    },
    /// It failed and is tried again.
    Again {
        /// Milliseconds to wait.
        wait_ms: u64,
    },
    /// Its key may not be used: nothing of its batch is tried any more.
    Stop,
}

/// Tries of a request that a replica fails at.
pub const FAILURES_MAX: u32 = 4;
/// Shortest and longest wait before a request is tried again.
const WAIT_MS: (u64, u64) = (500, 60_000);
/// Wait when a budget is used up: it is raised, or its month begins.
const BUDGET_WAIT_MS: u64 = 30_000;

/// What becomes of a request after a reply.
pub fn verdict(reply: Reply) -> Verdict {
    let wait = |fallback: u64| reply.retry_after_ms.unwrap_or(fallback).clamp(WAIT_MS.0, WAIT_MS.1);
    match reply.status {
        200..=299 => Verdict::Answered,
        401 | 403 => Verdict::Stop,
        402 => Verdict::Later { wait_ms: BUDGET_WAIT_MS },
        408 | 429 | 503 => Verdict::Later { wait_ms: wait(2_000) },
        500..=599 if reply.failures + 1 >= FAILURES_MAX => Verdict::Refused,
        501 => Verdict::Refused,
        500..=599 => Verdict::Again { wait_ms: wait(1_000 << reply.failures.min(5)) },
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests;
