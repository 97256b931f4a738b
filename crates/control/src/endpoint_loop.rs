//! The endpoint loop: replicas are started, probed, drained and restarted as `galerne_core::endpoint` decides.
//!
//! INVARIANT: what was decided is recorded before it is done, under the epoch of the lease `endpoint-loop`; a loop
//! that has been fenced off ends its engines and records nothing.
//! Engines end with this process, so a restart finds their rows and no process, and starts them again.

mod engines;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use galerne_core::endpoint::{Action, NodeSeat, Plan, Sighting, View, Weights, step};
use galerne_drivers::engine::{Prober, WorkerSpec, WorkerTask};
use galerne_model::ids::{EndpointId, ModelId, NodeId, ReplicaId};
use galerne_model::inference::{Backend, Endpoint, Model, Replica};
use galerne_model::limits::{PROBE_INTERVAL_MS, REPLICA_START_DEADLINE_MS, REPLICA_STOP_GRACE_MS};
use galerne_model::node::Node;
use galerne_store::{Filter, Store, StoreError};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::handle::Demand;
use crate::leader::Leader;
use engines::Engines;

/// Looks in a row: a new replica takes three (create, start, ready), and a look that finds nothing to do ends it.
const LOOKS_MAX: usize = 8;
/// Pause after a failure of the store.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// Commits and news closer together than this are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// What the loop stands on.
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) node_id: NodeId,
    pub(crate) data: PathBuf,
    pub(crate) worker: PathBuf,
    pub(crate) demand: Arc<Demand>,
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct EndpointLoop {
    ground: Ground,
    engines: Engines,
    leader: Leader,
    /// When the decisions want to be asked again.
    wake_at: Option<Timestamp>,
}

/// The rows of one look.
struct Rows {
    endpoints: BTreeMap<EndpointId, Endpoint>,
    replicas: BTreeMap<EndpointId, Vec<Replica>>,
    models: BTreeMap<ModelId, Model>,
    node: Option<NodeSeat>,
}

