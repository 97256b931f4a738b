//! Whose turn it is: llama.cpp computes a step with one adapter or with none, so sequences of different ones take turns.
//! A turn lasts several steps, because changing the adapter costs as much as a step does (`limits::TURN_STEPS`).
//! INVARIANT: with n different ones at work, each gets its turn within n - 1 turns of the others, and in a turn all its
//! sequences are computed: a sequence gets the same part of the steps whether it has company or not.

use crate::adapter::AdapterId;
use crate::limits;

/// The turns of adapters; `None` is the model without one.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    current: Option<AdapterId>,
    steps: usize,
}

impl Turns {
    /// Whose step the next one is, among those at work; at least one is.
    pub(crate) fn next(&mut self, at_work: impl Iterator<Item = Option<AdapterId>> + Clone) -> Option<AdapterId> {
        let others = at_work.clone().filter(|one| *one != self.current);
        let following = others.clone().filter(|one| *one > self.current).min().or_else(|| others.min());
        let is_at_work = at_work.into_iter().any(|one| one == self.current);
        match following {
            Some(next) if !is_at_work || self.steps >= limits::TURN_STEPS => {
                self.current = next;
                self.steps = 1;
            }
            _ => self.steps = self.steps.saturating_add(1),
        }
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(n: u64) -> Option<AdapterId> {
        (n > 0).then_some(AdapterId(n))
    }

    #[test]
    fn one_alone_goes_on_and_a_newcomer_waits_for_no_more_than_a_turn() {
        let mut turns = Turns::default();
        for _ in 0..3 * limits::TURN_STEPS {
            assert_eq!(turns.next([name(0)].into_iter()), name(0));
        }
        let both = [name(0), name(3), name(0)];
        assert_eq!(turns.next(both.into_iter()), name(3), "the one before had more than its turn");
        let later: Vec<_> = (1..2 * limits::TURN_STEPS).map(|_| turns.next(both.into_iter())).collect();
        let (same, other) = later.split_at(limits::TURN_STEPS - 1);
        assert!(same.iter().all(|one| *one == name(3)) && other.iter().all(|one| *one == name(0)), "{later:?}");
        assert_eq!(turns.next([name(3)].into_iter()), name(3), "who has nothing to do has no turn");
    }

    proptest! {
        #[test]
        fn whoever_stays_at_work_is_computed_within_the_turns_of_the_others(
            steps in prop::collection::vec(prop::collection::vec(0_u64..5, 0..6), 1..200), stays in 0_u64..5
        ) {
            let mut turns = Turns::default();
            let mut waited = 0;
            for others in &steps {
                let at_work: Vec<_> = others.iter().copied().chain([stays]).map(name).collect();
                let turn = turns.next(at_work.iter().copied());
                prop_assert!(at_work.contains(&turn));
                waited = if turn == name(stays) { 0 } else { waited + 1 };
                prop_assert!(waited <= 4 * limits::TURN_STEPS, "waited for {} steps", waited);
            }
        }
    }
}
