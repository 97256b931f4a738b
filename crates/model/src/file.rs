//! Files on `/v1`: bytes that a project keeps here, and what is known of them.
//!
//! A file never changes: its bytes are one object under its id, other bytes are another file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{FileId, PrincipalId, ProjectId, TenantId};

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its id, and the name of its object.
    pub id: FileId,
    /// Tenant that owns it.
    pub tenant_id: TenantId,
    /// Project that owns it.
    pub project_id: ProjectId,
    /// Who uploaded it, or whose batch made it.
    pub principal_id: PrincipalId,
    /// Its name, as it was sent and cleaned.
    pub filename: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Who may see it.
    pub visibility: Visibility,
    /// How it came here.
    pub origin: Origin,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, 64 hex digits.
    pub sha256: String,
    /// Media type as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Lines that are not empty, of files for batches and fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it goes; absent means when somebody deletes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Requests of a batch.
    Batch,
    /// Answers of a batch.
    BatchOutput,
    /// Requests of a batch that were not answered, and why.
    BatchErrors,
    /// Examples to train with.
    FineTune,
    /// Anything, to be read back.
    UserData,
}

/// Who may see a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Everybody with a key of the project.
    #[default]
    Project,
    /// Only the principal that uploaded it.
    Principal,
}

/// How a file came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody sent it.
    Upload,
    /// A batch made it.
    Batch,
}

impl File {
    /// The name of its object.
    pub fn object(&self) -> String {
        object_of(self.id)
    }

    /// Whether it may still be read at `now`.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }

    /// Whether this principal, of its project, may see it.
    pub fn is_seen_by(&self, principal_id: PrincipalId) -> bool {
        self.visibility == Visibility::Project || self.principal_id == principal_id
    }
}

/// The name of the object of a file.
pub fn object_of(id: FileId) -> String {
    format!("files/{id}")
}

/// What a project keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
}
