use super::{Bound, Csv, Row, Table};

fn row(what: &str, ours: &str, is_held: bool) -> Row {
    Row { what: what.into(), ours: ours.into(), bound: Some(Bound::new("<= 10 ms", is_held)), ..Row::default() }
}

#[test]
fn a_missed_bound_is_named_with_its_figure() {
    let mut table = Table::new("B5");
    table.push(row("full pass", "4.1 ms", true));
    table.push(row("preemption", "12 ms", false));
    assert_eq!(table.missed(), ["preemption: 12 ms, promised <= 10 ms"]);
    assert!(table.text().contains("MISSED"));
}

#[test]
fn columns_are_aligned() {
    let mut table = Table::new("B5");
    table.push(row("a", "1", true));
    table.push(row("a longer name", "1000", true));
    let text = table.text();
    let ends: Vec<usize> = text.lines().skip(2).filter_map(|line| line.find("<= 10 ms")).collect();
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0], ends[1], "{text}");
}

#[test]
fn a_value_with_a_comma_stays_one_value() {
    let mut csv = Csv::new("x.csv".into(), "name,value");
    csv.line(&[&"a,b", &1]);
    assert_eq!(csv.text, "name,value\n\"a,b\",1\n");
}
