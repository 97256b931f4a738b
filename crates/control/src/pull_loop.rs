//! The pull loop: downloads that were asked for become models.
//!
//! A download's state is recorded before each step, and every step can be repeated: after a kill -9 a row that says
//! `Fetching` resumes from the bytes on disk, and one that says `Importing` finds its blob whole.
//! INVARIANT: a model row appears in the transaction that ends its download.

mod import;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use galerne_drivers::fetch::Fetcher;
use galerne_model::ids::{PullId, TenantId};
use galerne_model::inference::{Pull, PullState};
use galerne_store::{Filter, Store, StoreError};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use import::Import;

/// Downloads at once: more would share the same wire and disk, fewer could all be slow ones.
const PULLS_AT_ONCE: usize = 4;
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
    /// Nobody's are the operators' own.
    tenant_id: Option<TenantId>,
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
        while let Some(pull) = next(&pulls, &self.running) {
            let (pull, stop) = (pull.clone(), cancel.child_token());
            let (tenant_id, source) = (pull.tenant_id, pull.spec.source.clone());
            self.running.insert(pull.id, Running { tenant_id, source, stop: stop.clone() });
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
        for id in yielding(&pulls, &self.running) {
            tracing::info!(pull_id = %id, "download makes room for another tenant's, and goes on later");
            self.running[&id].stop.cancel();
        }
        Ok(())
    }
}

/// The download that starts next, if one may: of the tenant with the fewest at work, the oldest.
fn next<'p>(pulls: &'p [Pull], running: &BTreeMap<PullId, Running>) -> Option<&'p Pull> {
    if running.len() >= PULLS_AT_ONCE {
        return None;
    }
    waiting(pulls, running).min_by_key(|pull| (held(pull.tenant_id, running).count(), pull.id))
}

/// Downloads that stop, to go on later, because a tenant that has none at work waits while another has several: a slow
/// source must not keep everybody from theirs.
fn yielding(pulls: &[Pull], running: &BTreeMap<PullId, Running>) -> Vec<PullId> {
    let ending = running.values().filter(|running| running.stop.is_cancelled()).count();
    let free = PULLS_AT_ONCE.saturating_sub(running.len()) + ending;
    let without = waiting(pulls, running).map(|pull| pull.tenant_id);
    let without: BTreeSet<_> = without.filter(|tenant_id| held(*tenant_id, running).next().is_none()).collect();
    let mut left: BTreeMap<PullId, &Running> =
        running.iter().filter(|(_, running)| !running.stop.is_cancelled()).map(|(id, at)| (*id, at)).collect();
    let mut yielding = Vec::new();
    for _ in free..without.len() {
        // Only what is being fetched: its bytes stay, while an import would begin again. The newest has the fewest.
        let is_fetching =
            |id: PullId| pulls.iter().any(|pull| pull.id == id && pull.status.state != PullState::Importing);
        let count = |tenant_id| left.values().filter(|at| at.tenant_id == tenant_id).count();
        let candidates = left.iter().filter(|(id, at)| is_fetching(**id) && count(at.tenant_id) > 1);
        let Some(id) = candidates.map(|(id, at)| (count(at.tenant_id), *id)).max().map(|(_, id)| id) else { break };
        left.remove(&id);
        yielding.push(id);
    }
    yielding
}

/// What could start if there were room. Two of one source wait for each other.
fn waiting<'p>(pulls: &'p [Pull], running: &BTreeMap<PullId, Running>) -> impl Iterator<Item = &'p Pull> {
    pulls.iter().filter(move |pull| {
        let is_at_work = |(id, running): (&PullId, &Running)| *id == pull.id || running.source == pull.spec.source;
        is_open(pull.status.state) && !running.iter().any(is_at_work)
    })
}

