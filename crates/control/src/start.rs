//! Starting the loops in the order in which they need each other.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_drivers::engine::Prober;
use galerne_drivers::fetch::{Blobs, FetchError, FetchSettings, Fetcher};
use galerne_drivers::grid::Grid;
use galerne_model::ids::NodeId;
use galerne_model::limits::PROBE_TIMEOUT_MS;
use galerne_model::snapshot::{Snapshot, Spending};
use galerne_store::{Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bill::{Bill, BillInputs};
use crate::clock::Clock;
use crate::endpoint_loop::EndpointLoop;
use crate::handle::{Demand, Handle};
use crate::meters::{self, MeterLoop};
use crate::publisher::{Published, Publisher};
use crate::pull_loop::PullLoop;
use crate::weights::Weights;

/// How long the bytes of a broken download are kept for its next try.
const PART_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the loops stand on.
pub struct Inputs {
    /// Durable state.
    pub store: Store,
    /// The data directory: weights below `blobs`, logs below `logs`.
    pub data: PathBuf,
    /// The `galerne-worker` program.
    pub worker: PathBuf,
    /// This host, as enrolled.
    pub node_id: NodeId,
    /// The number of the gateway's spool.
    pub source: i64,
    /// Energy of the facility per energy of its machines, in thousandths.
    pub pue_thousandths: i64,
    /// Grid zone of this host.
    pub zone: String,
    /// Carbon intensities.
    pub grid: Grid,
    /// How downloads are made.
    pub fetch: FetchSettings,
    /// Where the gateway's view is published.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// Where spending is published.
    pub spending: watch::Sender<Arc<Spending>>,
    /// The time.
    pub clock: Clock,
}

/// Why the loops cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The store does not answer.
    #[error("the state cannot be read")]
    Store(#[from] StoreError),
    /// The folder of weights cannot be used.
    #[error("the folder of model weights cannot be used")]
    Blobs(#[source] FetchError),
    /// The client that reads meters cannot be built.
    #[error("meters of replicas cannot be read")]
    Meters(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client that probes engines cannot be built.
    #[error("engines cannot be probed")]
    Prober(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts the loops on `tasks`, to end when `cancel` is cancelled. Replicas that an earlier process left recorded as
/// running are put right and the first view is published before it returns.
pub async fn start(inputs: Inputs, tasks: &TaskTracker, cancel: CancellationToken) -> Result<Handle, ControlError> {
    let Inputs { store, data, worker, node_id, source, pue_thousandths, zone, grid, fetch, snapshot, spending, clock } =
        inputs;
    let blobs = Blobs::open(&data.join("blobs"), fetch.reserve_bytes).map_err(ControlError::Blobs)?;
    let freed_bytes = blobs.sweep(PART_KEPT).map_err(ControlError::Blobs)?;
    if freed_bytes > 0 {
        tracing::info!(freed_bytes, "parts of abandoned downloads deleted");
    }
    let weights = Weights { store: store.clone(), blobs: blobs.clone() };
    let fetcher = Fetcher::new(fetch, blobs).map_err(ControlError::Blobs)?;
    let prober =
        Prober::new(Duration::from_millis(PROBE_TIMEOUT_MS)).map_err(|error| ControlError::Prober(error.into()))?;
    let bill = Arc::new(Bill::new(BillInputs { store: store.clone(), source, node_id, zone, pue_thousandths, grid }));
    let demand = Arc::new(Demand::default());

    let mut endpoints = EndpointLoop::new(
        crate::endpoint_loop::Ground {
            store: store.clone(),
            clock: clock.clone(),
            node_id,
            data: data.clone(),
            worker: worker.clone(),
            demand: Arc::clone(&demand),
            tasks: tasks.clone(),
        },
        prober,
    );
    endpoints.look().await?;
    let last = Published::default();
    let mut publisher = Publisher {
        store: store.clone(),
        clock: clock.clone(),
        source,
        bill: Arc::clone(&bill),
        snapshot,
        spending,
        last,
    };
    publisher.publish().await?;

    let local_meters = Arc::new(Mutex::new(None));
    let reader = meters::Reader::new(Arc::clone(&local_meters)).map_err(ControlError::Meters)?;
    let (of_bill, of_demand) = (Arc::clone(&bill), Arc::clone(&demand));
    let meters = MeterLoop { bill: of_bill, demand: of_demand, clock: clock.clone(), reader };
    let uses = Arc::clone(&bill.uses);
    let (noted_in, noted_by) = (store.clone(), clock.clone());
    let pulls = PullLoop::new(store, clock.clone(), fetcher, worker, data.join("logs"), tasks.clone());
    tasks.spawn(endpoints.run(cancel.clone()));
    tasks.spawn(publisher.run(cancel.clone()));
    tasks.spawn(meters.run(cancel.clone()));
    tasks.spawn(pulls.run(cancel.clone()));
    tasks.spawn(async move { uses.run(noted_in, noted_by, cancel).await });
    Ok(Handle { demand, bill, clock, weights, local_meters })
}
