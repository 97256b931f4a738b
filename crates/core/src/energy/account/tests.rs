use galerne_model::power::Shows;
use galerne_model::units::Milliwatts;

use super::*;
use crate::energy::meter::{Meter, Sample, Taken};

const SECOND: i64 = 1_000_000;
/// 1 g/kWh is 1000 mg/kWh.
const INTENSITY: i64 = 36_000;
const FOREVER: i64 = i64::MAX;

fn slice(from: i64, to: i64, microjoules: i64) -> Slice {
    Slice { from_micros: from, to_micros: to, microjoules, is_measured: true }
}

fn span(from: i64, to: i64, work: u64) -> Span {
    Span { from_micros: from, to_micros: to, work }
}

const NOTHING: Span = Span { from_micros: 0, to_micros: 0, work: 0 };

/// Shares of requests by key, and what was idle.
fn shares(account: &mut Account<u32>) -> (Vec<(u32, i64)>, i64) {
    let (mut all, mut idle) = (Vec::new(), 0);
    while let Some(shared) = account.share(FOREVER) {
        idle += shared.idle_microjoules;
        all.extend(shared.ended.into_iter().map(|ended| (ended.key, ended.microjoules)));
    }
    all.sort_unstable();
    (all, idle)
}

#[test]
fn a_batch_shares_by_work_and_the_rest_of_the_time_is_idle() {
    let mut account = Account::default();
    account.read(slice(0, SECOND, 1_000), INTENSITY);
    // Half of the second is worked in: a prompt of 30 and an answer of 3 × 10 beside one of 6 × 10.
    account.worked(1, [span(0, SECOND / 4, 30), span(SECOND / 4, SECOND / 2, 30)]);
    account.worked(2, [span(0, SECOND / 2, 60), NOTHING]);
    assert_eq!(shares(&mut account), (vec![(1, 250), (2, 250)], 500));
}

#[test]
fn nobody_at_work_is_idle_and_a_request_alone_has_its_time() {
    let mut account = Account::default();
    account.read(slice(0, SECOND, 999), INTENSITY);
    account.read(slice(SECOND, 2 * SECOND, 1_000), INTENSITY);
    account.worked(7, [span(SECOND, SECOND + SECOND / 10, 1), NOTHING]);
    assert_eq!(shares(&mut account), (vec![(7, 100)], 1_899));
}

#[test]
fn work_over_several_slices_is_spread_over_them() {
    let mut account = Account::default();
    for n in 0..4 {
        account.read(slice(n * SECOND, (n + 1) * SECOND, 1_000 * (n + 1)), INTENSITY);
    }
    account.worked(1, [span(0, 4 * SECOND, 400), NOTHING]);
    account.worked(2, [span(2 * SECOND, 4 * SECOND, 600), NOTHING]);
    // 1000 + 2000 alone; then 100 against 300 of 3000 and of 4000.
    assert_eq!(shares(&mut account), (vec![(1, 4_750), (2, 5_250)], 0));
}

#[test]
fn what_division_leaves_goes_to_the_largest_remainders() {
    let mut account = Account::default();
    account.read(slice(0, 10, 10), INTENSITY);
    for key in 1..=3 {
        account.worked(key, [span(0, 10, 1), NOTHING]);
    }
    assert_eq!(shares(&mut account), (vec![(1, 4), (2, 3), (3, 3)], 0));
}

#[test]
fn a_request_told_of_late_takes_from_what_was_idle_and_from_nobody() {
    let mut account = Account::default();
    account.read(slice(0, SECOND, 1_000), INTENSITY);
    account.worked(1, [span(0, SECOND / 2, 10), NOTHING]);
    let first = account.share(SECOND).expect("shared");
    assert_eq!((first.idle_microjoules, first.ended[0].microjoules), (500, 500));
    // It would have had its half alone; then there is nothing left for a third.
    assert!(account.worked(2, [span(SECOND / 2, SECOND, 10), NOTHING]));
    assert!(account.worked(3, [span(0, SECOND, 10), NOTHING]));
    account.read(slice(SECOND, 2 * SECOND, 40), INTENSITY);
    assert_eq!(shares(&mut account), (vec![(2, 500), (3, 0)], 40 - 500));
}

#[test]
fn slices_wait_for_those_that_may_still_be_told_of() {
    let mut account: Account<u32> = Account::default();
    account.read(slice(0, SECOND, 1_000), INTENSITY);
    assert_eq!(account.share(SECOND - 1), None);
    assert!(account.share(SECOND).is_some());
    assert_eq!(account.share(FOREVER), None);
}

