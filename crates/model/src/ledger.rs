//! Usage records, readings, transfers, balances.
//!
//! INVARIANT: a transfer takes from one owner exactly what it gives to the other, in every commodity.
//! INVARIANT: nothing here is ever changed; corrections are reversals.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::ServiceTier;
use crate::ids::{
    BatchId, EndpointId, KeyId, NodeId, PriceBookId, PrincipalId, ProjectId, ReadingId, ReplicaId, RequestId, TenantId,
};
use crate::money::TokenPrice;
use crate::units::{MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};

/// How a quantity of energy was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EnergyMethod {
    /// A counter of the hardware.
    Measured,
    /// A share of a measured quantity, split by work.
    Apportioned,
    /// Computed from CPU time and a stated model.
    Estimated,
    /// Not known; the quantity is 0.
    Unknown,
}

/// How a request ended, as far as the meter is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was made.
    Completed,
    /// The client left; what was made until then counts.
    Cancelled,
    /// The replica or the deadline ended it; what was made until then counts.
    Failed,
    /// The gateway ended without settling; its hold was voided when it came back.
    Interrupted,
}

/// What kind of work a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Chat completion.
    Chat,
    /// Text completion.
    Completion,
    /// Embeddings.
    Embedding,
    /// Text between a prompt and a suffix.
    Fim,
    /// Tokens of a text; free.
    Tokenise,
    /// The text of tokens; free.
    Detokenise,
}

/// Quantities of every commodity the ledger keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Quantities {
    /// Prompt tokens computed.
    pub prompt_tokens: Tokens,
    /// Prompt tokens reused.
    pub cached_tokens: Tokens,
    /// Generated tokens.
    pub completion_tokens: Tokens,
    /// Money in micros, rounded down.
    pub micros: Micros,
    /// What rounding down left, in picos (0 to 999 999 on one record).
    pub picos: Picos,
    /// Energy.
    pub millijoules: Millijoules,
    /// Carbon, location-based.
    pub co2e_micrograms: MicrogramsCo2e,
}

/// What a request of a batch costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BatchTerms {
    /// The batch it is made for.
    pub batch_id: BatchId,
    /// What it costs, in per cent of the price of a request that comes in.
    pub price_percent: u8,
}

/// A country: two capital letters, as in ISO 3166-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

/// A text is no country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a country is two capital letters such as `FR`")]
pub struct BadCountry;

impl Country {
    /// The country of a code; nothing where it is none.
    pub fn of(code: &str) -> Option<Self> {
        let letters: [u8; 2] = code.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }

    /// The country of the number that a ledger has for it.
    pub fn of_number(number: i64) -> Option<Self> {
        let [first, second] = u16::try_from(number).ok()?.to_be_bytes();
        Self::of(std::str::from_utf8(&[first, second]).ok()?)
    }

    /// The number that a ledger has for it.
    pub fn number(self) -> i64 {
        i64::from(u16::from_be_bytes(self.0))
    }

    /// Its code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("two letters of ASCII")
    }
}

impl TryFrom<String> for Country {
    type Error = BadCountry;

    fn try_from(code: String) -> Result<Self, BadCountry> {
        Self::of(&code).ok_or(BadCountry)
    }
}

impl From<Country> for String {
    fn from(country: Country) -> Self {
        country.as_str().to_owned()
    }
}

/// The terms on which a request was answered, as they were then: prices and places change, what was charged does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UsageTerms {
    /// What a token cost; of a batch its share of the price.
    pub price: TokenPrice,
    /// How early it was served.
    pub service_tier: ServiceTier,
    /// The country in which it was answered; absent where nobody has said where that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<Country>,
}

