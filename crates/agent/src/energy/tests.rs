use std::collections::BTreeMap;

use proptest::prelude::*;

use super::balance::{between, keep_missed};
use super::counters::PackageCounter;
use super::*;
use crate::clock::Moment;
use crate::gpus::GpuCounter;

const SECOND: i128 = 1_000_000_000;

fn wall(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("a date of this century")
}

/// A host that has been awake for `seconds`, with its wall clock in step.
fn look(seconds: i64) -> Counters {
    let nanos = i128::from(seconds) * SECOND;
    Counters {
        at: Moment { wall: wall(seconds), awake_nanos: nanos, since_boot_nanos: nanos },
        busy_cpu_micros: Some(0),
        packages: BTreeMap::new(),
        gpus: BTreeMap::new(),
        missed: BTreeMap::new(),
    }
}

fn model() -> PowerModel {
    PowerModel::stated(Milliwatts(10_000), Milliwatts(2_500), 4)
}

fn package(microjoules: u64) -> BTreeMap<String, PackageCounter> {
    BTreeMap::from([("intel-rapl:0".to_owned(), PackageCounter { microjoules, max_microjoules: 262_143_328_850 })])
}

fn gpu(energy_millijoules: Option<u64>, power_milliwatts: u32) -> BTreeMap<String, GpuCounter> {
    let counter = GpuCounter { uuid: "GPU-1".to_owned(), energy_millijoules, power_milliwatts: Some(power_milliwatts) };
    BTreeMap::from([(counter.uuid.clone(), counter)])
}

fn difference(before: &Counters, after: &Counters) -> EnergySample {
    between(before, after, &model(), Balance::default()).0
}

#[test]
fn without_counters_the_stated_model_is_applied_and_named() {
    let after = Counters { busy_cpu_micros: Some(4_000_000), ..look(10) };
    let sample = difference(&look(0), &after);
    // 10 s × 10 W + 4 CPU-seconds × 2.5 W.
    assert_eq!(sample.millijoules, Millijoules(100_000 + 10_000));
    assert_eq!((sample.method, sample.busy_cpu_micros), (EnergyMethod::Estimated, 4_000_000));
    assert_eq!(sample.sources, ["estimate"]);
    assert!(sample.explanation.contains("10000 mW idle"), "{}", sample.explanation);
}

#[test]
fn the_default_model_is_the_published_one() {
    // 2 × 0.74 W + 24 × 0.392 W.
    let model = PowerModel::for_size(2, 24_000_000_000);
    assert_eq!((model.idle, model.active_per_cpu), (Milliwatts(1_480 + 9_408), Milliwatts(2_760)));
}

#[test]
fn a_package_counter_that_wraps_counts_on() {
    let before = Counters { packages: package(262_143_000_000), ..look(0) };
    let after = Counters { packages: package(1_000_000), ..look(10) };
    let sample = difference(&before, &after);
    // 1,328,850 µJ.
    assert_eq!((sample.millijoules, sample.method), (Millijoules(1_328), EnergyMethod::Measured));
    assert_eq!(sample.sources, ["rapl"]);
}

#[test]
fn an_impossible_difference_is_not_believed() {
    let before = Counters { packages: package(1_000_000), ..look(0) };
    // The counter fell without having wrapped: read as a wrap this would be 26 kW.
    let after = Counters { packages: package(999_999), ..look(10) };
    let sample = difference(&before, &after);
    assert_eq!((sample.millijoules, sample.method), (Millijoules(100_000), EnergyMethod::Estimated));
}

#[test]
fn a_gpu_adds_its_counter_to_the_processors() {
    let before = Counters { packages: package(0), gpus: gpu(Some(5_000), 300_000), ..look(0) };
    let after = Counters { packages: package(20_000_000), gpus: gpu(Some(3_005_000), 300_000), ..look(10) };
    let sample = difference(&before, &after);
    assert_eq!((sample.millijoules, sample.method), (Millijoules(3_000_000 + 20_000), EnergyMethod::Measured));
    assert_eq!(sample.sources, ["nvml", "rapl"]);
}

#[test]
fn a_reset_gpu_counter_is_never_negative_and_says_estimated() {
    let before = Counters { packages: package(0), gpus: gpu(Some(9_000_000), 0), ..look(0) };
    let after = Counters { packages: package(0), gpus: gpu(Some(1_000), 0), ..look(10) };
    let sample = difference(&before, &after);
    assert_eq!((sample.millijoules, sample.method), (Millijoules(1_000), EnergyMethod::Estimated));
}

