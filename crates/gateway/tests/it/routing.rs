//! Which replica, and which endpoint, answers.

use std::time::Duration;

use galerne_core::routing::BreakerState;
use galerne_gateway::Bounds;
use galerne_model::identity::{ModelLimits, RateLimits};
use galerne_model::ids::{EndpointId, ReplicaId, TenantId};
use galerne_model::inference::{RoutingPolicy, Share, Visibility};
use galerne_model::ledger::Outcome;
use galerne_model::money::TokenPrice;
use galerne_model::snapshot::{EndpointEntry, KeyEntry, Snapshot};
use galerne_model::units::Micros;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, nobody};
use crate::site::{Site, add_endpoint, add_key, chat_body, endpoint, key_entry, receive, snapshot, uuid};

fn endpoint_id(n: u8) -> EndpointId {
    EndpointId::from_uuid(uuid(u128::from(n)))
}

fn share(n: u8, thousandths: u32) -> Vec<Share> {
    vec![Share { endpoint_id: endpoint_id(n), thousandths }]
}

/// Endpoint `m` at `url` with a policy, and endpoint 2, `other`, at `other`, ten times as dear.
fn two(url: &str, other: &str, routing: RoutingPolicy) -> Snapshot {
    let mut snapshot = snapshot(&[]);
    add_endpoint(&mut snapshot, EndpointEntry { routing, ..endpoint(1, "m", &[url]) });
    let dear = TokenPrice { prompt: Micros(10_000_000), cached: Micros(1_000_000), completion: Micros(20_000_000) };
    add_endpoint(&mut snapshot, EndpointEntry { price: dear, ..endpoint(2, "other", &[other]) });
    snapshot
}

fn metric(site: &Site, line: &str) -> Option<u64> {
    let mut registry = Registry::default();
    site.gateway.register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).expect("writes into memory");
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

fn long(seed: &str) -> Value {
    json!({"messages": [{"role": "user", "content": seed.repeat(4_000 / seed.len())}]})
}

#[tokio::test]
async fn prompts_that_begin_alike_go_to_one_replica_and_the_explanation_says_so() {
    let tasks = TaskTracker::new();
    let engines = [Engine::start(&tasks).await, Engine::start(&tasks).await, Engine::start(&tasks).await];
    let site = Site::start(snapshot(&engines.each_ref().map(|engine| engine.url.as_str()))).await;
    for _ in 0..9 {
        assert_eq!(site.chat(long("alike ")).await.status, 200);
    }
    let mut requests = engines.each_ref().map(Engine::requests);
    requests.sort_unstable();
    assert_eq!(requests, [0, 0, 9]);
    let body = chat_body(long("alike ")).to_string();
    let explain = |tenant: u128| {
        let tenant_id = TenantId::from_uuid(uuid(tenant));
        site.gateway.explain_route(endpoint_id(1), tenant_id, &body).expect("the endpoint is known")
    };
    let view = explain(1);
    let chosen = view.replicas[view.chosen.expect("one is")];
    let most = engines.iter().position(|engine| engine.requests() == 9).expect("one has all");
    assert_eq!(chosen.replica_id, ReplicaId::from_uuid(uuid(100 + most as u128)));
    assert!(chosen.cached_blocks >= 15 && chosen.cached_tokens > 0, "{chosen:?}");
    assert!(view.index_bytes.0 > 0 && view.index_bytes.0 <= view.index_bytes.1);
    let stranger = explain(2);
    assert!(stranger.replicas.iter().all(|one| one.cached_blocks == 0), "another tenant's prompts are not told");
    assert!(site.gateway.explain_route(endpoint_id(9), TenantId::from_uuid(uuid(1)), &body).is_none());
}

