//! Who is known: keys, principals and roles in memory, so that authentication asks no database.
//!
//! INVARIANT: a change of these made here is in force before its answer is sent: `refresh` runs between commit and answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};

use galerne_model::identity::{ApiKey, Principal, RoleBinding};
use galerne_model::ids::{KeyId, PrincipalId};
use galerne_store::{Filter, Store, StoreError};
use jiff::Timestamp;

/// A last use is written when it is newer than the written one by this.
const LAST_USED_STEP_MS: i64 = 60_000;
/// Keys whose use waits to be written; past it the oldest news is dropped, the next use brings it again.
const USED_MAX: usize = 10_000;

/// Who is known, swapped whole.
pub(crate) struct Directory {
    known: RwLock<Arc<Known>>,
    used: Mutex<HashMap<KeyId, Timestamp>>,
}

/// One state of the directory.
#[derive(Default)]
pub(crate) struct Known {
    keys: HashMap<String, Arc<ApiKey>>,
    principals: HashMap<PrincipalId, Arc<Principal>>,
    roles: HashMap<PrincipalId, Vec<Arc<RoleBinding>>>,
}

impl Known {
    /// The key with this digest, whether or not it may still be used.
    pub(crate) fn key(&self, digest: &str) -> Option<&Arc<ApiKey>> {
        self.keys.get(digest)
    }

    pub(crate) fn principal(&self, id: PrincipalId) -> Option<&Arc<Principal>> {
        self.principals.get(&id)
    }

    pub(crate) fn roles(&self, id: PrincipalId) -> &[Arc<RoleBinding>] {
        self.roles.get(&id).map_or(&[], Vec::as_slice)
    }
}

impl Directory {
    /// Reads everybody.
    pub(crate) async fn load(store: &Store) -> Result<Self, StoreError> {
        let known = read(store).await?;
        Ok(Self { known: RwLock::new(Arc::new(known)), used: Mutex::new(HashMap::new()) })
    }

    /// The state now.
    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().expect("nobody panics while holding the directory"))
    }

    /// Reads everybody again.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let known = Arc::new(read(store).await?);
        *self.known.write().expect("nobody panics while holding the directory") = known;
        Ok(())
    }

    /// Notes that a key was used.
    pub(crate) fn touch(&self, key: &ApiKey, now: Timestamp) {
        let stale = key
            .status
            .last_used_at
            .is_none_or(|last| now.as_millisecond() - last.as_millisecond() >= LAST_USED_STEP_MS);
        if stale {
            let mut used = self.used.lock().expect("nobody panics while holding the uses");
            if used.len() < USED_MAX {
                used.insert(key.id, now);
            }
        }
    }

    /// Writes the noted uses, all in one transaction.
    pub(crate) async fn write_uses(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let used = std::mem::take(&mut *self.used.lock().expect("nobody panics while holding the uses"));
        if used.is_empty() {
            return Ok(());
        }
        let mut tx = store.begin().await?;
        for (id, at) in used {
            let mut key: ApiKey = match tx.get(id).await {
                Ok(key) => key,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            if key.status.last_used_at.is_none_or(|last| last < at) {
                key.status.last_used_at = Some(at);
                // Somebody changes the key right now, perhaps revokes it: that matters more.
                match tx.update_status_if::<ApiKey>(id, key.updated_at, &key.status, now).await {
                    Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        tx.commit().await?;
        self.refresh(store).await
    }
}

async fn read(store: &Store) -> Result<Known, StoreError> {
    let mut reader = store.reader().await?;
    let mut known = Known::default();
    for key in reader.list_all::<ApiKey>(&Filter::default()).await? {
        known.keys.insert(key.status.digest.clone(), Arc::new(key));
    }
    for principal in reader.list_all::<Principal>(&Filter::default()).await? {
        known.principals.insert(principal.id, Arc::new(principal));
    }
    for binding in reader.list_all::<RoleBinding>(&Filter::default()).await? {
        known.roles.entry(binding.spec.principal_id).or_default().push(Arc::new(binding));
    }
    Ok(known)
}