/// What a meter says of looks that follow each other.
fn samples(looks: Vec<Counters>) -> Vec<EnergySample> {
    let mut looks = looks.into_iter();
    let mut last = looks.next().expect("a first look");
    looks
        .map(|mut now| {
            keep_missed(&last, &mut now);
            let sample = difference(&last, &now);
            last = now;
            sample
        })
        .collect()
}

#[test]
fn what_a_gpu_used_while_it_did_not_answer_is_booked_when_it_does() {
    let at = |seconds, gpus| Counters { packages: package(0), gpus, ..look(seconds) };
    let silent = [BTreeMap::new(), gpu(None, 100_000)];
    for (gap, booked) in silent.into_iter().zip([0, 1_000_000]) {
        let looks = vec![
            at(0, gpu(Some(5_000), 0)),
            at(10, gap.clone()),
            at(20, gap),
            // Three intervals at 2.9 kW: more than one interval may have.
            at(30, gpu(Some(87_005_000), 0)),
            at(40, gpu(Some(87_006_000), 0)),
        ];
        let samples = samples(looks);
        let booked_each: Vec<_> = samples.iter().map(|sample| sample.millijoules.0).collect();
        assert_eq!(booked_each, [booked, booked, 87_000_000 - 2 * booked, 1_000]);
        let estimated = samples.iter().map(|sample| sample.method == EnergyMethod::Estimated);
        assert_eq!(estimated.collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(samples[0].sources, ["nvml", "rapl"]);
    }
}

#[test]
fn a_gpu_that_left_the_host_is_forgotten() {
    let at = |seconds, gpus| Counters { packages: package(0), gpus, ..look(seconds) };
    let gone = |seconds| at(seconds, BTreeMap::new());
    let looks = vec![at(0, gpu(Some(5_000), 0)), gone(3_600), gone(3_610), gone(3_620)];
    let methods: Vec<_> = samples(looks).into_iter().map(|sample| sample.method).collect();
    assert_eq!(methods, [EnergyMethod::Estimated, EnergyMethod::Measured, EnergyMethod::Measured]);
}

#[test]
fn an_old_gpu_without_a_counter_is_estimated_from_its_power() {
    let before = Counters { packages: package(0), gpus: gpu(None, 250_000), ..look(0) };
    let after = Counters { packages: package(0), gpus: gpu(None, 250_000), ..look(10) };
    let sample = difference(&before, &after);
    assert_eq!((sample.millijoules, sample.method), (Millijoules(2_500_000), EnergyMethod::Estimated));
}

#[test]
fn a_clock_that_is_set_changes_neither_energy_nor_length() {
    for jump in [3_600, -3_600] {
        let mut after = look(10);
        after.at.wall = wall(10 + jump);
        let sample = difference(&look(0), &after);
        assert_eq!(sample.millijoules, Millijoules(100_000));
        assert_eq!((sample.started_at, sample.ended_at), (wall(jump), wall(10 + jump)));
        assert_eq!(sample.clock_jump_ms, jump * 1_000);
    }
}

#[test]
fn a_host_that_slept_used_no_idle_power_in_its_sleep() {
    let mut after = look(3_600);
    after.at.awake_nanos = 10 * SECOND;
    let sample = difference(&look(0), &after);
    assert_eq!(sample.millijoules, Millijoules(100_000));
    assert_eq!((sample.suspended_ms, sample.clock_jump_ms), (3_590_000, 0));
    assert_eq!((sample.started_at, sample.ended_at), (wall(0), wall(3_600)));
}

#[test]
fn more_cpu_time_than_there_is_is_not_believed() {
    let after = Counters { busy_cpu_micros: Some(i64::MAX), ..look(10) };
    assert_eq!(difference(&look(0), &after).busy_cpu_micros, 4 * 10_010_000);
    let fell = Counters { busy_cpu_micros: Some(-5), ..look(10) };
    assert_eq!(difference(&look(0), &fell).busy_cpu_micros, 0);
}

/// A host laid out in files, as recorded on a machine with two processor packages.
#[test]
fn recorded_counters_of_a_host_become_the_energy_of_its_processors() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let file = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let at = |seconds: i64| look(seconds).at;
    let recorded = |seconds: i64, busy_ticks: i64, packages: [u64; 2]| {
        file("proc/stat", &format!("cpu  {busy_ticks} 0 0 9000 10 0 0 0 0 0\ncpu0 1 0 0 0\ncpu1 1 0 0 0\n"));
        for (number, energy) in packages.iter().enumerate() {
            let zone = format!("sys/class/powercap/intel-rapl:{number}");
            file(&format!("{zone}/name"), &format!("package-{number}\n"));
            file(&format!("{zone}/energy_uj"), &format!("{energy}\n"));
            file(&format!("{zone}/max_energy_range_uj"), "262143328850\n");
        }
        let read = Counters::read(&Host::below(root.path()), &Gpus::none());
        Counters { at: at(seconds), ..read }
    };
    let before = recorded(0, 1_000, [262_143_000_000, 5_000_000]);
    // 500 ticks are 5 CPU-seconds; the first package's counter starts again from 0.
    let after = recorded(10, 1_500, [31_671_150, 33_000_000]);
    let model = PowerModel::of(&Host::below(root.path()));
    assert_eq!((model.cpu_count, model.idle_processors), (2, Milliwatts(1_480)));
    let sample = between(&before, &after, &model, Balance::default()).0;
    assert_eq!((sample.method, sample.sources.as_slice()), (EnergyMethod::Measured, ["rapl"].as_slice()));
    assert_eq!(sample.processors, Some(Millijoules(32_000 + 28_000)));
    assert_eq!((sample.awake_micros, sample.busy_cpu_micros), (10_000_000, 5_000_000));
    file("sys/class/powercap/intel-rapl:1/energy_uj", "");
    let unreadable = Counters { at: at(20), ..Counters::read(&Host::below(root.path()), &Gpus::none()) };
    let sample = between(&after, &unreadable, &model, Balance::default()).0;
    assert_eq!((sample.method, sample.processors), (EnergyMethod::Estimated, None), "half a host is no measurement");
}

