//! The work of a request: tokens of its prompt and generated ones, each weighed, over the times they took.

use galerne_model::ledger::UsageRecord;

use super::account::Span;

/// What tokens weigh against each other when requests share the energy of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Of a computed token of a prompt; tokens that were cached weigh nothing.
    pub prefill: u32,
    /// Of a generated token.
    pub decode: u32,
}

/// A prompt is computed many tokens at a time, an answer one: a tenth, as in [`super::token_bound`].
pub const ASSUMED_WEIGHTS: Weights = Weights { prefill: 1, decode: 10 };

/// When and how much a request worked: the spans of its prompt and of its answer. Nothing where nobody noted the times.
///
/// Where it is not known when the prompt was done, both are spread over all of the time. A request that was cut has what
/// was computed until then; one of which no token is known weighs as much as one token of a prompt, because it was at work.
pub fn spans(record: &UsageRecord, weights: Weights) -> Option<[Span; 2]> {
    let times = record.work?;
    let started = record.started_at.as_microsecond();
    let begun = started.saturating_add(times.begun_micros.max(0));
    // An interval needs a length to be worked in.
    let ended = started.saturating_add(times.ended_micros).max(begun.saturating_add(1));
    let weighed = |tokens: i64, weight: u32| tokens.max(0).unsigned_abs().saturating_mul(weight.into());
    let prompt = weighed(record.quantities.prompt_tokens.0, weights.prefill);
    let answer = weighed(record.quantities.completion_tokens.0, weights.decode);
    let nothing = Span { from_micros: ended, to_micros: ended, work: 0 };
    let prefilled = times.prefilled_micros.map(|micros| started.saturating_add(micros).clamp(begun, ended));
    Some(match prefilled {
        // Too short a prompt or answer to have times of its own: its work counts with the other's.
        Some(prefilled) if begun < prefilled && prefilled < ended => [
            Span { from_micros: begun, to_micros: prefilled, work: prompt.max(1) },
            Span { from_micros: prefilled, to_micros: ended, work: answer.max(1) },
        ],
        Some(_) | None => {
            [Span { from_micros: begun, to_micros: ended, work: prompt.saturating_add(answer).max(1) }, nothing]
        }
    })
}

#[cfg(test)]
mod tests {
    use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, RequestId, TenantId};
    use galerne_model::ledger::{EnergyMethod, Operation, Outcome, Quantities, WorkTimes};
    use galerne_model::units::{Micros, Tokens};
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn record(work: Option<WorkTimes>) -> UsageRecord {
        let id = Uuid::from_u128(1);
        let tokens = |prompt, completion| Quantities {
            prompt_tokens: Tokens(prompt),
            completion_tokens: Tokens(completion),
            ..Quantities::default()
        };
        UsageRecord {
            source: 1,
            sequence: 1,
            request_id: RequestId::from_uuid(id),
            started_at: Timestamp::from_microsecond(1_000).expect("in range"),
            ended_at: Timestamp::from_microsecond(9_000).expect("in range"),
            tenant_id: TenantId::from_uuid(id),
            project_id: ProjectId::from_uuid(id),
            principal_id: PrincipalId::from_uuid(id),
            key_id: KeyId::from_uuid(id),
            endpoint_id: EndpointId::from_uuid(id),
            replica_id: None,
            operation: Operation::Chat,
            outcome: Outcome::Completed,
            http_status: 200,
            held_micros: Micros(0),
            quantities: tokens(100, 7),
            energy_method: EnergyMethod::Unknown,
            price_book_id: None,
            first_token_micros: None,
            work,
            batch: None,
            terms: None,
        }
    }

    #[test]
    fn a_prompt_and_an_answer_work_one_after_the_other() {
        let times = WorkTimes { begun_micros: 10, prefilled_micros: Some(500), ended_micros: 4_000 };
        let spans = spans(&record(Some(times)), ASSUMED_WEIGHTS).expect("times are known");
        assert_eq!(spans[0], Span { from_micros: 1_010, to_micros: 1_500, work: 100 });
        assert_eq!(spans[1], Span { from_micros: 1_500, to_micros: 5_000, work: 70 });
    }

    #[test]
    fn without_a_first_token_all_work_is_over_all_of_the_time() {
        for prefilled_micros in [None, Some(0), Some(9_999)] {
            let times = WorkTimes { begun_micros: 10, prefilled_micros, ended_micros: 4_000 };
            let spans = spans(&record(Some(times)), ASSUMED_WEIGHTS).expect("times are known");
            assert_eq!(spans[0], Span { from_micros: 1_010, to_micros: 5_000, work: 170 });
            assert_eq!(spans[1].work, 0);
        }
        assert_eq!(spans(&record(None), ASSUMED_WEIGHTS), None);
    }

    #[test]
    fn a_request_cut_before_any_token_was_at_work_and_times_that_cannot_be_hurt_nobody() {
        let times = WorkTimes { begun_micros: i64::MAX, prefilled_micros: Some(i64::MIN), ended_micros: i64::MIN };
        let record = UsageRecord { quantities: Quantities::default(), ..record(Some(times)) };
        let [first, _] = spans(&record, ASSUMED_WEIGHTS).expect("times are known");
        assert_eq!(first.work, 1);
        assert!(first.to_micros >= first.from_micros);
    }
}
