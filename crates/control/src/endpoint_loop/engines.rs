//! The engines of this process: what runs, what starts, what ended, and the last probe of each.
//!
//! INVARIANT: one process per replica. News of an earlier process of the same replica is told apart by its number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galerne_core::endpoint::{EndKind, Ended, Engine, Probe, Running};
use galerne_drivers::engine::{EngineError, Exit, Health, ProbeTarget, Prober, RunningReplica, WorkerSpec};
use galerne_model::ids::ReplicaId;
use galerne_model::inference::{Backend, Replica};
use galerne_model::limits::PROBE_INTERVAL_MS;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// News waiting to be heard; each engine sends a few, and the loop hears them all before it looks.
const NEWS_MAX: usize = 256;

pub(super) struct Engines {
    slots: BTreeMap<ReplicaId, Slot>,
    prober: Prober,
    tasks: TaskTracker,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    processes: u64,
}

struct Slot {
    /// Which process this is, counted over all replicas.
    process: u64,
    stage: Stage,
    probe: Probe,
    /// When the last probe was sent, and whether it is still out.
    probed_at: Option<Instant>,
    is_probing: bool,
}

enum Stage {
    Starting(CancellationToken),
    Running(Arc<RunningReplica>),
    Stopping(Arc<RunningReplica>),
    External,
    Ended(Ended),
}

struct News {
    replica: ReplicaId,
    process: u64,
    what: What,
}

enum What {
    Started(Arc<RunningReplica>),
    StartFailed(Ended),
    StartCancelled,
    Exited(Exit),
    Probed(Health),
}

impl Engines {
    pub(super) fn new(prober: Prober, tasks: TaskTracker) -> Self {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        Self { slots: BTreeMap::new(), prober, tasks, tell, news, processes: 0 }
    }

    /// Waits for news and takes it in. Cancel-safe: a message is taken only when it has arrived.
    pub(super) async fn hear(&mut self) {
        if let Some(news) = self.news.recv().await {
            self.take(news);
        }
    }

