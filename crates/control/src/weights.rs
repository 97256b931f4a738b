//! Weights that no model names any more.
//!
//! INVARIANT: none go while a download is at work, which may be about to name what no model names yet.

use std::collections::BTreeSet;

use galerne_drivers::fetch::{Blobs, FetchError};
use galerne_model::inference::{Model, Pull};
use galerne_store::{Filter, Store, StoreError};

use crate::pull_loop::is_open;

#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
}

/// Why bytes that nobody needs stay.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error("the state cannot be read")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Files(#[from] FetchError),
    #[error("removing them was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Weights {
    /// Removes the weights that no model names. What cannot go now is tried again the next time.
    pub(crate) async fn remove_unnamed(&self) {
        if let Err(error) = self.remove().await {
            let because = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(error = %error, because, "weights that no model names could not be removed");
        }
    }

    async fn remove(&self) -> Result<(), Stays> {
        let Some(unheld) = self.blobs.unheld() else { return Ok(()) };
        let mut reader = self.store.reader().await?;
        // One that waits, for its turn or since the last start, may have its bytes here already.
        let pulls = reader.list_all::<Pull>(&Filter::default()).await?;
        if pulls.iter().any(|pull| is_open(pull.status.state)) {
            return Ok(());
        }
        let models = reader.list_all::<Model>(&Filter::default()).await?;
        drop(reader);
        let named: BTreeSet<String> = models.into_iter().map(|model| model.spec.sha256).collect();
        // The right to remove goes with the work: whoever waits for it may leave.
        Ok(tokio::task::spawn_blocking(move || unheld.keep_only(&named)).await??)
    }
}
