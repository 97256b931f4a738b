use std::path::Path;

use super::steps::{WITH_EXAMPLES, doc, nextest, plain, pytest};
use super::{Tally, counted};

#[test]
fn the_summary_of_the_rust_tests_is_read_with_its_failures() {
    let line = "     Summary [   3.211s] 12 tests run: 9 passed (1 slow), 2 failed, 1 timed out, 3 skipped";
    assert_eq!(nextest(line), Some(Tally { passed: 9, failed: 3 }));
    let line = "     Summary [   0.011s] 5 tests run: 5 passed, 0 skipped";
    assert_eq!(nextest(line), Some(Tally { passed: 5, failed: 0 }));
    assert_eq!(nextest("        PASS [   0.004s] xtask tests::summary"), None);
}

#[test]
fn the_summary_of_the_python_tests_is_read_with_its_errors() {
    assert_eq!(pytest("2 failed, 10 passed, 1 error in 1.23s"), Some(Tally { passed: 10, failed: 3 }));
    assert_eq!(pytest("41 passed, 2 warnings in 63.20s (0:01:03)"), Some(Tally { passed: 41, failed: 0 }));
    assert_eq!(pytest("collected 12 items"), None);
    assert_eq!(pytest("nothing passed in words"), None);
}

#[test]
fn the_results_of_examples_in_documentation_are_read() {
    let line = "test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.33s";
    assert_eq!(doc(line), Some(Tally { passed: 3, failed: 1 }));
    assert_eq!(doc("test src/lib.rs - (line 3) ... ok"), None);
}

#[test]
fn the_closing_line_of_a_script_is_read() {
    assert_eq!(plain("3 passed, 1 failed"), Some(Tally { passed: 3, failed: 1 }));
    assert_eq!(plain("3 passed, 1 failed in 2 s"), None);
    assert_eq!(plain("it passed, nothing failed"), None);
}

#[test]
fn a_runner_that_ends_badly_or_runs_nothing_counts_as_one_failure() {
    let of = |passed, failed| Tally { passed, failed };
    assert_eq!(counted(false, of(0, 0)), of(0, 1));
    assert_eq!(counted(true, of(0, 0)), of(0, 1));
    assert_eq!(counted(false, of(3, 0)), of(3, 1));
    assert_eq!(counted(false, of(3, 2)), of(3, 2));
    assert_eq!(counted(true, of(3, 0)), of(3, 0));
}

#[test]
fn every_package_with_examples_in_its_documentation_has_them_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let tree = crate::tidy::tree::Tree::load(root).expect("the sources");
    let has_example = |text: &str| {
        text.lines().any(|line| {
            let line = line.trim_start();
            line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).is_some_and(|words| {
                let words = words.trim_start();
                words.starts_with("```") && !words.starts_with("```text")
            })
        })
    };
    let mut found: Vec<String> = tree
        .rust
        .iter()
        .filter(|file| !file.is_test() && has_example(&file.text))
        .filter_map(|file| Some(format!("galerne-{}", file.path.strip_prefix("crates/")?.split('/').next()?)))
        .collect();
    found.dedup();
    assert_eq!(found, WITH_EXAMPLES);
}
