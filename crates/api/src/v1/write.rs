//! Bodies common to all resources: create, update, list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a new resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Create<S> {
    /// Name, unique among its kind inside its owner.
    pub name: String,
    /// Tenant, by name or id; absent means that of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Project, by name or id; absent means that of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What is asked.
    pub spec: S,
}

impl<S> Create<S> {
    /// A resource in the key's own project.
    pub fn new(name: impl Into<String>, spec: S) -> Self {
        Self { name: name.into(), tenant: None, project: None, spec }
    }
}

/// Replaces what is asked of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Update<S> {
    /// The generation this change is based on; `If-Match` may carry it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// What is asked from now on.
    pub spec: S,
}

/// A generation alone, for changes without a spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AtGeneration {
    /// The generation this change is based on; `If-Match` may carry it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// In the order of ids, which is that of time.
    pub items: Vec<T>,
    /// Pass it back as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
