use galerne_model::units::Milliwatts;

use super::*;

const SECOND: i64 = 1_000_000;

fn counter(second: i64, microjoules: u64, range: Option<u64>) -> Sample {
    let at = second * SECOND;
    Sample { wall_micros: 1_000 * SECOND + at, steady_micros: at, shows: Shows::Counter { microjoules, range } }
}

fn power(second: i64, milliwatts: i64) -> Sample {
    let at = second * SECOND;
    Sample { wall_micros: 1_000 * SECOND + at, steady_micros: at, shows: Shows::Power(Milliwatts(milliwatts)) }
}

fn slice(taken: Taken) -> Slice {
    match taken {
        Taken::Slice(slice) => slice,
        Taken::Begins(_) | Taken::Late => panic!("{taken:?}"),
    }
}

#[test]
fn a_counter_gives_what_it_rose_by() {
    let mut meter = Meter::default();
    assert_eq!(meter.take(counter(0, 500, None)), Taken::Begins(Begins::First));
    let first = slice(meter.take(counter(1, 1_500, None)));
    assert_eq!((first.from_micros, first.to_micros), (1_000 * SECOND, 1_001 * SECOND));
    assert_eq!((first.microjoules, first.is_measured), (1_000, true));
    // Silent for a minute: a counter has forgotten nothing.
    assert_eq!(slice(meter.take(counter(61, 9_500, None))).microjoules, 8_000);
}

#[test]
fn a_look_that_comes_twice_or_late_changes_nothing() {
    let mut meter = Meter::default();
    meter.take(counter(0, 0, None));
    meter.take(counter(2, 2_000, None));
    assert_eq!(meter.take(counter(2, 2_000, None)), Taken::Late);
    assert_eq!(meter.take(counter(1, 1_000, None)), Taken::Late);
    assert_eq!(slice(meter.take(counter(3, 3_000, None))).microjoules, 1_000);
}

#[test]
fn a_counter_that_wraps_goes_on_and_one_that_begins_again_shows_the_rest() {
    let mut meter = Meter::default();
    meter.take(counter(0, 990, Some(1_000)));
    let wrapped = slice(meter.take(counter(1, 20, Some(1_000))));
    assert_eq!((wrapped.microjoules, wrapped.is_measured), (30, true));
    let mut meter = Meter::default();
    meter.take(counter(0, 990, None));
    let reset = slice(meter.take(counter(1, 20, None)));
    assert_eq!((reset.microjoules, reset.is_measured), (20, false));
    // The way round the whole range would take more power than anything has: it was reset as well.
    let range = Some(u64::MAX);
    let mut meter = Meter::default();
    meter.take(counter(0, 990, range));
    let reset = slice(meter.take(counter(1, 20, range)));
    assert_eq!((reset.microjoules, reset.is_measured), (20, false));
}

#[test]
fn energy_that_cannot_be_is_not_believed_and_the_next_look_counts_from_there() {
    let mut meter = Meter::default();
    meter.take(counter(0, 0, None));
    assert_eq!(meter.take(counter(1, u64::MAX / 2, None)), Taken::Begins(Begins::Unbelievable));
    assert_eq!(slice(meter.take(counter(2, u64::MAX / 2 + 7, None))).microjoules, 7);
}

#[test]
fn power_is_the_mean_of_two_looks_and_rounding_loses_nothing() {
    let mut meter = Meter::default();
    meter.take(power(0, 100_000));
    assert_eq!(slice(meter.take(power(1, 300_000))).microjoules, 200 * SECOND);
    assert_eq!(meter.take(power(100, 300_000)), Taken::Begins(Begins::Gap), "nobody knows what was in between");
    // 1 mW for 3 µs at a time: 3 nJ each, 3 µJ in a thousand.
    let mut meter = Meter::default();
    let tiny = |n: i64| Sample { wall_micros: n * 3, steady_micros: n * 3, shows: Shows::Power(Milliwatts(1)) };
    meter.take(tiny(0));
    assert_eq!((1..=1_000).map(|n| slice(meter.take(tiny(n))).microjoules).sum::<i64>(), 3);
}

#[test]
fn a_clock_that_is_set_keeps_the_length_of_the_interval() {
    for jump in [-3_600 * SECOND, 3_600 * SECOND, -3 * SECOND] {
        let mut meter = Meter::default();
        meter.take(counter(0, 0, None));
        let mut set = counter(1, 1_000, None);
        set.wall_micros += jump;
        let slice = slice(meter.take(set));
        assert_eq!((slice.to_micros, slice.to_micros - slice.from_micros), (1_001 * SECOND + jump, SECOND));
        assert_eq!(slice.microjoules, 1_000);
    }
}

#[test]
fn another_kind_of_source_begins_anew() {
    let mut meter = Meter::default();
    meter.take(counter(0, 0, None));
    assert_eq!(meter.take(power(1, 5)), Taken::Begins(Begins::Gap));
    assert_eq!(meter.take(counter(2, 5, Some(9))), Taken::Begins(Begins::Gap));
    assert_eq!(meter.take(counter(3, 5, Some(10))), Taken::Begins(Begins::Gap));
}

#[test]
fn counters_of_one_source_add_up_and_one_that_begins_again_is_told() {
    let counter = |microjoules| Shows::Counter { microjoules, range: None };
    let mut meters = Meters::default();
    assert_eq!(meters.take(0, 0, &[counter(5), counter(100)]), Taken::Begins(Begins::First));
    let both = slice(meters.take(SECOND, SECOND, &[counter(10), counter(107)]));
    assert_eq!((both.microjoules, both.is_measured), (12, true));
    let reset = slice(meters.take(2 * SECOND, 2 * SECOND, &[counter(11), counter(3)]));
    assert_eq!((reset.microjoules, reset.is_measured), (4, false));
    assert_eq!(meters.take(3 * SECOND, 3 * SECOND, &[counter(11)]), Taken::Begins(Begins::First));
}
