//! The link of a gateway in a process of its own to the control plane: it hears snapshots, ships usage, says what it is
//! doing, and sends events of refusals.
//!
//! It stands where the control plane stands inside `galerne up`: behind the same four channels, so that requests know no
//! difference. While the control plane is away the gateway serves by its last snapshot for [`ALONE_MAX`] and keeps what
//! it used in its spool. Of budgets it spends its shares, for [`share::TERM_MS`] at most.
//! INVARIANT: a batch of usage is acknowledged only when the control plane said that it is in the ledger.
//! INVARIANT: a session that another process took over is not taken back: two processes with one spool never alternate.
//! Deliberately absent: HTTP (`galerne_api::client`), and anything on the path of a request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use galerne_api::client::{Client, Failure, Lines, Link};
use galerne_api::error::{Code, Retry};
use galerne_api::gateways::{Join, Joined, VERSION};
use galerne_core::share;
use galerne_model::snapshot::{Snapshot, Spending};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Clock, Closed, Gateway, Wake};
use crate::spool::UsageBatch;

mod boot_time;
mod hear;
mod report;
mod send;

use boot_time::BootTime;

/// How long a gateway serves without word from its control plane: keys revoked meanwhile work for as long.
pub const ALONE_MAX: Duration = Duration::from_secs(15 * 60);
/// Longest pause between two attempts to reach the control plane.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// First pause; doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Endpoints that wait to be woken between two reports; each is named once per request.
const WAKES_MAX: usize = 1_024;
/// Batches of usage on their way: one being settled, one waiting.
const BATCHES_MAX: usize = 2;
/// Time for the last words at the end: the rest of the spool, events of refusals, the goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// A difference between the clocks worth a warning: periods of budgets begin by the gateway's own clock.
const CLOCK_SKEW_WARN_MS: u64 = 2_000;

/// Who joins, and where.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The control plane, and the key to call it with.
    pub client: Client,
    /// What the gateway is called there.
    pub name: String,
    /// The number of its spool.
    pub source: i64,
}

/// A link that is up and has heard a first snapshot.
pub struct ControlLink {
    shared: Arc<Linked>,
    lines: Lines,
    wakes: mpsc::Receiver<Wake>,
    batches: mpsc::Receiver<UsageBatch>,
}

/// What a gateway is given by its link.
pub struct LinkEnds {
    /// The secret under which keys are digested.
    pub pepper: Vec<u8>,
    /// Keys, endpoints, prices, limits.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What the ledger has settled.
    pub spending: watch::Receiver<Arc<Spending>>,
    /// Endpoints that need a replica.
    pub wake: mpsc::Sender<Wake>,
    /// Usage records for the ledger.
    pub usage: mpsc::Sender<UsageBatch>,
}

/// Why a gateway cannot be linked, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The control plane will not have it.
    #[error("the control plane at `{url}` does not let this gateway in")]
    Refused {
        /// Where it is.
        url: String,
        /// What it said.
        #[source]
        failure: Box<Failure>,
    },
}

impl LinkError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { failure, .. } => failure.code(),
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { failure, .. } => match failure.code() {
                Code::ServerUnreachable => {
                    Some("is it running there? `--control` is the address of `galerne up`".to_owned())
                }
                Code::ScopeMissing | Code::InvalidKey | Code::KeyRevoked | Code::KeyExpired | Code::Forbidden => {
                    Some("make a key for it, as an operator: galerne key create NAME --scope gateway".to_owned())
                }
                _ => failure.hint(),
            },
        }
    }

    /// What is behind it, in words.
    pub fn cause(&self) -> String {
        match self {
            Self::Refused { failure, .. } => chain(failure.as_ref()),
        }
    }

    /// Whether another attempt may be answered otherwise.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { failure, .. } => failure.code().retry() == Retry::Later,
        }
    }
}

/// What the tasks of a link share. No lock in it is held across an await.
struct Linked {
    config: LinkConfig,
    instance: String,
    session: Mutex<Session>,
    /// When the control plane was last heard.
    heard_at: Mutex<BootTime>,
    /// When the last report was sent that was answered: from then on its shares count. Before the first there are none.
    renewed_at: Mutex<Option<BootTime>>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    spending: watch::Sender<Arc<Spending>>,
    /// The control plane lets this gateway in no more.
    ended: watch::Sender<Option<Arc<LinkError>>>,
}

/// The session in force.
struct Session {
    link: Link,
    /// Reports so far.
    reports: u64,
    connected: bool,
}

impl ControlLink {
    /// Joins and waits for the first snapshot. One attempt.
    pub async fn establish(config: LinkConfig) -> Result<(Self, LinkEnds), LinkError> {
        let instance = uuid::Uuid::now_v7().simple().to_string();
        let refused =
            |failure| LinkError::Refused { url: config.client.base().to_string(), failure: Box::new(failure) };
        let (link, joined) = config.client.join(&join_of(&config, &instance)).await.map_err(refused)?;
        let pepper = pepper_of(&joined).map_err(refused)?;
        warn_of_skew(&joined);
        let mut lines = link.snapshots().await.map_err(refused)?;
        let first = hear::next(&mut lines, &Arc::default()).await.map_err(refused)?;
        let settled = Spending { settled_sequence: joined.settled_sequence, ..Spending::default() };
        let (snapshot, snapshot_seen) = watch::channel(first.unwrap_or_default());
        let (spending, spending_seen) = watch::channel(Arc::new(settled));
        let (wake, wakes) = mpsc::channel(WAKES_MAX);
        let (usage, batches) = mpsc::channel(BATCHES_MAX);
        let shared = Arc::new(Linked {
            config,
            instance,
            session: Mutex::new(Session { link, reports: 0, connected: true }),
            heard_at: Mutex::new(BootTime::now()),
            renewed_at: Mutex::new(None),
            snapshot,
            spending,
            ended: watch::channel(None).0,
        });
        let ends = LinkEnds { pepper, snapshot: snapshot_seen, spending: spending_seen, wake, usage };
        Ok((Self { shared, lines, wakes, batches }, ends))
    }

