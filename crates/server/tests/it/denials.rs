//! Refusals on `/v1`: each is an event that says why, and a flood of them is a few events that add up.

use std::time::Duration;

use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::{EventId, ProjectId, RequestId, TenantId};
use galerne_store::{Store, StoreUrl};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::site::{self, Client, Reply, Site, external};

fn chat(model: &str) -> Value {
    json!({"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]})
}

/// Asks why until it is known: events are written about a second later.
async fn why(client: &Client, request_id: &str) -> Value {
    for _ in 0..200 {
        let reply = client.get(&format!("/api/v1/why/request/{request_id}")).await;
        if reply.status == 200 {
            return reply.json["reason"].clone();
        }
        assert_eq!(reply.status, 404, "{}", reply.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody knows why {request_id} was refused");
}

/// Sends until it is refused with `status`: the gateway learns of limits with its next snapshot.
async fn refused(client: &Client, model: &str, status: u16) -> Reply {
    for _ in 0..200 {
        let reply = client.post("/v1/chat/completions", &chat(model)).await;
        if reply.status == status {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never refused with {status}");
}

#[tokio::test]
async fn every_refusal_of_a_caller_is_an_event_and_says_why_with_its_numbers() {
    let site = Site::new().await;
    site.operator.made("/api/v1/endpoints", &external("far")).await;
    let operator = site.operator.got("/api/v1/whoami").await["principal"]["id"].as_str().expect("an id").to_owned();
    let limited = json!({"name": "limited", "spec": {"principal_id": operator, "scopes": ["inference"], "limits": {"requests_per_minute": 1}}});
    let limited = site.operator.made("/api/v1/keys", &limited).await;
    let limited = site.client(limited["secret"].as_str());
    let poor = json!({"name": "poor", "spec": {"principal_id": operator, "scopes": ["inference"]}});
    let poor = site.operator.made("/api/v1/keys", &poor).await;
    let subject = json!({"kind": "key", "key_id": poor["key"]["id"]});
    let budget = json!({"name": "little", "spec": {"subject": subject, "limit_micros": 3, "period": "total"}});
    site.operator.made("/api/v1/budgets", &budget).await;
    let poor = site.client(poor["secret"].as_str());
    let reader = site.client(Some(&site.key("default", &operator, &["read"]).await));
    let stranger = site.client(Some(&format!("galerne_{}", "x".repeat(36))));

    for (caller, model, status, code, number) in [
        (&site.client(None), "far", 401, "unauthenticated", "no API key"),
        (&stranger, "far", 401, "invalid_key", "check characters"),
        (&reader, "far", 403, "scope_missing", "`inference`"),
        (&site.operator, "fra", 404, "model_not_found", "`far`"),
        (&limited, "far", 429, "rate_limited", "1 requests per minute"),
        (&poor, "far", 402, "budget_exhausted", "0.000003 € are left"),
    ] {
        let reply = refused(caller, model, status).await;
        let reason = why(&site.operator, reply.header("x-request-id")).await;
        assert_eq!((&reason["code"], &reason["holds"]), (&json!("request_refused"), &json!(false)), "{code}");
        assert_eq!(reason["text"], reply.json["message"], "the words the caller read");
        assert!(reason["text"].as_str().is_some_and(|text| text.contains(number)), "{reason}");
        assert_eq!(reason["next"][0]["command"], format!("galerne explain {code}"));
        assert!(reason["because"][0]["text"].as_str().is_some_and(|who| who.ends_with("from 127.0.0.1")), "{reason}");
        let other = site.operator.get("/api/v1/events?decision=denied&limit=500&tenant=*").await;
        let event = other.json["items"]
            .as_array()
            .and_then(|items| items.iter().find(|event| event["actor"]["request_id"] == reply.header("x-request-id")))
            .unwrap_or_else(|| panic!("no event of {code}"));
        assert_eq!(event["action"], if status == 401 { "key.use" } else { "inference.use" });
        assert_eq!(event["actor"]["key_id"].is_string(), status != 401, "{event}");
    }
    site.running.drain().await;
}

#[tokio::test]
async fn nobody_learns_of_another_tenants_refusals() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let mine = site.person("acme", "owner").await;
    let refused = refused(&site.operator, "nothing-here", 404).await;
    let request_id = refused.header("x-request-id");
    why(&site.operator, request_id).await;
    let reply = mine.get(&format!("/api/v1/why/request/{request_id}")).await;
    let unknown = mine.get(&format!("/api/v1/why/request/request_{}", "0".repeat(32))).await;
    assert_eq!((reply.status, unknown.status), (404, 404));
    assert_eq!(reply.json["hint"], unknown.json["hint"], "as if it had never been");
    site.running.drain().await;
}

/// How many refusals an event tells of.
fn told(event: &Value) -> u64 {
    if event["actor"]["request_id"].is_string() {
        return 1;
    }
    let text = event["text"].as_str().expect("text");
    let words = text.split(": ").nth(1).expect("a code, then a sentence");
    words.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_refusals_is_a_few_events_that_add_up_and_slows_nobody() {
    const CLIENTS: u64 = 4;
    const EACH: u64 = 500;
    let site = Site::new().await;
    let stranger = site.client(Some(&format!("galerne_{}", "x".repeat(36))));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let stranger = stranger.clone();
        tasks.spawn(async move {
            let mut last = String::new();
            for _ in 0..EACH {
                let reply = stranger.post("/v1/chat/completions", &chat("m")).await;
                assert_eq!(reply.status, 401);
                last = reply.header("x-request-id").to_owned();
            }
            last
        });
    }
    let mut slowest = Duration::ZERO;
    let mut last = String::new();
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => last = ended.expect("no panic"),
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                let began = std::time::Instant::now();
                assert_eq!(site.operator.get("/v1/models").await.status, 200);
                slowest = slowest.max(began.elapsed());
            }
        }
    }
    assert!(slowest < Duration::from_secs(2), "somebody with a key waited {slowest:?}");

    // The drain tells what the open window has counted.
    let operator = site.operator.clone();
    site.running.drain().await;
    let running = site::start(site.folder.path(), &[]).await.expect("it starts again");
    let operator = Client { url: running.url.clone(), ..operator };
    let denied = operator.got("/api/v1/events?decision=denied&limit=500&tenant=*").await;
    let events = denied["items"].as_array().expect("a list");
    assert!(events.len() < 40, "{} events of {} refusals", events.len(), CLIENTS * EACH);
    assert_eq!(events.iter().map(told).sum::<u64>(), CLIENTS * EACH);
    let reason = why(&operator, &last).await;
    assert_eq!(reason["code"], "request_counted", "{reason}");
    let sum = reason["because"][0]["next"][0]["command"].as_str().expect("the event with the count");
    let event = events.iter().find(|event| sum.ends_with(event["id"].as_str().expect("an id"))).expect("it is there");
    assert_eq!(event["actor"]["component"], "gateway");
    running.drain().await;
}

#[tokio::test]
async fn a_tenant_finds_its_own_count_behind_all_others() {
    let site = Site::new().await;
    let (tenant_id, project_id) = site.tenant("acme").await;
    let mine = site.person("acme", "owner").await;
    let request_id = RequestId::from_uuid(uuid::Uuid::now_v7());
    let store = Store::open(&StoreUrl::sqlite(site.folder.path().join("galerne.db"))).await.expect("opens beside");
    let sum = |tenant_id: Option<TenantId>, project_id: Option<ProjectId>| Event {
        id: EventId::from_uuid(uuid::Uuid::now_v7()),
        sequence: 0,
        at: Timestamp::now(),
        actor: Actor::component("gateway"),
        action: "inference.use".to_owned(),
        tenant_id,
        project_id,
        resource: None,
        decision: Decision::Denied,
        before_digest: None,
        after_digest: None,
        text: "rate_limited: 7 more refused like this".to_owned(),
    };
    let mut tx = store.begin().await.expect("begins");
    for _ in 0..600 {
        tx.record(sum(None, None));
    }
    let own = sum(Some(tenant_id.parse().expect("an id")), Some(project_id.parse().expect("an id")));
    tx.record(own.clone());
    tx.commit().await.expect("commits");
    store.close().await;
    let reason = why(&mine, &request_id.to_string()).await;
    assert_eq!(reason["code"], "request_counted", "{reason}");
    let because = reason["because"].as_array().expect("a list");
    assert_eq!(because.len(), 1, "its own and no other: {reason}");
    let command = because[0]["next"][0]["command"].as_str().expect("the event with the count");
    assert!(command.ends_with(&own.id.to_string()), "{command}");
    site.running.drain().await;
}
