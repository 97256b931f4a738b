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
    /// Limits of the project for single models, beside those for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model_limits: Vec<ModelLimits>,
    /// The highest tier its keys may ask for, and what they get when they ask for none; absent: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<ServiceTier>,
}

/// Limits for one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelLimits {
    /// The endpoint's name, as callers write it in `model`.
    pub model: String,
    /// Its limits.
    pub limits: RateLimits,
}

/// How early a request is served, and how late it is refused, where there is not enough for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// When nobody else wants the place.
    Flex,
    /// The usual one.
    #[default]
    Default,
    /// Before the others.
    Priority,
}

impl ServiceTier {
    /// All of them, lowest first.
    pub const ALL: [Self; 3] = [Self::Flex, Self::Default, Self::Priority];

    /// Its place in [`ServiceTier::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Flex => 0,
            Self::Default => 1,
            Self::Priority => 2,
        }
    }

    /// Its name on the wire: OpenAI's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Default => "default",
            Self::Priority => "priority",
        }
    }
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
    /// Limits of this key for single models, beside those for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model_limits: Vec<ModelLimits>,
    /// The highest tier it may ask for, and what it gets when it asks for none; absent: the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<ServiceTier>,
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