#[test]
fn a_request_is_told_of_once_and_work_of_nothing_is_not_taken() {
    let mut account = Account::default();
    assert!(account.worked(1, [span(0, 10, 1), NOTHING]));
    assert!(!account.worked(1, [span(0, 10, 1), NOTHING]));
    assert!(!account.worked(2, [span(10, 10, 5), NOTHING]));
    assert!(!account.worked(3, [NOTHING, NOTHING]));
}

#[test]
fn a_request_says_how_much_of_its_time_was_metered() {
    let mut account = Account::default();
    account.read(Slice { is_measured: false, ..slice(SECOND, 2 * SECOND, 1_000) }, INTENSITY);
    account.worked(1, [span(0, SECOND, 5), span(SECOND, 2 * SECOND, 5)]);
    let shared = account.share(FOREVER).expect("shared");
    let ended = &shared.ended[0];
    assert_eq!((ended.worked_micros, ended.metered_micros, ended.is_measured), (2 * SECOND, SECOND, false));
}

#[test]
fn a_source_that_fell_silent_keeps_no_request_for_ever() {
    let mut account = Account::default();
    account.worked(1, [span(0, SECOND, 5), NOTHING]);
    assert_eq!(account.share(PATIENCE_MICROS), None);
    let shared = account.share(PATIENCE_MICROS + SECOND).expect("let go");
    assert_eq!((shared.ended[0].metered_micros, shared.microjoules), (0, 0));
    assert_eq!(account.waiting_requests(), 0);
}

#[test]
fn a_clock_set_back_keeps_no_slice_waiting() {
    let mut account: Account<u32> = Account::default();
    account.read(slice(3_600 * SECOND, 3_601 * SECOND, 7), INTENSITY);
    assert_eq!(account.share(2 * SECOND), None);
    account.read(slice(SECOND, 2 * SECOND, 5), INTENSITY);
    assert_eq!(account.share(2 * SECOND).map(|shared| shared.microjoules), Some(12));
}

#[test]
fn each_slice_emits_at_its_own_intensity() {
    let mut account = Account::default();
    account.read(slice(0, SECOND, 3_600_000_000), 1_000);
    account.read(slice(SECOND, 2 * SECOND, 3_600_000_000), 5_000);
    account.worked(1, [span(0, 2 * SECOND, 1), NOTHING]);
    let first = account.share(FOREVER).expect("the first hour");
    assert_eq!((first.intensity_mg_per_kwh, first.used_carbon), (1_000, MicrogramsCo2e(1_000)));
    let second = account.share(FOREVER).expect("the next one");
    assert_eq!(second.ended[0].carbon, MicrogramsCo2e(6_000));
    assert_eq!(second.ended[0].millijoules, Millijoules(7_200_000));
}

/// Numbers without chance: xorshift64*.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        i64::try_from(drawn).expect("31 bits") % n
    }
}

