//! A fixed number of bad inputs for every parser that strangers reach, the same ones each time.

use std::fs;
use std::path::Path;

use galerne_fuzz::mutate::{Chance, case};
use galerne_fuzz::{PLANTED, TARGETS, Target, find};
use galerne_gateway::fuzz::{Lie, lie};

/// Longest case; more of the same teaches nothing, and what is endless has its own test.
const CASE_MAX_BYTES: usize = 6 * 1024;

/// The seeds of a target: small inputs, most of them good.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let read: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("a file")).collect();
    assert!(!read.is_empty(), "{name} has no seeds");
    read
}

fn run(name: &str) {
    let target: &Target = find(name).expect("a target");
    let seeds = seeds(name);
    for seed in &seeds {
        target.check(seed);
    }
    let mut chance = Chance::new(u64::try_from(name.len()).expect("short"));
    for number in 0..target.cases {
        let input = case(&seeds, target.words, CASE_MAX_BYTES, &mut chance);
        let checked = std::panic::catch_unwind(|| target.check(&input));
        assert!(checked.is_ok(), "{name}, case {number}: what was wrong stands above; b\"{}\"", input.escape_ascii());
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        /// All that are run.
        const RUN: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*
    };
}

targets! { chunked head reply events told usage requests address key_header frames names prices lines }

#[test]
fn every_target_is_run_and_the_cases_are_more_than_a_hundred_thousand() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, RUN);
    let cases: usize = TARGETS.iter().map(|target| target.cases).sum();
    assert!(cases >= 100_000, "{cases}");
}

#[test]
fn the_planted_mistake_is_one() {
    PLANTED.check(b"\n0;");
    let found = std::panic::catch_unwind(|| PLANTED.check(b"\n0;\xfe and more"));
    assert!(found.is_err());
}

#[test]
fn a_gigabyte_of_anything_is_cut_off_in_words_and_kept_in_no_memory() {
    for endless in Lie::ALL {
        let mut cut = (String::new(), 0);
        let taken = allocation_counter::measure(|| cut = lie(endless, 1 << 30));
        let (words, held) = cut;
        assert!(
            words.contains("longer than") || words.contains("larger than") || words.contains("too long"),
            "{endless:?}: {words}"
        );
        assert!(held <= 2 << 20, "{endless:?}: {held} bytes of one event");
        // An event may have a megabyte, and its buffer doubles.
        let most = if endless == Lie::Event { 8 << 20 } else { 512 << 10 };
        assert!(taken.bytes_max <= most, "{endless:?}: {} bytes of memory", taken.bytes_max);
    }
}
