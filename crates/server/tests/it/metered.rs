//! Replicas with a meter of their own: what the source gave out is in the ledger, with the requests that worked and idle.
//!
//! The source is a file that the test writes. One scene has a server of the test behind it, the other a real worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::gateways::serve;
use crate::lifecycle::check_with_promtool;
use crate::site::{Client, Site};

/// Longest wait for anything: a debug build on a busy machine loads a model in it.
const PATIENCE: Duration = Duration::from_secs(90);
/// What the counter shows at first.
const FIRST_MILLIJOULES: u64 = 5_000;

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A counter in a file, turned by a thread: 7 W at rest, and what is asked above.
struct Source {
    path: PathBuf,
    millijoules: Arc<AtomicU64>,
    is_turning: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Source {
    fn new(folder: &Path) -> Self {
        let path = folder.join("meter.prom");
        write(&path, FIRST_MILLIJOULES);
        let millijoules = Arc::new(AtomicU64::new(FIRST_MILLIJOULES));
        Self { path, millijoules, is_turning: Arc::new(AtomicBool::new(false)), thread: None }
    }

    fn text(&self) -> String {
        format!("file://{}#replica_energy_joules_total", self.path.display())
    }

    fn turn(&mut self) {
        self.is_turning.store(true, Ordering::SeqCst);
        let (path, sum, is_turning) = (self.path.clone(), Arc::clone(&self.millijoules), Arc::clone(&self.is_turning));
        self.thread = Some(std::thread::spawn(move || {
            for n in 0_u64.. {
                if !is_turning.load(Ordering::SeqCst) {
                    return;
                }
                let now = sum.fetch_add(137 + n * 31 % 211, Ordering::SeqCst);
                write(&path, now);
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
    }

    /// Stops it; says what it gave out since the test began.
    fn stop(&mut self) -> i64 {
        self.is_turning.store(false, Ordering::SeqCst);
        self.thread.take().expect("it turned").join().expect("it ends");
        let last = self.millijoules.load(Ordering::SeqCst);
        write(&self.path, last);
        i64::try_from(last - FIRST_MILLIJOULES).expect("small")
    }
}

/// Whole at each moment, as exporters write.
fn write(path: &Path, millijoules: u64) {
    let (joules, rest) = (millijoules / 1_000, millijoules % 1_000);
    let beside = path.with_extension("new");
    std::fs::write(
        &beside,
        format!("# TYPE replica_energy_joules counter\nreplica_energy_joules_total {joules}.{rest:03}\n"),
    )
    .expect("written");
    std::fs::rename(&beside, path).expect("in place");
}

/// A server that takes its time: longer for more tokens.
async fn engine() -> String {
    let models = || async { Json(json!({"object": "list", "data": [{"id": "m", "object": "model"}]})) };
    let chat = |Json(asked): Json<Value>| async move {
        let tokens = asked["max_tokens"].as_u64().unwrap_or(5);
        tokio::time::sleep(Duration::from_millis(20 * tokens)).await;
        let usage = json!({"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens});
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"});
        Json(
            json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}),
        )
    };
    serve(axum::Router::new().route("/v1/models", get(models)).route("/v1/chat/completions", post(chat))).await
}

fn millijoules(value: &Value) -> i64 {
    value["quantities"]["millijoules"].as_i64().expect("an amount")
}

async fn usage(operator: &Client) -> Vec<Value> {
    operator.got("/api/v1/usage?limit=100").await["items"].as_array().expect("a list").clone()
}

/// Readings in the ledger: of replicas, and of nodes.
async fn readings(operator: &Client) -> (Vec<Value>, Vec<Value>) {
    let listed = operator.got("/api/v1/readings?limit=100").await;
    let rows = listed["items"].as_array().expect("a list").clone().into_iter();
    rows.partition(|row| row["replica_id"].is_string())
}

fn sum(readings: &[Value]) -> i64 {
    readings.iter().map(|reading| reading["millijoules"].as_i64().expect("an amount")).sum()
}

async fn owned(operator: &Client, kind: &str) -> i64 {
    // Of the whole site: what nobody used is the operator's.
    let balances = operator.got("/api/v1/ledger/balances?tenant=*").await;
    let all = balances["items"].as_array().expect("a list");
    all.iter().filter(|balance| balance["owner"]["kind"] == kind).map(millijoules).sum()
}

async fn is_ready(operator: &Client) -> bool {
    operator.got("/api/v1/endpoints/m").await["status"]["state"] == "ready"
}

/// While its source turns.
async fn is_seen_live(operator: &Client) {
    eventually("the live view tells of the replica and its power", async || {
        let live = operator.got("/api/v1/live").await;
        let endpoint = live["endpoints"][0].clone();
        assert_eq!((&endpoint["name"], &live["other_gateways"]), (&json!("m"), &json!(0)), "{live}");
        let replica = endpoint["replicas"][0].clone();
        let power = replica["power"].as_i64().unwrap_or(0);
        power > 0
            && replica["breaker"] == "closed"
            && replica["name"].as_str().is_some_and(|name| name.starts_with('m'))
    })
    .await;
}

async fn has_its_series(operator: &Client) {
    let metrics = operator.get("/metrics").await.text;
    for name in [
        "galerne_replica_energy_joules{",
        "galerne_replica_apportioned_energy_joules{",
        "galerne_replica_idle_energy_joules{",
        "galerne_gateway_upstream_seconds_bucket{",
        "galerne_gateway_replica_tokens_total{",
        "galerne_gateway_breaker_state{",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
    check_with_promtool(&metrics);
}

/// Requests beside each other, one that leaves, and a client's view of one; then everything is added up.
async fn scene(site: &Site, mut source: Source) {
    let operator = &site.operator;
    eventually("the endpoint is ready", async || is_ready(operator).await).await;
    let of_replica = "galerne_replica_meter_readable{";
    eventually("the meter is read", async || operator.get("/metrics").await.text.contains(of_replica)).await;
    // From the first look on everything is counted.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    source.turn();
    let ask = |tokens: u64| {
        let operator = operator.clone();
        async move {
            let body = json!({"model": "m", "max_tokens": tokens, "messages": [{"role": "user", "content": format!("count to {tokens}")}]});
            let reply = operator.post("/v1/chat/completions", &body).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert!(!reply.header("x-galerne-energy-method").is_empty(), "each figure says how it was obtained");
            reply.header("x-request-id").to_owned()
        }
    };
    let leaves = tokio::time::timeout(Duration::from_millis(300), ask(200));
    let (first, _, third, _, left) = tokio::join!(ask(40), ask(10), ask(25), ask(5), leaves);
    assert!(left.is_err(), "one client has left");
    ask(12).await;
    eventually("every record is corrected", async || {
        let records = usage(operator).await;
        records.len() == 6
            && records.iter().all(|record| record["energy_method"] == "apportioned" && millijoules(record) > 0)
    })
    .await;
    is_seen_live(operator).await;
    let given = source.stop();
    eventually("all of the source's energy is in the ledger", async || sum(&readings(operator).await.0) >= given).await;

    let (of_replica, _) = readings(operator).await;
    let used: i64 = usage(operator).await.iter().map(millijoules).sum();
    assert_eq!(sum(&of_replica), given, "the replica's readings are what its source gave out, to the millijoule");
    assert!(of_replica.iter().all(|reading| reading["method"] == "measured"), "{of_replica:?}");
    assert_eq!(owned(operator, "project").await, used, "the project owns what its records say");
    assert!(used > 0 && used < given, "requests have some of it and idle the rest: {used} of {given} mJ");
    // Estimates that were settled and replaced come back with the node's next reading.
    let mut seen = String::new();
    eventually("requests and idle have what was read", async || {
        let (of_replica, of_node) = readings(operator).await;
        let (idle, owed) = (owned(operator, "idle").await, owned(operator, "apportionment").await);
        let read = sum(&of_replica) + sum(&of_node);
        seen = format!("requests {used} mJ + idle {idle} mJ + owed {owed} mJ of {read} mJ");
        idle > 0 && used + idle + owed == read
    })
    .await;
    let check = operator.post("/api/v1/ledger/check", &json!({})).await;
    assert_eq!((check.status, &check.json["closes"]), (200, &json!(true)), "{seen}: {}", check.text);

    let why = operator.got(&format!("/api/v1/why/request/{first}")).await.to_string();
    assert!(why.contains("a share of what was measured") && why.contains("prompt ones weigh 1"), "{why}");
    let records = usage(operator).await;
    let of = |id: &str| records.iter().find(|record| record["request_id"] == id).expect("is there");
    let tokens = |record: &Value| record["quantities"]["completion_tokens"].as_i64().expect("a number");
    // A model may end before it must.
    if tokens(of(&first)) >= tokens(of(&third)) + 10 {
        assert!(millijoules(of(&first)) > millijoules(of(&third)), "who makes more tokens beside another uses more");
    }
    has_its_series(operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_energy_is_shared_among_its_requests() {
    let site = Site::new().await;
    let source = Source::new(site.folder.path());
    let backend = json!({"kind": "external", "urls": [engine().await], "upstream_model": "m", "context_tokens": 1000});
    let spec = json!({"backend": backend, "metering": {"sources": [source.text()]}});
    site.operator.made("/api/v1/endpoints", &json!({"name": "m", "spec": spec})).await;
    scene(&site, source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_energy_is_shared_among_its_requests_and_idle_to_the_last_millijoule() {
    let path = |name: &str| std::env::vars_os().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value));
    let (Some(worker), Some(model)) = (path("GALERNE_TEST_WORKER"), path("GALERNE_TEST_MODEL")) else {
        println!("skipped: GALERNE_TEST_WORKER and GALERNE_TEST_MODEL name no worker with a model");
        return;
    };
    let site = Site::with(&[("worker", worker.display().to_string())]).await;
    let source = Source::new(site.folder.path());
    let operator = &site.operator;
    let pull = json!({"name": "small", "spec": {"source": format!("file://{}", model.display())}});
    operator.made("/api/v1/pulls", &pull).await;
    eventually("the model is here", async || operator.get("/api/v1/models/small").await.status == 200).await;
    let model_id = operator.got("/api/v1/models/small").await["id"].clone();
    let backend = json!({"kind": "worker", "model_id": model_id, "context_tokens": 512, "sequences": 4});
    let spec = json!({"backend": backend, "metering": {"sources": [source.text()]}});
    operator.made("/api/v1/endpoints", &json!({"name": "m", "spec": spec})).await;
    scene(&site, source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn meters_are_the_operators_to_name() {
    let site = Site::new().await;
    let (tenant, _) = site.tenant("acme").await;
    assert!(!tenant.is_empty());
    let owner = site.person("acme", "owner").await;
    let model = json!({"kind": "worker", "model_id": "model_0190000000007000800000000000000a"});
    let body = json!({"name": "m", "tenant": "acme", "project": "main", "spec": {"backend": model, "metering": {"sources": ["file:///etc/hostname#x_joules"]}}});
    let refused = owner.post("/api/v1/endpoints", &body).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let bad = json!({"name": "m", "spec": {"backend": model, "metering": {"sources": ["/etc/hostname"]}}});
    let refused = site.operator.post("/api/v1/endpoints", &bad).await;
    assert!(refused.status == 400 || refused.status == 422, "{}", refused.text);
    assert!(refused.text.contains("a meter is `nvml:UUID,UUID`"), "{}", refused.text);

    let external = |name: &str, sources: &[&str]| {
        let backend =
            json!({"kind": "external", "urls": ["http://127.0.0.1:9"], "upstream_model": "m", "context_tokens": 1000});
        json!({"name": name, "spec": {"backend": backend, "metering": {"sources": sources}}})
    };
    let twice = site.operator.post("/api/v1/endpoints", &external("a", &["nvml:x,y", "nvml:z,y"])).await;
    assert!(twice.status != 201 && twice.text.contains("`nvml:y` is named for two replicas"), "{}", twice.text);
    site.operator.made("/api/v1/endpoints", &external("a", &["nvml:x,y"])).await;
    let taken = site.operator.post("/api/v1/endpoints", &external("b", &["rapl", "nvml:y"])).await;
    assert!(taken.status != 201 && taken.text.contains("`nvml:y` is the meter of endpoint `a`"), "{}", taken.text);
    site.operator.made("/api/v1/endpoints", &external("b", &["rapl", "nvml:z"])).await;
}
