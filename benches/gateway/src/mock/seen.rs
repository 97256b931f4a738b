//! What a mock saw: how many requests began, ended, and were given up by whoever asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Most cancels whose times are kept.
const CANCELS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Seen {
    started: AtomicU64,
    finished: AtomicU64,
    cancelled: AtomicU64,
    /// Number of the request, and when its caller went away in microseconds since 1970.
    cancels: Mutex<Vec<(u64, u64)>>,
}

impl Seen {
    pub(super) fn begin(&self, id: Option<u64>) -> Guard<'_> {
        self.started.fetch_add(1, Ordering::Relaxed);
        Guard { seen: self, id, is_finished: false }
    }

    pub(super) fn running(&self) -> u64 {
        let ended = self.finished.load(Ordering::Relaxed) + self.cancelled.load(Ordering::Relaxed);
        self.started.load(Ordering::Relaxed).saturating_sub(ended)
    }

    pub(super) fn told(&self) -> Value {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "started": load(&self.started),
            "finished": load(&self.finished),
            "cancelled": load(&self.cancelled),
            "running": self.running(),
            "cancels": *cancels,
        })
    }
}

/// A request that is being answered; dropped unfinished, it was given up.
pub(super) struct Guard<'a> {
    seen: &'a Seen,
    id: Option<u64>,
    is_finished: bool,
}

impl Guard<'_> {
    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.is_finished {
            self.seen.finished.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.seen.cancelled.fetch_add(1, Ordering::Relaxed);
        if let Some(id) = self.id {
            let mut cancels = self.seen.cancels.lock().unwrap_or_else(PoisonError::into_inner);
            if cancels.len() < CANCELS_MAX {
                cancels.push((id, micros_now()));
            }
        }
    }
}

/// Microseconds since 1970: load client and mock are two processes on one machine.
pub(crate) fn micros_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
