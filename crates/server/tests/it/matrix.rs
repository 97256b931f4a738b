//! Every operation of the document × every kind of caller × own and other tenant, against a table written by hand.
//!
//! Changes are dry runs, so every cell meets the same site. The list of gaps may only shrink.

use std::collections::BTreeMap;
use std::time::Duration;

use galerne_model::identity::{ApiKey, ApiKeyStatus};
use galerne_model::ids::{KeyId, ModelId};
use galerne_model::inference::{Model, ModelFacts, ModelSpec, ModelStatus};
use galerne_model::units::Bytes;
use galerne_store::Store;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::document::{Operation, operations};
use crate::site::{self, Client, Site, id};

/// Cells that differ from the table and are known: (operation, caller, tenant).
const GAPS: [(&str, &str, &str); 0] = [];

/// Ids of one tenant's things, by the plural of their kind.
type Things = BTreeMap<&'static str, String>;

/// What a caller must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Not refused: anything but 401, 403, 404.
    Allowed,
    /// 401.
    Unknown,
    /// 403: it may be seen, not done.
    Forbidden,
    /// 404: it may not be seen.
    Hidden,
}
use Expected::{Allowed, Forbidden, Hidden, Unknown};

/// Kinds of callers, with their right to each class below.
const CALLERS: [&str; 9] =
    ["none", "bad key", "revoked", "expired", "operator", "owner", "member", "viewer", "auditor"];

/// What owner, member, viewer and auditor get in their own tenant, and what all four get in another.
fn table(operation: &str) -> ([Expected; 4], Expected) {
    match operation {
        // Who one is, what can be had and what it costs: everybody with a key.
        "whoami" | "list_catalogue" | "list_price_books" | "get_price_book" => ([Allowed; 4], Allowed),
        // Resources and usage: everybody inside.
        "list_projects" | "get_project" | "list_models" | "get_model" | "list_endpoints" | "get_endpoint"
        | "list_replicas" | "get_replica" | "list_pulls" | "get_pull" | "list_budgets" | "get_budget"
        | "list_usage" | "get_costs" | "export_costs" | "explain_why" | "explain_route" => ([Allowed; 4], Hidden),
        "get_tenant" => ([Allowed; 4], Hidden),
        // The list of tenants holds what the caller may see; another tenant cannot be named in it.
        "list_tenants" => ([Allowed; 4], Hidden),
        // People and keys: owner and auditor.
        "list_principals" | "list_role_bindings" | "list_keys" => ([Allowed, Forbidden, Forbidden, Allowed], Hidden),
        "get_principal" | "get_role_binding" | "get_key" => ([Allowed, Hidden, Hidden, Allowed], Hidden),
        // Events and ledger: owner and auditor.
        "list_events" | "list_balances" | "list_transfers" | "export_ledger" => {
            ([Allowed, Forbidden, Forbidden, Allowed], Hidden)
        }
        // The site's own: nobody but operators.
        "list_nodes" | "list_backups" | "list_readings" | "check_ledger" | "get_live" => ([Forbidden; 4], Forbidden),
        "get_node" | "update_node" => ([Hidden; 4], Hidden),
        "create_backup" | "create_price_book" | "create_tenant" | "reverse_transfer" | "forsake_spool" => {
            ([Forbidden; 4], Forbidden)
        }
        "update_tenant" | "delete_tenant" => ([Forbidden; 4], Hidden),
        // Resources are changed by owner and member.
        "create_endpoint" | "update_endpoint" | "delete_endpoint" | "delete_model" | "create_pull" | "cancel_pull" => {
            ([Allowed, Allowed, Forbidden, Forbidden], Hidden)
        }
        // Projects, people, roles, keys and money by the owner.
        "create_project"
        | "update_project"
        | "delete_project"
        | "create_principal"
        | "create_role_binding"
        | "create_key" => ([Allowed, Forbidden, Forbidden, Forbidden], Hidden),
        "update_principal"
        | "delete_principal"
        | "update_role_binding"
        | "delete_role_binding"
        | "update_key"
        | "revoke_key"
        | "rotate_key" => ([Allowed, Hidden, Hidden, Forbidden], Hidden),
        "create_budget" => ([Allowed, Forbidden, Forbidden, Forbidden], Hidden),
        "update_budget" | "delete_budget" => ([Allowed, Forbidden, Forbidden, Forbidden], Hidden),
        other => panic!("the table has no row for `{other}`: say who may do it"),
    }
}