impl EndpointLoop {
    pub(crate) fn new(ground: Ground, prober: Prober) -> Self {
        let engines = Engines::new(prober, ground.tasks.clone());
        let leader = Leader::new("endpoint-loop", ground.node_id.to_string());
        Self { ground, engines, leader, wake_at: None }
    }

    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changed = self.ground.store.changed();
        let demand = Arc::clone(&self.ground.demand);
        loop {
            let until = Instant::now() + self.patience();
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.engines.hear() => {}
                () = demand.signal.notified() => {}
                _ = timeout_at(until, changed.changed()) => {}
            }
            sleep(DEBOUNCE).await;
            // Before the look: what is committed while it reads is looked at again.
            changed.mark_unchanged();
            self.look_again().await;
        }
        self.engines.stop_all(Duration::from_millis(REPLICA_STOP_GRACE_MS)).await;
        if let Err(error) = self.leader.release(&self.ground.store).await {
            tracing::debug!(error = %error, "lease not released, it will run out");
        }
    }

    async fn look_again(&mut self) {
        match self.look().await {
            Ok(()) => {}
            Err(StoreError::Fenced { .. }) => {
                tracing::warn!("another process leads the endpoint loop, ending the engines of this one");
                self.leader.lost();
                self.engines.stop_all(Duration::ZERO).await;
            }
            Err(error) => {
                tracing::warn!(error = %error, "endpoint loop cannot use the store");
                sleep(TROUBLE_PAUSE).await;
            }
        }
    }

    /// Looks at everything until a look changes nothing.
    pub(crate) async fn look(&mut self) -> Result<(), StoreError> {
        let Some(epoch) = self.leader.epoch(&self.ground.store, self.ground.clock.now()).await? else {
            self.engines.stop_all(Duration::ZERO).await;
            return Ok(());
        };
        for _ in 0..LOOKS_MAX {
            self.engines.take_news();
            let rows = self.load().await?;
            self.engines.probe_due(rows.replicas.values().flatten());
            if !self.pass(&rows, epoch).await? {
                return Ok(());
            }
        }
        // A decision that never settles would be a fault; it goes on at the next tick rather than spinning.
        tracing::debug!(looks = LOOKS_MAX, "endpoint loop has not settled yet");
        Ok(())
    }

    /// One look at every endpoint; true when something was recorded or done.
    async fn pass(&mut self, rows: &Rows, epoch: i64) -> Result<bool, StoreError> {
        let demand = self.ground.demand.by_endpoint();
        let now = self.ground.clock.now();
        let mut wake_at = None;
        let mut moved = false;
        let ids: BTreeSet<EndpointId> = rows.endpoints.keys().chain(rows.replicas.keys()).copied().collect();
        for id in ids {
            let endpoint = rows.endpoints.get(&id);
            let replicas = rows.replicas.get(&id).map(Vec::as_slice).unwrap_or_default();
            let sightings: Vec<Sighting> = replicas
                .iter()
                .map(|replica| Sighting { replica: replica.clone(), engine: self.engines.sight(replica) })
                .collect();
            let (in_flight, last_request_at) = demand.get(&id).map_or((0, None), |(n, at)| (*n, Some(*at)));
            let last_request_at =
                last_request_at.or_else(|| endpoint.and_then(|endpoint| endpoint.status.last_request_at));
            let weights = endpoint.map_or(Weights::Present, |endpoint| weights(&endpoint.spec.backend, rows));
            let view =
                View { endpoint, replicas: &sightings, node: rows.node, weights, in_flight, last_request_at, now };
            let plan = step(&view);
            wake_at = [wake_at, plan.wake_at].into_iter().flatten().min();
            moved |= self.carry_out(&plan, endpoint, replicas, rows, epoch, now).await?;
        }
        self.ground.demand.keep_only(|id| rows.endpoints.contains_key(id));
        self.wake_at = wake_at;
        Ok(moved)
    }

    async fn carry_out(
        &mut self,
        plan: &Plan,
        endpoint: Option<&Endpoint>,
        replicas: &[Replica],
        rows: &Rows,
        epoch: i64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let recorded = match record::plan(&self.ground.store, plan, endpoint, replicas, epoch, now).await {
            Ok(recorded) => recorded,
            // Somebody changed a row in between: the next look sees it.
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut acted = false;
        for action in &plan.actions {
            acted |= self.act(*action, endpoint, replicas, rows);
        }
        Ok(recorded || acted)
    }

    /// True when it did something that was not done already.
    fn act(&mut self, action: Action, endpoint: Option<&Endpoint>, replicas: &[Replica], rows: &Rows) -> bool {
        let find = |id: ReplicaId| replicas.iter().find(|replica| replica.id == id);
        match action {
            Action::Start(id) => {
                let spec =
                    endpoint.zip(find(id)).and_then(|(endpoint, replica)| self.worker_spec(endpoint, replica, rows));
                spec.is_some_and(|spec| self.engines.start(id, spec))
            }
            Action::Stop(id) => self.engines.stop(id, Duration::from_millis(REPLICA_STOP_GRACE_MS)),
            Action::Kill(id) => self.engines.stop(id, Duration::ZERO),
            Action::Forget(id) => self.engines.forget(id),
        }
    }

    fn worker_spec(&self, endpoint: &Endpoint, replica: &Replica, rows: &Rows) -> Option<WorkerSpec> {
        let Backend::Worker { model_id, context_tokens, sequences, threads } = &replica.spec.backend else {
            return None;
        };
        let model = rows.models.get(model_id)?;
        let log_name = format!("{}-{}.log", endpoint.name.replace('/', "_"), replica.spec.index);
        Some(WorkerSpec {
            program: self.ground.worker.clone(),
            model: self.ground.data.join(&model.status.blob),
            name: endpoint.name.clone(),
            context_tokens: *context_tokens,
            sequences: *sequences,
            threads: *threads,
            queue: None,
            task: if model.spec.facts.is_embedding { WorkerTask::Embed } else { WorkerTask::Generate },
            log: self.ground.data.join("logs").join(log_name),
            start_deadline: Duration::from_millis(REPLICA_START_DEADLINE_MS),
        })
    }

    async fn load(&self) -> Result<Rows, StoreError> {
        let all = Filter::default();
        let mut reader = self.ground.store.reader().await?;
        let endpoints =
            reader.list_all::<Endpoint>(&all).await?.into_iter().map(|endpoint| (endpoint.id, endpoint)).collect();
        let mut replicas: BTreeMap<EndpointId, Vec<Replica>> = BTreeMap::new();
        for replica in reader.list_all::<Replica>(&all).await? {
            replicas.entry(replica.spec.endpoint_id).or_default().push(replica);
        }
        let models = reader.list_all::<Model>(&all).await?.into_iter().map(|model| (model.id, model)).collect();
        let node = match reader.get::<Node>(self.ground.node_id).await {
            Ok(node) if node.spec.cordoned => Some(NodeSeat::Cordoned(node.id)),
            Ok(node) => Some(NodeSeat::Open(node.id)),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Rows { endpoints, replicas, models, node })
    }

    /// How long nothing needs to be looked at.
    fn patience(&self) -> Duration {
        let longest = Duration::from_millis(PROBE_INTERVAL_MS);
        let to_wake = self.wake_at.map(|at| at.duration_since(self.ground.clock.now()));
        to_wake.map_or(longest, |left| Duration::try_from(left).unwrap_or(Duration::ZERO).min(longest))
    }
}

fn weights(backend: &Backend, rows: &Rows) -> Weights {
    match backend {
        Backend::Worker { model_id, .. } if rows.models.contains_key(model_id) => Weights::Present,
        Backend::Worker { .. } => Weights::Missing,
        Backend::External { .. } => Weights::Present,
    }
}
