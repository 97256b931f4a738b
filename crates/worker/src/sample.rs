//! Choosing the next token: pure, seeded, the same on every machine that computes the same logits.
//! Order: bias, penalties, temperature, `top_k`, `top_p`, `min_p`, one draw. Temperature 0 takes the most likely token.
//! Own code instead of llama.cpp's samplers: those build a list of the whole vocabulary even for the most likely token.

use std::collections::HashMap;

/// Sampling parameters, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampling {
    pub temperature: f32,
    pub top_p: f32,
    /// 0 = off.
    pub top_k: usize,
    /// 0 = off.
    pub min_p: f32,
    /// 1 = off. Weighs on every token of prompt and answer.
    pub repetition_penalty: f32,
    /// Weighs on tokens of the answer, times their count.
    pub frequency_penalty: f32,
    /// Weighs on tokens of the answer, once.
    pub presence_penalty: f32,
    pub bias: Vec<(i32, f32)>,
    pub seed: u64,
}

impl Sampling {
    /// For one of several answers to a request: each has a seed of its own, the first one the request's.
    pub(crate) fn of_choice(&self, choice: usize) -> Self {
        let seed = self.seed.wrapping_add((choice as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
        Self { seed, ..self.clone() }
    }

    /// The most likely token, always.
    #[cfg(test)]
    pub(crate) fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            bias: vec![],
            seed: 0,
        }
    }

    fn changes_logits(&self) -> bool {
        !self.bias.is_empty() || self.penalises()
    }

    #[expect(clippy::float_cmp, reason = "exactly the neutral values switch the penalties off")]
    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// Excludes tokens from a choice.
pub(crate) type Strike<'a> = &'a dyn Fn(&mut [f32]);

/// The sampler of one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    parameters: Sampling,
    random: SplitMix64,
    /// Token → times in the answer; prompt tokens are present with 0.
    seen: HashMap<usize, u32>,
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: usize,
    /// Logit, later the weight of the draw.
    weight: f32,
}

impl Sampler {
    #[must_use]
    pub(crate) fn new(parameters: Sampling, prompt: &[i32]) -> Self {
        let seen = if parameters.penalises() {
            prompt.iter().filter_map(|&token| Some((usize::try_from(token).ok()?, 0))).collect()
        } else {
            HashMap::new()
        };
        let random = SplitMix64(parameters.seed);
        Self { parameters, random, seen, logits: vec![], candidates: vec![] }
    }

    /// Chooses a token. `strike` excludes tokens by setting their logits to minus infinity.
    pub(crate) fn choose(&mut self, logits: &[f32], strike: Option<Strike<'_>>) -> i32 {
        let token = if strike.is_some() || self.parameters.changes_logits() {
            let mut changed = std::mem::take(&mut self.logits);
            changed.clear();
            changed.extend_from_slice(logits);
            self.change(&mut changed);
            if let Some(strike) = strike {
                strike(&mut changed);
            }
            let token = self.pick(&changed);
            self.logits = changed;
            token
        } else {
            self.pick(logits)
        };
        i32::try_from(token).expect("a vocabulary is smaller than 2^31")
    }

    /// The token is part of the answer: penalties weigh on it from now on.
    pub(crate) fn remember(&mut self, token: i32) {
        if self.parameters.penalises()
            && let Ok(token) = usize::try_from(token)
        {
            *self.seen.entry(token).or_insert(0) += 1;
        }
    }

    fn change(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.parameters.bias {
            if let Some(logit) = usize::try_from(token).ok().and_then(|token| logits.get_mut(token)) {
                *logit += bias;
            }
        }
        for (&token, &count) in &self.seen {
            let Some(logit) = logits.get_mut(token) else { continue };
            let repetition = self.parameters.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if count > 0 {
                #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
                let times = count as f32;
                *logit -= self.parameters.frequency_penalty * times + self.parameters.presence_penalty;
            }
        }
    }

    fn pick(&mut self, logits: &[f32]) -> usize {
        let (best, top) = most_likely(logits);
        if self.parameters.temperature <= 0.0 || !top.is_finite() {
            return best;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates.extend(logits.iter().enumerate().map(|(token, &logit)| Candidate { token, weight: logit }));
        self.narrow(&mut candidates, top);
        let token = draw(&candidates, self.random.unit());
        self.candidates = candidates;
        token.unwrap_or(best)
    }

    /// Turns logits into weights (the best has 1) and drops those that `top_k`, `min_p` and `top_p` exclude.
    fn narrow(&self, candidates: &mut Vec<Candidate>, top: f32) {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.parameters;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_weight);
            candidates.truncate(top_k);
        }
        for candidate in candidates.iter_mut() {
            let weight = ((candidate.weight - top) / temperature).exp();
            candidate.weight = if weight.is_nan() { 0.0 } else { weight };
        }
        if top_p < 1.0 {
            keep_nucleus(candidates, top_p);
        }
        if min_p > 0.0 {
            candidates.retain(|candidate| candidate.weight >= min_p);
        }
    }
}

/// Keeps the smallest set of likeliest tokens whose weights reach `top_p` of all. Sorting a whole vocabulary takes
/// milliseconds, so only as many as needed are sorted.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f32) {
    let wanted = candidates.iter().map(|c| c.weight).sum::<f32>() * top_p;
    let mut sorted = 64;
    loop {
        let part = sorted < candidates.len();
        if part {
            candidates.select_nth_unstable_by(sorted - 1, by_weight);
        }
        let head = sorted.min(candidates.len());
        candidates[..head].sort_unstable_by(by_weight);
        let mut reached = 0.0;
        for i in 0..head {
            reached += candidates[i].weight;
            if reached >= wanted {
                candidates.truncate(i + 1);
                return;
            }
        }
        if !part {
            return;
        }
        sorted *= 8;
    }
}