fn expected(operation: &Operation, caller: &str, own: bool) -> Expected {
    if operation.is_open {
        return Allowed;
    }
    let (inside, outside) = table(&operation.id);
    match caller {
        "none" | "bad key" | "revoked" | "expired" => Unknown,
        "operator" => Allowed,
        _ if !own => outside,
        "owner" => inside[0],
        "member" => inside[1],
        "viewer" => inside[2],
        "auditor" => inside[3],
        other => panic!("no caller `{other}`"),
    }
}

/// The request that does an operation to a tenant's things: path and body.
fn request(operation: &Operation, tenant: &str, things: &Things) -> (String, Option<Value>) {
    let plural = operation.path.trim_start_matches("/api/v1/").split('/').next().unwrap_or("");
    let thing = things.get(plural).cloned().unwrap_or_default();
    let path = operation.path.replace("{kind}", "endpoint").replace("{code}", "in_use");
    let name = if plural == "why" { things["endpoints"].clone() } else { thing };
    let path = path.replace("{name}", &name).replace("{id}", &format!("transfer_{}", "0".repeat(32)));
    let placed =
        !matches!(plural, "readings" | "backups" | "live" | "catalogue" | "whoami" | "openapi.json" | "errors");
    let of = if operation.id == "export_ledger" { "&of=transfers" } else { "" };
    let site = matches!(plural, "nodes" | "price-books") || (plural == "tenants" && operation.method != "GET");
    let path = match operation.method.as_str() {
        "GET" if placed && !site => {
            format!("{path}?tenant={tenant}{}{of}", if operation.id == "list_transfers" { "&project=main" } else { "" })
        }
        "GET" => path,
        _ => format!("{path}?dry_run=true"),
    };
    (path, body(operation, tenant, things))
}

fn body(operation: &Operation, tenant: &str, things: &Things) -> Option<Value> {
    let place = |mut body: Value| {
        body["tenant"] = json!(tenant);
        body["project"] = json!("main");
        Some(body)
    };
    let scope = json!({"level": "tenant", "tenant_id": things["tenants"]});
    let backend = json!({"kind": "worker", "model_id": things["models"]});
    let role = json!({"principal_id": things["principals"], "role": "viewer", "scope": scope});
    let key = json!({"principal_id": things["principals"], "scopes": ["read"]});
    let budget =
        json!({"subject": {"kind": "project", "project_id": things["projects"]}, "limit_micros": 5, "period": "total"});
    match operation.id.as_str() {
        "create_endpoint" => place(json!({"name": "new", "spec": {"backend": backend}})),
        "create_pull" => place(json!({"name": "new", "spec": {"source": "https://example.org/m.gguf"}})),
        "create_project" => Some(json!({"name": "new", "tenant": tenant, "spec": {}})),
        "create_principal" => Some(json!({"name": "new", "tenant": tenant, "spec": {"kind": "user"}})),
        "create_role_binding" => Some(json!({"name": "new", "tenant": tenant, "spec": role})),
        "create_key" => place(json!({"name": "new", "spec": key})),
        "create_budget" => Some(json!({"name": "new", "tenant": tenant, "spec": budget})),
        "create_tenant" => Some(json!({"name": "new", "spec": {}})),
        "create_price_book" => {
            Some(json!({"name": "v2", "spec": {"default": {"prompt": 1, "cached": 1, "completion": 1}}}))
        }
        "update_endpoint" => Some(json!({"generation": 1, "spec": {"backend": backend}})),
        "update_tenant" | "update_project" => Some(json!({"generation": 1, "spec": {}})),
        "update_principal" => Some(json!({"generation": 1, "spec": {"kind": "user"}})),
        "update_role_binding" => Some(json!({"generation": 1, "spec": role})),
        "update_key" => Some(json!({"generation": 1, "spec": key})),
        "update_budget" => Some(json!({"generation": 1, "spec": budget})),
        "update_node" => Some(json!({"generation": 1, "spec": {"zone": "FR"}})),
        "rotate_key" | "cancel_pull" => Some(json!({"generation": 1})),
        "reverse_transfer" | "forsake_spool" => Some(json!({"reason": "a test"})),
        "create_backup" => Some(json!({})),
        _ => None,
    }
}

