use super::*;

const A: TenantClass = TenantClass(0);
const B: TenantClass = TenantClass(1);

#[test]
fn nothing_is_believed_of_few_samples() {
    let mut kappa = Kappa::new(990);
    for _ in 0..FEWEST_SAMPLES - 1 {
        kappa.observe(A, 10_000, 4_000);
    }
    kappa.observe(A, 0, 4_000);
    assert_eq!(kappa.milli(A), 1000);
    kappa.observe(A, 10_000, 4_000);
    assert_eq!([kappa.milli(A), kappa.milli(B)], [400, 1000]);
    assert_eq!(kappa.committed_watts(A, 10_200), 4080);
    assert_eq!(kappa.committed_watts(A, 1), 1);
}

#[test]
fn kappa_covers_the_quantile_and_at_most_a_bucket_more() {
    let mut kappa = Kappa::new(990);
    // Ratios 0.000, 0.001, … 0.999: 99 % are within 0.990.
    for ratio in 0..1000 {
        kappa.observe(A, 10_000, ratio * 10);
    }
    assert_eq!(kappa.milli(A), 990);
    // Who draws more than asked is seen as such.
    for _ in 0..1000 {
        kappa.observe(B, 1000, 1204);
    }
    assert_eq!(kappa.milli(B), 1210);
    assert_eq!(kappa.committed_watts(B, 1000), 1210);
}

#[test]
fn who_draws_what_was_asked_has_a_kappa_of_one() {
    let mut kappa = Kappa::new(990);
    for _ in 0..1000 {
        kappa.observe(A, 10_000, 10_000);
        kappa.observe(B, 10_000, 10_001);
    }
    assert_eq!([kappa.milli(A), kappa.milli(B)], [1000, 1010]);
}

#[test]
fn what_was_long_ago_fades() {
    let mut kappa = Kappa::new(990);
    for _ in 0..MOST_SAMPLES {
        kappa.observe(A, 1000, 985);
    }
    assert_eq!(kappa.milli(A), 990);
    for _ in 0..8 * MOST_SAMPLES {
        kappa.observe(A, 1000, 305);
    }
    assert_eq!(kappa.milli(A), 310);
}