/// Downloads of a tenant that are at work and stay so.
fn held(tenant_id: Option<TenantId>, running: &BTreeMap<PullId, Running>) -> impl Iterator<Item = &Running> {
    running.values().filter(move |running| running.tenant_id == tenant_id && !running.stop.is_cancelled())
}

pub(crate) fn is_open(state: PullState) -> bool {
    match state {
        PullState::Pending | PullState::Fetching | PullState::Importing => true,
        PullState::Done | PullState::Failed | PullState::Cancelled => false,
    }
}

#[cfg(test)]
mod tests {
    use galerne_model::inference::{PullSpec, PullStatus, Reach};
    use galerne_model::units::Bytes;
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn pull(number: u128, tenant: Option<u128>, state: PullState) -> Pull {
        let now = Timestamp::UNIX_EPOCH;
        Pull {
            id: PullId::from_uuid(Uuid::from_u128(number)),
            tenant_id: tenant.map(|tenant| TenantId::from_uuid(Uuid::from_u128(tenant))),
            project_id: None,
            name: format!("m{number}"),
            generation: 1,
            created_at: now,
            updated_at: now,
            spec: PullSpec { source: format!("https://models.example/{number}"), sha256: None, requantise: None },
            status: PullStatus {
                state,
                reach: Reach::Public,
                done: Bytes(0),
                total: None,
                model_id: None,
                reason: None,
            },
        }
    }

    fn start(pulls: &[Pull], running: &mut BTreeMap<PullId, Running>) -> Vec<u128> {
        let mut started = Vec::new();
        while let Some(pull) = next(pulls, running) {
            let source = pull.spec.source.clone();
            running.insert(pull.id, Running { tenant_id: pull.tenant_id, source, stop: CancellationToken::new() });
            started.push(pull.id.uuid().as_u128());
        }
        started
    }

    fn stop(pulls: &[Pull], running: &BTreeMap<PullId, Running>) -> Vec<u128> {
        let ids = yielding(pulls, running);
        ids.iter().for_each(|id| running[id].stop.cancel());
        ids.into_iter().map(|id| id.uuid().as_u128()).collect()
    }

    #[test]
    fn tenants_take_turns_and_the_oldest_comes_first() {
        let of = |number, tenant| pull(number, tenant, PullState::Pending);
        let pulls = [of(1, Some(1)), of(2, Some(1)), of(3, Some(1)), of(4, Some(1)), of(5, Some(2)), of(6, None)];
        let mut running = BTreeMap::new();
        assert_eq!(start(&pulls, &mut running), [1, 5, 6, 2]);
        assert_eq!(stop(&pulls, &running), [] as [u128; 0], "nobody waits without having one at work");
        let twice = [of(1, None), Pull { spec: pulls[0].spec.clone(), ..of(2, Some(2)) }];
        let mut running = BTreeMap::new();
        assert_eq!(start(&twice, &mut running), [1], "one source, one part file");
    }

    #[test]
    fn a_tenant_s_slow_downloads_do_not_keep_others_from_theirs() {
        let slow = |number| pull(number, Some(1), PullState::Fetching);
        let mut pulls: Vec<Pull> = vec![slow(1), slow(2), pull(3, Some(1), PullState::Importing), slow(4), slow(5)];
        let mut running = BTreeMap::new();
        assert_eq!(start(&pulls, &mut running), [1, 2, 3, 4], "alone, a tenant may have all");
        pulls.extend([pull(6, Some(2), PullState::Pending), pull(7, Some(2), PullState::Pending)]);
        assert_eq!(stop(&pulls, &running), [4]);
        assert_eq!(stop(&pulls, &running), [] as [u128; 0], "its place is not free yet, and one is enough");
        running.remove(&pulls[3].id);
        assert_eq!(start(&pulls, &mut running), [6]);
        pulls.extend([pull(8, Some(3), PullState::Pending), pull(9, None, PullState::Pending)]);
        assert_eq!(stop(&pulls, &running), [2, 1], "an import would begin again, so it stays");
    }
}
