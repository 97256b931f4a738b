//! Not enough for all: who waits, who is called, who is sent away, and what they are told.

use std::time::{Duration, Instant};

use galerne_gateway::Bounds;
use galerne_model::identity::{ModelLimits, RateLimits, ServiceTier};
use galerne_model::ids::{EndpointId, KeyId};
use galerne_model::inference::{RoutingPolicy, Share};
use galerne_model::ledger::Country;
use galerne_model::money::BudgetSubject;
use galerne_model::snapshot::{EndpointEntry, Snapshot};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, nobody};
use crate::site::{
    Reply, Site, add_endpoint, add_key, budget, chat_body, endpoint, key_entry, receive, snapshot, uuid,
};

/// Keys 1 to 3 are flex, default, priority; the endpoint takes one request at a time.
fn one_seat(url: &str) -> Snapshot {
    let mut snapshot = snapshot(&[]);
    let project =
        galerne_model::snapshot::ProjectEntry { service_tier: Some(ServiceTier::Priority), ..Default::default() };
    for (n, tier) in (1..).zip(ServiceTier::ALL) {
        let mut key = key_entry(1);
        key.id = KeyId::from_uuid(uuid(n.into()));
        key.service_tier = Some(tier);
        snapshot.projects.insert(key.project_id, project.clone());
        add_key(&mut snapshot, n, key);
    }
    let mut limited = endpoint(1, "m", &[url]);
    limited.limits = RateLimits { concurrent_requests: Some(1), ..RateLimits::default() };
    add_endpoint(&mut snapshot, limited);
    snapshot
}

fn line(places: usize) -> Bounds {
    let mut bounds = Bounds::default();
    bounds.line.places = places;
    bounds.line.patience_micros = [20_000_000; 3];
    bounds
}

/// How many wait in line, by what the gateway's series say.
async fn in_line(site: &Site, count: usize) {
    let mut registry = prometheus_client::registry::Registry::default();
    site.gateway.register_metrics(&mut registry);
    for _ in 0..2_000 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let waiting: usize = text
            .lines()
            .filter(|line| line.starts_with("galerne_gateway_line_requests{"))
            .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number"))
            .sum();
        if waiting == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {count} in line");
}

fn ask(site: &Site, n: u8, more: serde_json::Value) -> tokio::task::JoinHandle<Reply> {
    site.tasks.spawn(receive(site.post_as(n, "/v1/chat/completions", &chat_body(more))))
}

#[tokio::test]
async fn who_finds_no_seat_waits_and_the_higher_tier_is_called_first() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(one_seat(&engine.url), line(8)).await;
    let first = ask(&site, 2, json!({"x_do": "stall"}));
    engine.asked(1).await;
    let flex = ask(&site, 1, json!({}));
    in_line(&site, 1).await;
    let high = ask(&site, 3, json!({"x_do": "stall"}));
    in_line(&site, 2).await;
    first.abort();
    engine.asked(2).await;
    assert!(!flex.is_finished(), "the seat went to the higher tier");
    high.abort();
    let reply = flex.await.expect("answered");
    assert_eq!((reply.status, reply.header("x-galerne-service-tier")), (200, "flex"));
    site.is_idle().await;
}

#[tokio::test]
async fn a_full_line_sends_the_lowest_away_at_once_and_says_when_to_come_again() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(one_seat(&engine.url), line(1)).await;
    let first = ask(&site, 1, json!({"x_do": "stall"}));
    engine.asked(1).await;
    let waits = ask(&site, 2, json!({}));
    in_line(&site, 1).await;
    // The fastest of a few: the machine may be busy with other tests.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let reply = receive(site.post_as(1, "/v1/chat/completions", &chat_body(json!({})))).await;
        fastest = fastest.min(begun.elapsed());
        assert_eq!((reply.status, reply.code().as_str()), (429, "rate_limited"));
        assert!(reply.message().contains("the line before it is full (service tier `flex`)"), "{}", reply.message());
        assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
        assert!(reply.header("retry-after-ms").parse::<u64>().is_ok());
    }
    assert!(fastest < Duration::from_millis(5), "refused in {fastest:?}");
    // A higher tier takes the place of the one that waits, not of the one that runs.
    let high = ask(&site, 3, json!({}));
    let lost = waits.await.expect("answered");
    assert_eq!((lost.status, lost.code().as_str()), (429, "rate_limited"));
    assert!(lost.message().contains("a request of a higher tier took the place"), "{}", lost.message());
    assert!(!first.is_finished());
    first.abort();
    assert_eq!(high.await.expect("answered").status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_the_line_is_not_called() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start_hurried(one_seat(&engine.url), line(8)).await;
    let first = ask(&site, 2, json!({"x_do": "stall"}));
    engine.asked(1).await;
    let leaves = ask(&site, 2, json!({}));
    in_line(&site, 1).await;
    let stays = ask(&site, 2, json!({}));
    in_line(&site, 2).await;
    leaves.abort();
    in_line(&site, 1).await;
    first.abort();
    assert_eq!(stays.await.expect("answered").status, 200);
    assert_eq!(engine.requests(), 2, "the one that left never reached the engine");
    site.is_idle().await;
    assert_eq!(
        receive(site.post_as(1, "/v1/chat/completions", &chat_body(json!({})))).await.status,
        200,
        "a free seat"
    );
}

