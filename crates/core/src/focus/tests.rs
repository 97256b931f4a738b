use super::*;

use galerne_model::identity::ServiceTier;
use galerne_model::ledger::Country;
use galerne_model::money::TokenPrice;
use galerne_model::units::{MicrogramsCo2e, Millijoules, Picos, Tokens};

fn named(word: &str) -> Named {
    Named { id: format!("{word}_1"), name: word.to_owned() }
}

/// 12 prompt tokens at 1.5 €, 4 cached at 0.25 €, 7 completed at 3 € a million: 40 micros.
fn group() -> Group {
    let price = TokenPrice { prompt: Micros(1_500_000), cached: Micros(250_000), completion: Micros(3_000_000) };
    Group {
        day: jiff::civil::date(2026, 12, 31),
        tenant: named("tenant"),
        project: named("project"),
        key: named("key"),
        endpoint: named("endpoint"),
        model: "m".to_owned(),
        terms: Some(UsageTerms { price, service_tier: ServiceTier::Priority, country: Country::of("FR") }),
        batch_percent: None,
        energy_method: EnergyMethod::Estimated,
        quantities: Quantities {
            prompt_tokens: Tokens(12),
            cached_tokens: Tokens(4),
            completion_tokens: Tokens(7),
            micros: Micros(40),
            picos: Picos(0),
            millijoules: Millijoules(1_000),
            co2e_micrograms: MicrogramsCo2e(21),
        },
    }
}

/// The rows of one group by the names of their columns.
fn rows(group: &Group) -> Vec<std::collections::BTreeMap<&'static str, String>> {
    let mut out = String::new();
    Report::default().write(group, &mut out);
    let cells = |line: &str| COLUMNS.into_iter().zip(line.split(',').map(str::to_owned)).collect();
    out.lines().inspect(|line| assert_eq!(line.split(',').count(), COLUMNS.len(), "{line}")).map(cells).collect()
}

fn column(group: &Group, name: &str) -> Vec<String> {
    rows(group).iter().map(|row| row[name].clone()).collect()
}

#[test]
fn each_kind_of_token_is_a_row_whose_quantity_times_price_is_its_cost() {
    let group = group();
    assert_eq!(column(&group, "SkuMeter"), ["Output Tokens", "Input Tokens", "Cached Input Tokens"]);
    assert_eq!(column(&group, "ConsumedQuantity"), ["7.0", "12.0", "4.0"]);
    assert_eq!(column(&group, "PricingQuantity"), ["0.000007", "0.000012", "0.000004"]);
    assert_eq!(column(&group, "ListUnitPrice"), ["3.000000", "1.500000", "0.250000"]);
    assert_eq!(column(&group, "ListCost"), ["0.000021000000", "0.000018000000", "0.000001000000"]);
    assert_eq!(column(&group, "BilledCost"), column(&group, "ListCost"));
    assert_eq!(column(&group, "SkuPriceId"), ["m/output@3.000000", "m/input@1.500000", "m/cached-input@0.250000"]);
    let first = &rows(&group)[0];
    let told = |name: &str| first[name].as_str();
    assert_eq!(
        (told("BillingPeriodStart"), told("BillingPeriodEnd")),
        ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
    );
    assert_eq!((told("ChargePeriodStart"), told("ChargePeriodEnd")), ("2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"));
    assert_eq!((told("RegionId"), told("x_Residency"), told("x_ServiceTier")), ("FR", "FR", "priority"));
    assert_eq!((told("BillingAccountId"), told("SubAccountName"), told("x_KeyId")), ("tenant_1", "project", "key_1"));
}

#[test]
fn energy_is_told_once_and_unknown_energy_is_empty() {
    let mut group = group();
    assert_eq!(column(&group, "x_EnergyJoules"), ["1.000", "0.000", "0.000"]);
    assert_eq!(column(&group, "x_EnergyKwh"), ["0.000000277778", "0.000000000000", "0.000000000000"]);
    assert_eq!(column(&group, "x_Gco2e"), ["0.000021", "0.000000", "0.000000"]);
    assert_eq!(column(&group, "x_EnergyMethod"), ["estimated"; 3]);
    group.energy_method = EnergyMethod::Unknown;
    (group.quantities.millijoules, group.quantities.co2e_micrograms) = (Millijoules(0), MicrogramsCo2e(0));
    assert_eq!(column(&group, "x_EnergyKwh"), [""; 3]);
    assert_eq!(column(&group, "x_Gco2e"), [""; 3]);
}

#[test]
fn kilowatt_hours_add_up_to_the_rounded_sum() {
    let (mut report, mut out) = (Report::default(), String::new());
    let mut group = group();
    group.quantities.millijoules = Millijoules(1);
    for _ in 0..3_600 {
        report.write(&group, &mut out);
    }
    let at = COLUMNS.iter().position(|name| *name == "x_EnergyKwh").expect("a column");
    let parts = |line: &str| line.split(',').nth(at).expect("a cell").replace('.', "").parse::<i128>().expect("digits");
    // 3.6 J is a millionth of a kilowatt-hour; each millijoule alone would be 278 parts.
    assert_eq!(out.lines().map(parts).sum::<i128>(), 1_000_000);
}

#[test]
fn what_exceeds_a_hold_is_taken_off_the_bill_and_stays_in_the_list() {
    let mut group = group();
    (group.quantities.micros, group.quantities.picos) = (Micros(17), Picos(500_000));
    assert_eq!(column(&group, "BilledCost"), ["0.000000000000", "0.000016500000", "0.000001000000"]);
    assert_eq!(column(&group, "EffectiveCost"), column(&group, "BilledCost"));
    assert_eq!(column(&group, "ListCost"), ["0.000021000000", "0.000018000000", "0.000001000000"]);
}

#[test]
fn a_charge_that_tokens_do_not_explain_is_billed_all_the_same() {
    let mut group = group();
    group.quantities.micros = Micros(100);
    assert_eq!(column(&group, "BilledCost"), ["0.000081000000", "0.000018000000", "0.000001000000"]);
    group.quantities = Quantities { micros: Micros(5), ..Quantities::default() };
    assert_eq!(column(&group, "BilledCost"), ["0.000005000000"]);
    assert_eq!(column(&group, "ConsumedQuantity"), ["0.0"]);
    group.quantities = Quantities::default();
    assert!(rows(&group).is_empty(), "what cost nothing and used nothing is no row");
}

#[test]
fn records_of_before_terms_were_kept_are_one_row_without_a_price() {
    let group = Group { terms: None, ..group() };
    assert_eq!(column(&group, "ConsumedQuantity"), ["23.0"]);
    assert_eq!(column(&group, "BilledCost"), ["0.000040000000"]);
    assert_eq!(
        (column(&group, "ListUnitPrice"), column(&group, "SkuPriceId")),
        (vec![String::new()], vec![String::new()])
    );
    assert_eq!(column(&group, "ListCost"), ["0.000040000000"]);
}

#[test]
fn names_with_commas_and_quotes_are_quoted() {
    assert_eq!(escaped("a,b"), "\"a,b\"");
    assert_eq!(escaped("say \"hi\"\n"), "\"say \"\"hi\"\"\n\"");
    assert_eq!(escaped("plain"), "plain");
    assert_eq!(Report::header().trim_end().split(',').count(), COLUMNS.len());
}
