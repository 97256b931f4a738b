//! One download from its source to a model: fetch, read the header, requantise, record.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_drivers::catalogue::{self, CatalogueError, Entry, Wanted};
use galerne_drivers::engine::{self, EngineError};
use galerne_drivers::fetch::{
    BadDigest, Blobs, Expected, FetchError, Fetched, Fetcher, Here, Progress, Sha256Digest, Source,
};
use galerne_drivers::gguf::{self, GgufError};
use galerne_model::ids::ModelId;
use galerne_model::inference::{
    Model, ModelFacts, ModelSpec, ModelStatus, Pull, PullState, PullStatus, Quantisation, Reach,
};
use galerne_model::reason::{NextStep, Reason};
use galerne_model::units::Bytes;
use galerne_store::{Filter, Store, StoreError, retry};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::event::{Fact, about};
use crate::handle::lock;

/// Progress is written at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Pause of a download whose source another one is fetching.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// Longest requantisation: 100 GB at 30 MB/s and room to spare.
const REQUANTISE_DEADLINE: Duration = Duration::from_secs(2 * 3600);

pub(super) struct Import {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) fetcher: Fetcher,
    pub(super) worker: PathBuf,
    pub(super) logs: PathBuf,
}

/// A quantisation that CPUs have no fast kernel for.
const SLOW_HERE: &str = "Q4_1";
const SLOW_NOTE: &str = "Q4_1 has no fast CPU kernel and answers at about half the speed of Q4_0 and Q8_0: pull it under \
    another name with `--requantise q4_0` (smallest, some loss) or `--requantise q8_0` (hardly any loss)";

