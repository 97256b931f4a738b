//! The ledger as it is shown.

use galerne_model::ids::TransferId;
use galerne_model::ledger::{Owner, Quantities, TransferKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An entry of the ledger: the same quantities taken from one owner and given to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transfer {
    /// Its id.
    pub id: TransferId,
    /// When it was booked.
    pub at: Timestamp,
    /// Why.
    pub kind: TransferKind,
    /// Who gave.
    pub from: Owner,
    /// Who received.
    pub to: Owner,
    /// How much of everything.
    pub quantities: Quantities,
    /// What it books: a request, a reading, or the transfer it reverses.
    pub of: String,
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
    /// Time it took.
    pub took_ms: i64,
    /// Each comparison.
    pub sums: Vec<SumCheck>,
}

/// Two sums that must be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SumCheck {
    /// What is compared, in words.
    pub what: String,
    /// The one side.
    pub left: i64,
    /// The other side.
    pub right: i64,
    /// Whether they are equal.
    pub equal: bool,
}

/// Cancels a transfer by its opposite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reverse {
    /// Why; kept in the event.
    pub reason: String,
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
