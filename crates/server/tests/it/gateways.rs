//! Gateways in processes of their own, here in this process: the same code behind the same socket.

use std::time::{Duration, Instant};

use axum::Json;
use axum::routing::{get, post};
use galerne_server::gateway_process::{self, RunningGateway};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::site::{self, Client, Site, config};

/// Longest time for news to reach a gateway on a busy machine; the usual one is some tens of milliseconds.
const NEWS_MAX: Duration = Duration::from_secs(10);

/// Speaks OpenAI's HTTP: ten prompt tokens, five of answer.
pub(crate) async fn engine() -> String {
    let models = || async { Json(json!({"object": "list", "data": [{"id": "m", "object": "model"}]})) };
    let chat = || async {
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"});
        Json(
            json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}),
        )
    };
    serve(axum::Router::new().route("/v1/models", get(models)).route("/v1/chat/completions", post(chat))).await
}

/// Serves on a free port; says where.
pub(crate) async fn serve(router: axum::Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(tokio_util::task::TaskTracker::new().spawn(async move { axum::serve(listener, router).await }));
    url
}

/// An endpoint `m` that is ready.
pub(crate) async fn endpoint(site: &Site) {
    let backend = json!({"kind": "external", "urls": [engine().await], "upstream_model": "m", "context_tokens": 1000});
    site.operator.made("/api/v1/endpoints", &json!({"name": "m", "spec": {"backend": backend}})).await;
    eventually("the endpoint is ready", async || {
        site.operator.got("/api/v1/endpoints/m").await["status"]["state"] == "ready"
    })
    .await;
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < NEWS_MAX, "{what}: not within {NEWS_MAX:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}

/// A key of the operator with these scopes.
pub(crate) async fn key(site: &Site, name: &str, scopes: &[&str]) -> String {
    let who = site.operator.got("/api/v1/whoami").await;
    let body = json!({"name": name, "spec": {"principal_id": who["principal"]["id"], "scopes": scopes}});
    site.operator.made("/api/v1/keys", &body).await["secret"].as_str().expect("shown once").to_owned()
}

pub(crate) async fn start(site: &Site, folder: &std::path::Path, key: &str) -> RunningGateway {
    let client = galerne_api::client::Client::new(&site.operator.url, Some(key.to_owned()), None).expect("an address");
    gateway_process::start(&config(folder, &[]), client, None, &|error| panic!("{error}: {}", error.cause()))
        .await
        .expect("it starts")
}

pub(crate) fn at(site: &Site, gateway: &RunningGateway, key: &str) -> Client {
    Client { url: gateway.url.clone(), ..site.client(Some(key)) }
}

pub(crate) fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "are you there"}], "max_tokens": 5})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_answers_and_what_it_used_is_in_the_ledger_once() {
    let site = Site::new().await;
    endpoint(&site).await;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = start(&site, folder.path(), &key(&site, "gateway", &["gateway"]).await).await;
    let caller = at(&site, &gateway, &key(&site, "caller", &["inference"]).await);
    eventually("the gateway knows the key", async || caller.post("/v1/chat/completions", &chat()).await.status == 200)
        .await;
    let reply = caller.post("/v1/chat/completions", &chat()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let request_id = reply.header("x-request-id").to_owned();
    eventually("its usage is in the ledger", async || {
        let usage = site.operator.got(&format!("/api/v1/usage?request={request_id}")).await;
        usage["items"].as_array().is_some_and(|items| items.len() == 1)
    })
    .await;
    let refused = at(&site, &gateway, "galerne_nonsense").post("/v1/chat/completions", &chat()).await;
    assert_eq!(refused.status, 401);
    eventually("the refusal is an event", async || {
        let events = site.operator.got("/api/v1/events?decision=denied&limit=500&tenant=*").await;
        events["items"].as_array().expect("a page").iter().any(|event| event["action"] == "key.use")
    })
    .await;
    let elsewhere = caller.get("/api/v2/whoami").await;
    assert!(elsewhere.text.contains("--control"), "{}", elsewhere.text);
    assert!(caller.get("/metrics").await.text.contains("galerne_gateway_control_plane_connected 1"));
    assert!(site.operator.get("/metrics").await.text.contains("galerne_gateways_connected 1"));
    gateway.drain().await;
    assert!(site.operator.get("/metrics").await.text.contains("galerne_gateways_connected 0"), "it said goodbye");
    let check = site.operator.post("/api/v1/ledger/check", &json!({})).await;
    assert_eq!(check.json["closes"], true, "{}", check.text);
    site.running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_price_and_a_revoked_key_are_in_force_at_a_gateway_in_a_moment() {
    let site = Site::new().await;
    endpoint(&site).await;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = start(&site, folder.path(), &key(&site, "gateway", &["gateway"]).await).await;
    let caller = at(&site, &gateway, &key(&site, "caller", &["inference"]).await);
    let status = async || caller.post("/v1/chat/completions", &chat()).await.status;
    eventually("the gateway knows the key", async || status().await == 200).await;
    let charged = async || {
        let reply = caller.post("/v1/chat/completions", &chat()).await;
        let path = format!("/api/v1/usage?request={}", reply.header("x-request-id"));
        let mut micros = None;
        eventually("its usage is in the ledger", async || {
            micros = site.operator.got(&path).await["items"][0]["quantities"]["micros"].as_i64();
            micros.is_some()
        })
        .await;
        micros.expect("waited for")
    };
    let before = charged().await;
    let price = json!({"prompt": 1_000_000, "cached": 1_000_000, "completion": 2_000_000});
    let book = json!({"name": "dear", "spec": {"default": price, "models": []}});
    site.operator.made("/api/v1/price-books", &book).await;
    eventually("requests admitted after it cost ten prompt tokens and five of answer at the new price", async || {
        charged().await == 20
    })
    .await;
    assert_ne!(before, 20);
    let made = site.operator.got("/api/v1/keys/caller").await;
    let revoked = site.operator.delete("/api/v1/keys/caller", made["generation"].as_i64().expect("a number")).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    let took = eventually("the revoked key is refused", async || status().await == 401).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    gateway.drain().await;
    site.running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_joins_again_after_its_control_plane_was_started_again() {
    let site = Site::new().await;
    endpoint(&site).await;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = start(&site, folder.path(), &key(&site, "gateway", &["gateway"]).await).await;
    let caller = at(&site, &gateway, &key(&site, "caller", &["inference"]).await);
    eventually("the gateway knows the key", async || caller.post("/v1/chat/completions", &chat()).await.status == 200)
        .await;
    let Site { folder: data, running, operator } = site;
    let address = running.address.to_string();
    running.drain().await;
    let alone = caller.post("/v1/chat/completions", &chat()).await;
    assert_eq!(alone.status, 200, "it serves by its last snapshot: {}", alone.text);
    let running = site::start(data.path(), &[("listen", address)]).await.expect("it starts again");
    let request_id = alone.header("x-request-id").to_owned();
    eventually("what was used meanwhile is in the ledger", async || {
        let usage = operator.got(&format!("/api/v1/usage?request={request_id}")).await;
        usage["items"].as_array().is_some_and(|items| items.len() == 1)
    })
    .await;
    gateway.drain().await;
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_hears_no_more_snapshots_once_its_role_is_taken_away() {
    let site = Site::new().await;
    let edge = site.operator.made("/api/v1/principals", &json!({"name": "edge", "spec": {"kind": "user"}})).await;
    let spec = json!({"principal_id": edge["id"], "role": "operator", "scope": {"level": "site"}});
    let binding = site.operator.made("/api/v1/role-bindings", &json!({"name": "edge", "spec": spec})).await;
    let spec = json!({"principal_id": edge["id"], "scopes": ["gateway"]});
    let secret = site.operator.made("/api/v1/keys", &json!({"name": "edge", "spec": spec})).await["secret"].clone();
    let gateway = site.client(secret.as_str());
    let join = json!({"version": 1, "name": "g", "source": 5, "instance": "a", "program": "0"});
    let joined = gateway.post("/agent/v1/gateways", &join).await;
    assert_eq!(joined.status, 201, "{}", joined.text);
    let session = joined.json["session"].as_str().expect("a session");
    let url = format!("{}/agent/v1/gateways/{session}/snapshots", site.operator.url);
    let mut stream = gateway.http.get(url).bearer_auth(secret.as_str().expect("shown once")).send().await.expect("in");
    assert_eq!(stream.status().as_u16(), 200);
    stream.chunk().await.expect("reads").expect("the first snapshot");
    let path = format!("/api/v1/role-bindings/{}", site::id(&binding));
    let taken = site.operator.delete(&path, 1).await;
    assert!(taken.status < 300, "{}", taken.text);
    let ended = async { while stream.chunk().await.expect("reads").is_some() {} };
    tokio::time::timeout(NEWS_MAX, ended).await.expect("its stream ends");
    site.running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_be_a_gateway_is_told_how_and_two_processes_with_one_spool_do_not_alternate() {
    let site = Site::new().await;
    let join = |source: i64, instance: &str| json!({"version": 1, "name": "g", "source": source, "instance": instance, "program": "0"});
    let stranger = site.client(Some(&key(&site, "caller", &["inference", "read", "write", "admin"]).await));
    let refused = stranger.post("/agent/v1/gateways", &join(5, "a")).await;
    assert_eq!((refused.status, refused.code()), (403, "scope_missing"), "{}", refused.text);
    let owner = site.tenant("acme").await;
    assert!(!owner.0.is_empty());
    let gateway = site.client(Some(&key(&site, "gateway", &["gateway"]).await));
    let old = gateway
        .post("/agent/v1/gateways", &json!({"version": 0, "name": "g", "source": 5, "instance": "a", "program": "0"}))
        .await;
    assert_eq!((old.status, old.code()), (422, "invalid_value"), "{}", old.text);
    let first = gateway.post("/agent/v1/gateways", &join(5, "a")).await;
    assert_eq!(first.status, 201, "{}", first.text);
    let report = |session: &Value| format!("/agent/v1/gateways/{}/reports", session.as_str().expect("a session"));
    let empty = json!({"number": 1, "busy": [], "woken": []});
    assert_eq!(gateway.post(&report(&first.json["session"]), &empty).await.status, 200);
    let second = gateway.post("/agent/v1/gateways", &join(5, "b")).await;
    assert_eq!(second.status, 201, "{}", second.text);
    let out = gateway.post(&report(&first.json["session"]), &empty).await;
    assert_eq!((out.status, out.code()), (409, "gateway_replaced"));
    assert_eq!(gateway.post("/agent/v1/gateways", &join(5, "a")).await.code(), "gateway_replaced");
    let unknown = gateway.post("/agent/v1/gateways/9.x.y/reports", &empty).await;
    assert_eq!((unknown.status, unknown.code()), (409, "gateway_session_over"));
    let broken = gateway.post("/agent/v1/gateways", &json!({"hello": 1})).await;
    assert_eq!((broken.status, broken.code()), (422, "invalid_body"));
    site.running.drain().await;
}
