//! A site of its own for each test: data directory, server, a client that checks every answer against the document.

use std::collections::BTreeMap;

use galerne_model::ledger::EnergyMethod;
use galerne_model::node::NodeFacts;
use galerne_model::units::{Millijoules, Milliwatts};
use galerne_server::config::{Config, Layers};
use galerne_server::{EnergySample, Host, Meter, Running, StartError};
use serde_json::{Value, json};

use crate::document;

/// A running site.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) running: Running,
    pub(crate) operator: Client,
}

/// Somebody who calls.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

pub(crate) fn host() -> Host {
    let facts = NodeFacts { host_name: "test-host".to_owned(), machine_digest: "0".repeat(64), ..NodeFacts::default() };
    let mut last = jiff::Timestamp::now();
    let sample = move || {
        let (started_at, now) = (last, jiff::Timestamp::now());
        last = now;
        EnergySample {
            started_at,
            ended_at: now,
            millijoules: Millijoules(1_000),
            method: EnergyMethod::Estimated,
            busy_cpu_micros: 10,
            active: Milliwatts(5_000),
            counted: None,
        }
    };
    Host {
        facts,
        meter: Meter {
            active: Milliwatts(5_000),
            method: EnergyMethod::Estimated,
            sample: Box::new(sample),
            local: std::sync::Arc::new(|_| None),
        },
    }
}

pub(crate) fn config(folder: &std::path::Path, more: &[(&str, String)]) -> Config {
    let mut flags = vec![("data", folder.display().to_string()), ("listen", "127.0.0.1:0".to_owned())];
    flags.extend(more.iter().cloned());
    let layers = Layers::read(None, &BTreeMap::new(), &flags).expect("known options");
    Config::from_layers(&layers).expect("a sound configuration")
}

pub(crate) async fn start(folder: &std::path::Path, more: &[(&str, String)]) -> Result<Running, StartError> {
    // Another test of this process may have installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    galerne_server::start(&config(folder, more), host(), &BTreeMap::new(), &|_| {}).await
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(more: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let running = start(folder.path(), more).await.expect("it starts");
        let key = running.first_key.clone().expect("the first start shows a key");
        let operator = Client { http: http_client(), url: running.url.clone(), key: Some(key) };
        Self { folder, running, operator }
    }

    pub(crate) fn client(&self, key: Option<&str>) -> Client {
        Client { http: self.operator.http.clone(), url: self.operator.url.clone(), key: key.map(str::to_owned) }
    }

    /// A tenant with a project, by name.
    pub(crate) async fn tenant(&self, name: &str) -> (String, String) {
        let tenant = self.operator.made("/api/v1/tenants", &json!({"name": name, "spec": {}})).await;
        let project =
            self.operator.made("/api/v1/projects", &json!({"name": "main", "tenant": name, "spec": {}})).await;
        (id(&tenant), id(&project))
    }

    /// A principal of a tenant with one role at the tenant, and a key of it with all scopes.
    pub(crate) async fn person(&self, tenant: &str, role: &str) -> Client {
        let place = self.operator.got(&format!("/api/v1/tenants/{tenant}")).await;
        let person = self
            .operator
            .made("/api/v1/principals", &json!({"name": role, "tenant": tenant, "spec": {"kind": "user"}}))
            .await;
        let scope = json!({"level": "tenant", "tenant_id": place["id"]});
        let binding = json!({"name": format!("{role}-{tenant}"), "tenant": tenant, "spec": {"principal_id": person["id"], "role": role, "scope": scope}});
        self.operator.made("/api/v1/role-bindings", &binding).await;
        let secret = self.key(tenant, &id(&person), &["inference", "read", "write", "admin"]).await;
        self.client(Some(&secret))
    }

    /// A key for a principal in the project `main` of a tenant.
    pub(crate) async fn key(&self, tenant: &str, principal: &str, scopes: &[&str]) -> String {
        let name = format!("key-{}", uuid::Uuid::now_v7().simple());
        let body = json!({"name": name, "tenant": tenant, "project": if tenant == "default" { "default" } else { "main" }, "spec": {"principal_id": principal, "scopes": scopes}});
        let made = self.operator.made("/api/v1/keys", &body).await;
        made["secret"].as_str().expect("the secret is shown once").to_owned()
    }
}

fn http_client() -> reqwest::Client {
    reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build().expect("a client")
}

pub(crate) fn id(resource: &Value) -> String {
    resource["id"].as_str().unwrap_or_else(|| panic!("no id in {resource}")).to_owned()
}

impl Client {
    pub(crate) async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
        let body = body.map(|body| serde_json::to_vec(body).expect("JSON"));
        self.raw(method, path, headers, body.as_deref().map(|body| ("application/json", body))).await
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Reply {
        let url = format!("{}{path}", self.url);
        let mut request = self.http.request(method.parse().expect("a method"), &url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some((media, bytes)) = body {
            request = request.header("content-type", media).body(bytes.to_vec());
        }
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("the answer is whole");
        let media = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        let plain = path.split('?').next().unwrap_or(path);
        if plain.starts_with("/api/v1") {
            document::check(method, plain, status, &media, &bytes);
            assert!(headers.contains_key("x-request-id"), "{method} {path}: no request id");
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Reply { status, headers, text, json }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, &[], Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call("PUT", path, &[], Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str, generation: i64) -> Reply {
        self.call("DELETE", path, &[("if-match", &format!("\"{generation}\""))], None).await
    }

    /// POST that must make something.
    pub(crate) async fn made(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 201, "POST {path} {body}: {}", reply.text);
        reply.json
    }

    /// GET that must find something.
    pub(crate) async fn got(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text);
        reply.json
    }
}

impl Reply {
    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or("")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// An external endpoint: needs no model, and only operators make one.
pub(crate) fn external(name: &str) -> Value {
    json!({"name": name, "spec": {"backend": {"kind": "external", "urls": ["http://127.0.0.1:9"], "upstream_model": "m", "context_tokens": 1000}}})
}
