//! `galerne gateway`: a process with the inference data plane alone, linked to a control plane.
//!
//! Address first, directory second, link third, as in `start`. It has no database: what it knows comes over the link,
//! what it used goes through its spool.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use galerne_api::client::Client;
use galerne_api::error::{Code, Problem};
use galerne_control::clock::Clock;
use galerne_gateway::{
    Bounds, ControlLink, Gateway, GatewayConfig, LinkConfig, LinkEnds, LinkError, LinkSeen, Spool, SpoolLimits,
};
use galerne_model::limits::DRAIN_DEADLINE_MS;
use http::{StatusCode, header};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::http::refusal::chain;
use crate::start::StartError;
use crate::start::listen::{Bound, Listener};
use crate::start::metrics::{self, ApiMetrics};

/// First pause before the control plane is tried again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A gateway that runs.
pub struct RunningGateway {
    /// Where it answers.
    pub url: String,
    /// The address it is bound to.
    pub address: SocketAddr,
    gateway: Gateway,
    link: LinkSeen,
    listener: Listener,
    tasks: TaskTracker,
    stop: CancellationToken,
    data: DataDir,
}

/// Starts a gateway and returns once requests are answered. `tell` hears each failed attempt to reach the control plane;
/// attempts go on while another may be answered otherwise.
pub async fn start(
    config: &Config,
    client: Client,
    name: Option<String>,
    tell: &(dyn Fn(&LinkError) + Send + Sync),
) -> Result<RunningGateway, StartError> {
    let bound = Bound::bind(config).await?;
    let data = DataDir::take_for_gateway(&config.data)?;
    let source = Spool::source_of(&data.spool()).map_err(StartError::Spool)?;
    let name = name.unwrap_or_else(|| format!("{} ({})", host_name(), data.path().display()));
    let (link, ends) = establish(&LinkConfig { client, name, source }, tell).await?;
    let LinkEnds { pepper, snapshot, spending, wake, usage } = ends;
    let clock = Clock::system();
    let now: galerne_gateway::Clock = Arc::new(move || clock.now());
    let bounds = Bounds { prefix_index_bytes: config.prefix_index_bytes, ..Bounds::default() };
    let (gateway, _recovered) = Gateway::with_bounds(
        GatewayConfig {
            spool_dir: data.spool(),
            spool_limits: SpoolLimits::default(),
            pepper,
            clock: Arc::clone(&now),
            snapshot,
            spending,
            wake,
            // Batches run beside the store.
            unsettled: std::collections::BTreeMap::new(),
            usage,
        },
        bounds,
    )
    .map_err(StartError::Gateway)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let link = link.start(&gateway, now, &tasks, stop.clone());

    let mut registry = Registry::default();
    let process = ApiMetrics::register(&mut registry);
    gateway.register_metrics(&mut registry);
    metrics::register_link(&mut registry, link.clone());
    let pages = Arc::new(Pages { registry: Mutex::new(registry), process, link: link.clone() });
    let (address, url) = (bound.address(), bound.url());
    let listener = bound.serve(routes(pages).merge(gateway.router()), gateway.door());
    tracing::info!(%address, source, "serving");
    Ok(RunningGateway { url, address, gateway, link, listener, tasks, stop, data })
}

/// Joins; tries again as long as that may help.
async fn establish(
    config: &LinkConfig,
    tell: &(dyn Fn(&LinkError) + Send + Sync),
) -> Result<(ControlLink, LinkEnds), StartError> {
    let mut pause = RETRY_MIN;
    loop {
        match ControlLink::establish(config.clone()).await {
            Ok(link) => return Ok(link),
            Err(error) if error.may_pass() => tell(&error),
            Err(error) => return Err(StartError::Link(Arc::new(error))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

impl RunningGateway {
    /// Ends when the gateway cannot go on: its listener ended, or the control plane lets it in no more.
    pub async fn failed(&mut self) -> StartError {
        let link = self.link.clone();
        tokio::select! {
            error = self.listener.failed() => StartError::Stopped(error),
            error = link.ended() => StartError::Link(error),
        }
    }

    /// Takes no new requests, lets those in flight end, ships the spool, says goodbye, lets the directory go.
    pub async fn drain(self) {
        tracing::info!("draining");
        self.listener.stop_accepting();
        self.gateway.drain(Duration::from_millis(DRAIN_DEADLINE_MS)).await;
        self.listener.join().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.link.leave().await;
        drop(self.data);
        tracing::info!("stopped");
    }
}

/// What the pages of a gateway read.
struct Pages {
    registry: Mutex<Registry>,
    process: ApiMetrics,
    link: LinkSeen,
}

fn routes(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .fallback(elsewhere)
        .with_state(pages)
}

/// Requests are admitted.
async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    let response = match pages.link.may_admit() {
        true => (StatusCode::OK, "ready\n").into_response(),
        false => problem(&Problem::new(Code::ControlPlaneAway, "the control plane is not heard")),
    };
    std::future::ready(response).await
}

async fn metrics_page(State(pages): State<Arc<Pages>>) -> Response {
    pages.process.read_process();
    let text = metrics::text(&pages.registry.lock().expect("nobody panics while holding the registry"));
    let response = match text {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(error = %chain(&error), "metrics could not be written");
            problem(&Problem::new(Code::Internal, "metrics could not be written"))
        }
    };
    std::future::ready(response).await
}

async fn elsewhere() -> Response {
    let told = Problem::new(Code::RouteNotFound, "this is a gateway: it answers `/v1` only")
        .hint("`/api/v1` is at the control plane, the address given to `--control`");
    std::future::ready(problem(&told)).await
}

fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = serde_json::to_string(problem).expect("problems have text keys");
    (status, [(header::CONTENT_TYPE, "application/problem+json")], text).into_response()
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
