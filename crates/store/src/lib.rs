//! Durable state: resources, events, outbox, leases, idempotency keys, the ledger; on SQLite or PostgreSQL.
//!
//! One SQL text for both engines (`engine_sql` holds the few exceptions), columns TEXT and BIGINT only.
//! INVARIANT: a change and its events are in one transaction; what was acknowledged is on the disk.
//! Deliberately absent: decisions, the network, clocks (callers pass `now`; leases on PostgreSQL use the server's).

mod engine_sql;
mod error;
mod migration;
mod store;
mod url;

mod event;
mod forward;
mod idempotency;
mod kind;
mod lease;
mod outbox;
mod resource;

mod batch;
mod file;

mod backup;
mod ledger;

pub use backup::{BackupFile, BackupManifest, restore};
pub use batch::{BatchQuery, Segment};
pub use engine_sql::Engine;
pub use error::{StoreError, retry};
pub use event::EventFilter;
pub use file::{FileQuery, FileRefused, Order};
pub use forward::{FORWARD_BACKLOG_MAX, Outgoing};
pub use idempotency::Idempotency;
pub use kind::Kind;
pub use lease::{Lease, SERVER_LEASE};
pub use ledger::check::{CheckReport, Finding};
pub use ledger::correct::{Corrected, Correction, ReplicaReading};
pub use ledger::cost::{CostFilter, CostGroup, CostRow};
pub use ledger::listing::{ListedTransfer, TransferKey};
pub use ledger::reading::Posted;
pub use ledger::report::UsageGroup;
pub use ledger::settle::Settled;
pub use ledger::share::{LentShare, ShareChange, SpoolShares};
pub use ledger::usage::{UsageCursor, UsageFilter, csv_header, csv_line};
pub use migration::{Migrated, SCHEMA_VERSION};
pub use outbox::{Claimed, OutboxItem};
pub use resource::{Filter, Listed, Page};
pub use store::{Reader, Store, Tx};
pub use url::{BadUrl, StoreUrl};
