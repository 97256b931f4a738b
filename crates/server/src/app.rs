//! What every handler shares.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use galerne_control::site_lease::Epoch;
use galerne_gateway::Gateway;
use galerne_model::snapshot::Snapshot;
use galerne_store::{SERVER_LEASE, Store, StoreError, Tx};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod directory;
mod fleet;
pub(crate) mod lending;
mod secrets;

pub(crate) use directory::Directory;
pub(crate) use fleet::{Fleet, refused, session_of};
use lending::Lending;
pub(crate) use secrets::{PEPPER_BYTES, Pepper};

use crate::batches::engine::Bell;
use crate::files::Files;
use crate::start::metrics::{self, ApiMetrics};

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>, Arc<Lending>);

/// What an `App` is made of.
pub(crate) struct Parts {
    pub(crate) store: Store,
    /// At which the lease of the database is held.
    pub(crate) epoch: Epoch,
    pub(crate) directory: Directory,
    pub(crate) pepper: Pepper,
    pub(crate) data: PathBuf,
    pub(crate) control: galerne_control::Handle,
    /// What running requests hold is known to the gateway only.
    pub(crate) gateway: Gateway,
    /// Gateways in processes of their own.
    pub(crate) fleet: Arc<Fleet>,
    /// What every gateway knows.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) metrics: ApiMetrics,
    pub(crate) registry: Mutex<Registry>,
    pub(crate) files: Files,
    pub(crate) batch_bell: Bell,
    /// Requests of the API, and work of theirs that outlives an answer's head; joined at shutdown.
    pub(crate) tasks: TaskTracker,
    pub(crate) draining: CancellationToken,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts), Arc::default())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Begins a transaction that nobody can commit who lost the lease of the database: for what one server does alone.
    pub(crate) async fn begin_alone(&self) -> Result<Tx, StoreError> {
        let mut tx = self.0.store.begin().await?;
        tx.require_epoch(SERVER_LEASE, self.0.epoch.get()).await?;
        Ok(tx)
    }

    /// Keys, principals and roles in memory.
    pub(crate) fn directory(&self) -> &Directory {
        &self.0.directory
    }

    pub(crate) fn pepper(&self) -> &Pepper {
        &self.0.pepper
    }

    pub(crate) fn data(&self) -> &Path {
        &self.0.data
    }

    pub(crate) fn control(&self) -> &galerne_control::Handle {
        &self.0.control
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.0.gateway
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// What gateways in processes of their own are lent.
    pub(crate) fn lending(&self) -> &Lending {
        &self.1
    }

    /// What every gateway knows, now and when it changes.
    pub(crate) fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.snapshot.clone()
    }

    /// Cancelled when the server takes nothing new.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    pub(crate) fn metrics(&self) -> &ApiMetrics {
        &self.0.metrics
    }

    /// Where files are.
    pub(crate) fn files(&self) -> &Files {
        &self.0.files
    }

    /// Wakes the engine of batches.
    pub(crate) fn batch_bell(&self) -> &Bell {
        &self.0.batch_bell
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.is_cancelled()
    }

    /// All metrics of this process as Prometheus reads them.
    pub(crate) fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        self.0.metrics.read_process();
        metrics::text(&self.0.registry.lock().expect("nobody panics while holding the registry"))
    }

    /// The time, cut to what the store keeps, so that what is answered is what will be read.
    pub(crate) fn now() -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).expect("an instant cut to microseconds stays in range")
    }
}