    /// Takes in all news that has arrived.
    pub(super) fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
    }

    /// What is seen of a replica's engine.
    pub(super) fn sight(&self, replica: &Replica) -> Engine {
        let slot = self.slots.get(&replica.id);
        if let Backend::External { urls, context_tokens, .. } = &replica.spec.backend {
            let index = usize::try_from(replica.spec.index).unwrap_or(usize::MAX);
            let Some(url) = urls.get(index) else { return Engine::Absent };
            let probe = slot.map_or(Probe::Pending, |slot| slot.probe.clone());
            return Engine::Running(Running {
                url: url.clone(),
                context_tokens: Some(*context_tokens),
                sequences: None,
                abilities: None,
                probe,
            });
        }
        match slot.map(|slot| (&slot.stage, &slot.probe)) {
            None | Some((Stage::External, _)) => Engine::Absent,
            Some((Stage::Starting(_), _)) => Engine::Starting,
            Some((Stage::Running(running) | Stage::Stopping(running), probe)) => {
                let ready = running.ready();
                Engine::Running(Running {
                    url: running.url(),
                    context_tokens: Some(ready.context).filter(|tokens| *tokens > 0),
                    sequences: Some(ready.sequences).filter(|count| *count > 0),
                    abilities: ready.abilities,
                    probe: probe.clone(),
                })
            }
            Some((Stage::Ended(ended), _)) => Engine::Ended(ended.clone()),
        }
    }

    /// Starts a worker unless one is there; false when one is.
    pub(super) fn start(&mut self, replica: ReplicaId, spec: WorkerSpec) -> bool {
        let is_there = self.slots.get(&replica).is_some_and(|slot| !matches!(slot.stage, Stage::Ended(_)));
        if is_there {
            return false;
        }
        let cancel = CancellationToken::new();
        let process = self.insert(replica, Stage::Starting(cancel.clone()));
        let (tell, tasks) = (self.tell.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            let send = async |what| {
                // The loop is gone only at shutdown, and then nobody needs the news.
                drop(tell.send(News { replica, process, what }).await);
            };
            let started = tokio::select! {
                biased;
                () = cancel.cancelled() => return send(What::StartCancelled).await,
                started = RunningReplica::start(&spec, &tasks) => started,
            };
            match started {
                Ok(running) => {
                    let mut exited = running.exited();
                    send(What::Started(Arc::new(running))).await;
                    let exit = exited.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
                    let unknown = Exit { code: None, signal: None, was_asked: false, last_lines: Vec::new() };
                    send(What::Exited(exit.unwrap_or(unknown))).await;
                }
                Err(error) => send(What::StartFailed(failed_start(&error))).await,
            }
        });
        true
    }

    /// Ends a worker within `grace`; false when it is ending or gone.
    pub(super) fn stop(&mut self, replica: ReplicaId, grace: Duration) -> bool {
        let Some(slot) = self.slots.get_mut(&replica) else { return false };
        match &slot.stage {
            Stage::Starting(cancel) if cancel.is_cancelled() => false,
            Stage::Starting(cancel) => {
                cancel.cancel();
                true
            }
            Stage::Running(running) => {
                let running = Arc::clone(running);
                slot.stage = Stage::Stopping(Arc::clone(&running));
                self.tasks.spawn(async move {
                    let exit = running.stop(grace).await;
                    tracing::debug!(%replica, exit = %exit, "worker stopped");
                });
                true
            }
            Stage::Stopping(_) => false,
            Stage::External | Stage::Ended(_) => self.forget(replica),
        }
    }

    /// Forgets a replica whose engine is gone.
    pub(super) fn forget(&mut self, replica: ReplicaId) -> bool {
        let is_gone =
            self.slots.get(&replica).is_some_and(|slot| matches!(slot.stage, Stage::Ended(_) | Stage::External));
        if is_gone {
            self.slots.remove(&replica);
        }
        is_gone
    }

    /// Sends the probes whose time has come.
    pub(super) fn probe_due<'a>(&mut self, replicas: impl Iterator<Item = &'a Replica>) {
        for replica in replicas {
            let is_external = matches!(replica.spec.backend, Backend::External { .. });
            if is_external && !self.slots.contains_key(&replica.id) {
                self.insert(replica.id, Stage::External);
            }
            let Engine::Running(running) = self.sight(replica) else { continue };
            let Some(slot) = self.slots.get_mut(&replica.id) else { continue };
            let interval = Duration::from_millis(PROBE_INTERVAL_MS);
            if slot.is_probing || slot.probed_at.is_some_and(|at| at.elapsed() < interval) {
                continue;
            }
            slot.is_probing = true;
            slot.probed_at = Some(Instant::now());
            let (process, id, tell, prober) = (slot.process, replica.id, self.tell.clone(), self.prober.clone());
            let upstream_model = match &replica.spec.backend {
                Backend::Worker { .. } => None,
                Backend::External { upstream_model, .. } => Some(upstream_model.clone()),
            };
            self.tasks.spawn(async move {
                let target = match &upstream_model {
                    None => ProbeTarget::Worker,
                    Some(model) => ProbeTarget::External { model, key: None },
                };
                let health = prober.probe(&running.url, target).await;
                drop(tell.send(News { replica: id, process, what: What::Probed(health) }).await);
            });
        }
    }

    /// Ends everything within `grace` and waits for it.
    pub(super) async fn stop_all(&mut self, grace: Duration) {
        let ids: Vec<ReplicaId> = self.slots.keys().copied().collect();
        for id in ids {
            self.stop(id, grace);
        }
        let deadline = Instant::now() + grace + Duration::from_secs(5);
        while self.slots.values().any(|slot| !matches!(slot.stage, Stage::Ended(_) | Stage::External)) {
            match tokio::time::timeout_at(deadline, self.news.recv()).await {
                Ok(Some(news)) => self.take(news),
                Ok(None) | Err(_) => break,
            }
        }
        // Whatever is left is dropped, which ends it.
        self.slots.clear();
    }

    fn insert(&mut self, replica: ReplicaId, stage: Stage) -> u64 {
        self.processes += 1;
        let process = self.processes;
        self.slots.insert(replica, Slot { process, stage, probe: Probe::Pending, probed_at: None, is_probing: false });
        process
    }

    fn take(&mut self, news: News) {
        let Some(slot) = self.slots.get_mut(&news.replica).filter(|slot| slot.process == news.process) else { return };
        match news.what {
            What::Started(running) => {
                tracing::info!(replica_id = %news.replica, pid = running.pid(), "worker is ready");
                // It was told to stop while it became ready.
                let is_unwanted = matches!(&slot.stage, Stage::Starting(cancel) if cancel.is_cancelled());
                slot.stage = Stage::Running(running);
                if is_unwanted {
                    self.stop(news.replica, Duration::ZERO);
                }
            }
            What::StartFailed(ended) => slot.stage = Stage::Ended(ended),
            What::StartCancelled => drop(self.slots.remove(&news.replica)),
            What::Exited(exit) if exit.was_asked => drop(self.slots.remove(&news.replica)),
            What::Exited(exit) => {
                let (code, text) = ("replica_failed".to_owned(), exit.to_string());
                slot.stage = Stage::Ended(Ended { kind: EndKind::Crashed, code, text, hint: None });
            }
            What::Probed(health) => {
                slot.is_probing = false;
                slot.probe = match health {
                    Health::Ready { .. } => Probe::Passed,
                    Health::Unready { why } => Probe::Failed { why },
                };
            }
        }
    }
}

fn failed_start(error: &EngineError) -> Ended {
    let kind = if error.is_retryable() { EndKind::Crashed } else { EndKind::Refused };
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    let text = format!("{error}{source}");
    Ended { kind, code: error.code().to_owned(), text, hint: error.hint().map(str::to_owned) }
}
