//! Usage and what it cost.

use galerne_model::ledger::Quantities;
use galerne_model::units::Money;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How costs are grouped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// By project.
    #[default]
    Project,
    /// By endpoint.
    Endpoint,
    /// By API key.
    Key,
    /// By principal.
    Principal,
    /// By model, as the endpoint named it.
    Model,
    /// By day in UTC.
    Day,
}

impl GroupBy {
    /// As written in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Endpoint => "endpoint",
            Self::Key => "key",
            Self::Principal => "principal",
            Self::Model => "model",
            Self::Day => "day",
        }
    }
}

/// How a cost report is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CostFormat {
    /// FOCUS 1.2 as CSV, with columns of ours for energy, carbon and residency.
    #[default]
    Focus,
}

impl CostFormat {
    /// As written in queries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Focus => "focus",
        }
    }
}

/// Costs of an interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Costs {
    /// What the rows are.
    pub group_by: GroupBy,
    /// One row per group that used anything.
    pub items: Vec<CostRow>,
    /// All rows together.
    pub total: CostRow,
}

/// Cost of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostRow {
    /// Id of the group, or the day.
    pub group: String,
    /// Its name, when it still has one.
    pub name: String,
    /// Requests.
    pub requests: i64,
    /// What was charged, rounded down to a millionth of a euro.
    pub charged: Money,
    /// Everything that was used.
    pub quantities: Quantities,
}