#[tokio::test]
async fn without_an_index_requests_take_turns() {
    let tasks = TaskTracker::new();
    let engines = [Engine::start(&tasks).await, Engine::start(&tasks).await];
    let bounds = Bounds { prefix_index_bytes: 0, ..Bounds::default() };
    let site = Site::start_hurried(snapshot(&engines.each_ref().map(|engine| engine.url.as_str())), bounds).await;
    for _ in 0..8 {
        assert_eq!(site.chat(long("alike ")).await.status, 200);
    }
    assert_eq!(engines.each_ref().map(Engine::requests), [4, 4]);
}

#[tokio::test]
async fn a_fallback_answers_in_its_own_name_and_at_its_own_price() {
    let other = Engine::start(&TaskTracker::new()).await;
    let routing = RoutingPolicy { fallback: vec![endpoint_id(2)], ..RoutingPolicy::default() };
    let site = Site::start(two(&nobody().await, &other.url, routing)).await;
    for stream in [false, true] {
        let reply = site.chat(json!({"stream": stream, "max_tokens": 5})).await;
        assert_eq!((reply.status, reply.header("x-galerne-answered-by")), (200, "other"), "{}", reply.text);
    }
    let records = site.settled(2).await;
    for record in &records {
        assert_eq!((record.endpoint_id, record.outcome), (endpoint_id(2), Outcome::Completed));
        // Five prompt tokens at 10, five cached at 1, five generated at 20 euros per million.
        assert_eq!(record.quantities.micros, Micros(155));
        let euros = |euros: i64| Micros(euros * 1_000_000);
        let price = TokenPrice { prompt: euros(10), cached: euros(1), completion: euros(20) };
        assert_eq!(record.terms.map(|terms| terms.price), Some(price), "the terms of who answered");
        assert!(record.held_micros >= record.quantities.micros, "the hold covered the dearest");
    }
    assert_eq!(metric(&site, "galerne_gateway_fallbacks_total "), Some(2));
    site.is_idle().await;
}

#[tokio::test]
async fn a_fallback_needs_the_callers_own_right_and_its_limits_and_never_mends_the_callers_mistakes() {
    let other = Engine::start(&TaskTracker::new()).await;
    let routing = RoutingPolicy { fallback: vec![endpoint_id(2)], ..RoutingPolicy::default() };
    let mut snapshot = two(&nobody().await, &other.url, routing.clone());
    // Endpoint 2 belongs to another project, and only that may call it.
    add_key(&mut snapshot, 2, key_entry(2));
    let hidden = EndpointEntry {
        visibility: Visibility::Project,
        project_id: key_entry(2).project_id,
        ..EndpointEntry::clone(&snapshot.endpoints[&endpoint_id(2)])
    };
    add_endpoint(&mut snapshot, hidden);
    let site = Site::start(snapshot).await;
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, reply.code().as_str(), other.requests()), (502, "replica_failed", 0));
    site.change(|snapshot| {
        let mut open = EndpointEntry::clone(&snapshot.endpoints[&endpoint_id(2)]);
        open.project_id = key_entry(1).project_id;
        open.limits.concurrent_requests = Some(0);
        add_endpoint(snapshot, open);
    });
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, other.requests()), (502, 0), "its limits are kept: {}", reply.text);
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(two(&engine.url, &other.url, routing)).await;
    let reply = site.chat(json!({"x_do": "status 400"})).await;
    assert_eq!((reply.status, other.requests()), (400, 0), "{}", reply.text);
    site.is_idle().await;
}

#[tokio::test]
async fn whoever_answers_in_anothers_place_keeps_to_the_keys_limits_for_its_model() {
    let other = Engine::start(&TaskTracker::new()).await;
    let routing = RoutingPolicy { fallback: vec![endpoint_id(2)], ..RoutingPolicy::default() };
    let mut snapshot = two(&nobody().await, &other.url, routing);
    let limits = RateLimits { requests_per_minute: Some(1), ..RateLimits::default() };
    let entry = KeyEntry { model_limits: vec![ModelLimits { model: "other".to_owned(), limits }], ..key_entry(1) };
    add_key(&mut snapshot, 1, entry);
    let site = Site::start(snapshot).await;
    let statuses = [site.chat(json!({})).await.status, site.chat(json!({})).await.status];
    assert_eq!((statuses, other.requests()), ([200, 502], 1));
    site.is_idle().await;
}

