//! Published policies, built anew: FGD (Weng et al., USENIX ATC 2023), BestFit and Random as in the same paper.

use std::collections::HashMap;

use super::cluster::{Peer, State};
use crate::openb::{List, Task};
use crate::random::SplitMix64;

/// Fragmentation gradient descent: where the GPU capacity that a random task could not use grows least.
pub(crate) struct Fgd {
    typical: Vec<(Task, f64)>,
    memo: HashMap<State, f64>,
}

impl Fgd {
    /// Knows the classes that make up 95 % of the list.
    pub(crate) fn new(list: &List) -> Self {
        let mut classes: HashMap<Task, f64> = HashMap::new();
        for task in &list.tasks {
            *classes.entry(Task { memory_mib: 0, ..*task }).or_insert(0.0) += 1.0;
        }
        let mut classes: Vec<(Task, f64)> = classes.into_iter().collect();
        classes.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        let mut covered = 0.0;
        let enough = 0.95 * list.tasks.len() as f64;
        classes.retain(|(_, count)| {
            let is_typical = covered < enough;
            if is_typical {
                covered += count;
            }
            is_typical
        });
        classes.iter_mut().for_each(|(_, count)| *count /= covered);
        Self { typical: classes, memo: HashMap::new() }
    }

    /// GPUs that stand free and that a random task could not use, in thousandths.
    fn fragmented(&mut self, state: &State) -> f64 {
        let key = State { memory_mib: 0, ..*state };
        let typical = &self.typical;
        *self.memo.entry(key).or_insert_with(|| {
            let free = key.free_milli() as f64;
            let unusable = |(task, share): &(Task, f64)| {
                if task.gpus == 0 || key.cpu_milli < task.cpu_milli || !key.has_gpus(task) {
                    return share * free;
                }
                let lost: i64 = key.gpus.iter().filter(|gpu| **gpu < task.milli).map(|gpu| i64::from(*gpu)).sum();
                share * lost as f64
            };
            typical.iter().map(unusable).sum()
        })
    }

    /// How much less is fragmented afterwards, in GPUs, for the best choice.
    pub(crate) fn gain(&mut self, state: &State, task: &Task) -> (f64, usize) {
        let before = self.fragmented(state);
        let mut best = (f64::NEG_INFINITY, 0);
        for choice in state.choices(task) {
            let gain = (before - self.fragmented(&state.after(task, choice))) / 1000.0;
            if hundredths(gain) > hundredths(best.0) || best.0 == f64::NEG_INFINITY {
                best = (gain, choice);
            }
        }
        best
    }
}

/// Hundredths of the logistic function, rounded down, as the authors' scheduler scores.
#[allow(clippy::cast_possible_truncation, reason = "it lies between 0 and 100")]
pub(crate) fn hundredths(gain: f64) -> i64 {
    (100.0 / (1.0 + (-gain).exp())).floor().clamp(0.0, 100.0) as i64
}

impl Peer for Fgd {
    fn score(&mut self, state: &State, task: &Task) -> (i64, usize) {
        let (gain, choice) = self.gain(state, task);
        (hundredths(gain), choice)
    }
}

/// The node with least left, CPU and GPU weighed equally against the largest node (128 cores, 8 GPUs).
pub(crate) struct BestFit;

impl Peer for BestFit {
    #[allow(clippy::cast_possible_truncation, reason = "it lies between 0 and 100")]
    fn score(&mut self, state: &State, task: &Task) -> (i64, usize) {
        let cpu = f64::from(state.cpu_milli - task.cpu_milli) / 128_000.0;
        let gpu = (state.free_milli() - task.total_milli()) as f64 / 8000.0;
        let choice = state.choices(task).first().copied().unwrap_or(0);
        ((100.0 * (1.0 - 0.5 * cpu - 0.5 * gpu)).floor() as i64, choice)
    }
}

/// Any node that fits.
pub(crate) struct Random(pub(crate) SplitMix64);

impl Peer for Random {
    fn score(&mut self, state: &State, task: &Task) -> (i64, usize) {
        (i64::from(self.0.below(1 << 30)), state.choices(task).first().copied().unwrap_or(0))
    }
}
