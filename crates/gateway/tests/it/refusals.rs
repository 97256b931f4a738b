//! Refusals: each has its status, its code, its numbers, in the shape both clients read.

use std::sync::Arc;

use galerne_model::inference::Visibility;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, nobody};
use crate::site::{Site, add_endpoint, add_key, chat_body, endpoint, key, key_entry, receive, snapshot};

async fn raw(site: &Site, body: impl Into<reqwest::Body>) -> crate::site::Reply {
    receive(site.client.post(format!("{}/v1/chat/completions", site.url)).bearer_auth(key(1)).body(body)).await
}

#[tokio::test]
async fn a_server_without_the_lease_of_its_database_admits_nothing() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let may_admit = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&may_admit);
    let order = std::sync::atomic::Ordering::SeqCst;
    site.gateway.admit_while(Arc::new(move || {
        if asked.load(order) { Ok(()) } else { Err(galerne_gateway::Closed::LeaseLost) }
    }));
    assert_eq!(site.chat(json!({"max_tokens": 2})).await.status, 200);
    may_admit.store(false, std::sync::atomic::Ordering::SeqCst);
    let refused = site.chat(json!({"max_tokens": 2})).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "lease_lost"));
    assert_eq!(refused.header("retry-after"), "5");
    may_admit.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(site.chat(json!({"max_tokens": 2})).await.status, 200);
    assert_eq!(site.settled(2).await.len(), 2, "what was refused left no record");
}

#[tokio::test]
async fn bad_keys_are_told_apart() {
    let mut snapshot = snapshot(&[&nobody().await]);
    let mut expired = key_entry(2);
    expired.expires_at = Some(Timestamp::now() - SignedDuration::from_secs(1));
    add_key(&mut snapshot, 2, expired);
    let mut no_scope = key_entry(3);
    no_scope.scopes.clear();
    add_key(&mut snapshot, 3, no_scope);
    let mut no_role = key_entry(4);
    no_role.may_infer = false;
    add_key(&mut snapshot, 4, no_role);
    let site = Site::start(snapshot).await;
    let mistyped = key(1).replace('1', "2");
    for (authorization, status, code) in [
        (None, 401, "unauthenticated"),
        (Some("Basic abc".to_owned()), 401, "invalid_key"),
        (Some("Bearer sk-abc".to_owned()), 401, "invalid_key"),
        (Some(format!("Bearer {mistyped}")), 401, "invalid_key"),
        (Some(format!("Bearer {}", key(9))), 401, "invalid_key"),
        (Some(format!("Bearer {}", key(2))), 401, "key_expired"),
        (Some(format!("Bearer {}", key(3))), 403, "scope_missing"),
        (Some(format!("Bearer {}", key(4))), 403, "forbidden"),
    ] {
        let mut request = site.client.get(format!("{}/v1/models", site.url));
        if let Some(value) = &authorization {
            request = request.header("authorization", value);
        }
        let reply = receive(request).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{authorization:?}");
        assert_eq!(reply.header("x-should-retry"), "false");
    }
    let told: Vec<(String, bool)> = site
        .gateway
        .denials()
        .into_iter()
        .map(|event| (event.text.split(':').next().unwrap_or_default().to_owned(), event.actor.key_id.is_some()))
        .collect();
    let expected = [
        ("unauthenticated", false),
        ("invalid_key", false),
        ("invalid_key", false),
        ("invalid_key", false),
        ("invalid_key", false),
        ("key_expired", true),
        ("scope_missing", true),
        ("forbidden", true),
    ];
    assert_eq!(told, expected.map(|(code, known)| (code.to_owned(), known)), "each is an event");
    let by_header = receive(site.client.get(format!("{}/v1/models", site.url)).header("x-api-key", key(1))).await;
    assert_eq!(by_header.status, 200);
}