async fn furnish(site: &Site, store: &Store, tenant: &str) -> Things {
    let (tenant_id, project_id) = site.tenant(tenant).await;
    let operator = &site.operator;
    let place = |mut body: Value| {
        body["tenant"] = json!(tenant);
        body["project"] = json!("main");
        body
    };
    let person = operator
        .made("/api/v1/principals", &json!({"name": "bot", "tenant": tenant, "spec": {"kind": "service_account"}}))
        .await;
    let scope = json!({"level": "tenant", "tenant_id": tenant_id});
    let role = operator.made("/api/v1/role-bindings", &json!({"name": "bot", "tenant": tenant, "spec": {"principal_id": person["id"], "role": "viewer", "scope": scope}})).await;
    let key = operator
        .made(
            "/api/v1/keys",
            &place(json!({"name": "bot", "spec": {"principal_id": person["id"], "scopes": ["read"]}})),
        )
        .await;
    let subject = json!({"kind": "project", "project_id": project_id});
    let budget = operator.made("/api/v1/budgets", &json!({"name": "cap", "tenant": tenant, "spec": {"subject": subject, "limit_micros": 5, "period": "total"}})).await;
    let endpoint = operator.made("/api/v1/endpoints", &place(site::external("served"))).await;
    let pull = operator
        .made("/api/v1/pulls", &place(json!({"name": "pulled", "spec": {"source": "https://127.0.0.1:9/m.gguf"}})))
        .await;
    let node = operator.got("/api/v1/nodes").await["items"][0].clone();
    let prices = operator.got("/api/v1/price-books").await["items"][0].clone();
    let model = insert_model(store, &tenant_id, &project_id).await;
    let replica = first_replica(operator, tenant).await;
    BTreeMap::from([
        ("tenants", tenant_id),
        ("projects", project_id),
        ("principals", id(&person)),
        ("role-bindings", id(&role)),
        ("keys", id(&key["key"])),
        ("budgets", id(&budget)),
        ("endpoints", id(&endpoint)),
        ("pulls", id(&pull)),
        ("nodes", id(&node)),
        ("price-books", id(&prices)),
        ("models", model),
        ("replicas", replica),
    ])
}

