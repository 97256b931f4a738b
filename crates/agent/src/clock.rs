//! Three clocks read together: one for dates, one that runs while the host is awake, one that also runs in its sleep.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Date and time; can jump either way.
    pub(crate) wall: Timestamp,
    /// Nanoseconds awake since boot.
    pub(crate) awake_nanos: i128,
    /// Nanoseconds since boot.
    pub(crate) since_boot_nanos: i128,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            wall: Timestamp::now(),
            awake_nanos: nanos(ClockId::Monotonic),
            since_boot_nanos: nanos(ClockId::Boottime),
        }
    }
}

fn nanos(clock: ClockId) -> i128 {
    let time = clock_gettime(clock);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
