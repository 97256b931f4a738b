//! Events: who did what to which resource, from where, and how it was decided.
//! Every change writes its event in the same transaction; every denial writes one too.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{EventId, KeyId, PrincipalId, ProjectId, RequestId, TenantId};

/// One thing that happened. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Gapless number on this site, given by the store at commit; 0 before that.
    #[serde(default)]
    pub sequence: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What, as `noun.verb`: `endpoint.create`, `key.use`.
    pub action: String,
    /// The tenant it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The project it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Id of the resource it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// How it was decided.
    pub decision: Decision,
    /// SHA-256 of the resource before, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_digest: Option<String>,
    /// SHA-256 of the resource after, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_digest: Option<String>,
    /// One sentence for people.
    pub text: String,
}

/// Who acted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Actor {
    /// The principal; absent when Galerne itself acted or the caller is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<PrincipalId>,
    /// The key that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The part of Galerne that acted, such as `endpoint-loop`; empty when a caller did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    /// Where the call came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
}

impl Actor {
    /// Galerne itself.
    pub fn component(name: &str) -> Self {
        Self { component: name.to_owned(), ..Self::default() }
    }
}

/// How something was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was done.
    Allowed,
    /// It was refused.
    Denied,
}
