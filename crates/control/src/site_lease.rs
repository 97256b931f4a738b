//! The lease of the database: one Galerne serves it, because budgets and rates are kept in one process.
//!
//! A second one is refused while the first renews; when the first is dead its lease ends and the next gets in. A server
//! that cannot renew stops admitting before its lease ends, by whichever of two clocks says so first: one that no jump of
//! the wall clock moves, and the wall clock, which goes on while a machine sleeps.
//! What is in flight at that moment is still settled; budgets may then exceed their limits by those holds, no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use galerne_model::limits::LEASE_TTL_MS;
use galerne_store::{Lease, SERVER_LEASE, Store, StoreError};
use jiff::{SignedDuration, Timestamp};
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
    epoch: Epoch,
    /// A retake was asked for and not answered: it may have been made.
    is_in_doubt: bool,
    gate: Gate,
}

/// Whether the lease is held at this moment. Cheap to clone and to ask.
#[derive(Debug, Clone)]
pub struct Gate {
    base: Instant,
    clock: Clock,
    /// Microseconds after `base` until which it is open.
    open_micros: Arc<AtomicU64>,
    /// Microseconds since the epoch, by the wall clock, until which it is open.
    wall_micros: Arc<AtomicI64>,
}

/// The epoch at which the lease is held, as far as it is known here. Cheap to clone; what is written under it is refused
/// once somebody else had the lease.
#[derive(Debug, Clone)]
pub struct Epoch(Arc<AtomicI64>);

impl Epoch {
    fn new(epoch: i64) -> Self {
        Self(Arc::new(AtomicI64::new(epoch)))
    }

    /// It now: a lease that ended and that nobody else had since is taken again at the next one.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, epoch: i64) {
        self.0.store(epoch, Ordering::Release);
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    steady: Instant,
    wall: Timestamp,
}

impl Moment {
    fn now(clock: &Clock) -> Self {
        Self { steady: Instant::now(), wall: clock.now() }
    }
}

impl Gate {
    fn closed(clock: &Clock) -> Self {
        let (open_micros, wall_micros) = (Arc::default(), Arc::default());
        Self { base: Instant::now(), clock: clock.clone(), open_micros, wall_micros }
    }

