//! The pull loop: downloads that were asked for become models.
//!
//! A download's state is recorded before each step, and every step can be repeated: after a kill -9 a row that says
//! `Fetching` resumes from the bytes on disk, and one that says `Importing` finds its blob whole.
//! INVARIANT: a model row appears in the transaction that ends its download.

mod import;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use galerne_drivers::fetch::Fetcher;
use galerne_model::ids::PullId;
use galerne_model::inference::{Pull, PullState};
use galerne_store::{Filter, Store, StoreError};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use import::Import;

/// Downloads at once: more would share the same wire and disk.
const PULLS_AT_ONCE: usize = 2;
/// Longest time between two looks; commits of this process are heard at once.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(crate) struct PullLoop {
    import: Arc<Import>,
    tasks: TaskTracker,
    running: BTreeMap<PullId, Running>,
    ended: mpsc::Receiver<PullId>,
    tell: mpsc::Sender<PullId>,
}

/// A download at work.
struct Running {
    /// Two downloads of one source would write the same part file: the second one waits and finds the blob.
    source: String,
    stop: CancellationToken,
}

impl PullLoop {
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        fetcher: Fetcher,
        worker: PathBuf,
        logs: PathBuf,
        tasks: TaskTracker,
    ) -> Self {
        let (tell, ended) = mpsc::channel(PULLS_AT_ONCE);
        let import = Arc::new(Import { store, clock, fetcher, worker, logs });
        Self { import, tasks, running: BTreeMap::new(), ended, tell }
    }

    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changed = self.import.store.changed();
        loop {
            if let Err(error) = self.look(&cancel).await {
                tracing::warn!(error = %error, "pull loop cannot use the store");
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                ended = self.ended.recv() => {
                    if let Some(id) = ended {
                        self.running.remove(&id);
                    }
                }
                changed = changed.changed() => {
                    // The store outlives the loop, so the channel is never closed.
                    changed.unwrap_or_default();
                    sleep(Duration::from_millis(20)).await;
                }
                () = sleep(LOOK_AGAIN) => {}
            }
            changed.mark_unchanged();
        }
    }

    async fn look(&mut self, cancel: &CancellationToken) -> Result<(), StoreError> {
        let pulls = self.import.store.list_all::<Pull>(&Filter::default()).await?;
        for (id, running) in &self.running {
            let is_wanted = pulls.iter().any(|pull| pull.id == *id && is_open(pull.status.state));
            if !is_wanted {
                running.stop.cancel();
            }
        }
        for pull in pulls.into_iter().filter(|pull| is_open(pull.status.state)) {
            let is_at_work = |(id, running): (&PullId, &Running)| *id == pull.id || running.source == pull.spec.source;
            if self.running.len() >= PULLS_AT_ONCE || self.running.iter().any(is_at_work) {
                continue;
            }
            let stop = cancel.child_token();
            self.running.insert(pull.id, Running { source: pull.spec.source.clone(), stop: stop.clone() });
            let (import, tell) = (Arc::clone(&self.import), self.tell.clone());
            self.tasks.spawn(async move {
                let id = pull.id;
                import.run(pull, &stop).await;
                // The loop is gone only at shutdown, and then nobody needs the news.
                if tell.send(id).await.is_err() {
                    tracing::debug!(pull_id = %id, "download ended after its loop");
                }
            });
        }
        Ok(())
    }
}

pub(crate) fn is_open(state: PullState) -> bool {
    match state {
        PullState::Pending | PullState::Fetching | PullState::Importing => true,
        PullState::Done | PullState::Failed | PullState::Cancelled => false,
    }
}
