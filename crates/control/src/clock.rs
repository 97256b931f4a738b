//! The one way time enters: the system's clock, or a test's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Tells the time. Cheap to clone; clones agree.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    System,
    /// Microseconds since the epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { source: Source::System }
    }

    /// A clock that stands still until it is set.
    pub fn manual(now: Timestamp) -> Self {
        Self { source: Source::Manual(Arc::new(AtomicI64::new(now.as_microsecond()))) }
    }

    /// The time, to the microsecond that the store keeps.
    pub fn now(&self) -> Timestamp {
        let micros = match &self.source {
            Source::System => Timestamp::now().as_microsecond(),
            Source::Manual(micros) => micros.load(Ordering::SeqCst),
        };
        Timestamp::from_microsecond(micros).expect("both come from a timestamp")
    }

    /// Sets a manual clock; the system's is not ours to set.
    pub fn set(&self, now: Timestamp) {
        match &self.source {
            Source::System => {}
            Source::Manual(micros) => micros.store(now.as_microsecond(), Ordering::SeqCst),
        }
    }
}
