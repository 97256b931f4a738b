//! Routing: which replica answers, whether a failed attempt is repeated, which replicas rest for a while.
//!
//! A replica's cost to a request is a time: what is ahead of it there, what of its prompt is not cached, what is decoded
//! beside it. The smallest wins ([`cost`]); what replicas have of a prompt is kept in a prefix index ([`index`]); what they
//! can do is learnt from what they did ([`rates`]); who fails rests ([`breaker`]). [`ReplicaBook`] holds all of it.
//! Deliberately absent: text of prompts, tokenisers, splitting of prefill and decode between replicas.

mod book;
mod breaker;
mod cost;
mod index;
mod prompt;
mod rates;
mod share;
mod siphash;
mod slots;
mod told;

pub use book::{Counts, ReplicaBook, ReplicaSeen, Report, SAMPLE, Seat, Wanted, next};
pub use breaker::BreakerState;
pub use cost::{Cost, Load, Weighed};
pub use prompt::{BLOCK_BYTES, Block, Prompt};
pub use share::{Drawn, draw};
pub use siphash::Secret;
pub use told::KvEvent;

/// Attempts per request that reach a replica: the first and one more.
const ATTEMPTS_MAX: u32 = 2;
/// Attempts per request that reach nobody, where each is another replica: a host that goes takes several with it.
const UNREACHED_MAX: u32 = 4;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The replica answered, be it with an error the caller made.
    Answered,
    /// The replica could not be reached.
    ConnectFailed,
    /// The connection broke, or what came was not an answer.
    Broken,
    /// No byte came in time.
    TimedOut,
    /// A status that blames the replica: 500 and above but 503.
    ServerError(u16),
    /// 503: the replica's queue is full or it is still loading.
    Busy,
    /// The client left.
    Cancelled,
}

/// Whether the client has already seen a part of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was sent to the client.
    BeforeFirstByte,
    /// Something was sent; a second answer cannot be told from the first.
    Started,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try another replica (the same one when there is no other).
    Retry,
    /// Hand on what happened.
    Finish,
}

/// The ending a status from a replica stands for.
pub fn ending_of_status(status: u16) -> Ending {
    match status {
        503 => Ending::Busy,
        500..=599 => Ending::ServerError(status),
        _ => Ending::Answered,
    }
}

/// The attempts of a request so far, the one that has just ended included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Those that reached a replica.
    pub reached: u32,
    /// Those that reached nobody.
    pub unreached: u32,
    /// Whether there is a replica that was not asked.
    pub is_one_left: bool,
}

/// Whether to try again after these attempts.
pub fn after_attempt(attempts: Attempts, progress: Progress, ending: Ending) -> Next {
    let Attempts { reached, unreached, is_one_left } = attempts;
    let may_help = match ending {
        // Asked again where it is the only one: it may be in the middle of a restart.
        Ending::ConnectFailed => unreached < if is_one_left { UNREACHED_MAX } else { ATTEMPTS_MAX },
        Ending::Broken | Ending::ServerError(_) | Ending::Busy => true,
        // A request that used up its time has none left; what the caller did wrong stays wrong.
        Ending::TimedOut | Ending::Answered | Ending::Cancelled => false,
    };
    match progress {
        Progress::BeforeFirstByte if may_help && reached < ATTEMPTS_MAX => Next::Retry,
        Progress::BeforeFirstByte | Progress::Started => Next::Finish,
    }
}

#[cfg(test)]
mod tests;
