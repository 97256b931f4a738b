//! The forwarding loop: events go to the operator's own log, in order, each until it was taken.
//!
//! At least once: after a kill the last batch may come again, with the same `webhook-id`. Order and completeness are the
//! store's; how long to wait is decided here. INVARIANT: an event is marked as forwarded only after the receiver took it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_drivers::webhook::{NotTaken, Webhook};
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::EventId;
use galerne_store::{Outgoing, Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::Clock;
use crate::handle::lock;
use crate::leader::Leader;

/// Name of the lease under which events are handed out.
const LEASE: &str = "forward";
/// Events handed out at once: what may come twice after a kill.
const BATCH: u32 = 50;
/// How often a lease is looked after while a receiver thinks: it may take longer than a lease lasts.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// Time for which they are handed out: longer than their sending may take.
const CLAIM: SignedDuration = SignedDuration::from_mins(15);
/// Longest time between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Pause after the first failure; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Trouble that lasts this long is told in an event.
const TOLD_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// How forwarding goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Events written and not forwarded.
    pub backlog: i64,
    /// Events taken by the receiver since the start.
    pub delivered: u64,
    /// Attempts that failed since the start, by the receiver or by the database.
    pub failures: u64,
    /// Since when nothing is taken, and why.
    pub trouble: Option<(Timestamp, String)>,
}

/// Starts forwarding on `tasks`; what is seen of it stays in the returned place. `holder` is the same after a restart.
///
/// Events are queued once [`Store::forward_events`] was called, which is to be done before the first one that counts.
pub fn start(
    store: Store,
    clock: Clock,
    webhook: Webhook,
    holder: String,
    tasks: &TaskTracker,
    cancel: CancellationToken,
) -> ForwardingSeen {
    let forwarder = Forwarder::new(store, clock, webhook, holder);
    let seen = ForwardingSeen(Arc::clone(&forwarder.state));
    tasks.spawn(forwarder.run(cancel));
    seen
}

/// Shows how forwarding goes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ForwardingSeen(Arc<Mutex<Forwarding>>);

impl ForwardingSeen {
    /// How it goes now.
    pub fn now(&self) -> Forwarding {
        lock(&self.0).clone()
    }
}

struct Forwarder {
    store: Store,
    clock: Clock,
    webhook: Webhook,
    leader: Leader,
    state: Arc<Mutex<Forwarding>>,
    is_told: bool,
}

/// A body as Standard Webhooks proposes it.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: Timestamp,
    data: &'a Event,
}

