//! Explanations.

use galerne_model::reason::Reason;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why something is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// Kind of thing: `endpoint`, `request`, `budget`, `event`, `pull`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Its name, when it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The reasons, with what to do next.
    pub reason: Reason,
}
