//! Keys, roles, tenants: what lets in, what keeps out, what nobody can take for themselves.

use serde_json::json;

use crate::site::{Site, external, id};

#[tokio::test]
async fn keys_that_no_longer_work_say_why_and_leave_an_event() {
    let site = Site::new().await;
    let me = id(&site.operator.got("/api/v1/whoami").await["principal"]);
    let secret = site.key("default", &me, &["read"]).await;
    let client = site.client(Some(&secret));
    let key = client.got("/api/v1/whoami").await["key"].clone();
    assert_eq!(key["status"].get("digest"), None, "the digest is never shown");
    let revoked = site.operator.delete(&format!("/api/v1/keys/{}", id(&key)), 1).await;
    assert!(revoked.json["status"]["revoked_at"].is_string());
    let refused = client.get("/api/v1/whoami").await;
    assert_eq!((refused.status, refused.code()), (401, "key_revoked"));
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(site.client(Some("galerne_typo")).get("/api/v1/whoami").await.code(), "invalid_key");
    assert_eq!(site.client(None).get("/api/v1/whoami").await.code(), "unauthenticated");
    let denials = site.operator.got("/api/v1/events?tenant=*&action=key.use&decision=denied").await;
    assert_eq!(denials["items"].as_array().map(Vec::len), Some(2), "{denials}");
    site.running.drain().await;
}

#[tokio::test]
async fn a_rotated_key_works_beside_its_successor_for_the_overlap() {
    let site = Site::new().await;
    let me = id(&site.operator.got("/api/v1/whoami").await["principal"]);
    let old = site.client(Some(&site.key("default", &me, &["read"]).await));
    let name = old.got("/api/v1/whoami").await["key"]["name"].as_str().expect("a name").to_owned();
    let path = format!("/api/v1/keys/{name}/rotate");
    let rotated = site.operator.made(&path, &json!({"generation": 1, "overlap_seconds": 3600})).await;
    let fresh = site.client(rotated["secret"].as_str());
    assert_eq!(old.get("/api/v1/whoami").await.status, 200);
    assert_eq!(fresh.get("/api/v1/whoami").await.status, 200);
    let now = site.operator.made(&path, &json!({"generation": 2})).await;
    assert_eq!(old.get("/api/v1/whoami").await.code(), "key_revoked");
    assert_eq!(now["key"]["name"].as_str().map(|made| made.starts_with(&name)), Some(true));
    site.running.drain().await;
}

#[tokio::test]
async fn a_rotated_key_spends_from_the_budget_of_the_key_before() {
    let site = Site::new().await;
    let me = id(&site.operator.got("/api/v1/whoami").await["principal"]);
    let old = site.client(Some(&site.key("default", &me, &["read"]).await));
    let key = old.got("/api/v1/whoami").await["key"].clone();
    let subject = json!({"kind": "key", "key_id": id(&key)});
    let spec = json!({"subject": subject, "limit_micros": 700, "period": "month"});
    site.operator.made("/api/v1/budgets", &json!({"name": "cap", "spec": spec})).await;
    let path = |key: &serde_json::Value| format!("/api/v1/keys/{}/rotate", id(key));
    let first =
        site.operator.made(&path(&key), &json!({"generation": 1, "overlap_seconds": 3600})).await["key"].clone();
    let second = site.operator.made(&path(&first), &json!({"generation": 1})).await["key"].clone();
    let budgets = site.operator.got("/api/v1/budgets").await;
    assert_eq!(budgets["items"].as_array().map(Vec::len), Some(1), "no budget is copied: {budgets}");
    let key_id = |value: &serde_json::Value| id(value).parse::<galerne_model::ids::KeyId>().expect("an id");
    let store = galerne_store::Store::open(&galerne_store::StoreUrl::sqlite(site.folder.path().join("galerne.db")))
        .await
        .expect("opens beside");
    let mut reader = store.reader().await.expect("reads");
    let line = reader.keys_of_line(key_id(&second)).await.expect("reads");
    assert_eq!(line, [key_id(&key), key_id(&first), key_id(&second)]);
    drop(reader);
    store.close().await;
    site.running.drain().await;
}

