//! Durations of many runs, and the two figures that are told of them.

use std::time::Duration;

/// Durations, in the order in which they were measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Median, in seconds; zero of nothing.
    pub(crate) fn p50(&self) -> f64 {
        quantile(&self.seconds(), 0.50)
    }

    /// 99th percentile, in seconds; zero of nothing.
    pub(crate) fn p99(&self) -> f64 {
        quantile(&self.seconds(), 0.99)
    }

    fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(Duration::as_secs_f64).collect()
    }
}

/// The smallest value that at least `share` of all do not exceed (nearest rank); zero of nothing.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let above = sorted.iter().enumerate().find(|(place, _)| (*place + 1) as f64 >= share * sorted.len() as f64);
    above.map_or(0.0, |(_, value)| *value)
}

/// Mean; zero of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((quantile(&hundred, 0.5) - 50.0).abs() < 1e-9);
        assert!((quantile(&hundred, 0.99) - 99.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).abs() < 1e-9);
    }
}
