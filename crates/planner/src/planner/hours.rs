//! Better hours: deferrable requests wait while a greener or cheaper start keeps their deadline.

use crate::shift::{Deferrable, Pauses, Running, holds};
use crate::units::At;

use super::Planner;

impl Planner {
    /// Asks again who waits for a better hour, where the answer of before may not hold any more.
    pub(super) fn mend_holds(&mut self, now: At) {
        if self.pass.holds_valid_until.is_some_and(|until| now < until) {
            return;
        }
        self.pass.holds.clear();
        let waiting: Vec<Deferrable> =
            self.requests.deferrable().filter_map(|request| self.deferrable(request)).collect();
        if self.forecast.cost.is_empty() || waiting.is_empty() {
            // Any change that could make a hold asks again.
            self.pass.holds_valid_until = Some(At::NEVER);
            return;
        }
        let deferred = self.state.leases.iter().filter(|held| held.lease.request.deferrable);
        let running: Vec<Running> = deferred
            .filter_map(|held| {
                let gpu_milli = self.amount(&held.lease.request.shape, held.nodes.len()).gpu_milli;
                Some(Running { gpu_milli, ends_at: held.lease.ends_at? })
            })
            .collect();
        let shift = holds(&self.forecast, &waiting, &running, now);
        self.pass.holds.extend(shift.holds.iter().map(|hold| (hold.request, hold.until)));
        self.pass.holds_valid_until = Some(shift.valid_until);
    }

    /// Only a request that says how long it runs and when it must be done can wait safely.
    fn deferrable(&self, request: crate::units::RequestId) -> Option<Deferrable> {
        let request = &self.requests.get(self.requests.find(request)?).request;
        Some(Deferrable {
            request: request.id,
            gpu_milli: self.amount(&request.shape, usize::from(request.shape.nodes.min)).gpu_milli,
            run_seconds: request.run_seconds?,
            not_before: request.not_before,
            deadline: request.deadline?,
            // Stopping it at the end of a step and asking again for the rest would be the caller's doing.
            pauses: Pauses::Never,
        })
    }
}
