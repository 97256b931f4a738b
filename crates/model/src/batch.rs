//! Batches: requests that are answered within a window, at a discount, when there is room.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::file::Visibility;
use crate::ids::{BatchId, FileId, KeyId, PrincipalId, ProjectId, TenantId};
use crate::ledger::Operation;

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// Tenant that pays.
    pub tenant_id: TenantId,
    /// Project that pays.
    pub project_id: ProjectId,
    /// Who made it.
    pub principal_id: PrincipalId,
    /// With which key: its requests are this key's.
    pub key_id: KeyId,
    /// Whose words its lines and its answers are in.
    pub surface: Surface,
    /// What kind of work all its requests are.
    pub operation: Operation,
    /// The model that all its requests name, where the batch itself does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its requests, one per line.
    pub inputs: Vec<FileId>,
    /// Who may see the files it makes: not more than may see those it reads.
    #[serde(default)]
    pub visibility: Visibility,
    /// What its maker noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Seconds after which the files it makes go; absent means the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_life_seconds: Option<i64>,
    /// Countries in which its requests may be served; anywhere when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When what is not answered by then will not be.
    pub expires_at: Timestamp,
    /// What is seen of it.
    pub status: BatchStatus,
}

/// Whose API a batch was made through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surface {
    /// `/v1/batches`.
    OpenAi,
    /// `/v1/batch/jobs`.
    Mistral,
}

/// What is seen of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchStatus {
    /// Its state.
    pub state: BatchState,
    /// How it ended, or is ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<BatchEnd>,
    /// Why it is in this state, one sentence.
    pub reason: String,
    /// What was wrong with its lines, or with the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Requests, and how many of them are done.
    pub counts: Counts,
    /// Tokens of those that were answered.
    pub tokens: BatchTokens,
    /// When its lines were found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Timestamp>,
    /// When no more requests were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// When somebody asked to cancel it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_at: Option<Timestamp>,
    /// Answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<FileId>,
    /// Requests without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<FileId>,
}

/// States of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Its lines are being read.
    #[default]
    Validating,
    /// Its requests are answered when there is room.
    Running,
    /// No more requests are started; its files are being written.
    Ending,
    /// It ended; `end` says how.
    Ended,
}

/// How a batch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchEnd {
    /// Every request was answered or refused.
    Completed,
    /// Its lines were not good: no request was started.
    Failed,
    /// Its time was over.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
    /// Its key may not be used any more.
    Stopped,
}

/// Something wrong with a batch or a line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Stable code, OpenAI's where it has one.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// The line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

/// Requests of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Refused, or not to be answered any more.
    pub failed: u64,
}

/// Tokens of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchTokens {
    /// Of prompts, reused ones among them.
    pub prompt: u64,
    /// Of prompts, reused.
    pub cached: u64,
    /// Generated.
    pub completion: u64,
}

impl Batch {
    /// Whether nothing will happen to it any more.
    pub fn has_ended(&self) -> bool {
        self.status.state == BatchState::Ended
    }
}

impl Counts {
    /// Requests that are neither answered nor given up.
    pub const fn left(self) -> u64 {
        self.total.saturating_sub(self.completed).saturating_sub(self.failed)
    }
}
