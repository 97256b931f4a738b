//! Who acts: tenants, projects, principals, roles, API keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, PrincipalId, ProjectId, RoleBindingId, TenantId};
use crate::resource::Resource;

/// A customer that is isolated and pays.
pub type Tenant = Resource<TenantId, TenantSpec, Empty>;
/// Owns resources inside a tenant.
pub type Project = Resource<ProjectId, ProjectSpec, Empty>;
/// A user or a service account.
pub type Principal = Resource<PrincipalId, PrincipalSpec, Empty>;
/// A role given to a principal.
pub type RoleBinding = Resource<RoleBindingId, RoleBindingSpec, Empty>;
/// An API key, without its secret.
pub type ApiKey = Resource<KeyId, ApiKeySpec, ApiKeyStatus>;

/// A status with nothing to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Empty {}

/// What a tenant is asked to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// Free text.
    #[serde(default)]
    pub description: String,
}

/// What a project is asked to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Rate and concurrency limits for all keys of the project together.
    #[serde(default)]
    pub limits: RateLimits,
}

/// Limits on a stream of requests; absent means not limited here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// Requests admitted per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens (prompt and completion) per minute; estimated at admission, corrected at settlement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
}

/// Person or program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// A person.
    User,
    /// A program.
    ServiceAccount,
}

/// What a principal is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrincipalSpec {
    /// Person or program.
    pub kind: PrincipalKind,
    /// Whether its keys are refused.
    #[serde(default)]
    pub disabled: bool,
    /// Free text.
    #[serde(default)]
    pub description: String,
}

/// What a principal may do; rights are in `galerne_core::authorize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the site.
    Operator,
    /// Everything inside a tenant or project, its money and members included.
    Owner,
    /// Uses and changes resources of a project.
    Member,
    /// Reads.
    Viewer,
    /// Reads everything of its scope, events and ledger included, changes nothing.
    Auditor,
}

/// Where a role holds: the site, one tenant with all its projects, or one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "level", deny_unknown_fields)]
pub enum Scope {
    /// The whole site.
    Site,
    /// One tenant and everything in it.
    Tenant {
        /// The tenant.
        tenant_id: TenantId,
    },
    /// One project and everything in it.
    Project {
        /// The tenant that owns the project.
        tenant_id: TenantId,
        /// The project.
        project_id: ProjectId,
    },
}

/// A role for a principal at a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RoleBindingSpec {
    /// Who gets it.
    pub principal_id: PrincipalId,
    /// What it may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

/// What a key may be used for; a request needs both the role and the scope of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum KeyScope {
    /// Call `/v1`.
    Inference,
    /// Read `/api/v1`.
    Read,
    /// Change resources through `/api/v1`.
    Write,
    /// Change identities, keys, budgets, prices.
    Admin,
    /// Be a gateway in a process of its own.
    Gateway,
}

/// What a key is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ApiKeySpec {
    /// Who acts when it is used.
    pub principal_id: PrincipalId,
    /// What it may be used for.
    pub scopes: Vec<KeyScope>,
    /// When it stops working; absent means when revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Limits for this key alone.
    #[serde(default)]
    pub limits: RateLimits,
}

/// What is seen of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ApiKeyStatus {
    /// What every key begins with, and its first characters.
    pub prefix: String,
    /// Its last four characters.
    pub last_four: String,
    /// HMAC-SHA256 of the whole key under the site's pepper, in hex. Never shown: the API drops it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// When it was last used, at most a minute stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// The key that replaced it by rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_to: Option<KeyId>,
}