#[tokio::test]
async fn unknown_models_name_the_nearest_that_may_be_seen() {
    let mut snapshot = snapshot(&[]);
    add_endpoint(&mut snapshot, endpoint(2, "smollm2-135m", &[]));
    let mut hidden = endpoint(3, "smollm2", &[]);
    hidden.tenant_id = galerne_model::ids::TenantId::from_uuid(crate::site::uuid(7));
    hidden.project_id = galerne_model::ids::ProjectId::from_uuid(crate::site::uuid(7));
    hidden.visibility = Visibility::Tenant;
    add_endpoint(&mut snapshot, hidden);
    let site = Site::start(snapshot).await;
    let reply = site.chat(json!({"model": "smolm2-135m"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "model_not_found"));
    assert_eq!(reply.message(), "no endpoint is named `smolm2-135m`; nearest: `smollm2-135m`, `m`");
    let typo_id = reply.header("x-request-id").to_owned();
    let reply = site.chat(json!({"model": "smollm2"})).await;
    assert_eq!(reply.status, 404, "another tenant's endpoint cannot be told from none");
    let [typo, hidden] = site.gateway.denials().try_into().expect("two events");
    assert_eq!(hidden.tenant_id, typo.tenant_id, "nor in the caller's own event log");
    assert_eq!(typo.actor.request_id.map(|id| id.to_string()).as_deref(), Some(typo_id.as_str()));
    assert_eq!(hidden.text, format!("model_not_found: {}", reply.message()));
}

#[tokio::test]
async fn paused_and_unready_endpoints_say_why() {
    let mut snapshot = snapshot(&[]);
    let mut paused = endpoint(2, "paused", &[]);
    paused.paused = true;
    add_endpoint(&mut snapshot, paused);
    let mut broken = endpoint(3, "broken", &[]);
    broken.not_ready_because = "the worker was killed 3 times".to_owned();
    add_endpoint(&mut snapshot, broken);
    let mut embeds = endpoint(4, "embeds", &[]);
    embeds.can_chat = false;
    add_endpoint(&mut snapshot, embeds);
    let site = Site::start(snapshot).await;
    let reply = site.chat(json!({"model": "paused"})).await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("retry-after")), (503, "endpoint_paused", "60"));
    let reply = site.chat(json!({"model": "broken"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "no_ready_replica"));
    assert!(reply.message().contains("the worker was killed 3 times"), "{}", reply.message());
    assert_eq!(
        (reply.header("retry-after"), reply.header("retry-after-ms"), reply.header("x-should-retry")),
        ("2", "2000", "true")
    );
    let reply = site.chat(json!({"model": "embeds"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "operation_not_supported"));
}

#[tokio::test]
async fn bad_bodies_are_refused_with_their_place() {
    let site = Site::start(snapshot(&[])).await;
    for (body, code, says) in [
        (b"{\"model\":\"m\",".to_vec(), "malformed_json", "line 1, column 13"),
        (b"{\"model\":\"\xff\"}".to_vec(), "malformed_json", "byte 10"),
        (b"".to_vec(), "malformed_json", "EOF"),
        (
            b"{\"model\":\"m\",\"messages\":[{}],\"max_tokens\":\"many\"}".to_vec(),
            "invalid_body",
            "`max_tokens` cannot be `\"many\"`",
        ),
    ] {
        let reply = raw(&site, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code));
        assert!(reply.message().contains(says), "{}", reply.message());
    }
    assert!(site.ledger.lock().expect("whole").records.is_empty(), "what was never admitted leaves no record");
    assert_eq!(site.gateway.last_denials(), [], "and decides nothing about who sent it");
}

#[tokio::test]
async fn a_body_of_100_megabytes_is_refused_and_the_refusal_can_be_read() {
    let site = Site::start(snapshot(&[])).await;
    let announced = raw(&site, vec![b' '; 100_000_000]).await;
    assert_eq!((announced.status, announced.code().as_str()), (413, "body_too_large"));
    assert!(
        announced.message().contains("8388608") && announced.message().contains("100000000"),
        "{}",
        announced.message()
    );
    let parts = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1_000_000])));
    let unannounced = raw(&site, reqwest::Body::wrap_stream(parts)).await;
    assert_eq!((unannounced.status, unannounced.code().as_str()), (413, "body_too_large"));
}