    /// Keeps the link up on `tasks` until `stop`; the gateway is drained by then. Says what to ask of it meanwhile.
    pub fn start(self, gateway: &Gateway, clock: Clock, tasks: &TaskTracker, stop: CancellationToken) -> LinkSeen {
        let Self { shared, lines, wakes, batches } = self;
        let gated = Arc::clone(&shared);
        gateway.admit_while(Arc::new(move || gated.may_admit()));
        let renewed = Arc::clone(&shared);
        gateway.borrow_shares(Arc::new(move || renewed.are_shares_in_force()));
        tasks.spawn(hear::run(Arc::clone(&shared), lines, stop.clone()));
        tasks.spawn(send::usage(Arc::clone(&shared), batches, stop.clone()));
        tasks.spawn(send::events(Arc::clone(&shared), gateway.clone(), stop.clone()));
        tasks.spawn(report::run(Arc::clone(&shared), gateway.clone(), clock, wakes, stop));
        LinkSeen { shared, gateway: gateway.clone() }
    }
}

/// How a link goes. Cheap to clone.
#[derive(Clone)]
pub struct LinkSeen {
    shared: Arc<Linked>,
    gateway: Gateway,
}

impl std::fmt::Debug for LinkSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSeen").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

impl LinkSeen {
    /// Whether the control plane is heard.
    pub fn is_connected(&self) -> bool {
        self.shared.session().connected
    }

    /// Whether requests are admitted.
    pub fn may_admit(&self) -> bool {
        self.shared.may_admit().is_ok()
    }

    /// Time since the control plane was last heard.
    pub fn silence(&self) -> Duration {
        self.shared.silence()
    }

    /// Ends when the control plane lets this gateway in no more.
    pub async fn ended(&self) -> Arc<LinkError> {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(error) => Arc::clone(error.as_ref().expect("waited for")),
            // The sender is in `shared`, which this has.
            Err(_) => std::future::pending().await,
        }
    }

    /// Says goodbye: what is free of shares is given back. Call it once the gateway is drained.
    pub async fn leave(&self) {
        let link = self.shared.session().link.clone();
        let last_words = async {
            report::give_all_back(&self.shared, &self.gateway).await?;
            link.leave().await
        };
        match tokio::time::timeout(GOODBYE, last_words).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!(error = %chain(&failure), "the control plane did not hear the goodbye"),
            Err(_) => tracing::warn!("the control plane did not hear the goodbye in time"),
        }
    }
}

impl Linked {
    fn session(&self) -> std::sync::MutexGuard<'_, Session> {
        // Every change is one assignment, so a panic elsewhere leaves it whole.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Link {
        self.session().link.clone()
    }

    fn heard(&self) {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = BootTime::now();
    }

    fn silence(&self) -> Duration {
        self.heard_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn renewed(&self, sent_at: BootTime) {
        *self.renewed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent_at);
    }

    fn are_shares_in_force(&self) -> bool {
        let renewed_at = *self.renewed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = |at: BootTime| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        renewed_at.is_none_or(|at| share::is_in_force(silence(at)))
    }

    fn may_admit(&self) -> Result<(), Closed> {
        if self.ended.borrow().is_some() || self.silence() > ALONE_MAX { Err(Closed::ControlPlaneAway) } else { Ok(()) }
    }

    /// Joins again after the control plane lost the session.
    async fn join_again(&self) -> Result<(), Failure> {
        let (link, joined) = self.config.client.join(&join_of(&self.config, &self.instance)).await?;
        {
            let mut session = self.session();
            session.link = link;
            session.reports = 0;
        }
        tracing::info!(settled_sequence = joined.settled_sequence, "joined the control plane again");
        Ok(())
    }

    /// Notes that trying again cannot help.
    fn end(&self, failure: Failure) {
        let url = self.config.client.base().to_string();
        self.ended.send_replace(Some(Arc::new(LinkError::Refused { url, failure: Box::new(failure) })));
    }
}

fn join_of(config: &LinkConfig, instance: &str) -> Join {
    Join {
        version: VERSION,
        name: config.name.clone(),
        source: config.source,
        instance: instance.to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn pepper_of(joined: &Joined) -> Result<Vec<u8>, Failure> {
    hex::decode(&joined.pepper)
        .map_err(|_| Failure::NotOurs { status: 200, start: "a secret that is not hex".to_owned() })
}

fn warn_of_skew(joined: &Joined) {
    let skew_ms = jiff::Timestamp::now().as_millisecond().abs_diff(joined.now.as_millisecond());
    if skew_ms > CLOCK_SKEW_WARN_MS {
        tracing::warn!(
            skew_ms,
            "the clocks of this host and of the control plane differ; periods of budgets turn by this host's"
        );
    }
}

/// Whether the control plane has said that it knows the session no more: joining again helps.
fn is_over(failure: &Failure) -> bool {
    failure.code() == Code::GatewaySessionOver
}

/// Whether the control plane has said something that no other attempt changes.
fn is_final(failure: &Failure) -> bool {
    matches!(failure.code(), Code::GatewayReplaced | Code::InvalidValue)
}

/// A pause that doubles.
struct Pause(Duration);

impl Pause {
    const fn new() -> Self {
        Self(RETRY_MIN)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