/// The replica that the endpoint loop makes.
async fn first_replica(operator: &Client, tenant: &str) -> String {
    let found = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            let page = operator.got(&format!("/api/v1/replicas?tenant={tenant}")).await;
            if let Some(replica) = page["items"].get(0) {
                return id(replica);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("the loop makes a replica")
}

/// A model, which only pulls make.
async fn insert_model(store: &Store, tenant: &str, project: &str) -> String {
    let now = jiff::Timestamp::now();
    let spec = ModelSpec {
        source: "file:///m.gguf".to_owned(),
        sha256: "0".repeat(64),
        source_sha256: None,
        licence: "unknown".to_owned(),
        size: Bytes(1),
        facts: ModelFacts::default(),
        notes: Vec::new(),
    };
    let model = Model {
        id: ModelId::from_uuid(Uuid::now_v7()),
        tenant_id: Some(tenant.parse().expect("an id")),
        project_id: Some(project.parse().expect("an id")),
        name: "weights".to_owned(),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec,
        status: ModelStatus::default(),
    };
    let mut tx = store.begin().await.expect("a transaction");
    tx.insert(&model).await.expect("inserted");
    tx.commit().await.expect("committed");
    model.id.to_string()
}

/// A key that expired, which the API would not make.
async fn expired(site: &Site, store: &Store, like: &str) -> String {
    let pepper = std::fs::read(site.folder.path().join("secrets/pepper")).expect("the pepper");
    let secret = galerne_model::token::key_from_digits(&[7; 30]);
    let now = jiff::Timestamp::now();
    let mut key: ApiKey = store.get(like.parse::<KeyId>().expect("an id")).await.expect("the key");
    key.id = KeyId::from_uuid(Uuid::now_v7());
    key.name = "expired".to_owned();
    key.spec.expires_at = Some(now - jiff::SignedDuration::from_secs(60));
    key.status = ApiKeyStatus { digest: galerne_gateway::digest(&pepper, &secret), ..key.status };
    let mut tx = store.begin().await.expect("a transaction");
    tx.insert(&key).await.expect("inserted");
    tx.commit().await.expect("committed");
    secret
}

#[tokio::test]
async fn every_caller_gets_from_every_operation_what_the_table_says() {
    let site = Site::new().await;
    let url = galerne_server::StoreUrl::sqlite(site.folder.path().join("galerne.db"));
    let store = Store::open(&url).await.expect("the same database");
    let own = furnish(&site, &store, "acme").await;
    let other = furnish(&site, &store, "globex").await;
    let callers = callers(&site, &store, &own).await;
    let secrets: Vec<&String> =
        other.iter().filter(|(kind, _)| !matches!(**kind, "nodes" | "price-books")).map(|(_, id)| id).collect();
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for operation in operations() {
        for (caller, client) in &callers {
            for (tenant, things) in [("acme", &own), ("globex", &other)] {
                let (path, body) = request(&operation, tenant, things);
                let reply = client.call(&operation.method, &path, &[("if-match", "\"1\"")], body.as_ref()).await;
                let wanted = expected(&operation, caller, tenant == "acme");
                let got = match reply.status {
                    401 => Unknown,
                    403 => Forbidden,
                    404 => Hidden,
                    _ => Allowed,
                };
                cells += 1;
                let missing_anyway =
                    matches!(&*operation.id, "reverse_transfer" | "forsake_spool") && *caller == "operator";
                if got != wanted && !missing_anyway {
                    wrong.push((
                        operation.id.clone(),
                        (*caller).to_owned(),
                        tenant.to_owned(),
                        wanted,
                        reply.status,
                        reply.text.clone(),
                    ));
                }
                if tenant == "acme" && *caller != "operator" {
                    let leaked = secrets.iter().find(|secret| reply.text.contains(secret.as_str()));
                    assert_eq!(leaked, None, "{} leaks to {caller}: {}", operation.id, reply.text);
                }
                assert!(reply.status < 500, "{} for {caller} in {tenant}: {}", operation.id, reply.text);
            }
        }
    }
    let found: Vec<(&str, &str, &str)> =
        wrong.iter().map(|(id, caller, tenant, ..)| (id.as_str(), caller.as_str(), tenant.as_str())).collect();
    assert_eq!(found, GAPS, "{wrong:#?}");
    assert!(cells >= 60 * CALLERS.len() * 2, "{cells} cells");
    store.close().await;
    site.running.drain().await;
}

async fn callers(site: &Site, store: &Store, own: &Things) -> Vec<(&'static str, Client)> {
    let revoked = site.key("acme", &own["principals"], &["read"]).await;
    let revoked = site.client(Some(&revoked));
    let key = id(&revoked.got("/api/v1/whoami").await["key"]);
    assert_eq!(site.operator.delete(&format!("/api/v1/keys/{key}"), 1).await.status, 200);
    let expired = site.client(Some(&expired(site, store, &own["keys"]).await));
    // Reads the directory again, which did not see the key that was put beside the API.
    site.running.mint_key("refresh").await.expect("minted");
    let mut all = vec![
        ("none", site.client(None)),
        ("bad key", site.client(Some(&galerne_model::token::key_from_digits(&[1; 30])))),
        ("revoked", revoked),
        ("expired", expired),
        ("operator", site.operator.clone()),
    ];
    for role in ["owner", "member", "viewer", "auditor"] {
        all.push((role, site.person("acme", role).await));
    }
    assert_eq!(all.iter().map(|(name, _)| *name).collect::<Vec<_>>(), CALLERS);
    all
}