#[tokio::test]
async fn three_hosts_that_are_gone_do_not_hide_the_fourth() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let gone = [nobody().await, nobody().await, nobody().await];
    let site = Site::start(snapshot(&[&gone[0], &gone[1], &gone[2], &engine.url])).await;
    for _ in 0..6 {
        let reply = site.chat(json!({})).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    site.is_idle().await;
}

#[tokio::test]
async fn errors_inside_of_streams_open_the_breaker_too() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    for _ in 0..3 {
        let reply = site.chat(json!({"stream": true, "x_do": "error, then done"})).await;
        assert!(reply.text.contains("engine_failed"), "{}", reply.text);
    }
    let tenant_id = TenantId::from_uuid(uuid(1));
    let view = site.gateway.explain_route(endpoint_id(1), tenant_id, "hello").expect("the endpoint is known");
    assert_eq!(view.replicas[0].state, BreakerState::Open);
    site.is_idle().await;
}

#[tokio::test]
async fn a_canary_answers_its_share_and_when_it_cannot_the_endpoint_itself_does() {
    let tasks = TaskTracker::new();
    let (engine, other) = (Engine::start(&tasks).await, Engine::start(&tasks).await);
    let routing = RoutingPolicy { canary: share(2, 300), ..RoutingPolicy::default() };
    let site = Site::start(two(&engine.url, &other.url, routing)).await;
    for _ in 0..200 {
        assert_eq!(site.chat(json!({})).await.status, 200);
    }
    // Six standard deviations around sixty.
    assert!((21..=99).contains(&other.requests()), "{} of 200", other.requests());
    assert_eq!(engine.requests() + other.requests(), 200);
    let of_canary = site.settled(200).await.iter().filter(|record| record.endpoint_id == endpoint_id(2)).count();
    assert_eq!(of_canary, other.requests());
    let routing = RoutingPolicy { canary: share(2, 1_000), ..RoutingPolicy::default() };
    let site = Site::start(two(&engine.url, &nobody().await, routing)).await;
    let reply = site.chat(json!({})).await;
    assert_eq!((reply.status, reply.header("x-galerne-answered-by")), (200, ""));
    assert_eq!(site.settled(1).await[0].endpoint_id, endpoint_id(1));
    site.is_idle().await;
}

