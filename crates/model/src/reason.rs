//! Reasons: what made a decision, and what to do next. They reach the user unchanged.

use serde::{Deserialize, Serialize};

/// A node of a reason tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Reason {
    /// Stable code, e.g. `replica_backoff`.
    pub code: String,
    /// Whether this part holds (✓) or blocks (⨯).
    pub holds: bool,
    /// One sentence, lower case, no final period.
    pub text: String,
    /// The parts it is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(no_recursion))]
    pub because: Vec<Reason>,
    /// What to do next, cheapest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NextStep>,
}

/// Something a person can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NextStep {
    /// What it does, lower case.
    pub text: String,
    /// The command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Reason {
    /// A part that holds.
    pub fn holds(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.to_owned(), holds: true, text: text.into(), because: Vec::new(), next: Vec::new() }
    }

    /// A part that blocks.
    pub fn blocks(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.to_owned(), holds: false, text: text.into(), because: Vec::new(), next: Vec::new() }
    }

    /// Adds a part.
    #[must_use]
    pub fn because(mut self, part: Self) -> Self {
        self.because.push(part);
        self
    }

    /// Adds a next step with the command to type.
    #[must_use]
    pub fn next(mut self, text: impl Into<String>, command: impl Into<String>) -> Self {
        self.next.push(NextStep { text: text.into(), command: Some(command.into()) });
        self
    }
}
