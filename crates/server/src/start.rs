//! Starting the server, in the order in which its parts need each other, and stopping it in the other direction.
//!
//! Address first, directory second, state third: what can be refused without touching anything is refused first.
//! INVARIANT: every task is on a tracker and joined before `drain` returns; the lock of the directory goes last. Where a
//! database that is away keeps tasks past [`STOP_DEADLINE`], the process ends with them, and the lock with the process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_control::clock::Clock;
use galerne_control::forward;
use galerne_control::site_lease::{Epoch, Gate, SiteLease};
use galerne_control::{Activity, EnergySample, Inputs};
use galerne_drivers::fetch::FetchSettings;
use galerne_drivers::grid::Grid;
use galerne_drivers::objects::{Objects, Place};
use galerne_drivers::webhook::Webhook;
use galerne_gateway::{Bounds, Closed, Gateway, GatewayConfig, Spool, SpoolLimits, UsageBatch, Wake};
use galerne_model::ids::NodeId;
use galerne_model::ledger::EnergyMethod;
use galerne_model::limits::{DRAIN_DEADLINE_MS, REPLICA_STOP_GRACE_MS};
use galerne_model::node::NodeFacts;
use galerne_model::snapshot::{Snapshot, Spending};
use galerne_model::units::Milliwatts;
use galerne_store::{Lease, Store, StoreError, StoreUrl};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod bootstrap;
mod certificate;
mod descriptors;
mod error;
mod lanes;
pub(crate) mod listen;
mod loops;
pub(crate) mod metrics;
mod unread;

pub use error::StartError;
pub(crate) use loops::write_events;

use crate::app::{App, Directory, Fleet, Parts, Pepper};
use crate::batches::engine::Bell;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::files::Files;
use crate::http::refusal::chain;
use crate::routes;
use crate::surface;

/// Endpoints that wait to be woken while the loop is busy; each is named once per request.
const WAKES_MAX: usize = 1_024;
/// Batches of usage between gateway and ledger: one being settled, one waiting.
const BATCHES_MAX: usize = 2;
/// Time for what `/api/v1` still works on, backups and exports above all, before it is cut.
const API_GRACE: Duration = Duration::from_secs(15);
/// Time for everything after the last request: what engines have to end, and ten seconds for a database to take the rest.
const STOP_DEADLINE: Duration = Duration::from_millis(REPLICA_STOP_GRACE_MS + 10_000);

/// What is known of this host, from whoever can read it.
pub struct Host {
    /// Facts.
    pub facts: NodeFacts,
    /// Its energy meter.
    pub meter: Meter,
}

/// An energy meter.
pub struct Meter {
    /// Power of one busy processor thread above idle.
    pub active: Milliwatts,
    /// How energy is obtained before the first sample.
    pub method: EnergyMethod,
    /// Energy since the last call.
    pub sample: Box<dyn FnMut() -> EnergySample + Send>,
    /// The counters of this host, as meters of single replicas.
    pub local: galerne_control::ReadLocal,
}

/// Parts of a start, for a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Address, directory, lock.
    Claim,
    /// The database is opened and brought up to date.
    OpenState,
    /// Tenant, project, operator and first key, on the first start only.
    FirstStart,
    /// This host is enrolled as a node.
    EnrolHost,
    /// Loops and gateway run.
    StartLoops,
}

/// What happens to a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It begins.
    Begun(Phase),
    /// It ended; a few words on what was found.
    Done(Phase, String),
}

/// A server that runs.
pub struct Running {
    /// Where it answers.
    pub url: String,
    /// The address it is bound to.
    pub address: SocketAddr,
    /// This host.
    pub node_id: NodeId,
    /// The first API key, on the first start only.
    pub first_key: Option<String>,
    app: App,
    gateway: Gateway,
    listener: listen::Listener,
    loops: TaskTracker,
    stop_loops: CancellationToken,
    draining: CancellationToken,
    tenure: Tenure,
    data: DataDir,
}

/// The lease of the database while the server runs.
struct Tenure {
    task: TaskTracker,
    stop: CancellationToken,
    /// At which it is held.
    epoch: Epoch,
    /// Who took the database over.
    lost: oneshot::Receiver<Lease>,
}