#[tokio::test]
async fn a_key_with_fewer_scopes_is_told_which_one_is_missing() {
    let site = Site::new().await;
    let me = id(&site.operator.got("/api/v1/whoami").await["principal"]);
    let reader = site.client(Some(&site.key("default", &me, &["read"]).await));
    assert_eq!(reader.get("/api/v1/endpoints").await.status, 200);
    let refused = reader.post("/api/v1/endpoints", &external("x")).await;
    assert_eq!((refused.status, refused.code()), (403, "scope_missing"));
    assert!(refused.json["hint"].as_str().is_some_and(|hint| hint.contains("`write`")), "{}", refused.text);
    site.running.drain().await;
}

#[tokio::test]
async fn an_owner_cannot_become_operator_by_any_door() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let owner = site.person("acme", "owner").await;
    let who = owner.got("/api/v1/whoami").await;
    let me = id(&who["principal"]);
    let operator = id(&site.operator.got("/api/v1/whoami").await["principal"]);
    let grant = |role: &str, scope: serde_json::Value| json!({"name": "g", "spec": {"principal_id": me, "role": role, "scope": scope}});
    let at_site = owner.post("/api/v1/role-bindings", &grant("operator", json!({"level": "site"}))).await;
    let at_home = owner
        .post("/api/v1/role-bindings", &grant("operator", json!({"level": "tenant", "tenant_id": who["tenant"]["id"]})))
        .await;
    let key = owner
        .post("/api/v1/keys", &json!({"name": "k", "spec": {"principal_id": operator, "scopes": ["admin"]}}))
        .await;
    let found = owner.get(&format!("/api/v1/principals/{operator}")).await;
    let external = owner.post("/api/v1/endpoints", &external("x")).await;
    let files = owner.post("/api/v1/pulls", &json!({"name": "p", "spec": {"source": "file:///etc/passwd"}})).await;
    let budget = json!({"name": "b", "spec": {"subject": {"kind": "tenant", "tenant_id": who["tenant"]["id"]}, "limit_micros": 1, "period": "total"}});
    let budget = owner.post("/api/v1/budgets", &budget).await;
    for (what, reply) in [
        ("site role", &at_site),
        ("operator at home", &at_home),
        ("key as operator", &key),
        ("see operator", &found),
        ("external", &external),
        ("server file", &files),
        ("own budget", &budget),
    ] {
        assert!(matches!(reply.status, 403 | 404 | 422), "{what}: {} {}", reply.status, reply.text);
    }
    // Somebody with a role elsewhere cannot be acted for either.
    let shared = site
        .operator
        .made("/api/v1/principals", &json!({"name": "shared", "tenant": "acme", "spec": {"kind": "service_account"}}))
        .await;
    let elsewhere =
        json!({"name": "g2", "spec": {"principal_id": shared["id"], "role": "operator", "scope": {"level": "site"}}});
    site.operator.made("/api/v1/role-bindings", &elsewhere).await;
    let key = owner
        .post("/api/v1/keys", &json!({"name": "k2", "spec": {"principal_id": shared["id"], "scopes": ["admin"]}}))
        .await;
    assert_eq!((key.status, key.code()), (403, "forbidden"), "{}", key.text);
    site.running.drain().await;
}

#[tokio::test]
async fn names_are_found_in_their_tenant_and_project() {
    let site = Site::new().await;
    site.tenant("acme").await;
    site.operator.made("/api/v1/endpoints", &external("chat")).await;
    let mut theirs = external("chat");
    theirs["tenant"] = json!("acme");
    theirs["project"] = json!("main");
    let made = site.operator.made("/api/v1/endpoints", &theirs).await;
    let ours = site.operator.got("/api/v1/endpoints/chat").await;
    assert_ne!(id(&ours), id(&made));
    assert_eq!(id(&site.operator.got("/api/v1/endpoints/chat?tenant=acme").await), id(&made));
    let viewer = site.person("acme", "viewer").await;
    assert_eq!(id(&viewer.got("/api/v1/endpoints/chat").await), id(&made));
    assert_eq!(viewer.get(&format!("/api/v1/endpoints/{}", id(&ours))).await.status, 404);
    assert_eq!(viewer.get("/api/v1/endpoints?tenant=default").await.status, 404);
    let listed = viewer.got("/api/v1/endpoints").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    site.running.drain().await;
}

