//! The gateway as the server sees it: what it is given, what it hands out, how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use galerne_api::gateways::Supply;
use galerne_core::admission::RateBook;
use galerne_core::budget::{BudgetBook, Payer, Used};
use galerne_core::line;
use galerne_core::rating::Charge;
use galerne_core::routing::ReplicaBook;
use galerne_core::why::HeldNow;
use galerne_model::event::Event;
use galerne_model::ids::{BudgetId, EndpointId, ReplicaId, RequestId, TenantId};
use galerne_model::ledger::{Quantities, UsageRecord};
use galerne_model::limits;
use galerne_model::money::BudgetSubject;
use galerne_model::snapshot::{Snapshot, Spending};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::{ActivityTable, EndpointActivity};
use crate::board::Board;
use crate::denial::DenialBook;
use crate::digest::Digester;
use crate::errand::KeyPlaces;
use crate::line::Lines;
use crate::live::{self, LiveEndpoint};
use crate::metrics::Metrics;
use crate::route::RouteView;
use crate::routes::Door;
use crate::shares::{Called, InForce, Role, Shares};
use crate::spool::{self, Recovered, Spool, SpoolError, SpoolLimits, UsageBatch};
use crate::ticket::ACCOUNT_PATIENCE;
use crate::upstream::Upstream;
use crate::{route, routes};

/// Wall-clock time; the server passes the process's one clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Whether this process may admit requests at this moment.
pub type MayAdmit = Arc<dyn Fn() -> Result<(), Closed> + Send + Sync>;

/// Why nothing is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Another server may hold the lease of the database.
    LeaseLost,
    /// The control plane was not heard for too long, or lets this gateway in no more.
    ControlPlaneAway,
}

/// How often idle limiters, gone replicas and gone endpoints are forgotten.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(30);
/// How often connections to replicas are looked at that have nothing to do.
const CLOSING_INTERVAL: Duration = Duration::from_secs(2);

/// Time a client gets for the last words of an answer that the shutdown cut.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Time given to requests that were cut: a worker says what it had done before it is stopped, or the work would be free.
const CUT_DEADLINE: Duration = ACCOUNT_PATIENCE.saturating_add(LAST_WORDS);

/// What a gateway is made of.
pub struct GatewayConfig {
    /// Directory of the usage spool.
    pub spool_dir: PathBuf,
    /// Sizes of the spool.
    pub spool_limits: SpoolLimits,
    /// The secret under which keys are digested.
    pub pepper: Vec<u8>,
    /// Wall-clock time.
    pub clock: Clock,
    /// Keys, endpoints, prices, limits.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What the ledger has settled; its watermark must be the one of [`Spool::source_of`] this directory.
    pub spending: watch::Receiver<Arc<Spending>>,
    /// Endpoints that need a replica.
    pub wake: mpsc::Sender<Wake>,
    /// Records of errands that were made durable with their answers and may not be in the spool: see [`crate::Unsettled`].
    pub unsettled: BTreeMap<RequestId, UsageRecord>,
    /// Usage records for the ledger.
    pub usage: mpsc::Sender<UsageBatch>,
}

/// How much and how long. The values in force are the default, from `limits.rs`; tests have shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Requests in flight in this process.
    pub in_flight_max: usize,
    /// Requests that wait for one endpoint to wake.
    pub wake_queue_max: usize,
    /// Life of a request, from head to last byte.
    pub request: Duration,
    /// Wait for a replica.
    pub wake: Duration,
    /// One write towards a client, one part of a body from it.
    pub client: Duration,
    /// Memory for what replicas have of prompts.
    pub prefix_index_bytes: usize,
    /// The line before an endpoint that is at its limit.
    pub line: line::Bounds,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            in_flight_max: limits::GATEWAY_IN_FLIGHT_MAX,
            wake_queue_max: limits::WAKE_QUEUE_MAX,
            request: Duration::from_millis(limits::REQUEST_DEADLINE_MS),
            wake: Duration::from_millis(limits::WAKE_DEADLINE_MS),
            client: Duration::from_millis(limits::CLIENT_WRITE_TIMEOUT_MS),
            prefix_index_bytes: limits::PREFIX_INDEX_BYTES_DEFAULT,
            line: line::Bounds {
                places: limits::LINE_MAX,
                of_tier: limits::LINE_OF_TIER_MAX,
                patience_micros: limits::LINE_PATIENCE_MS.map(|ms| (ms * 1_000).cast_signed()),
            },
        }
    }
}

