//! Backups.

use galerne_model::ids::BackupId;
use galerne_model::units::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBackup {}

/// A copy of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// Its id.
    pub id: BackupId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its folder below the data directory, to give to `galerne restore`.
    pub folder: String,
    /// Size of all its files.
    pub size: Bytes,
}
