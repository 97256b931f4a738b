//! The common shape of every resource: identity, spec (asked), status (seen), generation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{ProjectId, TenantId};

/// A resource as it is kept and shown. `I` is its id, `S` what was asked, `T` what is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Resource<I, S, T> {
    /// Prefix and sortable UUIDv7.
    pub id: I,
    /// Tenant that owns it; absent for what belongs to the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Project that owns it; absent for what belongs to the tenant or site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Unique among its kind inside its owner.
    pub name: String,
    /// +1 per change of `spec`; updates must send the one they saw.
    pub generation: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When spec or status last changed.
    pub updated_at: Timestamp,
    /// What was asked.
    pub spec: S,
    /// What is seen.
    pub status: T,
}

/// Why a name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be a name: use 1 to 63 characters of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`, beginning with a letter or digit"
)]
pub struct BadName(pub String);

/// Checks a resource name.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let first_ok = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if first_ok && name.len() <= crate::limits::NAME_MAX_CHARS && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(BadName(name.chars().take(80).collect()))
    }
}
