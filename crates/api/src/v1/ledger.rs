//! The ledger as it is shown.

use galerne_model::ids::{BudgetId, TransferId};
use galerne_model::ledger::{Owner, Quantities, TransferKind};
use galerne_model::money::Amounts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An entry of the ledger: the same quantities taken from one owner and given to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transfer {
    /// Its id.
    pub id: TransferId,
    /// Why.
    pub kind: TransferKind,
    /// Who gave.
    pub from: Owner,
    /// Who received.
    pub to: Owner,
    /// How much of everything.
    pub quantities: Quantities,
    /// Spool of the usage record it books; 0 for a reading, -1 for a reversal.
    pub source: i64,
    /// Position of the record in its spool, or number of the reading or reversal.
    pub sequence: i64,
}

/// What the check of the ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerCheck {
    /// Whether every sum is equal.
    pub closes: bool,
    /// Usage records compared.
    pub usage_records: i64,
    /// Transfers compared.
    pub transfers: i64,
    /// Readings compared.
    pub readings: i64,
    /// Projects that used something.
    pub projects: i64,
    /// Everything the usage records say.
    pub usage: Quantities,
    /// Everything the meter gave out.
    pub metered: Quantities,
    /// What does not fit; empty when it closes.
    pub findings: Vec<LedgerFinding>,
    /// Time it took.
    pub took_ms: i64,
}

/// Something in the ledger that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerFinding {
    /// Stable code.
    pub code: String,
    /// What, and in which row.
    pub text: String,
}

/// A transfer that cancels another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reversed {
    /// The transfer that was cancelled.
    pub of: TransferId,
    /// The one that cancels it; absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<TransferId>,
}

/// Cancels a transfer by its opposite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reverse {
    /// Why; kept in the event.
    pub reason: String,
}

/// Gives up a gateway's spool whose disk is lost: what the gateway was lent of budgets is free again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Forsake {
    /// Why; kept in the event.
    pub reason: String,
}

/// A spool was given up: its gateway is not let in any more, and what it has not shipped is never settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forsaken {
    /// The spool.
    pub spool: i64,
    /// What is free again.
    pub freed: Vec<FreedShare>,
}

/// A share of a budget that is free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FreedShare {
    /// The budget.
    pub budget_id: BudgetId,
    /// How much, rounded down.
    pub amounts: Amounts,
}

/// What an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportOf {
    /// Usage records.
    Usage,
    /// Transfers.
    Transfers,
    /// Energy readings.
    Readings,
}

/// How an export is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One line per record, a heading first.
    #[default]
    Csv,
    /// One JSON object per line.
    Json,
}
