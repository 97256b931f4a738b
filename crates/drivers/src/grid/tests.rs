use proptest::prelude::*;

use super::*;

const HOURLY: &str = "datetime_utc,ci_direct_g_per_kwh,ci_lifecycle_g_per_kwh,low_carbon_pct,estimated\n\
    2023-01-01 00:00:00,35.34,56.64,92.78,false\n\
    2023-01-01 01:00:00,36.53,58.17,92.56,true\n\
    2023-01-01 03:00:00,35.16,,92.67,false\n";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time in the test")
}

fn grid() -> Grid {
    let mut grid = Grid::with_defaults();
    assert_eq!(grid.add_file("FR_2023_hourly.csv", HOURLY), Ok(5));
    grid
}

#[test]
fn the_hour_that_holds_the_moment_answers_in_the_scope_asked_for() {
    let direct = grid().intensity("fr", at("2023-01-01T00:59:59.999Z"), Scope::Direct).expect("covered");
    assert_eq!((direct.mg_per_kwh, direct.is_estimated), (35_340, false));
    assert_eq!(direct.words(), "hourly file FR_2023_hourly.csv; direct, as published");
    let lifecycle = grid().intensity("FR", at("2023-01-01T01:00:00Z"), Scope::Lifecycle).expect("covered");
    assert_eq!((lifecycle.mg_per_kwh, lifecycle.is_estimated), (58_170, true));
}

#[test]
fn a_gap_is_filled_by_the_yearly_mean_of_the_same_scope_and_says_so() {
    for (moment, scope, expected) in [
        ("2023-01-01T02:30:00Z", Scope::Direct, 21_700),
        ("2023-01-01T03:30:00Z", Scope::Lifecycle, 56_040),
        ("2031-01-01T00:00:00Z", Scope::Lifecycle, 56_040),
    ] {
        let signal = grid().intensity("FR", at(moment), scope).expect("a mean stands in");
        assert_eq!((signal.mg_per_kwh, signal.is_estimated, signal.scope), (expected, true, scope));
        assert!(signal.source.contains(", yearly mean 202"), "{}", signal.source);
    }
}

#[test]
fn scopes_are_never_substituted_for_each_other() {
    let error = Grid::with_defaults().intensity("SE", at("2024-01-01T00:00:00Z"), Scope::Direct);
    let error = error.expect_err("only a lifecycle figure is known for Sweden");
    assert_eq!(error.code(), "config_invalid");
    assert!(error.to_string().contains("known zones: DE FR GB"), "{error}");
}

#[test]
fn our_own_form_reads_both_time_notations_and_refuses_nonsense_with_the_line() {
    let header = "zone,start,end,g_per_kwh,scope,source,estimated\n";
    let mut grid = Grid::default();
    let text = format!("{header}FR,2025-03-30T00:00:00Z,2025-03-30 00:15:00,19.5,direct,RTE,false\n");
    assert_eq!(grid.add_file("any.csv", &text), Ok(1));
    let signal = grid.intensity("FR", at("2025-03-30T00:14:59Z"), Scope::Direct).expect("covered");
    assert_eq!(signal.words(), "RTE; direct, as published");
    for bad in [
        "FR,2025-03-30T01:00:00Z,2025-03-30T00:00:00Z,1,direct,RTE,false",
        "FR,yesterday,2025-03-30T00:00:00Z,1,direct,RTE,false",
        "FR,2025-03-30T00:00:00Z,2025-03-30T01:00:00Z,-1,direct,RTE,false",
        "FR,2025-03-30T00:00:00Z,2025-03-30T01:00:00Z,1,marginal,RTE,false",
        "F/R,2025-03-30T00:00:00Z,2025-03-30T01:00:00Z,1,direct,RTE,false",
        "FR,2025-03-30T00:00:00Z",
    ] {
        let error = grid.add_file("any.csv", &format!("{header}{bad}\n")).expect_err(bad);
        assert!(matches!(error, GridError::BadFile { line: 2, .. }), "{bad}: {error}");
    }
}

#[test]
fn a_file_that_contradicts_another_changes_nothing() {
    let mut grid = grid();
    let other = "datetime_utc,ci_direct_g_per_kwh\n2023-01-01 00:30:00,99\n";
    assert!(grid.add_file("FR_other.csv", other).expect_err("overlaps").to_string().contains("two intensities"));
    let signal = grid.intensity("FR", at("2023-01-01T00:45:00Z"), Scope::Direct).expect("covered");
    assert_eq!(signal.mg_per_kwh, 35_340);
}

#[test]
fn a_repeated_local_hour_cannot_hide_in_a_file() {
    // The clock going back gives 02:00 twice in local time; in UTC every hour has its own name.
    let twice = "datetime_utc,ci_direct_g_per_kwh\n2023-10-29 01:00:00,10\n2023-10-29 01:00:00,20\n";
    assert_eq!(Grid::default().add_file("FR.csv", twice).expect_err("twice").code(), "config_invalid");
}

#[test]
fn every_compiled_in_mean_is_read() {
    let grid = Grid::with_defaults();
    assert!(grid.zones(Scope::Lifecycle).count() > 40);
    assert_eq!(grid.zones(Scope::Direct).collect::<Vec<_>>(), ["DE", "FR", "GB"]);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", name in "[A-Z_.]{0,8}") {
        let mut grid = Grid::default();
        let header = "zone,start,end,g_per_kwh,scope,source,estimated";
        for text in [text.clone(), format!("{header}\n{text}"), format!("datetime_utc,ci_direct_g_per_kwh\n{text}")] {
            if grid.add_file(&name, &text).is_err() {
                prop_assert_eq!(grid.zones(Scope::Direct).count(), 0);
            }
        }
    }
}