/// Starts everything and returns once requests are answered. `environment` holds what downloads depend on.
pub async fn start(
    config: &Config,
    host: Host,
    environment: &std::collections::BTreeMap<String, String>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Running, StartError> {
    progress(Progress::Begun(Phase::Claim));
    let grid = read_grid(config)?;
    let place = config.objects.resolve(environment).map_err(|error| StartError::Objects(error.into()))?;
    let bound = listen::Bound::bind(config).await?;
    let data = DataDir::take(&config.data)?;
    let pepper = data.pepper()?;
    progress(Progress::Done(Phase::Claim, data.path().display().to_string()));

    let clock = Clock::system();
    let source = Spool::source_of(&data.spool()).map_err(StartError::Spool)?;
    let holder = holder(&host.facts, &data, source);
    let State { store, lease, gate, first_key } = open_state(config, &data, &holder, &clock, &pepper, progress).await?;

    let node_id = enrol(&store, &host.facts, &config.zone, &clock, progress).await?;

    progress(Progress::Begun(Phase::StartLoops));
    let (loops, stop_loops) = (TaskTracker::new(), CancellationToken::new());
    let fetch =
        FetchSettings { reach: config.reach, ..FetchSettings::from_environment(|name| environment.get(name).cloned()) };
    let ground =
        Ground { config, data: &data, store: &store, pepper: &pepper, clock: &clock, node_id, source, grid, fetch };
    let fleet = Arc::new(Fleet::default());
    let Planes { control, gateway, snapshot, woken, used } = start_planes(ground, &fleet, &loops, &stop_loops).await?;
    control.set_energy_rate(host.meter.active, host.meter.method);
    control.set_local_meters(Arc::clone(&host.meter.local));
    admit_while_held(&gateway, gate);
    let tenure = Tenure::begin(lease);

    let mut registry = Registry::default();
    let api_metrics = metrics::ApiMetrics::register(&mut registry);
    let loop_metrics = loops::LoopMetrics::register(&mut registry);
    metrics::register_gateways(&mut registry, &gateway, &fleet);
    metrics::register_meters(&mut registry, control.clone());
    if let Some(webhook) = webhook(config)? {
        let seen = forward::start(store.clone(), clock.clone(), webhook, holder, &loops, stop_loops.clone());
        metrics::register_forwarding(&mut registry, seen);
    }
    let (files, draining) = (open_files(&place, config, bound.url())?, CancellationToken::new());
    let app = App::new(Parts {
        directory: Directory::load(&store).await?,
        store,
        epoch: tenure.epoch.clone(),
        pepper,
        data: data.path().to_owned(),
        control: control.clone(),
        gateway: gateway.clone(),
        fleet,
        snapshot,
        metrics: api_metrics,
        registry: Mutex::new(registry),
        files,
        batch_bell: Bell::default(),
        tasks: TaskTracker::new(),
        draining: draining.clone(),
    });
    let work = loops::Work {
        app: app.clone(),
        control,
        gateway: gateway.clone(),
        meter: host.meter,
        woken,
        used,
        metrics: loop_metrics,
        clock,
    };
    loops::spawn(&loops, &stop_loops, work);
    let (address, url) = (bound.address(), bound.url());
    let router = routes::router(app.clone()).merge(surface::router(&app)).merge(gateway.router());
    let listener = bound.serve(router, gateway.door());
    progress(Progress::Done(Phase::StartLoops, url.clone()));
    tracing::info!(%address, "serving");
    Ok(Running { url, address, node_id, first_key, app, gateway, listener, loops, stop_loops, draining, tenure, data })
}

/// Makes this machine known.
async fn enrol(
    store: &Store,
    facts: &NodeFacts,
    zone: &str,
    clock: &Clock,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<NodeId, StartError> {
    progress(Progress::Begun(Phase::EnrolHost));
    let name = node_name(facts);
    let node_id = galerne_control::node::enrol(store, &name, facts, zone, clock.now()).await?;
    progress(Progress::Done(Phase::EnrolHost, name));
    Ok(node_id)
}

/// Admits nothing while another server holds the lease of the database.
fn admit_while_held(gateway: &Gateway, gate: Option<Gate>) {
    if let Some(gate) = gate {
        gateway.admit_while(Arc::new(move || if gate.is_open() { Ok(()) } else { Err(Closed::LeaseLost) }));
    }
}

fn open_files(place: &Place, config: &Config, url: String) -> Result<Files, StartError> {
    let objects = Objects::open(place).map_err(|error| StartError::Objects(error.into()))?;
    let country = country_of(place, &config.zone);
    Ok(Files::new(objects, config.objects.project_bytes_max, url, country))
}

/// Where files stand: in a folder in the country of the site's zone (`SE` of `SE-SE3`); of a bucket nobody has said it.
fn country_of(place: &Place, zone: &str) -> Option<String> {
    match place {
        Place::Folder(_) => zone.split('-').next().filter(|country| !country.is_empty()).map(str::to_owned),
        Place::Bucket(_) => None,
    }
}

/// Where events are sent, if anywhere.
fn webhook(config: &Config) -> Result<Option<Webhook>, StartError> {
    let made = config.events.clone().map(Webhook::new).transpose();
    made.map_err(|error| StartError::Webhook(error.into()))
}

/// The state, open and ours.
struct State {
    store: Store,
    lease: SiteLease,
    /// Whether the lease is held, unless the directory's lock keeps everybody else out.
    gate: Option<Gate>,
    /// The first key, when this is the first start.
    first_key: Option<String>,
}

/// Opens the state, brings it up to date, and takes its lease before anything is written.
async fn open_state(
    config: &Config,
    data: &DataDir,
    holder: &str,
    clock: &Clock,
    pepper: &Pepper,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<State, StartError> {
    progress(Progress::Begun(Phase::OpenState));
    let store = Store::open(&config.database).await?;
    let is_behind_lock = is_behind_lock(&config.database, data);
    if is_behind_lock {
        // Whoever held one is dead, also where another host name or a clock that was set back makes it look alive.
        store.leases_end().await?;
    }
    let lease = SiteLease::take(&store, holder.to_owned(), clock).await?;
    if config.events.is_some() {
        // Before the first event of this start.
        store.forward_events().await?;
    }
    progress(Progress::Done(Phase::OpenState, config.database.to_string()));
    progress(Progress::Begun(Phase::FirstStart));
    let first_key = bootstrap::first_start(&store, pepper).await?;
    let words = if first_key.is_some() { "operator and first key made" } else { "state found" };
    progress(Progress::Done(Phase::FirstStart, words.to_owned()));
    let gate = (!is_behind_lock).then(|| lease.gate());
    Ok(State { store, lease, gate, first_key })
}

/// Whether the lock of the directory already keeps every other server from the database, which is open. Then a disk that
/// stalls for longer than a lease lasts needs to stop nobody. A link in the directory to a file elsewhere is not behind it.
fn is_behind_lock(database: &StoreUrl, data: &DataDir) -> bool {
    match database {
        StoreUrl::Sqlite(path) => path.canonicalize().is_ok_and(|file| file.starts_with(data.path())),
        StoreUrl::Postgres(_) => false,
    }
}

/// Which server this is, for whoever is refused; the same after a restart, and another one in a copied directory that
/// runs elsewhere.
fn holder(facts: &NodeFacts, data: &DataDir, source: i64) -> String {
    format!("host `{}`, data directory `{}`, spool {source}", node_name(facts), data.path().display())
}

impl Tenure {
    fn begin(lease: SiteLease) -> Self {
        let (task, stop, epoch) = (TaskTracker::new(), CancellationToken::new(), lease.epoch());
        let (tell, lost) = oneshot::channel();
        let running = lease.run(stop.clone());
        task.spawn(async move {
            if let Some(other) = running.await
                && tell.send(other).is_err()
            {
                tracing::debug!("the server ended before it heard that its database was taken over");
            }
        });
        Self { task, stop, epoch, lost }
    }

    /// Gives the lease back.
    async fn end(self) {
        self.stop.cancel();
        self.task.close();
        self.task.wait().await;
    }
}

/// What loops and gateway stand on.
struct Ground<'a> {
    config: &'a Config,
    data: &'a DataDir,
    store: &'a Store,
    pepper: &'a Pepper,
    clock: &'a Clock,
    node_id: NodeId,
    source: i64,
    grid: Grid,
    fetch: FetchSettings,
}

/// Control plane and data plane, and what the one has to say to the other.
struct Planes {
    control: galerne_control::Handle,
    gateway: Gateway,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    woken: mpsc::Receiver<Wake>,
    used: mpsc::Receiver<UsageBatch>,
}

async fn start_planes(
    ground: Ground<'_>,
    fleet: &Arc<Fleet>,
    loops: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Planes, StartError> {
    let Ground { config, data, store, pepper, clock, node_id, source, grid, fetch } = ground;
    let (snapshot, snapshot_seen) = watch::channel(Arc::new(Snapshot::default()));
    let (spending, spending_seen) = watch::channel(Arc::new(Spending::default()));
    let inputs = Inputs {
        store: store.clone(),
        data: data.path().to_owned(),
        worker: worker_program(config),
        node_id,
        source,
        pue_thousandths: config.pue_thousandths,
        zone: config.zone.clone(),
        grid,
        fetch,
        snapshot,
        spending,
        clock: clock.clone(),
    };
    let control = galerne_control::start(inputs, loops, stop.clone()).await.map_err(StartError::Control)?;
    let (wake, woken) = mpsc::channel::<Wake>(WAKES_MAX);
    let (usage, used) = mpsc::channel::<UsageBatch>(BATCHES_MAX);
    let told = clock.clone();
    let bounds = Bounds { prefix_index_bytes: config.prefix_index_bytes, ..Bounds::default() };
    let (gateway, _recovered) = Gateway::with_bounds(
        GatewayConfig {
            spool_dir: data.spool(),
            spool_limits: SpoolLimits::default(),
            pepper: pepper.bytes(),
            clock: Arc::new(move || told.now()),
            snapshot: snapshot_seen.clone(),
            spending: spending_seen,
            wake,
            unsettled: store.records_unsettled().await?,
            usage,
        },
        bounds,
    )
    .map_err(StartError::Gateway)?;
    gateway.lend_shares();
    control.set_activity(activity_of(gateway.clone(), Arc::clone(fleet)));
    Ok(Planes { control, gateway, snapshot: snapshot_seen, woken, used })
}

impl Running {
    /// Makes another key with all scopes for the operator, for whoever owns the data directory.
    pub async fn mint_key(&self, name: &str) -> Result<String, StartError> {
        let secret = bootstrap::mint_key(self.app.store(), self.app.pepper(), name).await?;
        self.app.directory().refresh(self.app.store()).await?;
        Ok(secret)
    }

    /// Ends when the server cannot go on: its listener ended, or another Galerne took its database over.
    pub async fn failed(&mut self) -> StartError {
        let taken = async {
            match (&mut self.tenure.lost).await {
                Ok(other) => other,
                // It is dropped untold only when the server drains.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            error = self.listener.failed() => StartError::Stopped(error),
            other = taken => StartError::Store(StoreError::Served { holder: other.holder, since: other.since }),
        }
    }

    /// Takes no new requests, lets those in flight end, settles, stops the loops, closes the state, lets the directory go.
    pub async fn drain(self) {
        tracing::info!("draining");
        self.draining.cancel();
        self.listener.stop_accepting();
        self.gateway.drain(Duration::from_millis(DRAIN_DEADLINE_MS)).await;
        // Handlers before connections: with its connection a handler would be cut.
        self.app.tasks().close();
        if tokio::time::timeout(API_GRACE, self.app.tasks().wait()).await.is_err() {
            tracing::warn!("work of the API was still running at the end of the drain");
        }
        self.listener.join().await;
        self.stop_loops.cancel();
        self.loops.close();
        let (app, loops, tenure) = (self.app, self.loops, self.tenure);
        let rest = async move {
            loops.wait().await;
            if let Err(error) = app.directory().write_uses(app.store(), App::now()).await {
                tracing::warn!(error = %chain(&error), "the last uses of keys could not be written");
            }
            tenure.end().await;
            app.store().close().await;
        };
        if tokio::time::timeout(STOP_DEADLINE, rest).await.is_err() {
            tracing::error!(
                "stopped before the database took everything: usage is in the spool, the last refusals and readings are lost"
            );
            // A task may still write: nobody else gets the directory before this process has ended.
            std::mem::forget(self.data);
            return;
        }
        drop(self.data);
        tracing::info!("stopped");
    }
}

fn node_name(facts: &NodeFacts) -> String {
    let usable = galerne_model::resource::check_name(&facts.host_name).is_ok();
    if usable { facts.host_name.clone() } else { "this-host".to_owned() }
}

fn read_grid(config: &Config) -> Result<Grid, StartError> {
    let mut grid = Grid::with_defaults();
    if let Some(path) = &config.grid {
        grid.add_path(path).map_err(|source| StartError::Grid { path: path.clone(), source })?;
    }
    Ok(grid)
}

/// The worker as configured, else beside this program, else in `engine/` beside it.
pub fn worker_program(config: &Config) -> std::path::PathBuf {
    const NAME: &str = "galerne-worker";
    if let Some(worker) = &config.worker {
        return worker.clone();
    }
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(std::path::Path::to_owned));
    let candidates = beside.map_or_else(Vec::new, |folder| vec![folder.join(NAME), folder.join("engine").join(NAME)]);
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| NAME.into())
}

/// What all gateways are doing, this process's own and those in processes of their own.
fn activity_of(gateway: Gateway, fleet: Arc<Fleet>) -> galerne_control::ActivityFeed {
    Arc::new(move || {
        let own = gateway.activity().into_iter().map(|activity| Activity {
            endpoint_id: activity.endpoint_id,
            in_flight: u32::try_from(activity.in_flight).unwrap_or(u32::MAX),
            last_request_at: activity.last_request_at,
            oldest_at: activity.oldest_at,
        });
        let mut all = std::collections::BTreeMap::new();
        for activity in own.chain(fleet.activity(App::now())) {
            let sum = all.entry(activity.endpoint_id).or_insert(Activity { in_flight: 0, ..activity });
            sum.oldest_at = [sum.oldest_at, activity.oldest_at].into_iter().flatten().min();
            sum.in_flight = sum.in_flight.saturating_add(activity.in_flight);
            sum.last_request_at = sum.last_request_at.max(activity.last_request_at);
        }
        all.into_values().collect()
    })
}
