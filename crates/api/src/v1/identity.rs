//! Who the caller is, and keys at the moment they are made.

use galerne_model::identity::{ApiKey, Principal, Project, RoleBinding, Tenant};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind::{resource_list, resource_ref};

/// Who calls, where, and with which rights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// The principal behind the key.
    #[schema(schema_with = resource_ref::<Principal>)]
    pub principal: Principal,
    /// The key, without its secret.
    #[schema(schema_with = resource_ref::<ApiKey>)]
    pub key: ApiKey,
    /// Tenant the key works in.
    #[schema(schema_with = resource_ref::<Tenant>)]
    pub tenant: Tenant,
    /// Project the key spends in.
    #[schema(schema_with = resource_ref::<Project>)]
    pub project: Project,
    /// Roles of the principal.
    #[schema(schema_with = resource_list::<RoleBinding>)]
    pub roles: Vec<RoleBinding>,
    /// Version of the server.
    pub server_version: String,
}

/// A key that was just made. The secret is shown here and never again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyCreated {
    /// The key as lists show it.
    #[schema(schema_with = resource_ref::<ApiKey>)]
    pub key: ApiKey,
    /// The whole key; absent in a dry run, and when the same request is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Replaces a key by a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// The generation this change is based on; `If-Match` may carry it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Seconds during which both keys work, at most 30 days; 0 revokes the old one at once.
    #[serde(default)]
    pub overlap_seconds: u32,
}
