//! Bad input: a clear error with a code, never a panic, never a 5xx.

use serde_json::{Value, json};

use crate::document;
use crate::site::{Site, external};

#[tokio::test]
async fn each_kind_of_bad_body_has_its_code() {
    let site = Site::new().await;
    let send = |media: &'static str, bytes: &'static [u8]| {
        let operator = site.operator.clone();
        async move { operator.raw("POST", "/api/v1/endpoints", &[], Some((media, bytes))).await }
    };
    assert_eq!(send("application/json", b"{\"name\":").await.code(), "malformed_json");
    assert_eq!(send("application/json", b"\xff\xfe{}").await.code(), "malformed_json");
    assert_eq!(send("application/json", b"[1,2]").await.code(), "invalid_body");
    assert_eq!(send("text/plain", b"{}").await.code(), "unsupported_media_type");
    let wrong =
        send("application/json", br#"{"name":"x","spec":{"backend":{"kind":"worker","model_id":"nope"}}}"#).await;
    assert_eq!((wrong.status, wrong.code()), (422, "invalid_body"));
    let unknown = send("application/json", br#"{"name":"x","spec":{"bakend":{}}}"#).await;
    assert_eq!(unknown.json["errors"][0]["path"], "spec.bakend");
    let bad_name = site.operator.post("/api/v1/projects", &json!({"name": "no spaces", "spec": {}})).await;
    assert_eq!((bad_name.status, bad_name.code()), (422, "invalid_value"));
    assert!(bad_name.json["request_id"].as_str().is_some_and(|id| id == bad_name.header("x-request-id")));
    site.running.drain().await;
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_without_being_kept() {
    let site = Site::new().await;
    let body = vec![b' '; 100 * 1024 * 1024];
    let url = format!("{}/api/v1/endpoints", site.operator.url);
    let request = reqwest::Client::new().post(url).bearer_auth(site.operator.key.as_deref().expect("a key"));
    // The server answers and closes; a client that goes on writing may see the close first.
    match request.header("content-type", "application/json").body(body).send().await {
        Ok(response) => assert_eq!(response.status().as_u16(), 413),
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    assert_eq!(site.operator.get("/api/v1/whoami").await.status, 200);
    site.running.drain().await;
}

#[tokio::test]
async fn values_that_break_a_rule_are_named() {
    let site = Site::new().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = external("x");
        change(&mut body);
        body
    };
    let cases = [
        (with(&|body| body["spec"]["replicas_min"] = json!(3)), "spec.replicas_min"),
        (with(&|body| body["spec"]["replicas_max"] = json!(0)), "spec.replicas_max"),
        (with(&|body| body["spec"]["limits"] = json!({"requests_per_minute": 0})), "spec.limits.requests_per_minute"),
        (with(&|body| body["spec"]["backend"]["urls"] = json!([])), "spec.backend.urls"),
        (with(&|body| body["spec"]["backend"]["urls"] = json!(["http://x/v1"])), "spec.backend.urls[0]"),
        (with(&|body| body["spec"]["backend"]["urls"] = json!(["http://user:pw@x"])), "spec.backend.urls[0]"),
        (
            with(&|body| body["spec"]["price"] = json!({"prompt": -1, "cached": 0, "completion": 0})),
            "spec.price.prompt",
        ),
        (
            with(&|body| {
                body["spec"]["backend"] = json!({"kind": "worker", "model_id": format!("model_{}", "0".repeat(32))})
            }),
            "spec.backend.model_id",
        ),
    ];
    for (body, path) in cases {
        let reply = site.operator.post("/api/v1/endpoints", &body).await;
        assert_eq!((reply.status, reply.json["errors"][0]["path"].as_str()), (422, Some(path)), "{}", reply.text);
    }
    site.running.drain().await;
}

#[tokio::test]
async fn wrong_paths_methods_and_parameters_are_problems() {
    let site = Site::new().await;
    assert_eq!(site.operator.get("/api/v1/nothing").await.code(), "route_not_found");
    let patch = site.operator.call("PATCH", "/api/v1/endpoints", &[], Some(&json!({}))).await;
    assert_eq!((patch.status, patch.code()), (405, "method_not_allowed"));
    assert!(!patch.header("allow").is_empty());
    assert_eq!(site.operator.get("/api/v1/endpoints?limit=0").await.code(), "invalid_query");
    assert_eq!(site.operator.get("/api/v1/endpoints?limit=x").await.code(), "invalid_query");
    assert_eq!(site.operator.get("/api/v1/endpoints?colour=red").await.code(), "invalid_query");
    assert_eq!(site.operator.get("/api/v1/events?cursor=x").await.code(), "invalid_cursor");
    assert_eq!(site.operator.get("/api/v1/backups?cursor=-1").await.code(), "invalid_cursor");
    for path in ["/api/v1/projects/a%00b", "/api/v1/projects?tenant=a%00", "/api/v1/why/endpoint/%00"] {
        assert_eq!(site.operator.get(path).await.code(), "invalid_query", "{path}: no text may hold a NUL");
    }
    let nul = site.operator.post("/api/v1/projects", &json!({"name": "p", "spec": {"description": "a\u{0}b"}})).await;
    assert_eq!((nul.status, nul.code()), (422, "invalid_value"));
    assert_eq!(site.operator.get("/api/v1/costs?from=yesterday").await.code(), "invalid_query");
    assert_eq!(site.operator.get("/api/v1/errors/in_us").await.json["hint"], "did you mean `in_use`?");
    site.running.drain().await;
}

/// Small deterministic noise: every operation is given bodies and names it does not expect.
#[tokio::test]
async fn nonsense_never_makes_the_server_fail() {
    let site = Site::new().await;
    let names = [
        "x",
        "%00",
        "..%2f..",
        "%ff%fe",
        "endpoint_zzz",
        "tenant_00000000000000000000000000000000",
        "%F0%9F%A6%80",
        "*",
        "a%2Fb",
    ];
    let bodies = [
        json!(null),
        json!(0),
        json!("text"),
        json!([]),
        json!({}),
        json!({"name": 1}),
        json!({"name": "n", "spec": null}),
        json!({"name": "n", "spec": {"x": [[[[]]]]}}),
        json!({"generation": -9_223_372_036_854_775_808_i64, "spec": {}}),
    ];
    for operation in document::operations() {
        for (index, name) in names.iter().enumerate() {
            let path = operation
                .path
                .replace("{name}", name)
                .replace("{id}", name)
                .replace("{kind}", name)
                .replace("{code}", name);
            let body = Some(&bodies[index % bodies.len()]).filter(|_| operation.method != "GET");
            let reply = site.operator.call(&operation.method, &path, &[("if-match", "\"1\"")], body).await;
            assert!(reply.status < 500, "{} {path} {body:?}: {}", operation.method, reply.text);
        }
    }
    site.running.drain().await;
}
