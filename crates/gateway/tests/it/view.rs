//! What an operator sees of requests: series by replica, and the live view.

use std::time::Duration;

use galerne_gateway::Bounds;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, nobody, start_breaking};
use crate::site::{Site, chat_body, endpoint, snapshot};

/// All series.
fn scrape(site: &Site) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    site.gateway.register_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    text
}

#[tokio::test]
async fn a_replica_has_its_series_and_they_name_nobody() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    for stream in [true, false] {
        assert_eq!(site.chat(json!({"stream": stream, "x_tokens": 5})).await.status, 200);
    }
    assert_eq!(site.chat(json!({"x_do": "status 500"})).await.status, 502);
    site.settled(3).await;
    let text = scrape(&site);
    let replica = &endpoint(1, "m", &["http://x"]).replicas[0];
    let of = format!("endpoint=\"{}\",replica=\"{}\"", endpoint(1, "m", &[]).id, replica.id);
    for line in [
        // A plain answer shows no first token, and a failed one has none.
        format!("galerne_gateway_first_token_seconds_count{{{of}}} 1"),
        format!("galerne_gateway_output_token_seconds_count{{{of}}} 1"),
        format!("galerne_gateway_upstream_seconds_count{{{of}}} 3"),
        format!("galerne_gateway_upstream_seconds_bucket{{le=\"+Inf\",{of}}} 3"),
        format!("galerne_gateway_replica_requests_total{{{of}}} 3"),
        format!("galerne_gateway_replica_tokens_total{{kind=\"cached\",{of}}} 10"),
        format!("galerne_gateway_replica_tokens_total{{kind=\"completion\",{of}}} 10"),
        // Asked once more before it was given up.
        format!("galerne_gateway_upstream_failures_total{{class=\"server_error\",{of}}} 2"),
        format!("galerne_gateway_replica_in_flight_requests{{{of}}} 0"),
        format!("galerne_gateway_breaker_state{{state=\"closed\",{of}}} 1"),
        format!("galerne_gateway_breaker_state{{state=\"open\",{of}}} 0"),
        format!("galerne_gateway_breaker_openings_total{{{of}}} 0"),
    ] {
        assert!(text.lines().any(|told| same_series(told, &line)), "`{line}` is not in:\n{text}");
    }
    assert!(!text.contains("\"m\""), "the name of an endpoint is its tenant's:\n{text}");
}

/// Whether two lines are the same but for the order of their labels.
fn same_series(one: &str, other: &str) -> bool {
    let parts = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once('}')?;
        let mut labels: Vec<String> = labels.split(',').map(str::to_owned).collect();
        labels.sort();
        Some((name.to_owned(), labels, value.trim().to_owned()))
    };
    parts(one).is_some() && parts(one) == parts(other)
}

#[tokio::test]
async fn failures_are_counted_by_class_and_each_opening_of_a_breaker() {
    let urls = [nobody().await, start_breaking(&TaskTracker::new()).await];
    for (url, class) in urls.iter().zip(["connect", "broken"]) {
        let site = Site::start(snapshot(&[url])).await;
        for _ in 0..2 {
            assert_eq!(site.chat(json!({})).await.status, 502);
        }
        site.is_idle().await;
        let text = scrape(&site);
        let value = |start: &str, with: &str| {
            let line = text.lines().find(|line| line.starts_with(start) && line.contains(with));
            line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        };
        assert_eq!(value("galerne_gateway_upstream_failures_total{", class), Some(4), "{text}");
        // On a slow machine its first rest may be over before the last attempt, which opens it again.
        let opened = value("galerne_gateway_breaker_openings_total{", "").expect("a series");
        assert!((1..=2).contains(&opened), "{text}");
        assert_eq!(value("galerne_gateway_breaker_state{", "state=\"closed\""), Some(0), "{text}");
        assert_eq!(site.gateway.live()[0].replicas[0].opened, opened);
    }
}

#[tokio::test]
async fn time_in_the_line_is_counted() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[]);
    let mut narrow = endpoint(1, "m", &[&engine.url]);
    narrow.limits.concurrent_requests = Some(1);
    crate::site::add_endpoint(&mut snapshot, narrow);
    let mut bounds = Bounds::default();
    bounds.line.patience_micros = [30_000_000; 3];
    let site = Site::start_hurried(snapshot, bounds).await;
    let stalled = site.tasks.spawn(site.post("/v1/chat/completions", &chat_body(json!({"x_do": "stall"}))).send());
    engine.asked(1).await;
    let second = site.tasks.spawn(site.post("/v1/chat/completions", &chat_body(json!({}))).send());
    for _ in 0..2_000 {
        if site.gateway.live()[0].in_line == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let live = site.gateway.live();
    assert_eq!((live[0].in_line, live[0].in_flight, live[0].replicas[0].in_flight), (1, 1, 1));
    stalled.abort();
    assert_eq!(second.await.expect("no panic").expect("an answer").status().as_u16(), 200);
    let text = scrape(&site);
    assert!(text.contains("galerne_gateway_line_wait_seconds_count{tier=\"default\"} 1\n"), "{text}");
}

#[tokio::test]
async fn the_live_view_tells_rates_and_first_tokens() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    assert_eq!(site.gateway.live()[0].rates.requests_milli, 0);
    for _ in 0..3 {
        assert_eq!(site.chat(json!({"stream": true, "x_tokens": 5})).await.status, 200);
    }
    site.settled(3).await;
    // The sample before the first request is a second old at most once another is taken.
    for _ in 0..2_000 {
        if site.gateway.live()[0].rates.first_token_p50_micros.is_some() {
            break;
        }
        assert_eq!(site.chat(json!({"stream": true, "x_tokens": 5})).await.status, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A request is told to its client before it is counted.
    site.is_idle().await;
    let live = site.gateway.live();
    let rates = live[0].rates;
    assert_eq!(rates, live[0].replicas[0].rates, "it has one replica");
    // Each rate is rounded down by itself.
    let near = |one: u64, other: u64| one.abs_diff(other) <= 10;
    assert!(rates.requests_milli > 0 && near(rates.completion_tokens_milli, 5 * rates.requests_milli), "{rates:?}");
    assert!(near(rates.prompt_tokens_milli, 10 * rates.requests_milli), "{rates:?}");
    assert_eq!(rates.cached_tokens_milli, rates.completion_tokens_milli);
    let (p50, p99) = (rates.first_token_p50_micros.expect("some"), rates.first_token_p99_micros.expect("some"));
    assert!(p50 <= p99);
}
