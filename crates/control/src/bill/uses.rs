//! When keys were last used for inference, written now and then, all of them in one transaction.
//!
//! For display only: what cannot be written is tried again, and forgotten with the process.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use galerne_model::identity::ApiKey;
use galerne_model::ids::KeyId;
use galerne_model::ledger::UsageRecord;
use galerne_store::{Store, StoreError, retry};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::handle::lock;

/// How stale a key's last use may be: one write per key and minute, however busy it is.
const STALE: SignedDuration = SignedDuration::from_secs(60);
/// Pause between two transactions: settlements wait for the same lock.
const PAUSE: Duration = Duration::from_secs(1);
/// Keys remembered at once: a few hundred kilobytes. Uses of more keys in one pause are not noted.
const KEYS_MAX: usize = 10_000;

/// Last uses of keys.
#[derive(Default)]
pub(crate) struct Uses {
    known: Mutex<Known>,
    noted: Notify,
}

#[derive(Default)]
struct Known {
    unwritten: BTreeMap<KeyId, Timestamp>,
    written: BTreeMap<KeyId, Timestamp>,
}

impl Uses {
    /// Remembers who used a key; writes nothing.
    pub(crate) fn note(&self, records: &[UsageRecord]) {
        let mut known = lock(&self.known);
        for record in records {
            known.note(record.key_id, record.ended_at);
        }
        if !known.unwritten.is_empty() {
            self.noted.notify_one();
        }
    }

    /// Writes what is noted until cancelled, and once more then.
    pub(crate) async fn run(&self, store: Store, clock: Clock, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = self.noted.notified() => {}
                () = cancel.cancelled() => {}
            }
            if let Err(error) = self.write(&store, clock.now()).await {
                tracing::warn!(error = %error, "last uses of keys not written, they are tried again with the next ones");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    async fn write(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let uses = lock(&self.known).unwritten.clone();
        if uses.is_empty() {
            return Ok(());
        }
        retry(|| write_all(store, &uses, now)).await?;
        lock(&self.known).wrote(uses);
        Ok(())
    }
}

impl Known {
    fn note(&mut self, key_id: KeyId, at: Timestamp) {
        let is_fresh = self.written.get(&key_id).is_some_and(|written| at.duration_since(*written).abs() < STALE);
        if is_fresh || (self.unwritten.len() >= KEYS_MAX && !self.unwritten.contains_key(&key_id)) {
            return;
        }
        let latest = self.unwritten.entry(key_id).or_insert(at);
        *latest = (*latest).max(at);
    }

    fn wrote(&mut self, uses: BTreeMap<KeyId, Timestamp>) {
        self.unwritten.retain(|key_id, at| uses.get(key_id) != Some(at));
        // What is forgotten here costs one more write per key.
        if self.written.len() + uses.len() > KEYS_MAX {
            self.written.clear();
        }
        self.written.extend(uses);
    }
}

async fn write_all(store: &Store, uses: &BTreeMap<KeyId, Timestamp>, now: Timestamp) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    for (key_id, at) in uses {
        let mut key = match tx.get::<ApiKey>(*key_id).await {
            Ok(key) => key,
            // A key that was deleted meanwhile has no last use to keep.
            Err(StoreError::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        if key.status.last_used_at < Some(*at) {
            key.status.last_used_at = Some(*at);
            // Somebody changes the key right now, perhaps revokes it: that matters more.
            match tx.update_status_if::<ApiKey>(*key_id, key.updated_at, &key.status, now).await {
                Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(number: u128) -> KeyId {
        KeyId::from_uuid(Uuid::from_u128(number))
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in the calendar")
    }

    #[test]
    fn a_busy_key_is_written_once_a_minute() {
        let mut known = Known::default();
        known.note(key(1), second(10));
        known.note(key(1), second(5));
        assert_eq!(known.unwritten, BTreeMap::from([(key(1), second(10))]), "the latest counts");
        known.wrote(known.unwritten.clone());
        known.note(key(1), second(69));
        assert!(known.unwritten.is_empty());
        known.note(key(1), second(70));
        assert_eq!(known.unwritten.len(), 1);
    }

    #[test]
    fn a_use_during_the_write_is_not_forgotten() {
        let mut known = Known::default();
        known.note(key(1), second(10));
        let written = known.unwritten.clone();
        known.note(key(1), second(80));
        known.wrote(written);
        assert_eq!(known.unwritten, BTreeMap::from([(key(1), second(80))]));
    }

    #[test]
    fn no_number_of_keys_makes_it_grow_for_ever() {
        let mut known = Known::default();
        for number in 0..=KEYS_MAX as u128 {
            known.note(key(number), second(1));
        }
        assert_eq!(known.unwritten.len(), KEYS_MAX);
        known.wrote(known.unwritten.clone());
        known.note(key(u128::MAX), second(1));
        known.wrote(known.unwritten.clone());
        assert_eq!((known.unwritten.len(), known.written.len()), (0, 1));
    }
}
