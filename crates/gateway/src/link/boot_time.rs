//! A clock for deadlines between two machines: it does not jump when the date is set, and goes on while a machine sleeps.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// An instant since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    /// This moment.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    /// Time from the start of the machine.
    pub(crate) const fn since_start(self) -> Duration {
        self.0
    }

    /// Time since then.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
