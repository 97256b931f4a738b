//! Places for uploads at work: each has parts of its file in memory.
//!
//! INVARIANT: no project has more than its share of them, so that one tenant's slow lines keep nobody else out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_model::ids::ProjectId;
use galerne_model::limits::{FILE_UPLOADS_MAX, FILE_UPLOADS_PER_PROJECT_MAX};

/// Uploads at work, by project.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uploads(Arc<Mutex<BTreeMap<ProjectId, usize>>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    uploads: Uploads,
    project_id: ProjectId,
}

impl Uploads {
    /// Takes a place for an upload of a project, if there is one.
    pub(super) fn take(&self, project_id: ProjectId) -> Result<Place, Refusal> {
        let mut taken = self.lock();
        let in_all: usize = taken.values().sum();
        let of_project = taken.get(&project_id).copied().unwrap_or(0);
        let refused = |code, text| Err(Refusal::new(code, text).retry_after(Duration::from_secs(1)));
        if of_project >= FILE_UPLOADS_PER_PROJECT_MAX {
            let most = FILE_UPLOADS_PER_PROJECT_MAX;
            return refused(Code::RateLimited, format!("the project has {most} uploads at work, the most it may"));
        }
        if in_all >= FILE_UPLOADS_MAX {
            let most = FILE_UPLOADS_MAX;
            return refused(Code::Overloaded, format!("{most} uploads are at work, the most this server takes"));
        }
        taken.insert(project_id, of_project + 1);
        Ok(Place { uploads: self.clone(), project_id })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProjectId, usize>> {
        // Every change is one statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.uploads.lock();
        if let Some(count) = taken.get_mut(&self.project_id) {
            *count = count.saturating_sub(1);
        }
        taken.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_project_leaves_places_to_others() {
        let uploads = Uploads::default();
        let project = |n| ProjectId::from_uuid(Uuid::from_u128(n));
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..FILE_UPLOADS_PER_PROJECT_MAX {
            places.push(uploads.take(project(1)).expect("its share"));
        }
        let told = uploads.take(project(1)).expect_err("no more than its share");
        assert_eq!(told.code(), Code::RateLimited);
        for n in 2.. {
            match uploads.take(project(n)) {
                Ok(place) => places.push(place),
                Err(refusal) => {
                    assert_eq!((places.len(), refusal.code()), (FILE_UPLOADS_MAX, Code::Overloaded));
                    break;
                }
            }
        }
        drop(places.remove(0));
        uploads.take(project(1)).expect("a place that was given back");
    }
}