#[tokio::test]
async fn a_shadow_gets_copies_that_nobody_is_charged_for() {
    let tasks = TaskTracker::new();
    let (engine, other) = (Engine::start(&tasks).await, Engine::start(&tasks).await);
    let routing = RoutingPolicy { shadow: share(2, 1_000), ..RoutingPolicy::default() };
    let site = Site::start(two(&engine.url, &other.url, routing)).await;
    for stream in [false, true] {
        let reply = site.chat(json!({"stream": stream, "max_tokens": 4})).await;
        assert_eq!((reply.status, reply.header("x-galerne-answered-by")), (200, ""));
    }
    other.asked(2).await;
    let records = site.settled(2).await;
    assert!(records.iter().all(|record| record.endpoint_id == endpoint_id(1)));
    for _ in 0..400 {
        if metric(&site, "galerne_gateway_shadows_total{outcome=\"answered\"} ") == Some(2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(metric(&site, "galerne_gateway_shadows_total{outcome=\"answered\"} "), Some(2));
    assert_eq!(metric(&site, "galerne_gateway_shadow_tokens_total{kind=\"completion\"} "), Some(8));
    assert_eq!(site.ledger.lock().expect("whole").records.len(), 2);
    // A shadow that is dead is no trouble to anybody.
    let routing = RoutingPolicy { shadow: share(2, 1_000), ..RoutingPolicy::default() };
    let site = Site::start(two(&engine.url, &nobody().await, routing)).await;
    assert_eq!(site.chat(json!({})).await.status, 200);
    assert_eq!(receive(site.post("/v1/chat/completions", &chat_body(json!({})))).await.status, 200);
    site.is_idle().await;
}

/// A publisher on ZeroMQ's wire: greets, and sends what it is given, numbered.
async fn publisher(tasks: &TaskTracker) -> (String, mpsc::Sender<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("tcp://{}", listener.local_addr().expect("bound"));
    let (send, mut batches) = mpsc::channel::<Vec<u8>>(8);
    tasks.spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("the gateway connects");
        let mut hello = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
        hello.extend(b"NULL");
        hello.resize(64, 0);
        hello.extend(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
        socket.write_all(&hello).await.expect("open");
        let mut theirs = [0; 64 + 27 + 3];
        socket.read_exact(&mut theirs).await.expect("a subscriber");
        assert_eq!(theirs[91..], [0, 1, 1], "it subscribes to everything");
        let mut number = 0u64;
        while let Some(batch) = batches.recv().await {
            let mut message = vec![1, 0, 1, 8];
            message.extend(number.to_be_bytes());
            message.push(2);
            message.extend((batch.len() as u64).to_be_bytes());
            message.extend(batch);
            socket.write_all(&message).await.expect("open");
            number += 1;
        }
    });
    (address, send)
}

/// `[0, [["BlockStored", hashes, nil, tokens, 16, nil, "GPU"]]]` for the tokens from 0 on.
fn stored(blocks: u16) -> Vec<u8> {
    let mut batch = vec![0x92, 0x00, 0x91, 0x97, 0xab];
    batch.extend(b"BlockStored");
    let list = |batch: &mut Vec<u8>, count: u16| {
        batch.push(0xdc);
        batch.extend(count.to_be_bytes());
        for n in 0..count {
            batch.push(0xcd);
            batch.extend(n.to_be_bytes());
        }
    };
    list(&mut batch, blocks);
    batch.push(0xc0);
    list(&mut batch, blocks * 16);
    batch.extend([16, 0xc0, 0xa3]);
    batch.extend(b"GPU");
    batch
}

#[tokio::test]
async fn what_engines_tell_of_their_caches_replaces_predictions() {
    let tasks = TaskTracker::new();
    let engines = [Engine::start(&tasks).await, Engine::start(&tasks).await];
    let (silent, _open) = publisher(&tasks).await;
    let (address, tell) = publisher(&tasks).await;
    let mut entry = endpoint(1, "m", &engines.each_ref().map(|engine| engine.url.as_str()));
    (entry.replicas[0].kv_events, entry.replicas[1].kv_events) = (Some(silent), Some(address));
    let mut snapshot = snapshot(&[]);
    add_endpoint(&mut snapshot, entry);
    let site = Site::start(snapshot).await;
    tell.send(stored(40)).await.expect("the publisher lives");
    let body = chat_body(long("alike ")).to_string();
    // Of the second replica: it tells of 640 of the 1,024 tokens that the engine makes of the prompt.
    let had = || {
        let tenant_id = TenantId::from_uuid(uuid(1));
        let view = site.gateway.explain_route(endpoint_id(1), tenant_id, &body).expect("the endpoint is known");
        view.replicas[1].cached_blocks
    };
    for _ in 0..400 {
        // The first tells nothing, so it is predicted to have all of it; its answers make the tokens known as well.
        if had() == 10 {
            break;
        }
        assert_eq!(site.chat(long("alike ")).await.status, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(had(), 10, "640 of 1,024 tokens are ten of sixteen blocks of text");
    let mut cleared = vec![0x92, 0x00, 0x91, 0x91, 0xb0];
    cleared.extend(b"AllBlocksCleared");
    tell.send(cleared).await.expect("the publisher lives");
    for _ in 0..400 {
        if had() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(had(), 0);
    site.gateway.drain(Duration::from_secs(5)).await;
}
