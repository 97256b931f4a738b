//! The thread that makes the spool durable: one fdatasync for everything written in the last 50 ms, and the next spare segment.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Log, Position, Spool, segment};

/// Longest time a written record waits for its sync: what a power loss may take from clients that were answered.
const SYNC_INTERVAL: Duration = Duration::from_millis(50);
/// Pause after the disk had no space for a spare segment.
const SPARE_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Longest sleep without work, after which the thread looks whether its spool still has an owner.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the thread; it ends after [`Spool::stop`], or when the spool has no other owner.
pub(super) fn start(spool: &Arc<Spool>) -> io::Result<()> {
    let spool = Arc::downgrade(spool);
    std::thread::Builder::new().name("spool-sync".into()).spawn(move || {
        while let Some(spool) = spool.upgrade() {
            let stopping = spool.wait_for_work();
            spool.sync();
            if stopping {
                return;
            }
            spool.prepare_spare();
        }
    })?;
    Ok(())
}

impl Spool {
    /// Waits until something was written, then for one interval, so that one sync serves all of it. True: stop.
    fn wait_for_work(&self) -> bool {
        let mut log = self.lock();
        log.idle = true;
        let idle = |log: &mut Log| !log.stopping && !log.has_work();
        let (mut log, _) =
            self.dirty.wait_timeout_while(log, IDLE_INTERVAL, idle).unwrap_or_else(PoisonError::into_inner);
        log.idle = false;
        if log.spare.is_none() {
            return log.stopping;
        }
        let (log, _) = self
            .dirty
            .wait_timeout_while(log, SYNC_INTERVAL, |log| !log.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        log.stopping
    }

    /// Makes what was written durable and lets the shipper see it; false when the disk refused.
    pub(super) fn sync(&self) -> bool {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, position, renamed)) = self.unsynced() else { return !self.lock().failed };
        let done = file.sync_data().and_then(|()| if renamed { segment::sync_dir(&self.dir) } else { Ok(()) });
        let mut log = self.lock();
        match done {
            // A rotation met the error first, and the system tells it only once.
            Ok(()) if log.failed => false,
            Ok(()) => {
                log.synced = log.synced.max(position);
                self.synced.notify_one();
                true
            }
            Err(error) => {
                // After a failed sync the kernel may have dropped the pages: another try would claim what is not true.
                log.failed = true;
                tracing::error!(%error, "spool could not be synced; no request is admitted until the next start");
                false
            }
        }
    }

    fn unsynced(&self) -> Option<(Arc<std::fs::File>, Position, bool)> {
        let mut log = self.lock();
        if !log.late.is_empty()
            && let Err(error) = log.write_late(&self.dir, self.limits.segment_bytes)
        {
            tracing::debug!(%error, "usage records still wait for the disk");
        }
        let position = Position { segment: log.active.number, offset: log.active.end };
        let renamed = std::mem::take(&mut log.renamed);
        let nothing_new = log.synced == position && !renamed;
        (!log.failed && !nothing_new).then(|| (Arc::clone(&log.active.file), position, renamed))
    }

    fn prepare_spare(&self) {
        let made = self.lock().ensure_spare(&self.dir, self.limits.segment_bytes);
        if let Err(error) = made {
            tracing::warn!(%error, "no space for the next spool segment");
            // `wait_for_work` does not wait while there is no spare, and a full disk stays full for a while.
            std::thread::sleep(SPARE_RETRY_INTERVAL);
        }
    }
}

impl Log {
    fn has_work(&self) -> bool {
        let written = Position { segment: self.active.number, offset: self.active.end };
        self.spare.is_none() || self.renamed || !self.late.is_empty() || (!self.failed && self.synced != written)
    }
}