/// Why a round ended early.
enum Stopped {
    Store(StoreError),
    Receiver(NotTaken),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Forwarder {
    fn new(store: Store, clock: Clock, webhook: Webhook, holder: String) -> Self {
        Self { store, clock, webhook, leader: Leader::new(LEASE, holder), state: Arc::default(), is_told: false }
    }

    async fn run(mut self, cancel: CancellationToken) {
        let mut changed = self.store.changed();
        let mut pause = PAUSE_MIN;
        tracing::info!(to = self.webhook.origin(), "events are forwarded");
        loop {
            let wait = match self.round(&cancel).await {
                Ok(0) => {
                    pause = PAUSE_MIN;
                    None
                }
                Ok(_) => {
                    pause = PAUSE_MIN;
                    Some(Duration::ZERO)
                }
                Err(stopped) => {
                    let asked = self.failed(&stopped).await;
                    let wait = asked.unwrap_or(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                    Some(wait)
                }
            };
            let waiting = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    // Not cancel-safe only in what it would report, and nobody asks for that.
                    None => drop(timeout(LOOK_AGAIN, changed.changed()).await),
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = waiting => changed.mark_unchanged(),
            }
        }
        if let Err(error) = self.leader.release(&self.store).await {
            tracing::warn!(error = %error, "the lease of forwarding was not given back: it ends by itself");
        }
    }

    /// Sends what comes next; says how many were taken.
    async fn round(&mut self, cancel: &CancellationToken) -> Result<usize, Stopped> {
        let now = self.clock.now();
        let Some(epoch) = self.leader.epoch(&self.store, now).await? else { return Ok(0) };
        let until = now.saturating_add(CLAIM).unwrap_or(Timestamp::MAX);
        let out = self.store.forward_claim(epoch, now, until, BATCH).await?;
        if out.is_empty() {
            // Nothing is written for nothing: a commit would wake this loop again.
            return Ok(0);
        }
        lock(&self.state).backlog = self.store.forward_backlog().await?;
        let (mut through, mut taken, mut stopped) = (None, 0, None);
        for event in &out.events {
            match self.send(event, cancel).await {
                Ok(true) => {
                    through = Some(event.sequence);
                    taken += 1;
                }
                Ok(false) => break,
                Err(not_taken) => {
                    stopped = Some(Stopped::Receiver(not_taken));
                    break;
                }
            }
            // Whoever else has the lease sends the rest.
            if !self.leads(epoch).await {
                break;
            }
        }
        if taken > 0 {
            self.went_well(taken).await;
        }
        self.done(&out, through).await?;
        lock(&self.state).backlog = self.store.forward_backlog().await?;
        stopped.map_or(Ok(taken), Err)
    }

    /// Sends one and keeps the lease meanwhile; false when it was cut by the end of the process.
    async fn send(&mut self, event: &Event, cancel: &CancellationToken) -> Result<bool, NotTaken> {
        let body = Body { kind: &event.action, timestamp: event.at, data: event };
        let body = serde_json::to_string(&body).expect("an event is plain text and numbers");
        let id = event.id.to_string();
        let sending = self.webhook.send(&id, self.clock.now(), body);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                sent = &mut sending => return sent.map(|()| true),
                () = cancel.cancelled() => return Ok(false),
                () = sleep(KEEP_EVERY) => {}
            }
            if let Err(error) = self.leader.epoch(&self.store, self.clock.now()).await {
                tracing::debug!(error = %error, "the lease of forwarding was not renewed while an event is sent");
            }
        }
    }

    /// Whether the lease is held as it was at `epoch`. A database that does not say ends the round, not its marking.
    async fn leads(&mut self, epoch: i64) -> bool {
        match self.leader.epoch(&self.store, self.clock.now()).await {
            Ok(now) => now == Some(epoch),
            Err(error) => {
                tracing::debug!(error = %error, "the lease of forwarding was not renewed between two events");
                false
            }
        }
    }

    /// Marks what was taken. Under the epoch of now: the mark only goes up, so what the receiver took before the lease
    /// changed hands and came back need not be sent again.
    async fn done(&mut self, out: &Outgoing, through: Option<i64>) -> Result<(), StoreError> {
        let Some(epoch) = self.leader.epoch(&self.store, self.clock.now()).await? else {
            tracing::info!("another process forwards events now; the last ones may come twice");
            return Ok(());
        };
        let through = match through {
            Some(through) => through,
            None => self.store.forwarded_through().await?,
        };
        self.store.forward_done(LEASE, epoch, out, through).await
    }

    async fn went_well(&mut self, taken: usize) {
        let trouble = {
            let mut state = lock(&self.state);
            state.delivered += taken as u64;
            state.trouble.take()
        };
        if let Some((since, _)) = trouble.filter(|_| std::mem::take(&mut self.is_told)) {
            let text = format!("the receiver of events takes them again; it did not since {since}");
            self.tell("events.forward_resume", text).await;
        }
    }

    /// Notes a failure; says how long the receiver wants to be left alone.
    async fn failed(&mut self, stopped: &Stopped) -> Option<Duration> {
        let (why, asked) = match stopped {
            Stopped::Store(error) => {
                if matches!(error, StoreError::Fenced { .. }) {
                    self.leader.lost();
                }
                lock(&self.state).failures += 1;
                tracing::warn!(error = %error, "events wait to be forwarded: the database failed");
                return None;
            }
            Stopped::Receiver(NotTaken { why, retry_after }) => (why.clone(), *retry_after),
        };
        let now = self.clock.now();
        let (since, is_new) = {
            let mut state = lock(&self.state);
            state.failures += 1;
            let is_new = state.trouble.is_none();
            let since = state.trouble.as_ref().map_or(now, |(since, _)| *since);
            state.trouble = Some((since, why.clone()));
            (since, is_new)
        };
        if is_new {
            tracing::warn!(to = self.webhook.origin(), why, "events are not taken; they are kept and sent again");
        }
        if !self.is_told && now.duration_since(since) >= TOLD_AFTER {
            self.is_told = true;
            self.tell("events.forward_fail", format!("the receiver of events takes none since {since}: {why}")).await;
        }
        asked
    }

    async fn tell(&self, action: &str, text: String) {
        let event = Event {
            id: EventId::from_uuid(Uuid::now_v7()),
            sequence: 0,
            at: self.clock.now(),
            actor: Actor::component("forward"),
            action: action.to_owned(),
            tenant_id: None,
            project_id: None,
            resource: None,
            decision: Decision::Allowed,
            before_digest: None,
            after_digest: None,
            text,
        };
        let written = async {
            let mut tx = self.store.begin().await?;
            tx.record(event);
            tx.commit().await
        };
        if let Err(error) = written.await {
            tracing::warn!(error = %error, "an event about forwarding could not be written");
        }
    }
}