/// A request waits for this endpoint, which has no ready replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// The endpoint.
    pub endpoint_id: EndpointId,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The spool cannot be opened.
    #[error("the gateway cannot open its usage spool")]
    Spool(#[source] SpoolError),
}

/// The inference data plane. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
}

/// What the requests share. No lock in it is held across an await.
pub(crate) struct Shared {
    pub(crate) digester: Digester,
    pub(crate) clock: Clock,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    spending: watch::Receiver<Arc<Spending>>,
    pub(crate) wake: mpsc::Sender<Wake>,
    pub(crate) spool: Arc<Spool>,
    books: Mutex<Books>,
    replicas: Mutex<ReplicaBook>,
    pub(crate) shadows: route::Shadows,
    /// Room for questions after tokens of prompts.
    pub(crate) tokenising: Arc<Semaphore>,
    /// Another number for each draw.
    pub(crate) chance: AtomicU64,
    pub(crate) activity: Arc<ActivityTable>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) key_places: KeyPlaces,
    pub(crate) upstream: Upstream,
    pub(crate) metrics: Metrics,
    pub(crate) board: Board,
    pub(crate) denials: DenialBook,
    pub(crate) bounds: Bounds,
    in_flight: AtomicUsize,
    may_admit: OnceLock<MayAdmit>,
    pub(crate) shares: Shares,
    /// Requests end here at shutdown, streams included.
    pub(crate) tasks: TaskTracker,
    /// No new requests.
    pub(crate) draining: CancellationToken,
    /// Requests still running are cut.
    pub(crate) cut: CancellationToken,
    shipping: TaskTracker,
    stop_shipping: CancellationToken,
}

/// Rates and budgets, under one lock: a request is admitted by both or by neither.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) rates: RateBook,
    pub(crate) budgets: BudgetBook,
    /// The last news merged into `budgets`.
    heard: Option<Arc<Spending>>,
}

impl Gateway {
    /// Opens the spool, ends what a killed process left open, and starts shipping. Call inside a tokio runtime.
    pub fn new(config: GatewayConfig) -> Result<(Self, Recovered), GatewayError> {
        Self::with_bounds(config, Bounds::default())
    }

    /// The same with other bounds.
    pub fn with_bounds(config: GatewayConfig, bounds: Bounds) -> Result<(Self, Recovered), GatewayError> {
        let now = (config.clock)();
        let settled = config.spending.borrow().settled_sequence;
        let (spool, recovered) = Spool::open(&config.spool_dir, config.spool_limits, settled, &config.unsettled, now)
            .map_err(GatewayError::Spool)?;
        let mut books = Books::default();
        books.hear(&config.spending);
        books.recover(&recovered.unsettled, &config.snapshot.borrow());
        let activity = Arc::<ActivityTable>::default();
        let shared = Arc::new(Shared {
            digester: Digester::new(&config.pepper),
            clock: config.clock,
            snapshot: config.snapshot,
            spending: config.spending,
            wake: config.wake,
            metrics: Metrics::new(Arc::clone(&spool), Arc::clone(&activity)),
            board: Board::default(),
            denials: DenialBook::default(),
            spool,
            books: Mutex::new(books),
            replicas: Mutex::new(ReplicaBook::new(route::secret(), bounds.prefix_index_bytes)),
            shadows: route::Shadows::default(),
            tokenising: Arc::new(Semaphore::new(route::TOKENISING_MAX)),
            chance: AtomicU64::new(route::first_chance()),
            activity,
            lines: Arc::default(),
            key_places: KeyPlaces::default(),
            upstream: Upstream::new(),
            bounds,
            in_flight: AtomicUsize::new(0),
            may_admit: OnceLock::new(),
            shares: Shares::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            shipping: TaskTracker::new(),
            stop_shipping: CancellationToken::new(),
        });
        report(&recovered);
        let stop = shared.stop_shipping.clone();
        shared.shipping.spawn(spool::ship(Arc::clone(&shared.spool), settled, config.usage, stop));
        shared.shipping.spawn(keep_house(Arc::clone(&shared)));
        shared.shipping.spawn(route::watch(Arc::clone(&shared)));
        shared.shipping.spawn(close_idle(Arc::clone(&shared)));
        shared.shipping.spawn(live::sample(Arc::clone(&shared)));
        Ok((Self { shared }, recovered))
    }

