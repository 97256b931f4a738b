//! Log-probabilities: of a chosen token and of the likeliest ones, from the logits as the model gave them, before temperature,
//! penalties, bias and masks. So they compare between requests, and an echoed prompt is scored like an answer.

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    pub token: i32,
    pub logprob: f32,
    /// The likeliest tokens in its place, likeliest first.
    pub top: Vec<(i32, f32)>,
}

/// The log-probability of `token`, and the `top` likeliest ones.
pub(crate) fn score(logits: &[f32], token: i32, top: usize) -> Scored {
    let norm = log_sum(logits);
    let logprob =
        usize::try_from(token).ok().and_then(|token| logits.get(token)).map_or(f32::NEG_INFINITY, |l| l - norm);
    let top = likeliest(logits, top).into_iter().map(|(token, logit)| (token, logit - norm)).collect();
    Scored { token, logprob, top }
}

/// The logarithm of the sum of the exponentials.
fn log_sum(logits: &[f32]) -> f32 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    if !most.is_finite() {
        return 0.0;
    }
    most + logits.iter().map(|&logit| if logit.is_nan() { 0.0 } else { (logit - most).exp() }).sum::<f32>().ln()
}

/// The `count` largest, largest first, ties to the smaller token. `count` is small: a sorted list of that length is kept.
fn likeliest(logits: &[f32], count: usize) -> Vec<(i32, f32)> {
    let mut kept: Vec<(i32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0_i32..).zip(logits) {
        if logit.is_nan() || kept.len() == count && kept.last().is_none_or(|(_, least)| logit <= *least) {
            continue;
        }
        let at = kept.partition_point(|(_, other)| *other >= logit);
        kept.insert(at, (token, logit));
        kept.truncate(count);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn probabilities_of_all_tokens_sum_to_one() {
        let logits = [1.0, -2.0, 40.0, 39.5, f32::NEG_INFINITY, f32::NAN];
        let sum: f32 = (0..5).map(|token| score(&logits, token, 0).logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert!((score(&logits, 2, 0).logprob - -0.474_077).abs() < 1e-4);
        assert_eq!(score(&logits, 9, 0).logprob, f32::NEG_INFINITY);
    }

    proptest! {
        #[test]
        fn the_likeliest_are_those_of_a_full_sort(logits in prop::collection::vec(-40_i8..40, 0..200), count in 0_usize..21) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut sorted: Vec<(i32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            sorted.truncate(count);
            prop_assert_eq!(likeliest(&logits, count), sorted);
        }
    }
}
