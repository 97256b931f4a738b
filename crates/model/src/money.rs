//! Budgets and prices.

use serde::{Deserialize, Serialize};

use crate::ids::{BudgetId, KeyId, PriceBookId, ProjectId, TenantId};
use crate::resource::Resource;
use crate::units::Micros;

/// A limit on money.
pub type Budget = Resource<BudgetId, BudgetSpec, BudgetStatus>;
/// One version of the price book; the newest is in force, older ones stay for the records made under them.
pub type PriceBook = Resource<PriceBookId, PriceBookSpec, crate::identity::Empty>;

/// What a budget limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// Whose spending counts.
    pub subject: BudgetSubject,
    /// The most that may be spent in a period, in millionths of a euro.
    pub limit_micros: Micros,
    /// When counting starts again.
    pub period: BudgetPeriod,
}

/// Whose spending a budget counts. Every budget above a request applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum BudgetSubject {
    /// All projects of a tenant.
    Tenant {
        /// The tenant.
        tenant_id: TenantId,
    },
    /// One project.
    Project {
        /// The project.
        project_id: ProjectId,
    },
    /// One API key together with the keys that follow it by rotation, and those it follows.
    Key {
        /// Any key of the line.
        key_id: KeyId,
    },
}

/// When a budget starts counting again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    /// Never.
    Total,
    /// At the start of each calendar month in UTC.
    Month,
}

/// What is seen of a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BudgetStatus {
    /// Settled in this period, in millionths of a euro.
    pub spent_micros: Micros,
}

/// Prices in euro micros per million tokens (so `150000` is 0.15 € per million).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenPrice {
    /// Prompt tokens that had to be computed.
    pub prompt: Micros,
    /// Prompt tokens reused from the cache.
    pub cached: Micros,
    /// Generated tokens.
    pub completion: Micros,
}

impl TokenPrice {
    /// The price of what nobody has priced: what small open models cost to rent in 2026. The first price book has it as
    /// its default.
    pub const STANDARD: Self = Self { prompt: Micros(100_000), cached: Micros(50_000), completion: Micros(300_000) };
}

/// What a price book writes before the SHA-256 of weights.
pub const DIGEST_PREFIX: &str = "sha256:";

/// What a version of the price book says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PriceBookSpec {
    /// Price of any model without an entry.
    pub default: TokenPrice,
    /// Prices of models.
    #[serde(default)]
    pub models: Vec<ModelPrice>,
}

impl Default for PriceBookSpec {
    fn default() -> Self {
        Self { default: TokenPrice::STANDARD, models: Vec::new() }
    }
}

/// The price of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Which model: `sha256:` and the digest of its weights (as served, or as fetched), the name of the catalogue entry
    /// whose weights they are, or the name that an external server knows it by. Not the name somebody pulled it under.
    pub model: String,
    /// Its price.
    pub price: TokenPrice,
}