    /// The routes under `/v1`.
    pub fn router(&self) -> axum::Router {
        routes::router(Arc::clone(&self.shared))
    }

    /// The same without a router, for requests of which [`Door::asks`] says what they ask.
    pub fn door(&self) -> Door {
        routes::door(Arc::clone(&self.shared))
    }

    /// The number of this gateway's spool, as the ledger knows it.
    pub fn source(&self) -> i64 {
        self.shared.spool.source()
    }

    /// From now on requests are admitted only while `may_admit` says so. Said once; later calls change nothing.
    pub fn admit_while(&self, may_admit: MayAdmit) {
        self.shared.may_admit.get_or_init(|| may_admit);
    }

    /// Whether requests are admitted at this moment.
    pub fn may_admit(&self) -> Result<(), Closed> {
        self.shared.may_admit()
    }

    /// From now on requests under a budget spend of this gateway's shares.
    pub(crate) fn borrow_shares(&self, in_force: InForce) {
        self.shared.shares.play(Role::Borrows(in_force));
    }

    /// From now on requests wait for what is lent to other gateways: whoever calls this asks those to give back, as
    /// [`Gateway::lacking`] says, and tells what came of it.
    pub fn lend_shares(&self) {
        self.shared.shares.play(Role::Lends);
    }

    /// Does something with the book of budgets. Short: every admission waits for it.
    pub fn budgets<T>(&self, act: impl FnOnce(&mut BudgetBook) -> T) -> T {
        act(&mut self.shared.books().budgets)
    }

    /// Waits until requests lack of what is lent; then says of which budgets.
    pub async fn lacking(&self) -> Vec<BudgetId> {
        loop {
            let budgets: Vec<BudgetId> = self.shared.shares.waiting().into_keys().collect();
            if !budgets.is_empty() {
                return budgets;
            }
            self.shared.shares.lacking().await;
        }
    }

    /// Whether others may still give back what requests lack.
    pub fn tell_supply(&self, supplies: &[(BudgetId, Supply)]) {
        self.shared.shares.heard(supplies.iter().map(|(id, supply)| (*id, *supply, Called::Lender)));
    }

    /// Requests per endpoint, for scaling to zero and back.
    pub fn activity(&self) -> Vec<EndpointActivity> {
        self.shared.activity.snapshot()
    }

    /// Events of refusals, to be written by whoever has the store. They are kept, within bounds, until somebody comes.
    pub fn denials(&self) -> Vec<Event> {
        self.shared.denials.take_due(Instant::now())
    }

    /// The same at the end: counts whose window is still open are told as well.
    pub fn last_denials(&self) -> Vec<Event> {
        self.shared.denials.take_all()
    }

    /// How a request for an endpoint would be routed now; nothing where the endpoint is not known here. `body` is that of a request of `tenant_id`, or a prompt.
    pub fn explain_route(&self, endpoint_id: EndpointId, tenant_id: TenantId, body: &str) -> Option<RouteView> {
        route::explain(&self.shared, endpoint_id, tenant_id, body)
    }

    /// What running requests hold under budgets on `subject`, as snapshots name it.
    pub fn held_under(&self, subject: &BudgetSubject) -> HeldNow {
        let books = self.shared.books();
        let holds = books.budgets.outstanding().filter(|hold| hold.payer.is_under(subject));
        holds.fold(HeldNow::default(), |sum, hold| HeldNow {
            requests: sum.requests + 1,
            amounts: sum.amounts.saturating_add(hold.amounts),
            oldest_at: Some(sum.oldest_at.map_or(hold.admitted_at, |oldest| oldest.min(hold.admitted_at))),
        })
    }

