//! How changes behave: dry runs, repeats, generations, events.

use serde_json::json;

use crate::site::{Site, external, id};

#[tokio::test]
async fn a_dry_run_answers_like_the_change_and_changes_nothing() {
    let site = Site::new().await;
    let dry = site.operator.post("/api/v1/endpoints?dry_run=true", &external("a")).await;
    assert_eq!((dry.status, dry.json["name"].as_str()), (200, Some("a")));
    assert_eq!(site.operator.get("/api/v1/endpoints/a").await.status, 404);
    let made = site.operator.made("/api/v1/endpoints", &external("a")).await;
    let dry = site.operator.post("/api/v1/endpoints?dry_run=true", &external("a")).await;
    assert_eq!(dry.code(), "already_exists", "a dry run meets the same walls");
    let mut spec = made["spec"].clone();
    spec["paused"] = json!(true);
    let dry = site.operator.put("/api/v1/endpoints/a?dry_run=true", &json!({"generation": 1, "spec": spec})).await;
    assert_eq!((dry.status, dry.json["generation"].as_i64()), (200, Some(2)));
    assert_eq!(site.operator.got("/api/v1/endpoints/a").await["generation"], 1);
    let dry = site.operator.call("DELETE", "/api/v1/endpoints/a?dry_run=true", &[("if-match", "\"1\"")], None).await;
    assert_eq!(dry.status, 200);
    assert_eq!(site.operator.get("/api/v1/endpoints/a").await.status, 200);
    let dry = site
        .operator
        .post(
            "/api/v1/keys?dry_run=true",
            &json!({"name": "k", "spec": {"principal_id": principal(&site).await, "scopes": ["read"]}}),
        )
        .await;
    assert_eq!((dry.status, dry.json.get("secret")), (200, None));
    site.running.drain().await;
}

async fn principal(site: &Site) -> String {
    id(&site.operator.got("/api/v1/whoami").await["principal"])
}

#[tokio::test]
async fn the_same_request_twice_is_done_once_and_answered_twice() {
    let site = Site::new().await;
    let body = json!({"name": "p", "spec": {}});
    let once = [("idempotency-key", "one")];
    let first = site.operator.call("POST", "/api/v1/projects", &once, Some(&body)).await;
    let again = site.operator.call("POST", "/api/v1/projects", &once, Some(&body)).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json, again.json);
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    let other = site.operator.call("POST", "/api/v1/projects", &once, Some(&json!({"name": "q", "spec": {}}))).await;
    assert_eq!(other.code(), "idempotency_mismatch");
    let events = site.operator.got("/api/v1/events?action=project.create").await;
    let named = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["resource"] == first.json["id"])
        .count();
    assert_eq!(named, 1);
    site.running.drain().await;
}

#[tokio::test]
async fn eight_at_once_under_one_key_make_one() {
    let site = Site::new().await;
    let body = json!({"name": "p", "spec": {}});
    let calls =
        (0..8).map(|_| site.operator.call("POST", "/api/v1/projects", &[("idempotency-key", "k")], Some(&body)));
    let replies = futures_util::future::join_all(calls).await;
    let ids: std::collections::BTreeSet<String> = replies.iter().map(|reply| id(&reply.json)).collect();
    assert_eq!(ids.len(), 1, "{replies:?}");
    site.running.drain().await;
}

#[tokio::test]
async fn a_repeated_key_creation_does_not_show_the_secret_again() {
    let site = Site::new().await;
    let body = json!({"name": "k", "spec": {"principal_id": principal(&site).await, "scopes": ["read"]}});
    let once = [("idempotency-key", "one")];
    let first = site.operator.call("POST", "/api/v1/keys", &once, Some(&body)).await;
    let again = site.operator.call("POST", "/api/v1/keys", &once, Some(&body)).await;
    assert!(first.json["secret"].as_str().is_some_and(|secret| secret.starts_with("galerne_")));
    assert_eq!((again.status, again.json.get("secret")), (201, None));
    assert_eq!(first.json["key"], again.json["key"]);
    site.running.drain().await;
}

#[tokio::test]
async fn a_change_needs_the_generation_it_is_based_on() {
    let site = Site::new().await;
    let made = site.operator.made("/api/v1/endpoints", &external("e")).await;
    let spec = made["spec"].clone();
    let none = site.operator.put("/api/v1/endpoints/e", &json!({"spec": spec})).await;
    assert_eq!((none.status, none.code()), (428, "generation_required"));
    let good = site.operator.put("/api/v1/endpoints/e", &json!({"generation": 1, "spec": spec})).await;
    assert_eq!(good.json["generation"], 2);
    let stale = site.operator.put("/api/v1/endpoints/e", &json!({"generation": 1, "spec": spec})).await;
    assert_eq!((stale.status, stale.code()), (409, "generation_conflict"));
    assert_eq!(stale.json["current_generation"], 2);
    assert_eq!(site.operator.delete("/api/v1/endpoints/e", 1).await.code(), "generation_conflict");
    assert_eq!(site.operator.delete("/api/v1/endpoints/e", 2).await.status, 200);
    assert_eq!(site.operator.get("/api/v1/endpoints/e").await.status, 404);
    site.running.drain().await;
}

