//! Leading a loop: one holder at a time, and what an earlier holder still writes is refused by its epoch.

use galerne_model::limits::LEASE_TTL_MS;
use galerne_store::{Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// The part of a lease's time after which it is renewed.
const RENEW_AFTER: SignedDuration = SignedDuration::from_millis(LEASE_TTL_MS / 3);

/// Holds a lease, or tries to.
#[derive(Debug)]
pub(crate) struct Leader {
    name: &'static str,
    holder: String,
    held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: i64,
    renewed_at: Timestamp,
}

impl Leader {
    /// `holder` is the same after a restart, so that a new process takes the place of its dead predecessor at once.
    pub(crate) fn new(name: &'static str, holder: String) -> Self {
        Self { name, holder, held: None }
    }

    /// The epoch, while the lease is held. Renews it when it is time.
    pub(crate) async fn epoch(&mut self, store: &Store, now: Timestamp) -> Result<Option<i64>, StoreError> {
        let ttl = SignedDuration::from_millis(LEASE_TTL_MS);
        if let Some(held) = self.held {
            let age = now.duration_since(held.renewed_at);
            // A clock that jumped back renews at once.
            if age >= SignedDuration::ZERO && age < RENEW_AFTER {
                return Ok(Some(held.epoch));
            }
            if store.lease_renew(self.name, held.epoch, ttl, now).await? {
                self.held = Some(Held { renewed_at: now, ..held });
                return Ok(Some(held.epoch));
            }
            tracing::warn!(lease = self.name, epoch = held.epoch, "lease lost");
            self.lost();
        }
        let lease = store.lease_acquire(self.name, &self.holder, ttl, now).await?;
        self.held = lease.map(|lease| Held { epoch: lease.epoch, renewed_at: now });
        Ok(self.held.map(|held| held.epoch))
    }

    /// What has been fenced off is not held any more. From now on this process waits for the end of the other's
    /// lease like any other: two that take each other's place by the same name would never come to rest.
    pub(crate) fn lost(&mut self) {
        self.held = None;
        self.holder = format!("{} {}", self.name, Uuid::now_v7());
    }

    /// Gives the lease back, so that the next process need not wait for its end.
    pub(crate) async fn release(&mut self, store: &Store) -> Result<(), StoreError> {
        if let Some(held) = self.held.take() {
            store.lease_release(self.name, held.epoch).await?;
        }
        Ok(())
    }
}