#[tokio::test]
async fn a_nearly_full_gateway_refuses_flex_before_others() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = one_seat(&engine.url);
    add_endpoint(&mut snapshot, endpoint(1, "m", &[&engine.url]));
    let bounds = Bounds { in_flight_max: 5, ..Bounds::default() };
    let site = Site::start_hurried(snapshot, bounds).await;
    let held: Vec<_> = (0..4).map(|_| ask(&site, 3, json!({"x_do": "stall"}))).collect();
    engine.asked(4).await;
    let reply = receive(site.post_as(1, "/v1/chat/completions", &chat_body(json!({})))).await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("retry-after")), (503, "overloaded", "1"));
    assert!(reply.message().contains("kept for higher tiers than `flex`"), "{}", reply.message());
    let reply = receive(site.post_as(2, "/v1/chat/completions", &chat_body(json!({})))).await;
    assert_eq!((reply.status, reply.header("x-galerne-service-tier")), (200, "default"));
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_request_gets_the_tier_it_may_have_and_is_told_which() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = one_seat(&engine.url);
    add_endpoint(&mut snapshot, endpoint(1, "m", &[&engine.url]));
    let site = Site::start(snapshot).await;
    let tier = async |n: u8, asked: serde_json::Value| {
        let reply = receive(site.post_as(n, "/v1/chat/completions", &chat_body(asked))).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.header("x-galerne-service-tier").to_owned()
    };
    assert_eq!(tier(3, json!({})).await, "priority", "what the key may have");
    assert_eq!(tier(3, json!({"service_tier": "auto"})).await, "priority");
    assert_eq!(tier(3, json!({"service_tier": "flex"})).await, "flex", "less may be asked for");
    assert_eq!(tier(2, json!({"service_tier": "priority"})).await, "default", "more is not given");
    // Each record keeps the one it was served in, with the country and the price.
    let records = site.settled(4).await;
    let kept = records.iter().map(|record| record.terms.map(|terms| (terms.service_tier, terms.country)));
    let (priority, france) = (ServiceTier::Priority, Country::of("FR"));
    let expected = [priority, priority, ServiceTier::Flex, ServiceTier::Default].map(|tier| Some((tier, france)));
    assert_eq!(kept.collect::<Vec<_>>(), expected);
    let price = endpoint(1, "m", &[]).price;
    assert!(records.iter().all(|record| record.terms.is_some_and(|terms| terms.price == price)), "{records:?}");
}

#[tokio::test]
async fn a_limit_for_one_model_is_told_in_both_kinds_of_headers() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    add_endpoint(&mut snapshot, endpoint(2, "other", &[&engine.url]));
    let mut key = key_entry(1);
    key.limits = RateLimits { tokens_per_minute: Some(6_000), ..RateLimits::default() };
    let limits = RateLimits { requests_per_minute: Some(1), concurrent_requests: Some(3), ..RateLimits::default() };
    key.model_limits = vec![ModelLimits { model: "m".to_owned(), limits }];
    add_key(&mut snapshot, 1, key);
    let site = Site::start(snapshot).await;
    let reply = site.chat(json!({"max_tokens": 8})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("ratelimit-policy"),
        "\"key-tokens\";q=6000;w=60;qu=\"tokens\", \"key-on-model-requests\";q=1;w=60;qu=\"requests\", \
         \"key-on-model-concurrency\";q=3;qu=\"concurrent-requests\""
    );
    let left = reply.header("ratelimit");
    assert!(left.contains("\"key-on-model-requests\";r=0;t=60, \"key-on-model-concurrency\";r=2"), "{left}");
    assert_eq!(reply.header("x-ratelimit-limit-requests"), "1");
    let refused = site.chat(json!({"max_tokens": 8})).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert!(refused.message().starts_with("this key on this model may make 1 requests"), "{}", refused.message());
    assert!(refused.header("ratelimit").contains("\"key-on-model-requests\";r=0"), "{}", refused.header("ratelimit"));
    assert!(refused.header("retry-after-ms").parse::<u64>().is_ok_and(|ms| ms > 50_000));
    let other = site.chat(json!({"max_tokens": 8, "model": "other"})).await;
    assert_eq!((other.status, other.header("x-ratelimit-limit-requests")), (200, ""), "another model");
}