/// A replica, its source, and everything that was told of it.
struct Scene {
    draw: Draw,
    account: Account<u32>,
    meter: Meter,
    sample: Sample,
    /// What the source gave out, by its slices.
    read: i64,
    /// The rise of a counter that was never reset, as whoever turns it knows.
    true_rise: Option<i64>,
    ended: BTreeMap<u32, i64>,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    microjoules: i64,
    idle: i64,
    millijoules: i64,
    used: i64,
    used_carbon: i64,
    ended_millijoules: i64,
    ended_carbon: i64,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let shows = match draw.below(3) {
            0 => Shows::Counter { microjoules: 0, range: None },
            1 => Shows::Counter { microjoules: 900_000, range: Some(1_000_000) },
            _ => Shows::Power(Milliwatts(draw.below(900_000))),
        };
        let sample = Sample { wall_micros: 1_000 * SECOND, steady_micros: 0, shows };
        let true_rise = matches!(shows, Shows::Counter { .. }).then_some(0);
        let (account, meter) = (Account::default(), Meter::default());
        let mut scene = Self {
            draw,
            account,
            meter,
            sample,
            read: 0,
            true_rise,
            ended: BTreeMap::new(),
            totals: Totals::default(),
        };
        scene.look(sample);
        scene
    }

    fn look(&mut self, sample: Sample) {
        if let Taken::Slice(slice) = self.meter.take(sample) {
            assert!(slice.microjoules >= 0 && slice.from_micros < slice.to_micros, "{slice:?}");
            self.read += slice.microjoules;
            let intensity = 1_000 * (1 + self.draw.below(2));
            self.account.read(slice, intensity);
        }
    }

    fn step(&mut self, key: u32) {
        match self.draw.below(12) {
            0..=4 => self.next_sample(),
            5 => self.look(self.sample),
            6 => {
                let mut late = self.sample;
                late.steady_micros -= self.draw.below(SECOND);
                self.look(late);
            }
            7..=9 => self.request(key),
            _ => {
                let until = self.sample.wall_micros - self.draw.below(3 * SECOND);
                self.share(until);
            }
        }
    }

    fn next_sample(&mut self) {
        let gap = if self.draw.below(10) == 0 { 30 * SECOND } else { SECOND };
        let passed = 1 + self.draw.below(gap);
        let jump = if self.draw.below(20) == 0 { self.draw.below(400 * SECOND) - 200 * SECOND } else { 0 };
        self.sample.steady_micros += passed;
        self.sample.wall_micros += passed + jump;
        self.sample.shows = match self.sample.shows {
            Shows::Power(_) => Shows::Power(Milliwatts(self.draw.below(900_000))),
            Shows::Counter { .. } if self.draw.below(25) == 0 => {
                // Begins again: from here on nobody can know the true sum.
                self.true_rise = None;
                Shows::Counter { microjoules: 0, range: None }
            }
            Shows::Counter { microjoules, range: None } => {
                let by = self.draw.below(700_000);
                self.true_rise = self.true_rise.map(|sum| sum + by);
                Shows::Counter { microjoules: microjoules + by.unsigned_abs(), range: None }
            }
            Shows::Counter { microjoules, range: Some(range) } => {
                let by = self.draw.below(700_000);
                self.true_rise = self.true_rise.map(|sum| sum + by);
                let sum = microjoules + by.unsigned_abs();
                Shows::Counter { microjoules: if sum > range { sum - range } else { sum }, range: Some(range) }
            }
        };
        self.look(self.sample);
    }

    /// A request of now, or one told of late; whole, or cut before its first token.
    fn request(&mut self, key: u32) {
        let late = if self.draw.below(4) == 0 { self.draw.below(60 * SECOND) } else { 0 };
        let ended = self.sample.wall_micros - late;
        let begun = ended - 1 - self.draw.below(8 * SECOND);
        let middle = begun + self.draw.below(ended - begun);
        let mut work = |below| self.draw.below(below).unsigned_abs();
        let prompt = Span { from_micros: begun, to_micros: middle, work: work(2_000) };
        let answer = Span { from_micros: middle, to_micros: ended, work: work(5_000) };
        let is_cut = work(5) == 0;
        let spans = if is_cut { [prompt, NOTHING] } else { [prompt, answer] };
        let key = if work(10) == 0 { key / 2 } else { key };
        if self.account.worked(key, spans) {
            // A request that ended may be told of again under its name only by a mistake of the caller.
            assert!(!self.account.requests.is_empty());
        }
    }

    fn share(&mut self, until: i64) {
        while let Some(shared) = self.account.share(until) {
            let totals = &mut self.totals;
            totals.microjoules += shared.microjoules;
            totals.idle += shared.idle_microjoules;
            totals.millijoules += shared.millijoules.0;
            totals.used += shared.used.0;
            totals.used_carbon += shared.used_carbon.0;
            for ended in shared.ended {
                assert!(ended.microjoules >= 0 && ended.millijoules.0 == ended.microjoules / 1_000);
                assert!(ended.metered_micros > 0 || ended.microjoules == 0, "energy of no time: {ended:?}");
                totals.ended_millijoules += ended.millijoules.0;
                totals.ended_carbon += ended.carbon.0;
                *self.ended.entry(ended.key).or_default() += ended.microjoules;
            }
        }
    }

    fn prove(mut self, seed: u64) {
        self.share(FOREVER);
        // Requests whose end lies behind the last slice are let go when the source has been silent for long enough.
        self.share(FOREVER);
        let totals = &self.totals;
        let shares: i64 = self.ended.values().sum();
        assert_eq!(self.account.waiting_requests(), 0, "seed {seed}");
        assert_eq!(totals.microjoules, self.read, "seed {seed}: every slice is shared once");
        assert_eq!(shares + totals.idle, self.read, "seed {seed}: requests + idle = energy");
        assert_eq!(
            totals.millijoules,
            self.read / 1_000,
            "seed {seed}: whole units lose nothing but the last fraction"
        );
        assert_eq!(totals.used, totals.ended_millijoules, "seed {seed}: what readings cover is what requests have");
        assert_eq!(totals.used_carbon, totals.ended_carbon, "seed {seed}: the same of carbon");
        if let (Some(rise), false) = (self.true_rise, matches!(self.sample.shows, Shows::Power(_))) {
            assert_eq!(self.read, rise, "seed {seed}: a counter that was not reset is read whole");
        }
    }
}

#[test]
fn requests_and_idle_are_the_energy_in_whatever_order_things_are_told() {
    for seed in 1..=100_000 {
        let mut scene = Scene::new(seed);
        let steps = 6 + scene.draw.below(18);
        for key in 0..steps {
            scene.step(u32::try_from(key).expect("a few steps"));
        }
        scene.prove(seed);
    }
}