#[test]
fn a_real_meter_reads_this_host() {
    let mut meter = EnergyMeter::with_gpus(Host::this(), Gpus::discover(), None);
    let sample = meter.sample();
    assert!(sample.ended_at >= sample.started_at);
    assert!(sample.millijoules >= Millijoules(0));
    assert!(!meter.sources().is_empty());
    assert!(meter.model().idle > Milliwatts(0));
}

proptest! {
    #[test]
    fn samples_add_up_to_the_whole_whatever_the_cuts(cuts in prop::collection::vec((1i64..5_000_000, 0i64..200_000), 1..50)) {
        let (mut at, mut busy) = (0i128, 0i64);
        let mut looks = vec![look(0)];
        for (micros, more_busy) in cuts {
            at += i128::from(micros) * 1_000;
            busy += more_busy.min(micros);
            let wall = Timestamp::from_nanosecond(wall(0).as_nanosecond() + at).expect("a date of this century");
            let moment = Moment { wall, awake_nanos: at, since_boot_nanos: at };
            looks.push(Counters { at: moment, busy_cpu_micros: Some(busy), ..look(0) });
        }
        let mut carry = Balance::default();
        let mut sum = Millijoules(0);
        let mut last_end = looks[0].at.wall;
        for pair in looks.windows(2) {
            let (sample, next) = between(&pair[0], &pair[1], &model(), carry);
            prop_assert!(sample.millijoules >= Millijoules(0));
            prop_assert_eq!(sample.started_at, last_end);
            last_end = sample.ended_at;
            sum += sample.millijoules;
            carry = next;
        }
        let whole = between(&looks[0], &looks[looks.len() - 1], &model(), Balance::default()).0;
        prop_assert_eq!(sum, whole.millijoules);
    }

    #[test]
    fn no_pair_of_looks_gives_negative_energy(
        old in any::<(u64, u64, u64)>(), new in any::<(u64, u64, u64)>(), max in any::<u64>(), seconds in -10i64..10_000, jump in -100_000i64..100_000,
    ) {
        let counters = |(package, gpu_energy, busy): (u64, u64, u64), at: i64| Counters {
            busy_cpu_micros: i64::try_from(busy >> 1).ok(),
            packages: BTreeMap::from([("p".to_owned(), PackageCounter { microjoules: package, max_microjoules: max })]),
            gpus: gpu(Some(gpu_energy), 1),
            ..look(at)
        };
        let mut after = counters(new, seconds);
        after.at.wall = wall(seconds + jump);
        let sample = difference(&counters(old, 0), &after);
        prop_assert!(sample.millijoules >= Millijoules(0) && sample.busy_cpu_micros >= 0);
        prop_assert!(sample.started_at <= sample.ended_at);
    }
}