#[tokio::test]
async fn what_is_in_use_cannot_be_deleted() {
    let site = Site::new().await;
    let (tenant, project) = site.tenant("acme").await;
    let refused = site.operator.delete(&format!("/api/v1/tenants/{tenant}"), 1).await;
    assert_eq!((refused.status, refused.code()), (409, "in_use"));
    let mut endpoint = external("e");
    endpoint["tenant"] = json!("acme");
    endpoint["project"] = json!("main");
    let endpoint = site.operator.made("/api/v1/endpoints", &endpoint).await;
    assert_eq!(site.operator.delete(&format!("/api/v1/projects/{project}"), 1).await.code(), "in_use");
    assert_eq!(site.operator.delete(&format!("/api/v1/endpoints/{}", id(&endpoint)), 1).await.status, 200);
    assert_eq!(site.operator.delete(&format!("/api/v1/projects/{project}"), 1).await.status, 200);
    assert_eq!(site.operator.delete(&format!("/api/v1/tenants/{tenant}"), 1).await.status, 200);
    let bindings = site.operator.got("/api/v1/role-bindings?tenant=*").await;
    let last = bindings["items"]
        .as_array()
        .expect("items")
        .iter()
        .find(|binding| binding["spec"]["role"] == "operator")
        .cloned()
        .expect("there");
    assert_eq!(site.operator.delete(&format!("/api/v1/role-bindings/{}", id(&last)), 1).await.code(), "in_use");
    site.running.drain().await;
}

#[tokio::test]
async fn a_denial_is_an_event_that_explains_itself() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let viewer = site.person("acme", "viewer").await;
    let refused =
        viewer.post("/api/v1/pulls", &json!({"name": "p", "spec": {"source": "https://example.org/m.gguf"}})).await;
    assert_eq!((refused.status, refused.code()), (403, "forbidden"));
    let events = site.operator.got("/api/v1/events?tenant=acme&decision=denied").await;
    let event = events["items"][0].clone();
    assert_eq!(
        (event["action"].as_str(), event["actor"]["request_id"].as_str()),
        (Some("pull.create"), Some(refused.header("x-request-id")))
    );
    let why = site.operator.got(&format!("/api/v1/why/event/{}", id(&event))).await;
    assert_eq!(why["reason"]["holds"], false);
    site.running.drain().await;
}

#[tokio::test]
async fn a_list_tells_nothing_of_what_lies_between_what_one_may_see() {
    let site = Site::new().await;
    for name in ["a", "b", "c"] {
        site.tenant(name).await;
    }
    let member = site.person("b", "member").await;
    for (list, own) in [("tenants?limit=1", "b"), ("projects?tenant=*&limit=1", "main")] {
        let page = member.got(&format!("/api/v1/{list}")).await;
        let names: Vec<&str> =
            page["items"].as_array().expect("items").iter().filter_map(|item| item["name"].as_str()).collect();
        assert_eq!(names, [own], "{list}: a full page, of one's own");
        assert_eq!(page.get("next_cursor"), None, "{list}: a cursor would name what nobody here may see");
    }
    // A cursor of another tenant is a place in the order of ids and opens nothing.
    let theirs = site.operator.got("/api/v1/projects?tenant=a").await["items"][0].clone();
    let page = member.got(&format!("/api/v1/projects?cursor={}", id(&theirs))).await;
    let items = page["items"].as_array().expect("items");
    assert!(items.iter().all(|item| item["tenant_id"] != theirs["tenant_id"]), "{page}");
    for wrong in ["x", "-1", "tenant_00", "%27%20OR%201=1", "tenant_01972000000070008000000000000001"] {
        assert_eq!(member.get(&format!("/api/v1/projects?cursor={wrong}")).await.code(), "invalid_cursor", "{wrong}");
    }
    site.running.drain().await;
}

