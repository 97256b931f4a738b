//! The numbers that places are judged by.

use super::*;

#[test]
fn the_logistic_function_is_rounded_down_exactly() {
    let gpus = |millionths: i64| millionths * WHOLE_WEIGHT / 1000;
    assert_eq!(hundredths(0), 50);
    assert_eq!(hundredths(-1), 49, "the smallest harm counts");
    assert_eq!(hundredths(1), 50);
    // 1 / (1 + e^-1) = 0.7311, 1 / (1 + e) = 0.2689.
    assert_eq!(hundredths(gpus(1_000_000)), 73);
    assert_eq!(hundredths(gpus(-1_000_000)), 26);
    assert_eq!(hundredths(gpus(100_000_000)), 99);
    assert_eq!(hundredths(gpus(-100_000_000)), 0);
    assert!(LOGISTIC.is_sorted());
    for millionths in (-5_000_000..5_000_000).step_by(7919) {
        assert!(hundredths(gpus(millionths)) <= hundredths(gpus(millionths + 7919)), "it grows, at {millionths}");
    }
}

#[test]
fn counts_are_rounded_down_to_two_binary_digits() {
    let rounded: Vec<i64> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 1047, 1536].into_iter().map(rounded).collect();
    assert_eq!(rounded, [0, 1, 2, 3, 4, 4, 6, 6, 8, 8, 12, 1024, 1536]);
}

#[test]
fn cpu_is_kept_beside_gpus_as_far_as_it_is_scarce() {
    let ask = |gpus, cpu_milli| SingleAsk { gpus, models: 0, residencies: 0, cpu_milli, memory_mib: 0 };
    let census = Census::told(&[(ask(Gpus::Whole(1), 8000), 10), (ask(Gpus::Whole(0), 20_000), 1)], &[]);
    let supply = |cpu_milli| Supply { cpu_milli, gpus: vec![100] };
    // The demand brings 10,000 for each GPU: as much as there is, a quarter of it, four times.
    assert_eq!(cpu_per_gpu(&census, &supply(1_000_000)), 10_000);
    assert_eq!(cpu_per_gpu(&census, &supply(4_000_000)), 1250);
    assert_eq!(cpu_per_gpu(&census, &supply(250_000)), 80_000);
    assert_eq!(cpu_per_gpu(&Census::default(), &supply(1_000_000)), 0);
}
