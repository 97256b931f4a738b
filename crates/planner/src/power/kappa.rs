//! κ: how far the peaks that are measured stay below the peaks that are asked for, per tenant class.
//!
//! Admission with κ = 1000 thousandths trusts what requests say; with a learned κ more fits under the same cap. The
//! caller multiplies a request's peak by κ before the planner sees it (`committed_watts`), once, so that the lease
//! gives back the watts it took.
//!
//! Deliberately absent: meters. One sample is the highest draw of one lease over a window the caller chose, not an
//! instant's draw: leases peak at other instants than their neighbours, and that is not counted on here.

use crate::units::{MAX_TENANT_CLASSES, TenantClass};

/// Thousandths in one bucket: what κ is rounded up to. A bucket holds the ratios above the last edge, up to its own.
const BUCKET_MILLI: i64 = 10;
/// Buckets: from nothing drawn to one and a half times what was asked for; the last takes all above.
const BUCKETS: usize = 151;
/// Samples of a class before anything is believed: the 99th percentile of fewer is the luck of one or two.
const FEWEST_SAMPLES: u32 = 500;
/// Samples after which all are halved, so that what was long ago fades.
const MOST_SAMPLES: u32 = 100_000;

/// Learns κ from measured peaks: one histogram for each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kappa {
    quantile_milli: u32,
    counts: [[u32; BUCKETS]; MAX_TENANT_CLASSES],
}

impl Kappa {
    /// κ will be the ratio that `quantile_milli` thousandths of the samples stay within.
    pub const fn new(quantile_milli: u32) -> Self {
        Self { quantile_milli, counts: [[0; BUCKETS]; MAX_TENANT_CLASSES] }
    }

    /// One lease asked for `asked_watts` at its peak and drew `drawn_watts`. A lease that asked for nothing says
    /// nothing.
    pub fn observe(&mut self, class: TenantClass, asked_watts: i64, drawn_watts: i64) {
        if asked_watts <= 0 {
            return;
        }
        let counts = &mut self.counts[usize::from(class.0)];
        let per_bucket = i128::from(asked_watts) * i128::from(BUCKET_MILLI);
        let above = (i128::from(drawn_watts.max(0)) * 1000 + per_bucket - 1) / per_bucket;
        let bucket = usize::try_from(above).unwrap_or(BUCKETS);
        counts[bucket.min(BUCKETS - 1)] += 1;
        if counts.iter().sum::<u32>() >= MOST_SAMPLES {
            for count in counts {
                *count /= 2;
            }
        }
    }

    /// κ of a class in thousandths: the upper edge of the bucket that holds the quantile, 1000 while too little is
    /// known. Above 1000 where leases draw more than they asked for.
    pub fn milli(&self, class: TenantClass) -> i64 {
        let counts = &self.counts[usize::from(class.0)];
        let samples: u32 = counts.iter().sum();
        if samples < FEWEST_SAMPLES {
            return 1000;
        }
        let mut seen = 0;
        let mut edge = -BUCKET_MILLI;
        for &count in counts {
            seen += u64::from(count);
            edge += BUCKET_MILLI;
            if seen * 1000 >= u64::from(samples) * u64::from(self.quantile_milli) {
                break;
            }
        }
        edge
    }

    /// What to commit for a peak that is asked for: κ times the peak, rounded up.
    pub fn committed_watts(&self, class: TenantClass, peak_watts: u32) -> u32 {
        let watts = (i64::from(peak_watts) * self.milli(class) + 999) / 1000;
        u32::try_from(watts).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
