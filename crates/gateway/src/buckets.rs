//! Times in fixed buckets: four to each doubling, from under a millisecond to minutes. Counting is one atomic addition.
//!
//! Every fourth border is one of the series' own, so that Prometheus and the live view read the same numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Borders; one bucket more takes what is above the last.
const BORDERS: usize = 73;
/// Buckets to a doubling.
const FINE: usize = 4;
/// The lowest border: an eighth of 5 ms, in nanoseconds.
const LOWEST_NANOS: u64 = 625_000;
/// 2^(1/4), 2^(2/4), 2^(3/4) in millionths.
const ROOTS: [u64; FINE] = [1_000_000, 1_189_207, 1_414_214, 1_681_793];

/// Upper borders in nanoseconds.
const NANOS: [u64; BORDERS] = {
    let mut nanos = [0; BORDERS];
    let mut at = 0;
    while at < BORDERS {
        nanos[at] = (LOWEST_NANOS << (at / FINE)) / 1_000_000 * ROOTS[at % FINE]
            + (LOWEST_NANOS << (at / FINE)) % 1_000_000 * ROOTS[at % FINE] / 1_000_000;
        at += 1;
    }
    nanos
};

/// Which borders a series shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    first: usize,
    last: usize,
}

impl Shown {
    /// From 5 ms, a cached answer, to 160 s: what people wait for.
    pub(crate) const WAITS: Self = Self { first: 3 * FINE, last: 18 * FINE };
    /// From 0.6 ms to 5 s: a token.
    pub(crate) const TOKENS: Self = Self { first: 0, last: 13 * FINE };
}

/// How many times fell into each bucket.
#[derive(Debug)]
pub(crate) struct Buckets {
    counts: [AtomicU64; BORDERS + 1],
    micros: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts([u64; BORDERS + 1]);

impl Default for Buckets {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), micros: AtomicU64::new(0) }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self([0; BORDERS + 1])
    }
}

impl Buckets {
    pub(crate) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let at = NANOS.partition_point(|border| *border < nanos);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(nanos / 1_000, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Counts {
        Counts(std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed)))
    }

    /// Sum in seconds, count, and what fell between the borders that are shown.
    pub(crate) fn series(&self, shown: Shown) -> (f64, u64, Vec<(f64, u64)>) {
        let Counts(counts) = self.now();
        let mut buckets = Vec::with_capacity((shown.last - shown.first) / FINE + 2);
        let mut from = 0;
        for at in (shown.first..=shown.last).step_by(FINE) {
            buckets.push((Duration::from_nanos(NANOS[at]).as_secs_f64(), counts[from..=at].iter().sum()));
            from = at + 1;
        }
        buckets.push((f64::INFINITY, counts[from..].iter().sum()));
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        (sum, counts.iter().sum(), buckets)
    }
}

impl Counts {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that `percent` of them do not exceed, in micros: the upper border of its bucket, a fifth too long at most.
    /// Nothing when there are none.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let total = self.total();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut below = 0;
        let at = self.0.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        (total > 0).then(|| NANOS[at.min(BORDERS - 1)] / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fourth_border_is_twice_the_one_before() {
        assert!(NANOS.is_sorted());
        for at in 0..BORDERS - FINE {
            let (lower, upper) = (NANOS[at], NANOS[at + FINE]);
            assert!(upper.abs_diff(2 * lower) <= 2, "{lower} {upper}");
        }
        assert_eq!((NANOS[12], NANOS[72]), (5_000_000, 163_840_000_000));
    }

    #[test]
    fn a_time_on_a_border_is_below_it_and_sums_are_whole() {
        let buckets = Buckets::default();
        for millis in [1, 5, 6, 10, 11, 200_000] {
            buckets.add(Duration::from_millis(millis));
        }
        let (sum, count, shown) = buckets.series(Shown::WAITS);
        assert_eq!((count, shown.len()), (6, 17));
        assert!((sum - 200.033).abs() < 1e-9, "{sum}");
        assert_eq!(shown[..3].iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 2, 1]);
        assert!((shown[0].0 - 0.005).abs() < 1e-12 && (shown[15].0 - 163.84).abs() < 1e-9);
        assert_eq!(shown[16].1, 1, "what is above the last border");
    }

    #[test]
    fn percentiles_are_at_most_a_fifth_above_the_time() {
        let buckets = Buckets::default();
        assert_eq!(buckets.now().percentile(50), None);
        for millis in 1..=1_000 {
            buckets.add(Duration::from_millis(millis));
        }
        let counts = buckets.now();
        for (percent, exact) in [(1, 10_000), (50, 500_000), (99, 990_000), (100, 1_000_000)] {
            let told = counts.percentile(percent).expect("there are some");
            assert!(told >= exact && told * 100 <= exact * 120, "p{percent}: {told} for {exact}");
        }
        let later = Buckets::default();
        later.add(Duration::from_millis(3));
        assert_eq!(counts.since(&counts).total(), 0);
        let mut sum = counts.clone();
        sum.add(&later.now());
        assert_eq!(sum.since(&counts), later.now());
    }
}
