use super::*;
use crate::fleet::PowerSpec;

const A: TenantClass = TenantClass(0);
const B: TenantClass = TenantClass(1);

/// A site of 100 W with two rows of 60 W; class B keeps 30 W in the first.
fn tree() -> PowerTree {
    let point = |parent, cap_watts, floors| PowerSpec { parent, cap_watts, floors };
    PowerTree::new(&[
        point(None, 100, vec![]),
        point(Some(PowerId(0)), 60, vec![(B, 30)]),
        point(Some(PowerId(0)), 60, vec![]),
    ])
}

fn ask(class: TenantClass, priority: i16, ask_watts: i64) -> Ask {
    Ask { class, priority, least_watts: 0, ask_watts }
}

/// Three consumers: two in the first row, one in the second.
const POINTS: [PowerId; 3] = [PowerId(1), PowerId(1), PowerId(2)];

fn verdict(asks: &[Ask], watts: [i64; 3], kept_watts: [i64; 3]) -> Result<Proof, Breach> {
    check(&tree(), &POINTS, asks, &Allocation { watts: watts.to_vec(), kept_watts: kept_watts.to_vec() })
}

#[test]
fn a_right_answer_is_proved_with_its_cut() {
    let asks = [ask(A, 0, 50), ask(B, 0, 50), ask(A, 0, 30)];
    let proof = verdict(&asks, [30, 30, 30], [0, 30, 0]).unwrap();
    assert_eq!(proof, Proof { given_watts: 90, optimum_watts: 90, cut: vec![PowerId(1)] });
}

#[test]
fn every_kind_of_breach_is_named() {
    let asks = [ask(A, 0, 50), ask(B, 0, 50), ask(A, 0, 30)];
    assert_eq!(
        verdict(&asks, [30, 30, 31], [0, 30, 0]),
        Err(Breach::Range { consumer: 2, watts: 31, kept_watts: 0, ask_watts: 30 })
    );
    assert_eq!(
        verdict(&asks, [31, 30, 30], [0, 30, 0]),
        Err(Breach::OverCap { power: PowerId(1), watts: 61, cap_watts: 60 })
    );
    assert_eq!(
        verdict(&asks, [29, 30, 30], [0, 30, 0]),
        Err(Breach::NotGreatest { given_watts: 89, optimum_watts: 90 })
    );
    assert_eq!(verdict(&asks, [32, 28, 30], [0, 28, 0]), Err(Breach::Unfair { consumer: 1 }));
    assert_eq!(
        verdict(&asks, [28, 32, 30], [0, 32, 0]),
        Err(Breach::Kept { class: B, kept_watts: 32, allowed_watts: 30 })
    );
    assert_eq!(verdict(&asks[..2], [30, 30, 30], [0, 30, 0]), Err(Breach::Length { asks: 2, answers: 3 }));
}

#[test]
fn a_higher_priority_comes_first_and_a_floor_before_it() {
    let asks = [ask(A, 5, 50), ask(B, 0, 50), ask(A, 0, 30)];
    assert!(verdict(&asks, [30, 30, 30], [0, 30, 0]).is_ok());
    // The lower priority holds a watt that no floor keeps.
    assert_eq!(verdict(&asks, [30, 30, 30], [0, 29, 0]), Err(Breach::Unfair { consumer: 0 }));
    // The higher takes what the floor keeps.
    assert_eq!(
        verdict(&asks, [40, 20, 30], [0, 20, 0]),
        Err(Breach::FloorShort { power: PowerId(1), class: B, watts: 20, floor_watts: 30 })
    );
}
