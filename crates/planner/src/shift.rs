//! Better hours: which deferrable requests wait, and until when, so that their work falls into green or cheap hours.
//!
//! `flow` spreads work over hours exactly and `certificate` proves it; `safety` says whether deadlines can still be
//! kept; `rolling` decides hour by hour while work keeps arriving; `holds` turns it into waits for requests.
//! An hour is one step of the forecast. What an hour costs is the same for every GPU: requests that draw more than
//! others get no first choice.
//! Deliberately absent: nodes. A hold is a hint that passes in time; admission and placement decide afterwards.

pub mod certificate;
pub mod flow;
pub mod rolling;
pub mod safety;

mod hold;

use crate::event::Forecast;
use crate::plan::Hold;
use crate::units::{At, RequestId};

/// A waiting request that may wait for a better hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferrable {
    pub request: RequestId,
    /// Of all its nodes together, in thousandths of a GPU.
    pub gpu_milli: i64,
    /// Run time still to be done.
    pub run_seconds: u32,
    /// Not to begin before this.
    pub not_before: Option<At>,
    /// When it must be done.
    pub deadline: At,
    pub pauses: Pauses,
}

/// Whether its run may be cut into parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pauses {
    /// Runs from its start to its end: the wait is chosen for the whole run.
    Never,
    /// Somebody stops it at the end of a step and asks again for the rest: the wait is for its first part only.
    AtSteps,
}

/// Deferrable work that runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    pub gpu_milli: i64,
    pub ends_at: At,
}

/// Who waits, and what deferrable work may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shift {
    /// One for each request that waits, by request.
    pub holds: Vec<Hold>,
    /// Thousandths of a GPU that the plan uses in each step from the one of `now` on, running work included.
    pub soft_cap: Vec<i64>,
    /// Until then the answer stays the same, unless the forecast or the requests change.
    pub valid_until: At,
}

/// Holds for `waiting` requests. A request is held only if a start is known that keeps its deadline with room for
/// everything else that is known; requests without such a start are never held.
pub fn holds(forecast: &Forecast, waiting: &[Deferrable], running: &[Running], now: At) -> Shift {
    hold::holds(forecast, waiting, running, now)
}

#[cfg(test)]
mod tests;
