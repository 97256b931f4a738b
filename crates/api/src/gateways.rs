//! The protocol between a gateway in a process of its own and the control plane, under `/agent/v1/gateways`.
//!
//! A gateway joins with a key of scope `gateway` and gets a session; in it, it hears the snapshot as a stream of lines,
//! ships usage, reports what it is doing, and sends events of refusals. A newer session of the same spool ends an older
//! one. With each report it asks for shares of budgets and gives some back; the answer says what it has (docs/decisions/0039).
//! The current version and the one before are served; within a version fields are only added.
//! INVARIANT: no time of day of one machine is compared with that of another: what passes between them are durations.

use galerne_model::event::Event;
use galerne_model::ids::{BudgetId, EndpointId};
use galerne_model::ledger::UsageRecord;
use galerne_model::money::{Amounts, BudgetSubject};
use galerne_model::snapshot::Changes;
use serde::{Deserialize, Serialize};

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;
/// The oldest version that this program still understands.
pub const OLDEST_VERSION: u32 = 1;

/// Where gateways join.
pub const PATH: &str = "/agent/v1/gateways";

/// How often a control plane says something on a stream without news.
pub const BEAT_INTERVAL_MS: u64 = 2_000;
/// Silence on a stream after which a gateway connects again: several beats, so that a slow network is no reason.
pub const SILENCE_MAX_MS: u64 = 10_000;
/// How often a gateway reports.
pub const REPORT_INTERVAL_MS: u64 = 1_000;
/// Longest line of a stream: the whole snapshot of half a million keys.
pub const LINE_MAX_BYTES: usize = 256 * 1024 * 1024;
/// Largest body a gateway sends: a batch of usage records of the longest kind, twice.
pub const BODY_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Endpoints, budgets or events in one body.
pub const ITEMS_MAX: usize = 10_000;

/// A gateway asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The version of the protocol it would speak.
    pub version: u32,
    /// What it is called in logs and lists: by default the host's name and its spool.
    pub name: String,
    /// The number of its spool.
    pub source: i64,
    /// Drawn by each process: tells a process that comes back from another one with a copy of its spool.
    pub instance: String,
    /// The program's version, for people.
    pub program: String,
}

/// It is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The version that is spoken.
    pub version: u32,
    /// Names the session in later calls.
    pub session: String,
    /// The ledger has this gateway's records up to here.
    pub settled_sequence: i64,
    /// The secret under which keys are digested, in hex. It is kept in memory only.
    pub pepper: String,
    /// The time of the control plane, for a warning when the clocks differ; nothing is decided by it.
    pub now: jiff::Timestamp,
}

/// A line of the stream of snapshots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What changed since the line before; the first one of a stream is from the empty snapshot.
    Changes {
        /// 1 for the first line, one more for each.
        number: u64,
        /// The changes.
        changes: Box<Changes>,
    },
    /// Nothing changed.
    Beat,
}

/// Usage records in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The records; sequences without a gap.
    pub records: Vec<UsageRecord>,
}

/// They are in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageTaken {
    /// Every record up to here is in the ledger.
    pub through: i64,
}

/// Events of refusals. The same again are written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The events.
    pub events: Vec<Event>,
}

/// What a gateway is doing, and what it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Grows with each report of a session: one that arrives after a later one is not heard.
    pub number: u64,
    /// Endpoints in use since the start of the process.
    pub busy: Vec<Busy>,
    /// Endpoints that requests wait for and that have no replica.
    pub woken: Vec<EndpointId>,
    /// Shares of budgets that it needs, or gives back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareAsk>,
}

/// What a gateway gives back of its share of a budget, and what it asks for then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareAsk {
    /// The budget.
    pub budget_id: BudgetId,
    /// Spent no more from the moment in which this was written.
    pub give_back: Amounts,
    /// Requests wait for it.
    pub need: Amounts,
    /// It is likely to be needed.
    pub spare: Amounts,
    /// Whether it gives back because the control plane asked for it.
    #[serde(default)]
    pub is_recalled: bool,
}

/// Requests on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Requests admitted and not ended.
    pub in_flight: u32,
    /// Time since the last one began or ended.
    pub quiet_ms: u64,
    /// None of those in flight began longer ago than this; absent when there are none, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
}

/// What a control plane answers to a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The ledger has this gateway's records up to here.
    pub settled_sequence: i64,
    /// All its shares of budgets, less what is settled of them up to there, and all budgets it asked about. They replace
    /// those of the answer before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareTold>,
}

/// What a gateway has of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareTold {
    /// The budget.
    pub budget_id: BudgetId,
    /// Whose spending it counts; of a key, the first one of its line.
    pub subject: BudgetSubject,
    /// Start of the period.
    pub period_start: jiff::Timestamp,
    /// When it ends; absent when never.
    pub period_end: Option<jiff::Timestamp>,
    /// What the ledger has settled in it, of all gateways.
    pub spent: Amounts,
    /// What the gateway may still spend, besides what is settled of its own.
    pub share: Amounts,
    /// Somebody lacks of the budget: what the gateway does not use is wanted back.
    pub is_recalled: bool,
    /// What came of its question.
    pub supply: Supply,
}

/// Whether a gateway can have what its requests wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    /// It has it, or asked for nothing.
    Given,
    /// More may come in a moment: others were asked to give back.
    MayCome,
    /// Nothing is left but what it has.
    Exhausted,
}
