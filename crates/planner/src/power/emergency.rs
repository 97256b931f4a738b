//! What gives way when a point draws too much: two thresholds, low priorities first, stopping last.
//!
//! Over the first threshold of its cap, work below the protected priority is capped; over the second, all work is, and
//! where caps are not enough, work is stopped, checkpoint first, least value for each watt first. Below a third, lower
//! threshold caps are lifted again, so that nothing swings (the scheme of POLCA, ASPLOS 2024).
//!
//! Deliberately absent: who measures, how a cap reaches a GPU, how long a checkpoint takes. A pure function, asked
//! again with what is measured next.

use std::cmp::{Ordering, Reverse};

use crate::request::Stop;
use crate::units::LeaseId;

/// When to act, in thousandths of a point's cap, and for whom not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub first_milli: u16,
    pub second_milli: u16,
    /// Below it caps are lifted, as far as what is lifted stays within it.
    pub lift_milli: u16,
    /// Work of this priority or above is left alone up to the second threshold.
    pub protected_priority: i16,
}

/// Work that draws below the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    pub lease: LeaseId,
    pub priority: i16,
    /// What it draws.
    pub watts: i64,
    /// What it would draw capped as hard as it may be.
    pub least_watts: i64,
    /// What it would draw without a cap; `None` when it has none.
    pub uncapped_watts: Option<i64>,
    /// What an hour of it is worth, in any one unit: what stopping it loses.
    pub value: i64,
    pub stop: Stop,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relief {
    Cap { lease: LeaseId, to_watts: i64 },
    CheckpointThenStop { lease: LeaseId },
    Stop { lease: LeaseId },
    Lift { lease: LeaseId },
}

/// What to do, in order, and what will be drawn after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    pub reliefs: Vec<Relief>,
    pub expected_watts: i64,
    /// Watts over the cap that no cap and no stop can take away.
    pub short_watts: i64,
}

/// What to do about `draw_watts` below a point of `cap_watts`, of which `running` is the part that can be told.
///
/// Caps go as deep as the first threshold needs and no deeper; stops only as far as the second needs after all caps.
pub fn respond(thresholds: Thresholds, cap_watts: i64, draw_watts: i64, running: &[Running]) -> Response {
    let of_cap = |milli: u16| (i128::from(cap_watts) * i128::from(milli) / 1000).try_into().unwrap_or(i64::MAX);
    let (first, second): (i64, i64) = (of_cap(thresholds.first_milli), of_cap(thresholds.second_milli));
    let mut response = Response { reliefs: vec![], expected_watts: draw_watts, short_watts: 0 };
    let mut order: Vec<&Running> = running.iter().collect();
    order.sort_unstable_by(|a, b| least_missed_first(a, b));
    if draw_watts <= of_cap(thresholds.lift_milli) {
        response.lift(&order, of_cap(thresholds.lift_milli));
        return response;
    }
    if draw_watts > first {
        let all = draw_watts > second;
        let capped = order.iter().filter(|work| all || work.priority < thresholds.protected_priority);
        response.cap(capped.copied(), first);
    }
    if response.expected_watts > second && draw_watts > second {
        response.stop(&order, second);
    }
    response.short_watts = (response.expected_watts - cap_watts).max(0);
    response
}

impl Response {
    fn cap<'a>(&mut self, work: impl Iterator<Item = &'a Running>, target: i64) {
        for work in work {
            let freed = (work.watts - work.least_watts).min(self.expected_watts - target);
            if freed > 0 {
                self.reliefs.push(Relief::Cap { lease: work.lease, to_watts: work.watts - freed });
                self.expected_watts -= freed;
            }
        }
    }

    fn stop(&mut self, order: &[&Running], target: i64) {
        for work in order {
            let lease = work.lease;
            let relief = match work.stop {
                Stop::Never => continue,
                Stop::Checkpoint { .. } => Relief::CheckpointThenStop { lease },
                Stop::Restart => Relief::Stop { lease },
            };
            if self.expected_watts <= target {
                break;
            }
            // Who stops need not be capped as well; what a cap freed is freed already.
            let is_cap = |relief: &Relief| matches!(relief, Relief::Cap { lease: capped, .. } if *capped == lease);
            let watts = match self.reliefs.iter().position(is_cap).map(|at| self.reliefs.remove(at)) {
                Some(Relief::Cap { to_watts, .. }) => to_watts,
                _ => work.watts,
            };
            self.reliefs.push(relief);
            self.expected_watts -= watts;
        }
    }

    fn lift(&mut self, order: &[&Running], target: i64) {
        for work in order.iter().rev() {
            let Some(uncapped) = work.uncapped_watts else { continue };
            let more = (uncapped - work.watts).max(0);
            if self.expected_watts + more <= target {
                self.reliefs.push(Relief::Lift { lease: work.lease });
                self.expected_watts += more;
            }
        }
    }
}

/// Low priority first; then the least value for each watt it draws; then the latest lease.
fn least_missed_first(a: &Running, b: &Running) -> Ordering {
    let by_value = || {
        let ours = i128::from(a.value) * i128::from(b.watts.max(1));
        ours.cmp(&(i128::from(b.value) * i128::from(a.watts.max(1))))
    };
    (a.priority.cmp(&b.priority)).then_with(by_value).then_with(|| Reverse(a.lease).cmp(&Reverse(b.lease)))
}

#[cfg(test)]
mod tests;