    /// Puts the gateway's series into `registry`.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.shared.metrics.register(registry);
        crate::metrics::register_replicas(registry, Arc::clone(&self.shared));
    }

    /// What each endpoint and its replicas are doing now.
    pub fn live(&self) -> Vec<LiveEndpoint> {
        live::view(&self.shared)
    }

    /// Takes no new requests, gives those in flight `grace`, cuts and settles the rest, ships what can be shipped.
    pub async fn drain(&self, grace: Duration) {
        self.shared.draining.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(grace, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("requests were still running at the end of the drain; they are cut and settled");
            self.shared.cut.cancel();
            if tokio::time::timeout(CUT_DEADLINE, self.shared.tasks.wait()).await.is_err() {
                tracing::warn!(
                    "cut requests did not end in time; those without a record get it at the next start, for nothing"
                );
            }
        }
        self.shared.stop_shipping.cancel();
        self.shared.shipping.close();
        self.shared.shipping.wait().await;
        self.shared.spool.stop();
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Whether this process may admit requests at this moment.
    pub(crate) fn may_admit(&self) -> Result<(), Closed> {
        self.may_admit.get().map_or(Ok(()), |may_admit| may_admit())
    }

    /// Ends once the shutdown has cut requests and a client has had its time for the last words.
    pub(crate) async fn last_words(&self) {
        self.cut.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// The rate and budget books, with the ledger's last news merged.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        // The books' own operations are all-or-nothing, so a panic elsewhere leaves them whole.
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.hear(&self.spending);
        books
    }

    /// Tells when the gateway stops watching its replicas.
    pub(crate) async fn stopped(&self) {
        self.stop_shipping.cancelled().await;
    }

    pub(crate) fn replicas(&self) -> MutexGuard<'_, ReplicaBook> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests in this process, refused ones included until they are answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Takes one of the places in this process, unless all are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.metrics.in_flight.inc();
        (before < self.bounds.in_flight_max).then_some(place)
    }
}

/// One of the [`Bounds::in_flight_max`] places in this process.
pub(crate) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.in_flight.dec();
    }
}

impl Books {
    /// Merges what the ledger has published since the last time. Read under the books' lock, so that news is never
    /// merged in another order than it was published.
    fn hear(&mut self, spending: &watch::Receiver<Arc<Spending>>) {
        let news = Arc::clone(&spending.borrow());
        if self.heard.as_ref().is_none_or(|heard| !Arc::ptr_eq(heard, &news)) {
            self.budgets.merge(&news);
            self.heard = Some(news);
        }
    }

    /// Counts records that were on disk and not in the ledger when the gateway started.
    fn recover(&mut self, unsettled: &[UsageRecord], snapshot: &Snapshot) {
        for record in unsettled {
            let line_id = snapshot.line_of(record.key_id);
            let payer = Payer { tenant_id: record.tenant_id, project_id: record.project_id, line_id };
            let charge =
                Charge { micros: record.quantities.micros.min(record.held_micros), picos: record.quantities.picos };
            let Quantities { millijoules: energy, co2e_micrograms: carbon, .. } = record.quantities;
            self.budgets.recover(record.sequence, record.started_at, Used { charge, energy, carbon }, payer);
        }
    }
}

fn report(recovered: &Recovered) {
    let Recovered { unsettled, interrupted, torn_bytes, damaged_bytes } = recovered;
    if *damaged_bytes > 0 {
        tracing::error!(damaged_bytes, "spool was damaged; what could be read was kept");
    }
    if *torn_bytes > 0 {
        tracing::warn!(torn_bytes, "spool ended in a half-written entry, which was cut off");
    }
    if *interrupted > 0 {
        tracing::warn!(interrupted, "requests were cut by the end of the last process; their holds are freed");
    }
    tracing::info!(unsettled = unsettled.len(), "spool opened");
}

/// Closes connections to replicas that nobody needs any more.
async fn close_idle(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop_shipping.cancelled() => return,
            () = tokio::time::sleep(CLOSING_INTERVAL) => {}
        }
        shared.upstream.keep_house();
    }
}

async fn keep_house(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop_shipping.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING_INTERVAL) => {}
        }
        let now = shared.now();
        let snapshot = Arc::clone(&shared.snapshot.borrow());
        shared.books().rates.forget_idle(now);
        let replicas =
            snapshot.endpoints.values().flat_map(|endpoint| endpoint.replicas.iter().map(|replica| replica.id));
        let replicas: BTreeSet<ReplicaId> = replicas.collect();
        shared.replicas().keep_only(&replicas, &snapshot.endpoints.keys().copied().collect());
        shared.board.keep_only(|id| replicas.contains(&id));
        shared.activity.keep_only(|id| snapshot.endpoints.contains_key(&id));
    }
}