#[tokio::test]
async fn of_several_that_share_a_name_none_is_taken_by_chance() {
    let site = Site::new().await;
    let mut projects = Vec::new();
    for name in ["risk", "voice"] {
        let project = site.operator.made("/api/v1/projects", &json!({"name": name, "spec": {}})).await;
        let subject = json!({"kind": "project", "project_id": project["id"]});
        let spec = json!({"subject": subject, "limit_micros": 1_000, "period": "month"});
        site.operator.made("/api/v1/budgets", &json!({"name": "cap", "spec": spec})).await;
        projects.push(id(&project));
    }
    let guess = site.operator.delete("/api/v1/budgets/cap", 1).await;
    assert_eq!((guess.status, guess.code()), (404, "not_found"));
    assert!(guess.json["detail"].as_str().is_some_and(|text| text.contains("several")), "{}", guess.text);
    let named = site.operator.got("/api/v1/budgets/cap?project=voice").await;
    assert_eq!(named["project_id"].as_str(), Some(projects[1].as_str()));
    site.tenant("acme").await;
    site.tenant("bolt").await;
    let everywhere = site.operator.get("/api/v1/projects/main?tenant=*").await;
    assert_eq!(everywhere.code(), "not_found", "{}", everywhere.text);
    let listed = site.operator.get("/api/v1/endpoints?tenant=*&project=main").await;
    assert!(listed.text.contains("several are named"), "{}", listed.text);
    assert_eq!(site.operator.got("/api/v1/projects/main?tenant=bolt").await["name"], "main");
    site.running.drain().await;
}

#[tokio::test]
async fn a_name_that_many_tenants_use_is_found_where_the_caller_may_look() {
    let site = Site::new().await;
    let mut mains = Vec::new();
    for n in 0..25 {
        mains.push(site.tenant(&format!("t{n}")).await);
    }
    let viewer = site.person("t24", "viewer").await;
    let found = viewer.got("/api/v1/projects/main?tenant=*").await;
    assert_eq!(id(&found), mains[24].1, "the only one of them that the caller can see");
    let listed = viewer.get("/api/v1/endpoints?tenant=*&project=main").await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    let me = viewer.got("/api/v1/whoami").await["principal"]["id"].clone();
    let scope = json!({"level": "tenant", "tenant_id": mains[3].0});
    let binding =
        json!({"name": "also", "tenant": "t3", "spec": {"principal_id": me, "role": "viewer", "scope": scope}});
    site.operator.made("/api/v1/role-bindings", &binding).await;
    for path in ["/api/v1/projects/main?tenant=*", "/api/v1/endpoints?tenant=*&project=main"] {
        let either = viewer.get(path).await;
        assert!(either.text.contains("several are named"), "{path}: {}", either.text);
    }
    let hidden = site.person("t7", "viewer").await.get("/api/v1/endpoints?tenant=t24&project=main").await;
    assert_eq!(hidden.status, 404, "{}", hidden.text);
    site.running.drain().await;
}

#[tokio::test]
async fn a_mistyped_name_is_answered_with_the_nearest_that_the_caller_may_see() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let owner = site.person("acme", "owner").await;
    site.operator.made("/api/v1/projects", &json!({"name": "hidden-risk", "spec": {}})).await;
    owner.post("/api/v1/projects", &json!({"name": "open-risk", "spec": {}})).await;
    let told = owner.get("/api/v1/projects/open-rsk").await;
    assert_eq!(told.json["hint"], "did you mean `open-risk`?");
    let wide = owner.get("/api/v1/projects/risk?tenant=*").await;
    assert_eq!(wide.json["hint"], "did you mean `open-risk`?", "nothing of another tenant is named");
    site.running.drain().await;
}

#[tokio::test]
async fn a_role_taken_away_is_gone_because_it_was_given_once() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let body = json!({"name": "ada", "tenant": "acme", "spec": {"kind": "user"}});
    let ada = site.operator.made("/api/v1/principals", &body).await;
    let give = |name: &str, role: &str| {
        let scope = json!({"level": "tenant", "tenant_id": ada["tenant_id"]});
        json!({"name": name, "spec": {"principal_id": ada["id"], "role": role, "scope": scope}})
    };
    let first = site.operator.made("/api/v1/role-bindings", &give("one", "member")).await;
    let again = site.operator.post("/api/v1/role-bindings", &give("two", "member")).await;
    assert_eq!((again.status, again.code()), (409, "already_exists"));
    let other = site.operator.made("/api/v1/role-bindings", &give("two", "viewer")).await;
    let changed = json!({"generation": 1, "spec": give("two", "member")["spec"]});
    let changed = site.operator.put(&format!("/api/v1/role-bindings/{}", id(&other)), &changed).await;
    assert_eq!(changed.code(), "already_exists", "nor does a change make a second one");
    assert_eq!(site.operator.delete(&format!("/api/v1/role-bindings/{}", id(&first)), 1).await.status, 200);
    site.operator.made("/api/v1/role-bindings", &give("one", "member")).await;
    site.running.drain().await;
}
