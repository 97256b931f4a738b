//! A batch in the words of each surface.

use std::collections::BTreeMap;

use galerne_model::batch::{Batch, BatchEnd, BatchState};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lines::path_of;

/// OpenAI's object.
pub(super) fn openai(batch: &Batch) -> Value {
    let status = &batch.status;
    let at = |instant: Option<Timestamp>| instant.map(|at| at.as_second());
    let ended_as =
        |ends: &[BatchEnd]| at(status.ended_at.filter(|_| status.end.is_some_and(|end| ends.contains(&end))));
    let is_stopped = matches!(status.end, Some(BatchEnd::Cancelled | BatchEnd::Stopped));
    let faults: Vec<Value> = status
        .faults
        .iter()
        .map(|fault| json!({ "code": fault.code, "message": fault.message, "param": fault.param, "line": fault.line }))
        .collect();
    let tokens = status.tokens;
    json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": path_of(batch.operation),
        "model": batch.model,
        "errors": if faults.is_empty() { Value::Null } else { json!({ "object": "list", "data": faults }) },
        "input_file_id": batch.inputs.first(),
        "completion_window": "24h",
        "status": openai_status(batch),
        "output_file_id": status.output,
        "error_file_id": status.errors,
        "created_at": batch.created_at.as_second(),
        "in_progress_at": at(status.begun_at),
        "expires_at": batch.expires_at.as_second(),
        "finalizing_at": if is_stopped || status.end == Some(BatchEnd::Failed) { None } else { at(status.ending_at) },
        "completed_at": ended_as(&[BatchEnd::Completed]),
        "failed_at": ended_as(&[BatchEnd::Failed]),
        "expired_at": ended_as(&[BatchEnd::Expired]),
        "cancelling_at": at(status.cancel_at.or_else(|| status.ending_at.filter(|_| is_stopped))),
        "cancelled_at": ended_as(&[BatchEnd::Cancelled, BatchEnd::Stopped]),
        "request_counts": {
            "total": status.counts.total, "completed": status.counts.completed, "failed": status.counts.failed,
        },
        "usage": {
            "input_tokens": tokens.prompt,
            "input_tokens_details": { "cached_tokens": tokens.cached },
            "output_tokens": tokens.completion,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": tokens.prompt + tokens.completion,
        },
        "metadata": if batch.metadata.is_empty() { Value::Null } else { json!(batch.metadata) },
    })
}

fn openai_status(batch: &Batch) -> &'static str {
    let status = &batch.status;
    match (status.state, status.end) {
        (BatchState::Ended, Some(BatchEnd::Completed) | None) => "completed",
        (BatchState::Ended, Some(BatchEnd::Failed)) => "failed",
        (BatchState::Ended, Some(BatchEnd::Expired)) => "expired",
        (BatchState::Ended, Some(BatchEnd::Cancelled | BatchEnd::Stopped)) => "cancelled",
        (BatchState::Ending, Some(BatchEnd::Cancelled | BatchEnd::Stopped)) => "cancelling",
        _ if status.cancel_at.is_some() => "cancelling",
        (BatchState::Ending, Some(BatchEnd::Failed)) | (BatchState::Validating, _) => "validating",
        (BatchState::Ending, Some(BatchEnd::Completed | BatchEnd::Expired) | None) => "finalizing",
        (BatchState::Running, _) => "in_progress",
    }
}

/// Mistral's object.
pub(super) fn mistral(batch: &Batch, outputs: Option<&[Value]>) -> Value {
    let status = &batch.status;
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for fault in &status.faults {
        *errors.entry(fault.message.as_str()).or_default() += 1;
    }
    let errors: Vec<Value> =
        errors.into_iter().map(|(message, count)| json!({ "message": message, "count": count })).collect();
    let counts = status.counts;
    json!({
        "id": batch.id,
        "object": "batch",
        "input_files": batch.inputs,
        "metadata": if batch.metadata.is_empty() { Value::Null } else { json!(batch.metadata) },
        "endpoint": path_of(batch.operation),
        "model": batch.model,
        "agent_id": null,
        "output_file": status.output,
        "error_file": status.errors,
        "errors": errors,
        "outputs": outputs,
        "status": mistral_status(batch),
        "created_at": batch.created_at.as_second(),
        "started_at": status.begun_at.map(|at| at.as_second()),
        "completed_at": status.ended_at.map(|at| at.as_second()),
        "total_requests": counts.total,
        "completed_requests": counts.completed + counts.failed,
        "succeeded_requests": counts.completed,
        "failed_requests": counts.failed,
    })
}

/// Mistral's word for where a batch stands.
pub(super) fn mistral_status(batch: &Batch) -> &'static str {
    let status = &batch.status;
    match (status.state, status.end) {
        (BatchState::Ended, Some(BatchEnd::Completed) | None) => "SUCCESS",
        (BatchState::Ended, Some(BatchEnd::Failed | BatchEnd::Stopped)) => "FAILED",
        (BatchState::Ended, Some(BatchEnd::Expired)) => "TIMEOUT_EXCEEDED",
        (BatchState::Ended, Some(BatchEnd::Cancelled)) => "CANCELLED",
        _ if status.cancel_at.is_some() => "CANCELLATION_REQUESTED",
        (BatchState::Validating, _) => "QUEUED",
        (BatchState::Running | BatchState::Ending, _) => "RUNNING",
    }
}