#[tokio::test]
async fn two_writers_at_once_one_wins_and_the_other_is_told() {
    let site = Site::new().await;
    let made = site.operator.made("/api/v1/endpoints", &external("e")).await;
    let body = json!({"generation": 1, "spec": made["spec"]});
    let replies = futures_util::future::join_all((0..6).map(|_| site.operator.put("/api/v1/endpoints/e", &body))).await;
    let won = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(won, 1, "{replies:?}");
    assert!(replies.iter().filter(|reply| reply.status != 200).all(|reply| reply.code() == "generation_conflict"));
    site.running.drain().await;
}

#[tokio::test]
async fn every_change_is_an_event_with_actor_address_and_digests() {
    let site = Site::new().await;
    let made = site.operator.made("/api/v1/endpoints", &external("e")).await;
    let changed = site.operator.put("/api/v1/endpoints/e", &json!({"generation": 1, "spec": made["spec"]})).await;
    assert_eq!(changed.status, 200);
    let events = site.operator.got(&format!("/api/v1/events?resource={}", id(&made))).await;
    let find = |action: &str| {
        events["items"]
            .as_array()
            .expect("events")
            .iter()
            .find(|event| event["action"] == action)
            .cloned()
            .expect("recorded")
    };
    let (create, update) = (find("endpoint.create"), find("endpoint.update"));
    assert_eq!(create["actor"]["principal_id"].as_str(), Some(principal(&site).await.as_str()));
    assert_eq!(create["actor"]["address"], "127.0.0.1");
    assert!(create["actor"]["request_id"].as_str().is_some_and(|id| id.starts_with("request_")));
    assert_eq!((create.get("before_digest"), create["decision"].as_str()), (None, Some("allowed")));
    assert_eq!(update["actor"]["request_id"].as_str(), Some(changed.header("x-request-id")));
    assert!(update["before_digest"].is_string() && update["after_digest"].is_string());
    assert_ne!(update["before_digest"], update["after_digest"]);
    site.running.drain().await;
}

#[tokio::test]
async fn lists_come_in_pages_that_hold_everything_once() {
    let site = Site::new().await;
    for number in 0..7 {
        site.operator.made("/api/v1/projects", &json!({"name": format!("p{number}"), "spec": {}})).await;
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/projects?limit=3".to_owned();
    loop {
        let page = site.operator.got(&path).await;
        seen.extend(page["items"].as_array().expect("items").iter().map(id));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/projects?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    let unique: std::collections::BTreeSet<&String> = seen.iter().collect();
    assert_eq!((seen.len(), unique.len()), (8, 8));
    site.running.drain().await;
}

#[tokio::test]
async fn a_key_whose_request_was_refused_is_free_for_the_next_try() {
    let site = Site::new().await;
    let once = [("idempotency-key", "again")];
    let body = json!({"name": "e", "tenant": "later", "spec": {"kind": "user"}});
    let refused = site.operator.call("POST", "/api/v1/principals", &once, Some(&body)).await;
    assert_eq!((refused.status, refused.code()), (404, "not_found"));
    site.tenant("later").await;
    let made = site.operator.call("POST", "/api/v1/principals", &once, Some(&body)).await;
    assert_eq!((made.status, made.header("idempotency-replayed")), (201, ""), "{}", made.text);
    let again = site.operator.call("POST", "/api/v1/principals", &once, Some(&body)).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, "true"));
    site.running.drain().await;
}

#[tokio::test]
async fn a_key_is_the_callers_own() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let owner = site.person("acme", "owner").await;
    let once = [("idempotency-key", "shared")];
    let body = json!({"name": "p", "spec": {}});
    let mine = site.operator.call("POST", "/api/v1/projects", &once, Some(&body)).await;
    let theirs = owner.call("POST", "/api/v1/projects", &once, Some(&body)).await;
    assert_eq!((mine.status, theirs.status), (201, 201));
    assert_ne!(mine.json["tenant_id"], theirs.json["tenant_id"], "nothing of another caller is answered again");
    site.running.drain().await;
}

#[tokio::test]
async fn a_dry_run_leaves_no_event_unless_it_was_denied() {
    let site = Site::new().await;
    let last = |events: serde_json::Value| events["items"][0]["sequence"].as_i64().expect("a number");
    let me = principal(&site).await;
    let reader = site.client(Some(&site.key("default", &me, &["read"]).await));
    let before = last(site.operator.got("/api/v1/events?tenant=*").await);
    site.operator.post("/api/v1/endpoints?dry_run=true", &external("a")).await;
    assert_eq!(last(site.operator.got("/api/v1/events?tenant=*").await), before);
    // Somebody who tries what they may not do is seen, also when they say that they are only asking.
    let refused = reader.post("/api/v1/endpoints?dry_run=true", &external("a")).await;
    assert_eq!(refused.status, 403);
    let events = site.operator.got("/api/v1/events?tenant=*").await;
    assert_eq!((last(events.clone()), events["items"][0]["decision"].as_str()), (before + 1, Some("denied")));
    site.running.drain().await;
}
