//! Copies of requests for endpoints under trial: the answer is read to its end, counted and dropped.
//!
//! Nobody is charged and no record is written: tokens are in the gateway's metrics, and the energy, which no request of a
//! tenant claims, is the site's own.
//! INVARIANT: a copy never holds up the request it was made of, nor takes the place of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use galerne_core::routing::{Ending, Prompt};
use galerne_model::ids::TenantId;
use galerne_model::ledger::Operation;

use super::chain::Step;
use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::metrics::ShadowOutcome;
use crate::upstream;

/// Copies under way; more are not made.
const SHADOWS_MAX: usize = 64;
/// Longest answer that is read.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Copies under way.
#[derive(Debug, Default)]
pub(crate) struct Shadows(AtomicUsize);

struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shadows.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sends a copy in the background, if there is room and a replica.
pub(crate) fn send(shared: &Arc<Shared>, step: Step, operation: Operation, tenant_id: TenantId, prompt: Prompt) {
    let before = shared.shadows.0.fetch_add(1, Ordering::AcqRel);
    let under_way = UnderWay(Arc::clone(shared));
    if before >= SHADOWS_MAX || step.endpoint.replicas.is_empty() || shared.draining.is_cancelled() {
        shared.metrics.shadowed(ShadowOutcome::skipped, Counted::default());
        return;
    }
    let shared = Arc::clone(shared);
    shared.clone().tasks.spawn(Box::pin(async move {
        let _under_way = under_way;
        let (outcome, counted) = tokio::select! {
            answered = ask(&shared, &step, operation, tenant_id, &prompt) => answered,
            () = shared.cut.cancelled() => (ShadowOutcome::failed, Counted::default()),
        };
        shared.metrics.shadowed(outcome, counted);
    }));
}

async fn ask(
    shared: &Arc<Shared>,
    step: &Step,
    operation: Operation,
    tenant_id: TenantId,
    prompt: &Prompt,
) -> (ShadowOutcome, Counted) {
    let taken = super::sit(shared, step.endpoint.id, prompt, &step.endpoint.replicas, &[]);
    let Some((mut seat, replica)) = taken else { return (ShadowOutcome::failed, Counted::default()) };
    let body = &step.body;
    let answer =
        upstream::whole(shared, replica, operation, tenant_id, body, ANSWER_MAX_BYTES, shared.bounds.request).await;
    let Some(answer) = answer else {
        seat.end(Ending::Broken);
        return (ShadowOutcome::failed, Counted::default());
    };
    let counted = std::str::from_utf8(&answer).ok().and_then(last_usage);
    if let Some(counted) = counted {
        seat.counted(counted);
    }
    seat.end(Ending::Answered);
    (ShadowOutcome::answered, counted.unwrap_or_default())
}

/// The last usage that an answer or a stream of events tells.
fn last_usage(answer: &str) -> Option<Counted> {
    let at = answer.rfind("\"usage\":{")? + "\"usage\":".len();
    let mut values = serde_json::Deserializer::from_str(&answer[at..]).into_iter::<Box<serde_json::value::RawValue>>();
    meter::read_usage(values.next()?.ok()?.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_usage_of_an_answer_or_a_stream_is_read() {
        let plain = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
        assert_eq!(last_usage(plain).map(|counted| (counted.prompt, counted.completion)), Some((7, 2)));
        let stream = "data: {\"usage\":{\"prompt_tokens\":1}}\n\ndata: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n";
        assert_eq!(last_usage(stream).map(|counted| (counted.prompt, counted.completion)), Some((3, 4)));
        assert_eq!(last_usage("data: {\"usage\":null}\n\n"), None);
    }
}
