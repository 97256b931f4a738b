//! The lease of the database: one Galerne serves it, because budgets and rates are kept in one process.
//!
//! A second one is refused while the first renews; when the first is dead its lease ends and the next gets in. A server
//! that cannot renew stops admitting before its lease ends, by a clock that no jump of the wall clock moves.
//! What is in flight at that moment is still settled; budgets may then exceed their limits by those holds, no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use galerne_model::limits::LEASE_TTL_MS;
use galerne_store::{Lease, SERVER_LEASE, Store, StoreError};
use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

const TTL: SignedDuration = SignedDuration::from_millis(LEASE_TTL_MS);
/// Time between two renewals: two may fail before the lease ends.
const RENEW_EVERY: Duration = Duration::from_millis(LEASE_TTL_MS.unsigned_abs() / 3);
/// Longest wait for one renewal.
const RENEW_TIMEOUT: Duration = RENEW_EVERY;
/// Pause after a renewal that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The server stops admitting this long before its lease ends: far more than it takes from the gate to the hold.
const MARGIN: Duration = Duration::from_millis(500);
/// Longest wait for a lease that nobody renews: its whole life, and one second for the way there.
const PATIENCE: Duration = Duration::from_millis(LEASE_TTL_MS.unsigned_abs() + 1_000);
/// Pause between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The lease of a database, held.
pub struct SiteLease {
    store: Store,
    clock: Clock,
    holder: String,
    epoch: i64,
    gate: Gate,
}

/// Whether the lease is held at this moment. Cheap to clone and to ask.
#[derive(Debug, Clone)]
pub struct Gate {
    base: Instant,
    /// Microseconds after `base` until which it is open.
    open_micros: Arc<AtomicU64>,
}

impl Gate {
    fn until(end: Instant) -> Self {
        let gate = Self { base: Instant::now(), open_micros: Arc::default() };
        gate.open_until(end);
        gate
    }

    fn open_until(&self, end: Instant) {
        let micros = u64::try_from(end.saturating_duration_since(self.base).as_micros()).unwrap_or(u64::MAX);
        self.open_micros.store(micros, Ordering::Release);
    }

    /// Whether work may be admitted now.
    pub fn is_open(&self) -> bool {
        self.base.elapsed() < Duration::from_micros(self.open_micros.load(Ordering::Acquire))
    }
}

impl SiteLease {
    /// Takes the lease. `holder` says to people which server this is, and is the same after a restart, which need not
    /// wait for itself. Waits while a lease stands that nobody renews; one that is renewed is `StoreError::Served`.
    pub async fn take(store: &Store, holder: String, clock: &Clock) -> Result<Self, StoreError> {
        let begun = Instant::now();
        let mut seen: Option<Lease> = None;
        loop {
            let asked = Instant::now();
            if let Some(lease) = store.lease_acquire(SERVER_LEASE, &holder, TTL, clock.now()).await? {
                let gate = Gate::until(end_of(asked));
                return Ok(Self { store: store.clone(), clock: clock.clone(), holder, epoch: lease.epoch, gate });
            }
            if let Some(lease) = store.lease(SERVER_LEASE, clock.now()).await? {
                let is_alive = seen.as_ref().is_some_and(|before| before.expires_at < lease.expires_at);
                if is_alive || begun.elapsed() > PATIENCE {
                    return Err(StoreError::Served { holder: lease.holder, since: lease.since });
                }
                if seen.is_none() {
                    tracing::info!(holder = %lease.holder, "the database has a lease; waiting to see whether its holder lives");
                }
                seen.get_or_insert(lease);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the lease is held, for whoever admits.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Renews until cancelled, then gives the lease back. Ends with who has it when somebody else took it.
    pub async fn run(mut self, cancel: CancellationToken) -> Option<Lease> {
        let mut was_open = true;
        loop {
            let pause = if was_open { RENEW_EVERY } else { RETRY_PAUSE };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep(pause) => {}
            }
            match timeout(RENEW_TIMEOUT, self.renew()).await {
                Ok(Ok(None)) => {
                    if !was_open {
                        tracing::info!("the lease of the database is held again");
                    }
                    was_open = true;
                    continue;
                }
                Ok(Ok(Some(other))) => {
                    self.gate.open_until(Instant::now());
                    tracing::error!(holder = %other.holder, "another Galerne serves the database: this one stops");
                    return Some(other);
                }
                Ok(Err(error)) if was_open => {
                    tracing::warn!(error = %error, "the lease of the database was not renewed")
                }
                Err(_) if was_open => tracing::warn!("the database did not renew the lease in time"),
                Ok(Err(_)) | Err(_) => {}
            }
            was_open = false;
        }
        self.gate.open_until(Instant::now());
        if let Err(error) = self.store.lease_release(SERVER_LEASE, self.epoch).await {
            tracing::warn!(error = %error, "the lease of the database was not given back: it ends by itself");
        }
        None
    }

    /// Renews the lease, or takes it again when it ended and nobody took it; else says who did.
    async fn renew(&mut self) -> Result<Option<Lease>, StoreError> {
        let asked = Instant::now();
        let now = self.clock.now();
        if !self.store.lease_renew(SERVER_LEASE, self.epoch, TTL, now).await? {
            // A machine that slept, a database that was away: the lease ended. By its epoch nobody else was there.
            match self.store.lease_retake(SERVER_LEASE, &self.holder, self.epoch, TTL, now).await? {
                Some(lease) => self.epoch = lease.epoch,
                None => return Ok(Some(self.other().await?)),
            }
        }
        self.gate.open_until(end_of(asked));
        Ok(None)
    }

    async fn other(&self) -> Result<Lease, StoreError> {
        let seen = self.store.lease(SERVER_LEASE, self.clock.now()).await?;
        // It came and went: what was spent meanwhile is not known here.
        Ok(seen.unwrap_or_else(|| Lease {
            name: SERVER_LEASE.to_owned(),
            holder: "a server that has stopped since".to_owned(),
            epoch: self.epoch + 1,
            expires_at: self.clock.now(),
            since: self.clock.now(),
        }))
    }
}

/// Until when a lease asked for at `asked` is certainly held.
fn end_of(asked: Instant) -> Instant {
    asked + Duration::from_millis(LEASE_TTL_MS.unsigned_abs()).saturating_sub(MARGIN)
}
