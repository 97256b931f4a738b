use std::time::Duration;

use super::{Load, Prompts, Target, run};
use crate::stats::{P50, P99};

fn target(address: &str) -> Target {
    Target { address: address.to_owned(), key: "key-0123456789".to_owned() }
}

#[test]
fn unique_prompts_differ_from_each_other_across_connections_and_loads() {
    let load = Load { unique: true, prompt_bytes: 64, ..Load::plain(2, 1.0) };
    let mut seen = std::collections::BTreeSet::new();
    for (place, first_number) in [(0, 0), (1, 0), (0, 1_000), (1, 1_000)] {
        let mut prompts = Prompts::new(&target("x"), &Load { first_number, ..load }, place);
        for _ in 0..100 {
            seen.insert(prompts.next().to_vec());
        }
    }
    assert_eq!(seen.len(), 400);
}

#[test]
fn a_prompt_has_the_asked_size_and_tells_its_pace() {
    let load = Load { prompt_bytes: 32 * 1024, pace: Duration::from_millis(20), ..Load::plain(1, 1.0) };
    let prompt = super::prompt(&load, "id=3 ");
    assert!((32 * 1024..32 * 1024 + 16).contains(&prompt.len()), "{}", prompt.len());
    assert!(prompt.contains("pace=20000 ") && prompt.contains("id=3 "), "{}", &prompt[..60]);
}

#[test]
fn the_load_counts_what_the_mock_answered() {
    let mock = crate::mock::tests::in_thread();
    let plain = run(&target(&mock), Load { most: Some(40), ..Load::plain(4, 5.0) }).unwrap();
    assert_eq!((plain.answered, plain.errors()), (40, 0), "{}", plain.trouble());
    assert!(plain.latency_us(P50) > 0.0 && plain.latency_us(P50) <= plain.latency_us(P99));
    let pace = Duration::from_millis(5);
    let paced = run(&target(&mock), Load { most: Some(8), ..Load::streams(4, 5.0, 10, pace) }).unwrap();
    assert_eq!((paced.answered, paced.events(), paced.errors()), (8, 80, 0), "{}", paced.trouble());
    assert!(paced.latency_us(0) >= 45_000.0, "ten tokens at 5 ms: {} us", paced.latency_us(0));
    assert!(paced.first_us(P50) < paced.latency_us(P50) / 2.0, "the first token comes long before the last");
}

#[test]
fn who_is_not_there_is_told_as_broken() {
    let report = run(&target("127.0.0.1:1"), Load { most: Some(2), ..Load::plain(1, 1.0) }).unwrap();
    assert_eq!((report.answered, report.broken), (0, 2));
}