#[tokio::test]
async fn unserved_and_unknown_paths_and_methods_are_told_apart() {
    let site = Site::start(snapshot(&[])).await;
    for (method, path, status, code) in [
        (Method::GET, "/v1/responses/resp_1", 501, "not_served"),
        (Method::GET, "/v1/fine_tuning/jobs", 501, "not_served"),
        (Method::GET, "/v1/nonsense", 404, "route_not_found"),
        (Method::GET, "/v1/chat/completions", 501, "not_served"),
        (Method::PUT, "/v1/chat/completions", 405, "method_not_allowed"),
        (Method::DELETE, "/v1/models/m", 501, "not_served"),
        (Method::PATCH, "/v1/models/m", 405, "method_not_allowed"),
        (Method::GET, "/v2/prompts", 501, "not_served"),
    ] {
        let reply = receive(site.client.request(method, format!("{}{path}", site.url))).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path}");
    }
}

#[tokio::test]
async fn an_engines_refusal_keeps_its_words_and_is_settled_for_nothing() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    let reply = site.chat(json!({"x_do": "status 400"})).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "context_length_exceeded"));
    assert_eq!(reply.message(), "the prompt has 5000 tokens and the context 2048");
    let reply = site.chat(json!({"x_do": "status 503"})).await;
    assert_eq!((reply.status, reply.code().as_str(), reply.header("retry-after")), (503, "overloaded", "7"));
    let reply = site.chat(json!({"x_do": "status 404"})).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (502, "replica_failed"),
        "our wiring, not the caller's model name"
    );
    let records = site.settled(3).await;
    assert!(records.iter().all(|record| record.quantities.micros.0 == 0));
    assert_eq!(records.iter().map(|record| record.http_status).collect::<Vec<u16>>(), [400, 503, 502]);
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_leaves_nothing_behind() {
    let site = Site::start(snapshot(&[])).await;
    let addr = site.url.trim_start_matches("http://").to_owned();
    let mut socket = tokio::net::TcpStream::connect(&addr).await.expect("connects");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        key(1)
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    socket.shutdown().await.expect("half closed");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("closed by the gateway");
    site.is_idle().await;
    assert!(site.ledger.lock().expect("whole").records.is_empty());
}

#[tokio::test]
async fn the_way_in_is_closed_while_draining() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Arc::new(Site::start(snapshot(&[&engine.url])).await);
    assert_eq!(site.chat(json!({})).await.status, 200);
    site.gateway.drain(std::time::Duration::from_secs(5)).await;
    let reply = receive(site.post("/v1/chat/completions", &chat_body(json!({})))).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "draining"));
    assert_eq!(site.settled(1).await.len(), 1, "the drain shipped what there was");
}

#[tokio::test]
async fn exact_surfaces_speak_their_own_words_and_no_others() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    for surface in ["/openai/v1", "/mistral/v1"] {
        let reply = receive(site.post(
            &format!("{surface}/chat/completions"),
            &json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        ))
        .await;
        assert_eq!(reply.status, 200, "{surface}: {}", reply.text);
        assert_eq!(site.get(&format!("{surface}/models")).await.status, 200);
    }
    let seeded = |name: &str| json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], name: 3});
    let reply = receive(site.post("/openai/v1/chat/completions", &seeded("random_seed"))).await;
    let error = json!({"message": "`random_seed` is Mistral's and not taken under /openai/v1; hint: send `seed`", "type": "invalid_request_error", "param": "random_seed", "code": "unknown_parameter"});
    assert_eq!((reply.status, reply.json()), (400, json!({"error": error})));
    let reply = receive(site.post("/mistral/v1/chat/completions", &seeded("seed"))).await;
    let detail = json!({"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "`seed` is OpenAI's and not taken under /mistral/v1; hint: send `random_seed`"});
    assert_eq!((reply.status, reply.json()), (422, json!({"detail": [detail]})));
    assert_eq!(reply.header("x-galerne-error-code"), "unknown_parameter");
    let reply = receive(site.post("/mistral/v1/chat/completions", &json!({"model": "n", "messages": [{}]}))).await;
    let body = reply.json();
    assert_eq!(
        (reply.status, &body["object"], &body["type"], &body["code"]),
        (404, &json!("error"), &json!("invalid_model"), &json!("model_not_found"))
    );
    let reply = receive(site.client.get(format!("{}/openai/v1/models", site.url)).bearer_auth(key(9))).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    let reply = receive(site.post("/mistral/v1/completions", &json!({}))).await;
    assert_eq!((reply.status, &reply.json()["code"]), (404, &json!("route_not_found")));
}
