use super::*;

/// Restart in 5 min, checkpoint in 10 s: what BENCHMARKS.md reckons with.
const TYPICAL: Checkpointing = Checkpointing { write_ms: 10_000, restart_ms: 300_000 };
const FIVE_MINUTES_MS: u32 = 300_000;

/// Rounded as the published figures are.
const fn thousandths(ppm: u32) -> u32 {
    (ppm + 500) / 1000
}

#[test]
fn the_closed_form_gives_the_published_ratios() {
    // RSC-1's rate, 16,384 GPUs, a checkpoint every 5 min: 0.901.
    assert_eq!(thousandths(expected_ettr_ppm(2048, FailureRate::RSC_1, TYPICAL, FIVE_MINUTES_MS)), 901);
    let at = |nodes, rate, interval_ms| thousandths(expected_ettr_ppm(nodes, rate, TYPICAL, interval_ms));
    // Published: 0.894 and 0.927 on 18,000 GPUs, 0.791 and 0.860 on 45,000.
    assert_eq!([at(2250, FailureRate::RSC_1, 300_000), at(2250, FailureRate::LLAMA_3, 480_000)], [894, 927]);
    assert_eq!([at(5625, FailureRate::RSC_1, 200_000), at(5625, FailureRate::LLAMA_3, 300_000)], [791, 860]);
    // The best interval is as good or a thousandth better: 5.4 and 7.2 min, 3.2 and 4.4 min.
    let best = |nodes, rate| at(nodes, rate, best_interval_ms(nodes, rate, TYPICAL).unwrap());
    assert_eq!([best(2250, FailureRate::RSC_1), best(2250, FailureRate::LLAMA_3)], [894, 928]);
    assert_eq!([best(5625, FailureRate::RSC_1), best(5625, FailureRate::LLAMA_3)], [791, 861]);
}

#[test]
fn times_between_failures_are_the_published_ones() {
    // 1.64 h and 2.82 h at 18,000 GPUs, 0.66 h and 1.13 h at 45,000.
    let hours_percent = |nodes, rate| mean_time_to_failure_seconds(nodes, rate).unwrap() / 36;
    assert_eq!([hours_percent(2250, FailureRate::RSC_1), hours_percent(2250, FailureRate::LLAMA_3)], [164, 281]);
    assert_eq!([hours_percent(5625, FailureRate::RSC_1), hours_percent(5625, FailureRate::LLAMA_3)], [65, 112]);
    assert_eq!(mean_time_to_failure_seconds(0, FailureRate::RSC_1), None);
}

#[test]
fn no_other_interval_is_better_than_the_best() {
    for nodes in [1, 16, 128, 2048, 5625, 20_000] {
        let best = best_interval_ms(nodes, FailureRate::RSC_1, TYPICAL).unwrap();
        let ratio = expected_ettr_ppm(nodes, FailureRate::RSC_1, TYPICAL, best);
        for other in [best / 2, best - best / 10, best + best / 10, best.saturating_mul(2)] {
            let worse = expected_ettr_ppm(nodes, FailureRate::RSC_1, TYPICAL, other);
            assert!(worse < ratio, "{nodes} nodes: {other} ms gives {worse}, {best} ms gives {ratio}");
        }
    }
}

#[test]
fn more_failures_than_restarts_can_follow_leave_nothing() {
    assert_eq!(best_interval_ms(100_000, FailureRate::RSC_1, TYPICAL), None);
    assert_eq!(expected_ettr_ppm(100_000, FailureRate::RSC_1, TYPICAL, FIVE_MINUTES_MS), 0);
    // Nothing fails: never write a checkpoint.
    assert_eq!(best_interval_ms(0, FailureRate::RSC_1, TYPICAL), Some(u32::MAX));
    assert_eq!(expected_ettr_ppm(0, FailureRate::RSC_1, TYPICAL, 0), 0);
}

#[test]
fn spares_are_the_poisson_quantile() {
    const DAY: u32 = 86_400;
    // Reckoned apart, by summing exp(−μ) μᵏ / k! through its logarithm.
    let cases = [
        (32, FailureRate::RSC_1, DAY, 990_000, 2),
        (32, FailureRate::RSC_1, DAY, 999_000, 3),
        (32, FailureRate::RSC_1, 14 * DAY, 990_000, 8),
        (2250, FailureRate::RSC_1, DAY, 990_000, 24),
        (5625, FailureRate::RSC_1, DAY, 990_000, 51),
        (5625, FailureRate::LLAMA_3, DAY, 999_000, 37),
        (56_250, FailureRate::RSC_1, DAY, 999_000, 426),
        (1_000_000, FailureRate::RSC_1, DAY, 990_000, 6688),
        (0, FailureRate::RSC_1, DAY, 990_000, 0),
    ];
    for (nodes, rate, repair, quantile, expected) in cases {
        assert_eq!(spares(nodes, rate, repair, quantile), expected, "{nodes} nodes, {quantile} ppm");
    }
}

#[test]
fn one_failure_is_no_verdict_and_many_are() {
    assert_eq!(lemon_score_milli(0, 0), 993);
    assert_eq!(lemon_score_milli(1, 1), 1987);
    assert_eq!([lemon_rank(0, 0), lemon_rank(1, 0), lemon_rank(1, 1), lemon_rank(1, 365)], [0, 0, 0, 0]);
    // Ten times the typical rate for a year, and as many failures in twenty years.
    assert_eq!([lemon_rank(24, 365), lemon_rank(24, 7300)], [2, 0]);
    assert_eq!(lemon_rank(3, 30), 1);
    assert_eq!(lemon_rank(u32::MAX, 1), 22);
}

fn place(node: u64, unit: u32, rack: u32, lemon_rank: u8) -> Place {
    Place { node: NodeId(node), domains: vec![DomainId(unit), DomainId(rack)], lemon_rank }
}

#[test]
fn a_lost_node_is_replaced_near_the_survivors() {
    let survivors = [place(1, 0, 10, 0), place(2, 0, 10, 0), place(3, 0, 11, 0)];
    let far = place(40, 1, 20, 0);
    let same_unit = place(41, 0, 12, 0);
    let same_rack = place(42, 0, 11, 0);
    let fuller_rack = place(43, 0, 10, 0);
    let lemon = place(39, 0, 10, 2);
    let mut spares = vec![far, lemon, same_unit, same_rack, fuller_rack];
    let mut order = Vec::new();
    while let Some(next) = replacements(&survivors, &spares, 1) {
        order.push(next[0].0);
        spares.retain(|spare| spare.node != next[0]);
    }
    assert_eq!(order, [43, 42, 41, 40, 39]);
}

#[test]
fn replacements_stay_together_when_they_must_leave() {
    let survivors = [place(1, 0, 10, 0)];
    let spares = [place(50, 2, 30, 0), place(51, 3, 40, 0), place(52, 2, 31, 0), place(53, 2, 30, 0)];
    let chosen = replacements(&survivors, &spares, 3).unwrap();
    assert_eq!(chosen, [NodeId(50), NodeId(53), NodeId(52)]);
    assert_eq!(replacements(&survivors, &spares, 5), None);
    assert_eq!(replacements(&survivors, &spares, 0), Some(vec![]));
}
