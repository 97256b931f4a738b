//! Figures of many measured values.

/// A share of all values, in parts of a million: ranks of whole numbers are exact, those of floats off by one.
pub(crate) type Millionths = usize;

pub(crate) const P50: Millionths = 500_000;
pub(crate) const P99: Millionths = 990_000;

/// The smallest value that at least `share` of all do not exceed (nearest rank); zero of nothing.
///
/// `sorted` is in ascending order.
pub(crate) fn quantile(sorted: &[u64], share: Millionths) -> u64 {
    let rank = (sorted.len() * share).div_ceil(1_000_000).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

/// The middle value, or the mean of the two in the middle; nothing of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::{P50, P99, median, quantile};

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&hundred, P50), 50);
        assert_eq!(quantile(&hundred, P99), 99);
        assert_eq!(quantile(&hundred, 999_000), 100);
        assert_eq!(quantile(&hundred, 0), 1);
        assert_eq!(quantile(&[7], P50), 7);
        assert_eq!(quantile(&[], P50), 0);
    }

    #[test]
    fn one_wild_round_does_not_move_the_median() {
        assert_eq!(median(&[10.0, 9_000.0, 11.0]), Some(11.0));
        assert_eq!(median(&[1.0, 2.0, 3.0, 10.0]), Some(2.5));
        assert_eq!(median(&[f64::NAN, 4.0]), Some(4.0));
        assert_eq!(median(&[]), None);
    }
}