/// What one request used: immutable, counted exactly once by (`source`, `sequence`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UsageRecord {
    /// The spool it came from: one number per gateway data directory.
    pub source: i64,
    /// Position in that spool; the pair is unique.
    pub sequence: i64,
    /// The request, as the client saw it in `x-request-id`.
    pub request_id: RequestId,
    /// When the request was admitted.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Inside which project.
    pub project_id: ProjectId,
    /// Who called.
    pub principal_id: PrincipalId,
    /// With which key.
    pub key_id: KeyId,
    /// What was called.
    pub endpoint_id: EndpointId,
    /// What answered; absent when nothing did.
    pub replica_id: Option<ReplicaId>,
    /// Kind of work.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status sent.
    pub http_status: u16,
    /// Money reserved at admission, all of it freed by this record.
    pub held_micros: Micros,
    /// What was used.
    pub quantities: Quantities,
    /// How the energy was obtained.
    pub energy_method: EnergyMethod,
    /// The price book in force; absent when the endpoint's own price applied.
    pub price_book_id: Option<PriceBookId>,
    /// Time to first byte of content, in microseconds; absent when there was none.
    pub first_token_micros: Option<i64>,
    /// When the replica worked for it, where its energy is metered. Not kept in the ledger: what it leads to is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(ignore))]
    pub work: Option<WorkTimes>,
    /// The batch it was made for, and at what share of the price; absent for a request that came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchTerms>,
    /// The terms on which it was answered; absent where nothing was charged for an end that nobody saw, and in records of
    /// before they were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<UsageTerms>,
}

/// When a replica worked for a request, in microseconds after its admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkTimes {
    /// It began, or the replica was asked.
    pub begun_micros: i64,
    /// The prompt was computed; absent when nobody saw that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefilled_micros: Option<i64>,
    /// It was over.
    pub ended_micros: i64,
}

/// A raw energy sample of a node, or of one replica, over an interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Reading {
    /// Its id.
    pub id: ReadingId,
    /// The node that was read, or that read the meter of a replica.
    pub node_id: NodeId,
    /// The replica whose own meter was read; absent where it is the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_id: Option<ReplicaId>,
    /// Start of the interval.
    pub started_at: Timestamp,
    /// End of the interval.
    pub ended_at: Timestamp,
    /// Energy of the node in the interval.
    pub millijoules: Millijoules,
    /// How it was obtained.
    pub method: EnergyMethod,
    /// CPU time the node was busy in the interval, in microseconds.
    pub busy_cpu_micros: i64,
    /// Grid zone.
    pub zone: String,
    /// Carbon intensity applied, in milligrams CO₂e per kWh.
    pub intensity_mg_per_kwh: i64,
    /// Source of the intensity, its scope and whether it is an estimate, in words.
    pub intensity_source: String,
}

/// Who owns an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Owner {
    /// A project: what it used and owes.
    Project {
        /// The project.
        project_id: ProjectId,
    },
    /// The meters of the site: where energy and tokens come from (its balance is minus everything given out).
    Meter,
    /// Energy nobody used.
    Idle,
    /// Energy of the facility, (PUE − 1) of the meter.
    Overhead,
    /// Requests' energy above what the meter then said, per interval; 0 where the estimate and the meter agree.
    Apportionment,
    /// Charges that exceeded their hold: the provider bears them.
    Overrun,
}

/// Why a transfer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TransferKind {
    /// A usage record.
    Usage,
    /// The rest of a reading after the requests of its interval.
    Idle,
    /// Facility overhead of a reading.
    Overhead,
    /// The cancelling of another transfer.
    Reversal,
    /// What a record's energy was measured to be, less what it was settled with.
    Correction,
}

/// What an owner has, in every commodity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Balance {
    /// The owner.
    pub owner: Owner,
    /// Received minus given.
    pub quantities: Quantities,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_reads_back_from_its_code_and_its_number() {
        for code in ["AA", "FR", "SE", "ZZ"] {
            let country = Country::of(code).expect("a country");
            assert_eq!((country.as_str(), Country::of_number(country.number())), (code, Some(country)));
            assert_eq!(serde_json::to_string(&country).expect("serialises"), format!("\"{code}\""));
        }
        for wrong in ["", "F", "fr", "FRA", "F1", "É"] {
            assert_eq!(Country::of(wrong), None, "{wrong}");
            assert!(serde_json::from_str::<Country>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
        assert_eq!((Country::of_number(-1), Country::of_number(0), Country::of_number(1 << 16)), (None, None, None));
    }
}