#[tokio::test]
async fn a_stream_without_a_maximum_is_cut_where_its_budget_ends() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    // A prompt of at most 1000 tokens at one micro each; answers at two. The worst case is above 4000.
    snapshot.add_budget(budget(1, BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) }, 2_000));
    let site = Site::start(snapshot).await;
    assert_eq!(site.chat(json!({})).await.status, 402, "a whole answer is not cut");
    let reply = site.chat(json!({"stream": true})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let cut: i64 = reply.header("x-galerne-cut-tokens").parse().expect("told where it is cut");
    assert!((256..1_000).contains(&cut), "{cut}");
    let record = site.settled(1).await.swap_remove(0);
    assert_eq!(record.quantities.completion_tokens.0, cut, "the engine was told where to end");
    assert!(record.held_micros.0 <= 2_000 && record.quantities.micros <= record.held_micros, "{record:?}");
    // Now too little is left for an answer of any use.
    let refused = site.chat(json!({"stream": true})).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "budget_exhausted"));
    // Who says how long an answer may be is not cut short of it.
    let asked = site.chat(json!({"stream": true, "max_tokens": 999})).await;
    assert_eq!((asked.status, asked.header("x-galerne-cut-tokens")), (402, ""));
}

#[tokio::test]
async fn a_request_is_served_only_where_it_may_be() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    let mut unstated = endpoint(2, "somewhere", &[&engine.url]);
    unstated.residency = None;
    add_endpoint(&mut snapshot, unstated);
    let site = Site::start(snapshot).await;
    let ask = async |model: &str, header: &str, value: &str| {
        let body = chat_body(json!({"model": model}));
        receive(site.post("/v1/chat/completions", &body).header(header, value)).await
    };
    let served = ask("m", "x-galerne-residency", "de, FR").await;
    assert_eq!((served.status, served.header("x-galerne-residency")), (200, "FR"));
    let refused = ask("m", "x-galerne-residency", "DE").await;
    assert_eq!(
        (refused.status, refused.code().as_str(), refused.header("x-should-retry")),
        (403, "residency_unmet", "false")
    );
    assert_eq!(
        refused.message(),
        "the request may only be served in DE, and `m` is served in FR; no endpoint that this key may call is served there"
    );
    let unstated = ask("somewhere", "x-galerne-residency", "FR").await;
    assert_eq!(unstated.status, 403);
    assert!(unstated.message().contains("nobody has stated where the servers of `somewhere` stand; hint: call `m`"));
    assert_eq!(ask("m", "x-galerne-residency", "Europe").await.status, 400);
    let kept = ask("m", "x-galerne-retention", "none").await;
    assert_eq!(
        (kept.status, kept.header("x-galerne-retention"), kept.header("x-galerne-residency")),
        (200, "none", "")
    );
    assert_eq!(ask("m", "x-galerne-retention", "30d").await.status, 400);
    assert_eq!(engine.requests(), 2, "what was refused was sent nowhere");
}

#[tokio::test]
async fn neither_canary_nor_shadow_nor_fallback_leaves_the_countries_a_request_allows() {
    let (engine, abroad) = (Engine::start(&TaskTracker::new()).await, Engine::start(&TaskTracker::new()).await);
    let all = vec![Share { endpoint_id: EndpointId::from_uuid(uuid(2)), thousandths: 1_000 }];
    let policies = [
        (engine.url.clone(), RoutingPolicy { canary: all.clone(), ..RoutingPolicy::default() }),
        (engine.url.clone(), RoutingPolicy { shadow: all, ..RoutingPolicy::default() }),
        (nobody().await, RoutingPolicy { fallback: vec![EndpointId::from_uuid(uuid(2))], ..RoutingPolicy::default() }),
    ];
    for (url, routing) in policies {
        let is_fallback = !routing.fallback.is_empty();
        let mut snapshot = snapshot(&[]);
        add_endpoint(&mut snapshot, EndpointEntry { routing, ..endpoint(1, "m", &[&url]) });
        let away = EndpointEntry { residency: Some("US".to_owned()), ..endpoint(2, "away", &[&abroad.url]) };
        add_endpoint(&mut snapshot, away);
        let site = Site::start(snapshot).await;
        let ask = async |countries: &'static str| {
            let post = site.post("/v1/chat/completions", &chat_body(json!({})));
            receive(post.header("x-galerne-residency", countries)).await
        };
        let before = abroad.requests();
        let home = ask("FR").await;
        assert_eq!(home.status, if is_fallback { 502 } else { 200 }, "{}", home.text);
        site.is_idle().await;
        assert_eq!(abroad.requests(), before, "nothing went abroad");
        let either = ask("FR, US").await;
        assert_eq!(either.status, 200, "{}", either.text);
        abroad.asked(before + 1).await;
        let answered = either.header("x-galerne-answered-by");
        let stands = if answered == "away" { "US" } else { "FR" };
        assert_eq!(either.header("x-galerne-residency"), stands, "it names where the one that answered stands");
    }
}
