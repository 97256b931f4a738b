//! Which tokens go into the next step: continuous batching, decided without touching the engine.
//! INVARIANT: every sequence that is answering gets its token in every step of its turn (`turn`), so a long prompt delays a stream
//! by at most one small chunk; every step with demand makes progress.

use crate::limits;

/// What a live sequence wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// This many prompt tokens are not computed yet.
    Prompt(usize),
    /// One token, the last one sampled.
    Answer,
    /// Nothing in this step: it is another adapter's turn.
    Later(Waits),
}

/// What somebody out of turn waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    ForPrompt,
    /// A running stream waits for the end of the step.
    ForToken,
}

/// A sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Position in the list of demands.
    pub sequence: usize,
    pub tokens: usize,
}

/// Plans one step: answers first, then prompts in order of arrival. First come, first served keeps the time to the first
/// token of the oldest request lowest and cannot starve anyone.
#[must_use]
pub(crate) fn next_step(demands: &[Demand]) -> Vec<Chunk> {
    let mut step: Vec<Chunk> = demands
        .iter()
        .enumerate()
        .filter(|(_, demand)| **demand == Demand::Answer)
        .map(|(sequence, _)| Chunk { sequence, tokens: 1 })
        .take(limits::STEP_TOKENS)
        .collect();
    let mut room = limits::STEP_TOKENS - step.len();
    if !step.is_empty() || demands.contains(&Demand::Later(Waits::ForToken)) {
        room = room.min(limits::STEP_PROMPT_TOKENS_WHILE_ANSWERING);
    }
    for (sequence, demand) in demands.iter().enumerate() {
        let Demand::Prompt(wanted) = *demand else { continue };
        let tokens = wanted.min(room);
        if tokens > 0 {
            step.push(Chunk { sequence, tokens });
            room -= tokens;
        }
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_come_first_and_bound_the_prompt_chunk() {
        let step = next_step(&[Demand::Prompt(1000), Demand::Answer, Demand::Prompt(5)]);
        assert_eq!(
            step,
            [
                Chunk { sequence: 1, tokens: 1 },
                Chunk { sequence: 0, tokens: limits::STEP_PROMPT_TOKENS_WHILE_ANSWERING },
            ]
        );
    }

    #[test]
    fn a_stream_out_of_turn_is_not_kept_waiting_by_a_long_prompt_either() {
        let step = next_step(&[Demand::Later(Waits::ForToken), Demand::Prompt(1000)]);
        assert_eq!(step, [Chunk { sequence: 1, tokens: limits::STEP_PROMPT_TOKENS_WHILE_ANSWERING }]);
        let step = next_step(&[Demand::Later(Waits::ForPrompt), Demand::Prompt(1000)]);
        assert_eq!(step, [Chunk { sequence: 1, tokens: limits::STEP_TOKENS }]);
    }

    #[test]
    fn prompts_alone_fill_the_step_in_order() {
        let step = next_step(&[Demand::Prompt(300), Demand::Prompt(300), Demand::Prompt(300)]);
        assert_eq!(
            step,
            [Chunk { sequence: 0, tokens: 300 }, Chunk { sequence: 1, tokens: limits::STEP_TOKENS - 300 }]
        );
    }

    proptest! {
        #[test]
        fn a_step_serves_all_answers_and_stays_in_bounds(
            demands in prop::collection::vec(prop_oneof![Just(Demand::Answer), (1_usize..3000).prop_map(Demand::Prompt)], 1..limits::SEQUENCES)
        ) {
            let step = next_step(&demands);
            prop_assert!(step.iter().map(|c| c.tokens).sum::<usize>() <= limits::STEP_TOKENS);
            prop_assert!(step.iter().all(|c| c.tokens > 0));
            let answers = demands.iter().filter(|d| **d == Demand::Answer).count();
            prop_assert_eq!(step.iter().filter(|c| demands[c.sequence] == Demand::Answer).count(), answers);
            prop_assert!(!step.is_empty());
            for chunk in &step {
                if let Demand::Prompt(wanted) = demands[chunk.sequence] {
                    prop_assert!(chunk.tokens <= wanted);
                }
            }
        }
    }
}
