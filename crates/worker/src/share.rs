//! Sharing the CPU time of a step among its sequences, in whole microseconds.
//! INVARIANT: the shares of all sequences over all steps sum to the microseconds measured; nothing is lost in rounding.

/// Turns readings of a nanosecond clock into whole microseconds and carries the rest.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    carried_nanos: u64,
}

impl CpuMeter {
    /// Whole microseconds of `nanos` and of what earlier calls left over.
    pub(crate) fn micros(&mut self, nanos: u64) -> u64 {
        let sum = self.carried_nanos + nanos;
        self.carried_nanos = sum % 1000;
        sum / 1000
    }
}

/// Splits `total` in proportion to `weights` by largest remainder, ties to the earlier one.
#[must_use]
pub(crate) fn apportion(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let product = |w: u64| u128::from(total) * u128::from(w);
    let mut shares: Vec<u64> =
        weights.iter().map(|&w| u64::try_from(product(w) / sum).expect("a share is at most the total")).collect();
    let mut left = total - shares.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(product(weights[i]) % sum), i));
    for i in order {
        if left == 0 {
            break;
        }
        shares[i] += 1;
        left -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_follow_the_tokens() {
        assert_eq!(apportion(100, &[1, 1, 2]), [25, 25, 50]);
        assert_eq!(apportion(10, &[1, 1, 1]), [4, 3, 3]);
    }

    #[test]
    fn nanoseconds_are_carried() {
        let mut meter = CpuMeter::default();
        assert_eq!([meter.micros(1_600), meter.micros(1_600), meter.micros(800)], [1, 2, 1]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(total in 0_u64..1 << 50, weights in prop::collection::vec(0_u64..4096, 1..64)) {
            let shares = apportion(total, &weights);
            let expected = if weights.iter().all(|&w| w == 0) { 0 } else { total };
            prop_assert_eq!(shares.iter().sum::<u64>(), expected);
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!(*weight > 0 || *share == 0);
            }
        }
    }
}