/// Likeliest first, ties to the smaller token.
fn by_weight(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

fn draw(candidates: &[Candidate], unit: f32) -> Option<usize> {
    let mut left = candidates.iter().map(|c| c.weight).sum::<f32>() * unit;
    for candidate in candidates {
        left -= candidate.weight;
        if left < 0.0 {
            return Some(candidate.token);
        }
    }
    candidates.iter().rfind(|candidate| candidate.weight > 0.0).map(|candidate| candidate.token)
}

/// The most likely token and its logit, ties to the smaller token. Works in blocks that compilers vectorise.
fn most_likely(logits: &[f32]) -> (usize, f32) {
    const BLOCK: usize = 64;
    let mut top = f32::NEG_INFINITY;
    let mut block_at = 0;
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let most = block.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        if most > top {
            top = most;
            block_at = i * BLOCK;
        }
    }
    let end = (block_at + BLOCK).min(logits.len());
    let at = logits[block_at..end].iter().position(|&logit| logit >= top).unwrap_or(0);
    (block_at + at, top)
}

/// Steele, Lea and Flood 2014; 64 bits of state are plenty for one answer.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// Uniform in [0, 1).
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit a float exactly")]
        let bits = (z >> 40) as f32;
        bits / 16_777_216.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampling(temperature: f32, seed: u64) -> Sampling {
        Sampling { temperature, seed, ..Sampling::greedy() }
    }

    fn many(parameters: &Sampling, logits: &[f32], count: usize) -> Vec<i32> {
        let mut sampler = Sampler::new(parameters.clone(), &[]);
        let mut next = || {
            let token = sampler.choose(logits, None);
            sampler.remember(token);
            token
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn temperature_zero_takes_the_most_likely_token() {
        let mut logits = vec![0.0; 1000];
        logits[777] = 3.0;
        assert_eq!(many(&sampling(0.0, 1), &logits, 3), [777, 777, 777]);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let logits: Vec<f32> = (0..500_u16).map(|i| f32::from(i % 17)).collect();
        assert_eq!(many(&sampling(1.0, 7), &logits, 50), many(&sampling(1.0, 7), &logits, 50));
        assert_ne!(many(&sampling(1.0, 7), &logits, 50), many(&sampling(1.0, 8), &logits, 50));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [2.0_f32.ln(), 1.0_f32.ln(), 1.0_f32.ln()];
        let first = many(&sampling(1.0, 3), &logits, 20_000).iter().filter(|&&t| t == 0).count();
        assert!((9_700..10_300).contains(&first), "{first} of 20000 instead of half");
    }

    #[test]
    fn narrowing_excludes_the_unlikely() {
        let logits = [4.0, 3.0, 2.0, -20.0, f32::NAN, f32::NEG_INFINITY];
        for narrow in [
            Sampling { top_k: 3, ..sampling(1.0, 1) },
            Sampling { top_p: 0.99, ..sampling(1.0, 1) },
            Sampling { min_p: 0.05, ..sampling(1.0, 1) },
        ] {
            assert!(many(&narrow, &logits, 500).iter().all(|&t| t < 3), "{narrow:?}");
        }
    }

    #[test]
    fn penalties_and_bias_change_the_choice() {
        let logits = [2.0, 1.9, 1.0];
        let frequency = Sampling { frequency_penalty: 0.2, ..Sampling::greedy() };
        assert_eq!(many(&frequency, &logits, 3), [0, 1, 0]);
        let bias = Sampling { bias: vec![(2, 5.0)], ..Sampling::greedy() };
        assert_eq!(many(&bias, &logits, 1), [2]);
        let repetition = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        assert_eq!(Sampler::new(repetition, &[0]).choose(&logits, None), 1);
    }

    #[test]
    fn a_token_that_is_struck_is_never_chosen() {
        let strike = |logits: &mut [f32]| logits[2..].fill(f32::NEG_INFINITY);
        let logits = [0.0, 1.0, 9.0, 9.0];
        for temperature in [0.0, 1.0, 2.0] {
            let mut sampler = Sampler::new(sampling(temperature, 5), &[]);
            assert!((0..200).all(|_| sampler.choose(&logits, Some(&strike)) < 2));
        }
    }

    proptest! {
        #[test]
        fn the_nucleus_is_the_one_of_a_full_sort(
            weights in prop::collection::vec(1_u16..10_000, 1..300), top_p in 10_u16..999
        ) {
            // Whole thousandths: proptest's own ranges of floats panic once in some ten thousand draws.
            let weights: Vec<f32> = weights.into_iter().map(|weight| f32::from(weight) / 1000.0).collect();
            let top_p = f32::from(top_p) / 1000.0;
            let all: Vec<Candidate> = weights.iter().enumerate().map(|(token, &weight)| Candidate { token, weight }).collect();
            let mut kept = all.clone();
            keep_nucleus(&mut kept, top_p);
            let mut sorted = all;
            sorted.sort_unstable_by(by_weight);
            let tokens = |list: &[Candidate]| list.iter().map(|c| c.token).collect::<Vec<_>>();
            prop_assert_eq!(tokens(&kept), tokens(&sorted[..kept.len()]));
        }

        #[test]
        fn the_most_likely_is_the_first_maximum(logits in prop::collection::vec(-50_i8..50, 1..400)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let expected = logits.iter().enumerate().fold(0, |best, (i, &l)| if l > logits[best] { i } else { best });
            prop_assert_eq!(most_likely(&logits).0, expected);
        }
    }
}