/// Why a download made no model.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the digest asked for is not one")]
    Digest(#[from] BadDigest),
    #[error(transparent)]
    Header(#[from] GgufError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("a model named `{0}` exists already and has other weights")]
    NameTaken(String),
    #[error("the state could not be written")]
    Store(#[from] StoreError),
    #[error("what an interrupted requantisation left behind could not be removed")]
    Leftover(#[source] std::io::Error),
    #[error("reading the file was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
    /// Somebody cancelled the download or this process ends; its row says what holds.
    #[error("the download was stopped")]
    Stopped,
}

/// What was asked, with the catalogue's knowledge.
struct Order {
    sources: Vec<Source>,
    digest: Option<Sha256Digest>,
    requantise: Option<Quantisation>,
    entry: Option<&'static Entry>,
}

/// Weights in the store of blobs, ready to be named.
struct Weights {
    source: Source,
    fetched: Fetched,
    served: Fetched,
    facts: ModelFacts,
    notes: Vec<String>,
}

impl Import {
    /// Runs a download to its end. What went wrong is recorded, not returned.
    pub(super) async fn run(&self, pull: Pull, stop: &CancellationToken) {
        let id = pull.id;
        // From the first look at what is here until a model names it.
        let _held = self.fetcher.blobs().hold().await;
        let Err(error) = self.import(&pull, stop).await else { return };
        if stop.is_cancelled() || matches!(error, ImportError::Stopped) {
            tracing::info!(pull_id = %id, "download stopped");
            return;
        }
        if matches!(error, ImportError::Fetch(FetchError::Busy { .. })) {
            // Another name of the same place is being fetched: this one goes on after it.
            tracing::debug!(pull_id = %id, "download waits for another one of its source");
            tokio::select! {
                () = tokio::time::sleep(BUSY_PAUSE) => {}
                () = stop.cancelled() => {}
            }
            return;
        }
        tracing::info!(pull_id = %id, error = %error, "download failed");
        let reason = reason_of(&error);
        let failed = retry(|| {
            self.change(&pull, "pull.fail", |status| {
                status.state = PullState::Failed;
                status.reason = Some(reason.clone());
            })
        })
        .await;
        match failed {
            Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(pull_id = %id, error = %error, "end of a download not recorded, it will be tried again")
            }
        }
    }

    async fn import(&self, pull: &Pull, stop: &CancellationToken) -> Result<(), ImportError> {
        let order = order(pull)?;
        self.enter(pull, PullState::Fetching).await?;
        let (source, fetched) = self.fetch(pull, &order, stop).await?;
        self.enter(pull, PullState::Importing).await?;
        let weights = self.prepare(pull, &order, source, fetched, stop).await?;
        if stop.is_cancelled() {
            return Err(ImportError::Stopped);
        }
        retry(|| self.finish(pull, &order, &weights)).await.map_err(|error| match error {
            StoreError::Exists { name, .. } => ImportError::NameTaken(name),
            StoreError::Conflict { .. } => ImportError::Stopped,
            other => ImportError::Store(other),
        })
    }

    /// Tries the sources in order; the last error counts.
    async fn fetch(
        &self,
        pull: &Pull,
        order: &Order,
        stop: &CancellationToken,
    ) -> Result<(Source, Fetched), ImportError> {
        let is_public = order.entry.is_some_and(|entry| entry.sha256 == order.digest);
        let here = if is_public || pull.status.reach == Reach::Anywhere { Here::Taken } else { Here::Nothing };
        let expected = Expected { digest: order.digest, here };
        let mut last = ImportError::Stopped;
        for source in &order.sources {
            match self.fetch_from(pull, source, expected, stop).await {
                Ok(fetched) => return Ok((source.clone(), fetched)),
                Err(error) if stop.is_cancelled() => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn fetch_from(
        &self,
        pull: &Pull,
        source: &Source,
        expected: Expected,
        stop: &CancellationToken,
    ) -> Result<Fetched, ImportError> {
        let seen: Arc<Mutex<Option<Progress>>> = Arc::default();
        let writer = Arc::clone(&seen);
        let on_progress: galerne_drivers::fetch::OnProgress = Arc::new(move |progress| *lock(&writer) = Some(progress));
        let fetching = self.fetcher.fetch(source, pull.status.reach, expected, &on_progress, stop);
        tokio::pin!(fetching);
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        let mut written = None;
        loop {
            tokio::select! {
                fetched = &mut fetching => return Ok(fetched?),
                _ = tick.tick() => {
                    let progress = *lock(&seen);
                    if progress != written {
                        written = progress;
                        self.write_progress(pull, progress).await?;
                    }
                }
            }
        }
    }

    async fn write_progress(&self, pull: &Pull, progress: Option<Progress>) -> Result<(), ImportError> {
        let Some(progress) = progress else { return Ok(()) };
        let mut tx = self.store.begin().await?;
        let mut status = tx.get::<Pull>(pull.id).await?.status;
        if status.state != PullState::Fetching {
            return Err(ImportError::Stopped);
        }
        status.done = bytes(progress.done_bytes);
        status.total = progress.total_bytes.map(bytes);
        tx.update_status::<Pull>(pull.id, &status, self.clock.now()).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn prepare(
        &self,
        pull: &Pull,
        order: &Order,
        source: Source,
        fetched: Fetched,
        stop: &CancellationToken,
    ) -> Result<Weights, ImportError> {
        let facts = read_header(&fetched.path).await?;
        let mut notes: Vec<String> = order.entry.map(|entry| entry.notes.clone()).unwrap_or_default();
        let Some(to) = order.requantise.filter(|to| !facts.quantisation.eq_ignore_ascii_case(word(*to))) else {
            notes.extend((facts.quantisation == SLOW_HERE).then(|| SLOW_NOTE.to_owned()));
            return Ok(Weights { source, served: fetched.clone(), fetched, facts, notes });
        };
        let output = self.fetcher.blobs().scratch(&format!("{} {}", pull.id, word(to)));
        remove_leftover(&output).await?;
        let log = self.logs.join(format!("{}.log", pull.id));
        engine::quantise(&self.worker, &fetched.path, &output, to, &log, REQUANTISE_DEADLINE, stop).await?;
        let blobs: Blobs = self.fetcher.blobs().clone();
        let served = tokio::task::spawn_blocking(move || blobs.adopt(&output)).await??;
        let after = read_header(&served.path).await?;
        notes.push(format!(
            "requantised at import from {} to {}: its answers differ slightly from those of the published file",
            facts.quantisation, after.quantisation
        ));
        Ok(Weights { source, fetched, served, facts: after, notes })
    }

    async fn enter(&self, pull: &Pull, state: PullState) -> Result<(), ImportError> {
        let entered = retry(|| self.change(pull, "pull.state", |status| status.state = state)).await;
        match entered {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => Err(ImportError::Stopped),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes the status of a download that is still open; `Conflict` when somebody has ended it.
    async fn change(&self, pull: &Pull, action: &str, change: impl Fn(&mut PullStatus)) -> Result<Pull, StoreError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let before = tx.get::<Pull>(pull.id).await?;
        if !super::is_open(before.status.state) {
            return Err(StoreError::Conflict { current: before.generation });
        }
        let mut status = before.status.clone();
        change(&mut status);
        let after = tx.update_status::<Pull>(pull.id, &status, now).await?;
        if before.status.state != after.status.state {
            let text = format!("download `{}` is {}", pull.name, state_word(after.status.state));
            tx.record(about(Fact { component: "pull-loop", action, text }, Some(&before), Some(&after), now));
        }
        tx.commit().await?;
        Ok(after)
    }

    /// The model and the end of its download, in one transaction.
    async fn finish(&self, pull: &Pull, order: &Order, weights: &Weights) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let before = tx.get::<Pull>(pull.id).await?;
        if !super::is_open(before.status.state) {
            return Err(StoreError::Conflict { current: before.generation });
        }
        let spec = model_spec(order, weights);
        let owner = Filter { tenant_id: pull.tenant_id, project_id: pull.project_id, name: Some(pull.name.clone()) };
        let same = tx.find::<Model>(&owner).await?.filter(|model| model.project_id == pull.project_id);
        let model = match same {
            Some(model) if model.spec.sha256 == spec.sha256 => model,
            Some(model) => return Err(StoreError::Exists { kind: "model", name: model.name }),
            None => {
                let model = Model {
                    id: ModelId::from_uuid(Uuid::now_v7()),
                    tenant_id: pull.tenant_id,
                    project_id: pull.project_id,
                    name: pull.name.clone(),
                    generation: 1,
                    created_at: now,
                    updated_at: now,
                    spec,
                    status: ModelStatus { blob: format!("blobs/{}", Blobs::relative_path(weights.served.digest)) },
                };
                let model = tx.insert(&model).await?;
                let text = format!("model `{}` was imported, licence {}", model.name, model.spec.licence);
                tx.record(about(
                    Fact { component: "pull-loop", action: "model.create", text },
                    None,
                    Some(&model),
                    now,
                ));
                model
            }
        };
        let size = bytes(weights.fetched.bytes);
        let status = PullStatus {
            state: PullState::Done,
            reach: before.status.reach,
            done: size,
            total: Some(size),
            model_id: Some(model.id),
            reason: None,
        };
        let after = tx.update_status::<Pull>(pull.id, &status, now).await?;
        let text = format!("download `{}` is done", pull.name);
        tx.record(about(Fact { component: "pull-loop", action: "pull.done", text }, Some(&before), Some(&after), now));
        tx.commit().await?;
        Ok(())
    }
}

fn order(pull: &Pull) -> Result<Order, ImportError> {
    let asked = pull.spec.sha256.as_deref().map(str::parse::<Sha256Digest>).transpose()?;
    match catalogue::resolve(&pull.spec.source)? {
        Wanted::Listed(entry) => Ok(Order {
            sources: entry.sources.clone(),
            digest: asked.or(entry.sha256),
            requantise: pull.spec.requantise.or(entry.requantise),
            entry: Some(entry),
        }),
        Wanted::Place(source) => {
            Ok(Order { sources: vec![source], digest: asked, requantise: pull.spec.requantise, entry: None })
        }
    }
}

/// Removes what a process that was killed has written: the worker writes no file that exists.
async fn remove_leftover(output: &Path) -> Result<(), ImportError> {
    match tokio::fs::remove_file(output).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImportError::Leftover(error)),
        _ => Ok(()),
    }
}

async fn read_header(path: &Path) -> Result<ModelFacts, ImportError> {
    let path = path.to_owned();
    // The head of a large model is tens of megabytes of vocabulary: it leaves the async threads.
    let facts = tokio::task::spawn_blocking(move || gguf::read_file(&path)).await??;
    Ok(ModelFacts::from(&facts))
}

fn model_spec(order: &Order, weights: &Weights) -> ModelSpec {
    let is_changed = weights.served.digest != weights.fetched.digest;
    ModelSpec {
        source: weights.source.to_string(),
        sha256: weights.served.digest.to_string(),
        source_sha256: is_changed.then(|| weights.fetched.digest.to_string()),
        licence: order.entry.map_or_else(|| "unknown".to_owned(), |entry| entry.licence.clone()),
        size: bytes(weights.served.bytes),
        facts: weights.facts.clone(),
        notes: weights.notes.clone(),
    }
}

fn reason_of(error: &ImportError) -> Reason {
    let (code, hint): (&str, Option<String>) = match error {
        ImportError::Catalogue(error) => (error.code(), error.hint().map(str::to_owned)),
        ImportError::Fetch(error) => (error.code(), error.hint().map(str::to_owned)),
        ImportError::Digest(_) => ("invalid_value", Some("a SHA-256 digest is 64 hex digits".to_owned())),
        ImportError::Header(error) => (error.code(), Some("check that the source is a GGUF model".to_owned())),
        ImportError::Engine(error) => (error.code(), error.hint().map(str::to_owned)),
        ImportError::NameTaken(_) => {
            ("already_exists", Some("pull it under another name, or delete that model".to_owned()))
        }
        ImportError::Leftover(_) => ("data_dir_unusable", None),
        ImportError::Store(_) => ("store_unavailable", Some("pull it again".to_owned())),
        ImportError::Interrupted(_) | ImportError::Stopped => ("cancelled", Some("pull it again".to_owned())),
    };
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    let mut reason = Reason::blocks(code, format!("{error}{source}"));
    reason.next.extend(hint.map(|text| NextStep { text, command: None }));
    reason
}

fn word(quantisation: Quantisation) -> &'static str {
    match quantisation {
        Quantisation::Q4_0 => "Q4_0",
        Quantisation::Q8_0 => "Q8_0",
    }
}

fn state_word(state: PullState) -> &'static str {
    match state {
        PullState::Pending => "waiting",
        PullState::Fetching => "fetching",
        PullState::Importing => "importing",
        PullState::Done => "done",
        PullState::Failed => "failed",
        PullState::Cancelled => "cancelled",
    }
}

fn bytes(count: u64) -> Bytes {
    Bytes(i64::try_from(count).unwrap_or(i64::MAX))
}