    /// Opens it for as long as a lease asked for at `asked` is certainly held.
    fn open_for(&self, asked: Moment) {
        let certain = Duration::from_millis(LEASE_TTL_MS.unsigned_abs()).saturating_sub(MARGIN);
        let steady = (asked.steady + certain).saturating_duration_since(self.base);
        let wall = asked.wall.saturating_add(certain).unwrap_or(Timestamp::MAX);
        self.wall_micros.store(wall.as_microsecond(), Ordering::Release);
        self.open_micros.store(u64::try_from(steady.as_micros()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn close(&self) {
        self.open_micros.store(0, Ordering::Release);
    }

    /// Whether work may be admitted now.
    pub fn is_open(&self) -> bool {
        self.base.elapsed() < Duration::from_micros(self.open_micros.load(Ordering::Acquire))
            && self.clock.now().as_microsecond() < self.wall_micros.load(Ordering::Acquire)
    }
}

impl SiteLease {
    /// Takes the lease. `holder` says to people which server this is, and is the same after a restart, which need not
    /// wait for itself. Waits while a lease stands that nobody renews; one that is renewed is `StoreError::Served`.
    pub async fn take(store: &Store, holder: String, clock: &Clock) -> Result<Self, StoreError> {
        let begun = Instant::now();
        let mut seen: Option<Lease> = None;
        loop {
            let asked = Moment::now(clock);
            if let Some(lease) = store.lease_acquire(SERVER_LEASE, &holder, TTL, asked.wall).await? {
                let gate = Gate::closed(clock);
                gate.open_for(asked);
                let (store, clock, epoch) = (store.clone(), clock.clone(), Epoch::new(lease.epoch));
                return Ok(Self { store, clock, holder, epoch, is_in_doubt: false, gate });
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

    /// The epoch at which it is held, for whoever writes.
    pub fn epoch(&self) -> Epoch {
        self.epoch.clone()
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
                    self.gate.close();
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
        self.gate.close();
        if let Err(error) = self.store.lease_release(SERVER_LEASE, self.epoch.get()).await {
            tracing::warn!(error = %error, "the lease of the database was not given back: it ends by itself");
        }
        None
    }

    /// Renews the lease, or takes it again when it ended and nobody took it; else says who did.
    async fn renew(&mut self) -> Result<Option<Lease>, StoreError> {
        let asked = Moment::now(&self.clock);
        if !self.store.lease_renew(SERVER_LEASE, self.epoch.get(), TTL, asked.wall).await? {
            // A machine that slept, a database that was away: the lease ended. By its epoch nobody else was there.
            let was_in_doubt = std::mem::replace(&mut self.is_in_doubt, true);
            let epoch = self.epoch.get();
            let retaken = self.store.lease_retake(SERVER_LEASE, &self.holder, epoch, TTL, asked.wall).await?;
            let epoch = match retaken {
                Some(lease) => Some(lease.epoch),
                None if was_in_doubt => self.taken_unheard(asked.wall).await?,
                None => None,
            };
            let Some(epoch) = epoch else { return Ok(Some(self.other().await?)) };
            self.epoch.set(epoch);
        }
        self.is_in_doubt = false;
        self.gate.open_for(asked);
        Ok(None)
    }

    /// The epoch of a retake of ours that was made although its answer was lost. Only after such a retake is one that
    /// names this holder taken for our own: a copied directory on a host of the same name would name it too.
    async fn taken_unheard(&self, now: Timestamp) -> Result<Option<i64>, StoreError> {
        let next = self.epoch.get() + 1;
        let seen = self.store.lease(SERVER_LEASE, now).await?;
        let stands = seen.is_some_and(|lease| lease.holder == self.holder && lease.epoch == next);
        if stands && self.store.lease_renew(SERVER_LEASE, next, TTL, now).await? {
            return Ok(Some(next));
        }
        let again = self.store.lease_retake(SERVER_LEASE, &self.holder, next, TTL, now).await?;
        Ok(again.map(|lease| lease.epoch))
    }

    async fn other(&self) -> Result<Lease, StoreError> {
        let seen = self.store.lease(SERVER_LEASE, self.clock.now()).await?;
        // It came and went: what was spent meanwhile is not known here.
        Ok(seen.unwrap_or_else(|| Lease {
            name: SERVER_LEASE.to_owned(),
            holder: "a server that has stopped since".to_owned(),
            epoch: self.epoch.get() + 1,
            expires_at: self.clock.now(),
            since: self.clock.now(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use galerne_store::StoreUrl;

    use super::*;

    #[tokio::test]
    async fn a_retake_whose_answer_was_lost_is_ones_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&StoreUrl::sqlite(folder.path().join("x.db"))).await.expect("opens");
        let clock = Clock::manual(Timestamp::now());
        let mut lease = SiteLease::take(&store, "me".into(), &clock).await.expect("it is free");
        let later = |seconds| clock.set(clock.now() + SignedDuration::from_secs(seconds));
        // The lease ends; the retake is committed and its answer lost.
        let unheard = async |epoch| {
            later(10);
            let taken = store.lease_retake(SERVER_LEASE, "me", epoch, TTL, clock.now()).await;
            assert_eq!(taken.expect("asks").expect("it had ended").epoch, epoch + 1);
        };
        unheard(1).await;
        lease.is_in_doubt = true;
        assert_eq!(lease.renew().await.expect("asks"), None);
        assert_eq!((lease.epoch.get(), lease.is_in_doubt, lease.gate.is_open()), (2, false, true));
        // The same, and it ended again before it was seen.
        unheard(2).await;
        later(10);
        lease.is_in_doubt = true;
        assert_eq!(lease.renew().await.expect("asks"), None);
        assert_eq!((lease.epoch.get(), lease.gate.is_open()), (4, true));
        // Nobody was in doubt: somebody else goes by our name.
        unheard(4).await;
        let other = lease.renew().await.expect("asks").expect("it is not ours");
        assert_eq!((other.holder.as_str(), other.epoch), ("me", 5));
    }
}
