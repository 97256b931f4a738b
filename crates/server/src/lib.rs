//! The server: HTTP routes, authentication, configuration, wiring, shutdown.
//!
//! In reading order: what was typed becomes a `Config`; `start` opens the data directory and the store, does the first
//! start's work, spawns the loops and the gateway, and serves until it is told to drain.
//! INVARIANT: nothing here decides: rights are in `core::authorize`, states in the loops of `control`.

pub mod config;

pub(crate) mod data_dir;
pub(crate) mod start;

pub mod gateway_process;

pub(crate) mod app;
pub(crate) mod http;
pub(crate) mod routes;

pub(crate) mod surface;

pub(crate) mod batches;
pub(crate) mod files;
pub(crate) mod organization;

pub use data_dir::DataDirError;
pub use galerne_control::{Counted, EnergySample};
pub use galerne_gateway::LinkError;
pub use galerne_store::{BackupManifest, Migrated, StoreError, StoreUrl, restore};
pub use routes::document;

/// Brings a database to this version's schema; on PostgreSQL `start` refuses an older one instead of doing it unasked.
pub async fn migrate(database: &StoreUrl) -> Result<Migrated, StoreError> {
    galerne_store::Store::migrate(database).await
}

pub use start::{Host, Meter, Phase, Progress, Running, StartError, start, worker_program};
