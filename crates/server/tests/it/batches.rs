//! Batches: every request once in the output, billed once, at a discount, behind live traffic.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::files::{form, known, upload};
use crate::site::{Client, Site, start};

/// An engine that answers with what the last message says, after as many milliseconds as it names.
#[derive(Clone, Default)]
pub(crate) struct Engine {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    in_flight: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Engine {
    async fn start(&self, tasks: &TaskTracker) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let app = Router::new()
            .route("/health", get(async || "ok"))
            .route(
                "/v1/models",
                get(async || Json(json!({"object": "list", "data": [{"id": "m", "object": "model"}]}))),
            )
            .route("/v1/chat/completions", post(answer))
            .with_state(self.clone());
        tasks.spawn(async move { axum::serve(listener, app).await.expect("serves to the end of the test") });
        address
    }

    pub(crate) fn asked_in_all(&self) -> usize {
        self.asked.lock().expect("whole").values().sum()
    }

    fn asked(&self, text: &str) -> usize {
        self.asked.lock().expect("whole").get(text).copied().unwrap_or(0)
    }
}

async fn answer(State(engine): State<Engine>, Json(body): Json<Value>) -> axum::response::Response {
    let text = body["messages"][0]["content"].as_str().unwrap_or("").to_owned();
    let now = engine.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    engine.most.fetch_max(now, Ordering::SeqCst);
    let times = {
        let mut asked = engine.asked.lock().expect("whole");
        let times = asked.entry(text.clone()).or_default();
        *times += 1;
        *times
    };
    let wait = text.split('-').next_back().and_then(|ms| ms.parse().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    engine.in_flight.fetch_sub(1, Ordering::SeqCst);
    if text.starts_with("broken") || (text.starts_with("flaky") && times == 1) {
        return http::StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    if text.starts_with("bad") {
        let body = json!({"error": {"message": "no", "type": "invalid_request_error", "code": "bad"}});
        return (http::StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": null});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
    let reply = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage});
    Json(reply).into_response()
}

pub(crate) struct Bed {
    pub(crate) site: Site,
    pub(crate) engine: Engine,
    pub(crate) tasks: TaskTracker,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        let (site, engine, tasks) = (Site::new().await, Engine::default(), TaskTracker::new());
        let address = engine.start(&tasks).await;
        let backend = json!({
            "kind": "external", "urls": [format!("http://{address}")], "upstream_model": "m", "context_tokens": 1000,
        });
        let price = json!({"prompt": 1_000_000, "cached": 1_000_000, "completion": 2_000_000});
        site.operator
            .made("/api/v1/endpoints", &json!({"name": "m", "spec": {"backend": backend, "price": price}}))
            .await;
        let bed = Self { site, engine, tasks };
        bed.until("the endpoint is ready", async || {
            let models = bed.site.operator.got("/v1/models").await;
            bed.site.operator.got("/api/v1/endpoints/m").await["status"]["state"] == "ready"
                && models["data"][0]["id"] == "m"
        })
        .await;
        bed
    }

    pub(crate) async fn until(&self, what: &str, mut reached: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !reached().await {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.site.operator
    }

    async fn file(&self, lines: &[String]) -> String {
        let text = lines.join("\n");
        let reply =
            upload(self.client(), "/v1/files", &form(&[("purpose", "batch")], Some(("b.jsonl", text.as_bytes()))))
                .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn batch(&self, lines: &[String]) -> String {
        let file = self.file(lines).await;
        let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        let reply = self.client().post("/v1/batches", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json["status"], "validating");
        reply.json["id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn ended(&self, id: &str) -> Value {
        ended(self.client(), id).await
    }

    /// Usage records of this site, by request.
    async fn usage(&self) -> BTreeMap<String, Value> {
        usage(self.client()).await
    }

    pub(crate) async fn end(self) {
        self.site.running.drain().await;
        drop(self.tasks);
    }
}

pub(crate) async fn ended(client: &Client, id: &str) -> Value {
    let begun = Instant::now();
    loop {
        let batch = client.got(&format!("/v1/batches/{id}")).await;
        if batch["completed_at"].is_i64()
            || batch["failed_at"].is_i64()
            || batch["cancelled_at"].is_i64()
            || batch["expired_at"].is_i64()
        {
            return batch;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not end: {batch}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

pub(crate) async fn usage(client: &Client) -> BTreeMap<String, Value> {
    let reply = client.get("/api/v1/usage?limit=500").await;
    let mut all = BTreeMap::new();
    for record in reply.json["items"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| reply.text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    {
        let id = record["request_id"].as_str().expect("an id").to_owned();
        assert!(all.insert(id, record).is_none(), "a request has two records");
    }
    all
}

pub(crate) async fn lines(client: &Client, file: &Value) -> Vec<Value> {
    let id = file.as_str().expect("there is a file");
    let reply = client.get(&format!("/v1/files/{id}/content")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub(crate) fn line(id: &str, text: &str) -> String {
    let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": text}]});
    json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
}

#[tokio::test]
async fn a_batch_is_answered_once_billed_once_and_at_half_the_price() {
    let bed = Bed::new().await;
    let mut all: Vec<String> = (0..20).map(|n| line(&format!("r{n}"), &format!("hello {n}"))).collect();
    all.push(line("wrong", "bad"));
    all.push(line("again", "flaky"));
    let id = bed.batch(&all).await;
    let batch = bed.ended(&id).await;
    assert_eq!((&batch["status"], &batch["model"]), (&json!("completed"), &json!("m")), "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 22, "completed": 21, "failed": 1}));
    assert_eq!(batch["usage"]["total_tokens"], 21 * 15);
    let output = lines(bed.client(), &batch["output_file_id"]).await;
    let mut ids: Vec<&str> = output.iter().map(|line| line["custom_id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    let mut wanted: Vec<String> = (0..20).map(|n| format!("r{n}")).collect();
    wanted.push("again".to_owned());
    wanted.sort_unstable();
    assert_eq!(ids, wanted);
    for line in &output {
        assert_eq!((&line["error"], &line["response"]["status_code"]), (&Value::Null, &json!(200)));
        assert_eq!(line["response"]["body"]["object"], "chat.completion");
    }
    let errors = lines(bed.client(), &batch["error_file_id"]).await;
    assert_eq!((errors.len(), &errors[0]["custom_id"]), (1, &json!("wrong")));
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert_eq!(errors[0]["response"]["body"]["error"]["message"], "no");

    bed.until("all is settled", async || {
        bed.usage().await.values().filter(|record| record["outcome"] == "completed").count() == 21
    })
    .await;
    let records = bed.usage().await;
    for line in &output {
        let record = &records[line["response"]["request_id"].as_str().expect("an id")];
        // 10 × 1 € + 5 × 2 € per million, at half.
        assert_eq!(record["quantities"]["micros"], 10, "{record}");
        assert_eq!(record["batch"], json!({"batch_id": id, "price_percent": 50}), "the record says why it was cheap");
    }
    let one = output[0]["response"]["request_id"].as_str().expect("an id");
    let why = bed.client().got(&format!("/api/v1/why/request/{one}")).await.to_string();
    assert!(why.contains("at 50 % of it") && why.contains(&id), "{why}");
    let csv = bed.client().raw("GET", "/api/v1/ledger/export?of=usage&format=csv", &[], None).await.text;
    let terms = format!(",{id},50,500000,500000,1000000,flex,");
    assert!(csv.lines().any(|line| line.starts_with(one) && line.ends_with(&terms)), "{csv}");
    let charged: i64 = records.values().map(|record| record["quantities"]["micros"].as_i64().expect("micros")).sum();
    assert_eq!(charged, 21 * 10, "what failed is free");
    let segments = bed.site.folder.path().join("objects/batches").join(&id);
    assert!(!segments.exists() || std::fs::read_dir(&segments).expect("reads").next().is_none(), "segments are gone");
    bed.end().await;
}

#[tokio::test]
async fn lines_that_are_not_good_fail_a_batch_with_their_numbers_and_no_request_is_made() {
    let bed = Bed::new().await;
    let other = line("c", "x").replace("\"m\"", "\"nobody\"");
    let id = bed.batch(&[line("a", "x"), String::new(), "{".to_owned(), line("a", "x"), other]).await;
    let batch = bed.ended(&id).await;
    assert_eq!(batch["status"], "failed");
    let told: Vec<(Value, Value)> = batch["errors"]["data"]
        .as_array()
        .expect("faults")
        .iter()
        .map(|fault| (fault["code"].clone(), fault["line"].clone()))
        .collect();
    let wanted = [("invalid_json_line", 3), ("duplicate_custom_id", 4), ("model_mismatch", 5)];
    assert_eq!(told, wanted.map(|(code, line)| (json!(code), json!(line))));
    assert_eq!((&batch["output_file_id"], &batch["error_file_id"]), (&Value::Null, &Value::Null));
    let unknown = bed.batch(&[line("a", "x").replace("\"m\"", "\"nobody\"")]).await;
    assert_eq!(bed.ended(&unknown).await["errors"]["data"][0]["code"], "model_not_found");
    let empty = bed.batch(&[String::new()]).await;
    assert_eq!(bed.ended(&empty).await["errors"]["data"][0]["code"], "empty_file");
    assert_eq!(bed.engine.asked("x"), 0);
    bed.end().await;
}

#[tokio::test]
async fn a_cancelled_batch_keeps_what_was_answered_and_tells_the_rest() {
    let bed = Bed::new().await;
    let all: Vec<String> = (0..60).map(|n| line(&format!("r{n}"), &format!("{n} slow-300"))).collect();
    let id = bed.batch(&all).await;
    bed.until("some are answered", async || {
        bed.client().got(&format!("/v1/batches/{id}")).await["request_counts"]["completed"].as_i64() > Some(0)
    })
    .await;
    let asked = bed.client().post(&format!("/v1/batches/{id}/cancel"), &json!({})).await;
    assert_eq!((asked.status, &asked.json["status"]), (200, &json!("cancelling")));
    let batch = bed.ended(&id).await;
    assert_eq!(batch["status"], "cancelled");
    let (output, errors) =
        (lines(bed.client(), &batch["output_file_id"]).await, lines(bed.client(), &batch["error_file_id"]).await);
    assert!(!output.is_empty() && !errors.is_empty());
    assert_eq!(output.len() + errors.len(), 60, "each request once");
    assert_eq!(errors[0]["error"]["code"], "batch_cancelled");
    assert_eq!(errors[0]["response"], Value::Null);
    assert_eq!(batch["request_counts"]["completed"], output.len());
    let again = bed.client().post(&format!("/v1/batches/{id}/cancel"), &json!({})).await;
    assert_eq!((again.status, &again.json["error"]["code"]), (409, &json!("wrong_state")));
    bed.end().await;
}

#[tokio::test]
async fn a_batch_whose_key_is_revoked_stops_and_says_so() {
    let bed = Bed::new().await;
    let me = bed.client().got("/api/v1/whoami").await;
    let spec = json!({"principal_id": me["principal"]["id"], "scopes": ["inference"]});
    let key = bed.client().made("/api/v1/keys", &json!({"name": "mine", "spec": spec})).await;
    let other = bed.site.client(key["secret"].as_str());
    known(&other).await;
    let file = bed.file(&(0..60).map(|n| line(&format!("r{n}"), &format!("{n} slow-200"))).collect::<Vec<_>>()).await;
    let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let id = other.post("/v1/batches", &body).await.json["id"].as_str().expect("an id").to_owned();
    bed.until("it runs", async || bed.client().got(&format!("/v1/batches/{id}")).await["status"] == "in_progress")
        .await;
    let refused = bed.client().raw("DELETE", &format!("/v1/files/{file}"), &[], None).await;
    assert_eq!((refused.status, &refused.json["error"]["code"]), (409, &json!("in_use")), "it is being read");
    let generation = key["key"]["generation"].as_i64().expect("a number");
    let revoked = bed.client().delete("/api/v1/keys/mine", generation).await;
    assert!(revoked.status < 300, "{}", revoked.text);
    let batch = bed.ended(&id).await;
    assert_eq!((&batch["status"], &batch["errors"]["data"][0]["code"]), (&json!("cancelled"), &json!("key_refused")));
    let errors = lines(bed.client(), &batch["error_file_id"]).await;
    assert_eq!(errors[0]["error"]["code"], "batch_stopped");
    bed.end().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_answer_was_kept() {
    let bed = Bed::new().await;
    let all: Vec<String> = (0..80).map(|n| line(&format!("r{n}"), &format!("{n} slow-100"))).collect();
    let id = bed.batch(&all).await;
    bed.until("some are kept", async || {
        bed.client().got(&format!("/v1/batches/{id}")).await["request_counts"]["completed"].as_i64() > Some(5)
    })
    .await;
    let Bed { site, engine, tasks } = bed;
    let Site { folder, running, operator } = site;
    running.drain().await;
    let running = start(folder.path(), &[]).await.expect("starts again");
    let client = Client { url: running.url.clone(), ..operator };
    let batch = ended(&client, &id).await;
    assert_eq!(batch["request_counts"], json!({"total": 80, "completed": 80, "failed": 0}), "{batch}");
    let output = lines(&client, &batch["output_file_id"]).await;
    let mut ids: Vec<&str> = output.iter().map(|line| line["custom_id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), output.len()), (80, 80));
    let again = (0..80).filter(|n| engine.asked(&format!("{n} slow-100")) > 1).count();
    assert!(again < 16, "only what was in flight is made again, not {again}");
    for _ in 0..100 {
        if usage(&client).await.values().filter(|record| record["outcome"] == "completed").count() == 80 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let records = usage(&client).await;
    let charged: i64 = records.values().map(|record| record["quantities"]["micros"].as_i64().expect("micros")).sum();
    assert_eq!(charged, 80 * 10, "each is billed once");
    running.drain().await;
    drop(tasks);
}

#[tokio::test]
async fn batches_keep_out_of_the_way_of_live_requests() {
    let bed = Bed::new().await;
    let all: Vec<String> = (0..150).map(|n| line(&format!("r{n}"), &format!("{n} batch-50"))).collect();
    let id = bed.batch(&all).await;
    bed.until("it runs", async || bed.engine.in_flight.load(Ordering::SeqCst) >= 7).await;
    assert_eq!(bed.engine.most.load(Ordering::SeqCst), 7, "all seats of an idle endpoint but one");
    let live = async || {
        let body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "live-100"}]});
        let reply = bed.client().post("/v1/chat/completions", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    };
    live().await;
    // What was in flight ends; while somebody is there, one seat of eight is left to batches.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..5 {
        bed.engine.most.store(0, Ordering::SeqCst);
        live().await;
        assert!(bed.engine.most.load(Ordering::SeqCst) <= 2, "one live request and one of the batch");
    }
    let batch = bed.ended(&id).await;
    assert_eq!(batch["request_counts"]["completed"], 150);
    bed.end().await;
}

#[tokio::test]
async fn mistrals_jobs_take_files_or_requests_and_are_found_by_what_they_are() {
    let bed = Bed::new().await;
    let message = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let body = json!({
        "endpoint": "/v1/chat/completions", "model": "m", "metadata": {"team": "a"},
        "requests": [{"custom_id": "1", "body": message}, {"body": message}],
    });
    let made = bed.client().post("/mistral/v1/batch/jobs", &body).await;
    assert_eq!((made.status, &made.json["status"]), (200, &json!("QUEUED")), "{}", made.text);
    let id = made.json["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/batch/jobs/{id}");
    bed.until("it ends", async || bed.client().got(&path).await["status"] == "SUCCESS").await;
    let job = bed.client().got(&format!("{path}?inline=true")).await;
    assert_eq!(
        (&job["total_requests"], &job["succeeded_requests"], &job["object"]),
        (&json!(2), &json!(2), &json!("batch"))
    );
    let outputs = job["outputs"].as_array().expect("answers");
    let mut ids: Vec<&Value> = outputs.iter().map(|line| &line["custom_id"]).collect();
    ids.sort_by_key(|id| id.to_string());
    assert_eq!(ids, [&json!("1"), &Value::Null]);
    let output = bed.client().got(&format!("/mistral/v1/files/{}", job["output_file"].as_str().expect("a file"))).await;
    assert_eq!(
        (&output["sample_type"], &output["source"], &output["purpose"]),
        (&json!("batch_result"), &json!("mistral"), &json!("batch"))
    );
    for (query, count) in [
        ("", 1),
        ("?status=SUCCESS&model=m", 1),
        ("?status=FAILED", 0),
        ("?team=a", 1),
        ("?team=b", 0),
        ("?created_by_me=true&order_by=created", 1),
        ("?created_after=2099-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(bed.client().got(&format!("/v1/batch/jobs{query}")).await["total"], count, "{query}");
    }
    for (bad, param) in [
        (json!({"endpoint": "/v1/ocr", "model": "m", "requests": [{"body": {}}]}), "endpoint"),
        (json!({"endpoint": "/v1/chat/completions", "model": "m"}), "input_files"),
        (json!({"endpoint": "/v1/chat/completions", "agent_id": "a", "requests": [{"body": {}}]}), "agent_id"),
        (
            json!({"endpoint": "/v1/chat/completions", "model": "m", "timeout_hours": 0, "requests": [{"body": {}}]}),
            "timeout_hours",
        ),
    ] {
        let reply = bed.client().post("/v1/batch/jobs", &bad).await;
        assert!(reply.status >= 400, "{bad}");
        assert_eq!(reply.json["error"]["param"], param);
    }
    let gone = bed.client().raw("DELETE", &path, &[], None).await;
    assert_eq!(gone.json, json!({"id": id, "object": "batch", "deleted": true}));
    assert_eq!(bed.client().get(&path).await.status, 404);
    assert_eq!(bed.client().get("/openai/v1/batch/jobs").await.status, 404, "not of this surface");
    bed.end().await;
}

#[tokio::test]
async fn what_a_batch_demands_of_its_place_is_kept_or_refused() {
    let bed = Bed::new().await;
    let file = bed.file(&[line("a", "x")]).await;
    let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let ask = async |name: &str, value: &str| {
        let body = body.to_string();
        bed.client().raw("POST", "/v1/batches", &[(name, value)], Some(("application/json", body.as_bytes()))).await
    };
    let kept = ask("x-galerne-retention", "none").await;
    assert_eq!((kept.status, &kept.json["error"]["param"]), (400, &json!("x-galerne-retention")), "{}", kept.text);
    assert!(kept.text.contains("are kept here"), "{}", kept.text);
    // The site is in France; where the endpoint's server stands nobody has said.
    let elsewhere = ask("x-galerne-residency", "DE").await;
    assert_eq!((elsewhere.status, &elsewhere.json["error"]["code"]), (403, &json!("residency_unmet")));
    let here = ask("x-galerne-residency", "DE, FR").await;
    assert_eq!(here.status, 200, "{}", here.text);
    let batch = bed.ended(here.json["id"].as_str().expect("an id")).await;
    assert_eq!((&batch["status"], &batch["errors"]["data"][0]["code"]), (&json!("failed"), &json!("residency_unmet")));
    assert_eq!(bed.engine.asked("x"), 0);
    let upload = form(&[("purpose", "batch")], Some(("b.jsonl", b"{}")));
    let media = format!("multipart/form-data; boundary={}", crate::files::BOUNDARY);
    for (name, value, status) in
        [("x-galerne-retention", "none", 400), ("x-galerne-residency", "DE", 403), ("x-galerne-residency", "FR", 200)]
    {
        let reply = bed.client().raw("POST", "/v1/files", &[(name, value)], Some((&media, &upload))).await;
        assert_eq!(reply.status, status, "{name}: {value}: {}", reply.text);
    }
    bed.end().await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_in_the_words_of_the_surface() {
    let bed = Bed::new().await;
    let limit = galerne_model::limits::INFERENCE_BODY_MAX_BYTES;
    let pad = |bytes: usize| json!({"endpoint": "/v1/chat/completions", "model": "m", "requests": [{"body": {"messages": [{"role": "user", "content": "x".repeat(bytes)}]}}]});
    let below = bed.client().post("/v1/batch/jobs", &pad(limit - 1_000)).await;
    assert_eq!(below.status, 200, "{}", &below.text[..200]);
    let above = bed.client().post("/v1/batch/jobs", &pad(limit)).await;
    assert_eq!((above.status, &above.json["error"]["code"]), (413, &json!("body_too_large")), "{}", above.text);
    bed.end().await;
}

#[tokio::test]
async fn a_batch_of_another_project_does_not_exist() {
    let bed = Bed::new().await;
    let id = bed.batch(&[line("a", "x")]).await;
    bed.ended(&id).await;
    bed.site.tenant("other").await;
    let other = bed.site.person("other", "owner").await;
    known(&other).await;
    for (method, path) in [
        ("GET", format!("/v1/batches/{id}")),
        ("POST", format!("/v1/batches/{id}/cancel")),
        ("GET", format!("/v1/batch/jobs/{id}")),
        ("DELETE", format!("/v1/batch/jobs/{id}")),
    ] {
        assert_eq!(other.raw(method, &path, &[], None).await.status, 404, "{method} {path}");
    }
    assert_eq!(other.got("/v1/batches").await["data"], json!([]));
    assert_eq!(other.got("/v1/batch/jobs").await["total"], 0);
    let theirs = bed.file(&[line("a", "x")]).await;
    let body = json!({"input_file_id": theirs, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let reply = other.post("/v1/batches", &body).await;
    assert_eq!((reply.status, &reply.json["error"]["param"]), (404, &json!("input_file_id")), "{}", reply.text);
    bed.end().await;
}
