//! Which models come out as scarce.

use super::super::SingleAsk;
use super::*;
use crate::request::Gpus;

fn levels(demand: &[(u64, u32)], gpus: &[i64]) -> Vec<u8> {
    let ask = |models| SingleAsk { gpus: Gpus::Whole(1), models, residencies: 0, cpu_milli: 0, memory_mib: 0 };
    let frequencies: Vec<(SingleAsk, u32)> = demand.iter().map(|(models, count)| (ask(*models), *count)).collect();
    by_model(&Census::told(&frequencies, &[]), &Supply { cpu_milli: 0, gpus: gpus.to_vec() })
}

#[test]
fn demand_that_may_go_anywhere_makes_nothing_scarce() {
    assert_eq!(levels(&[(0, 100)], &[10, 20, 5]), [0, 0, 0]);
    assert_eq!(levels(&[], &[10, 20, 5]), [0, 0, 0]);
    // Those who insist on the first find it within what it has of the whole.
    assert_eq!(levels(&[(0, 100), (0b001, 10)], &[10, 20, 5]), [0, 0, 0]);
}

#[test]
fn models_are_ranked_by_the_demand_that_has_no_choice() {
    assert_eq!(levels(&[(0, 30), (0b001, 50)], &[10, 20, 5]), [1, 0, 0]);
    // 60 for 5 of the third, then 40 for 10 of the first.
    assert_eq!(levels(&[(0, 10), (0b001, 40), (0b100, 60)], &[10, 20, 5]), [1, 0, 2]);
    // Two that can stand in for each other are scarce together.
    assert_eq!(levels(&[(0, 10), (0b101, 90)], &[10, 20, 5]), [1, 0, 1]);
}

#[test]
fn models_that_the_site_has_not_and_rare_sets_do_no_harm() {
    assert_eq!(levels(&[(0b1000, 10), (0, 5)], &[10, 20, 0]), [0, 0, 0]);
    let many: Vec<(u64, u32)> = (1..40).map(|set| (set, 1)).collect();
    assert_eq!(levels(&many, &[10; 6]).len(), 6);
}
